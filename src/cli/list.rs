//! `onnxq list` and `onnxq explain`: what there is, from the tables of the code itself.

use anyhow::{Result, bail};
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

/// Print the manual of a pass, or why a target or method exists
#[derive(clap::Args)]
pub struct ExplainArgs {
    /// Name of a pass, target or method
    name: String,
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

/// Runs `explain`.
pub fn explain(args: &ExplainArgs) -> Result<()> {
    let name = args.name.as_str();
    if let Some(manual) = passes::table::explain(name) {
        println!("{manual}");
    } else if let Some(target) = passes::target::target(name) {
        println!("{}: {}", target.name(), target.about());
    } else if let Some((name, about)) = quant::range::METHODS.iter().find(|(known, _)| *known == name) {
        println!("{name}: {about}");
    } else {
        bail!("nothing is called {name:?}: see `onnxq list passes`, `list targets`, `list methods`");
    }
    Ok(())
}
