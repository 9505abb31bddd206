//! The commands: one file each. Data go to stdout, everything else to stderr.

mod calibrate;
mod check;
mod common;
mod compare;
mod inspect;
mod list;
mod opt;
mod quantize;
mod run;
mod simplify;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Explain(list::ExplainArgs),
    Inspect(inspect::Args),
    List(list::ListArgs),
    Opt(opt::Args),
    Quantize(Box<quantize::Args>),
    Simplify(Box<simplify::Args>),
    Run(run::Args),
}

/// Runs the program: 0 done, 1 a stated bar was missed, 2 usage or input error.
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Calibrate(args) => calibrate::run(&args).map(|()| true),
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Explain(args) => list::explain(&args).map(|()| true),
        Command::Inspect(args) => inspect::run(&args).map(|()| true),
        Command::List(args) => list::list(&args).map(|()| true),
        Command::Opt(args) => opt::run(&args).map(|()| true),
        Command::Quantize(args) => quantize::run(&args),
        Command::Simplify(args) => simplify::run(&args).map(|()| true),
        Command::Run(args) => run::run(&args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(2)
        }
    }
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
