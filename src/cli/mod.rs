//! The commands: one file each. Data go to stdout, everything else to stderr.

mod calibrate;
mod common;
mod run;

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
    Run(run::Args),
}

/// Runs the program: 0 done, 1 a stated bar was missed, 2 usage or input error.
pub fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Run(args) => run::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
