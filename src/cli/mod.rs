//! The commands: one file each. Data go to stdout, everything else to stderr.

mod auto;
mod calibrate;
mod check;
mod choice;
mod common;
mod compare;
mod eval;
mod explain;
mod inspect;
mod list;
mod measure_costs;
mod opt;
mod quantize;
mod run;
mod sensitivity;
mod simplify;
mod table;
mod weight_only;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// A compiler that quantizes ONNX models and proves what it emitted.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Calibrate(calibrate::Args),
    Check(check::Args),
    Compare(Box<compare::Args>),
    Eval(eval::Args),
    Explain(explain::Args),
    Inspect(inspect::Args),
    List(list::ListArgs),
    MeasureCosts(Box<measure_costs::Args>),
    Opt(opt::Args),
    Quantize(Box<quantize::Args>),
    Sensitivity(Box<sensitivity::Args>),
    Simplify(Box<simplify::Args>),
    Run(run::Args),
}

/// Runs the program: 0 done, 1 a stated bar was missed, 2 usage or input error.
pub fn main() -> ExitCode {
    let command = match arguments(std::env::args_os().collect()) {
        Ok(args) => args.command,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Calibrate(args) => calibrate::run(&args).map(|()| true),
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Explain(args) => explain::run(&args).map(|()| true),
        Command::Inspect(args) => inspect::run(&args).map(|()| true),
        Command::List(args) => list::list(&args).map(|()| true),
        Command::MeasureCosts(args) => measure_costs::run(&args).map(|()| true),
        Command::Opt(args) => opt::run(&args).map(|()| true),
        Command::Quantize(args) => quantize::run(&args),
        Command::Sensitivity(args) => sensitivity::run(&args).map(|()| true),
        Command::Simplify(args) => simplify::run(&args).map(|()| true),
        Command::Run(args) => run::run(&args).map(|()| true),
    };
    let written = crate::out::finish().context("cannot write to standard output");
    match done.and_then(|met| written.map(|()| met)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(2)
        }
    }
}

/// The command line, with what a recipe adds to it.
fn arguments(mut line: Vec<OsString>) -> anyhow::Result<Args> {
    let args = Args::parse_from(&line);
    let path = match &args.command {
        Command::Quantize(quantize) => &quantize.choice.recipe,
        Command::Explain(explain) => &explain.choice.recipe,
        _ => return Ok(args),
    };
    let Some(path) = path else { return Ok(args) };
    let command = Args::command();
    let given = Args::command().get_matches_from(&line);
    let (Some((name, given)), Some(quantize)) = (given.subcommand(), command.find_subcommand("quantize"))
    else {
        return Ok(args);
    };
    // Whichever command reads it, a recipe is one of `quantize`.
    let reader = command.find_subcommand(name).unwrap_or(quantize);
    let flags = crate::recipe::flags(&crate::recipe::read(path)?, quantize, reader, given);
    line.extend(flags.with_context(|| path.display().to_string())?);
    Ok(Args::parse_from(line))
}

/// The error and its causes in one line, each said once: many messages repeat their cause.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() || cause.starts_with(&told) {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}
