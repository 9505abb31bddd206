//! `onnxq list`: what there is, from the tables of the code itself.

use anyhow::Result;
use clap::ValueEnum;

/// What can be listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum What {
    /// Passes by name.
    Passes,
    /// Operators that are understood.
    Ops,
    /// Runtimes that models are emitted for.
    Targets,
    /// Range methods.
    Methods,
}

/// List passes, operators, targets or methods
#[derive(clap::Args)]
pub struct ListArgs {
    /// What to list
    #[arg(value_enum)]
    what: What,
}

/// Runs `list`.
pub fn list(args: &ListArgs) -> Result<()> {
    match args.what {
        What::Passes => {
            for entry in passes::table::PASSES {
                let manual = entry.manual();
                println!("{:<28}{}", entry.name, manual.lines().next().unwrap_or_default());
            }
        }
        What::Ops => {
            for rule in ops::rules() {
                let opsets = rule.opsets();
                let eval = if rule.evaluates() { "evaluated" } else { "shapes only" };
                println!("{:<48}{:>3}-{:<3} {eval}", rule.op().to_string(), opsets.start(), opsets.end());
            }
        }
        What::Targets => {
            passes::target::TARGETS
                .iter()
                .for_each(|target| println!("{:<12}{}", target.name(), target.about()));
        }
        What::Methods => {
            quant::range::METHODS.iter().for_each(|(name, about)| println!("{name:<24}{about}"));
        }
    }
    Ok(())
}
