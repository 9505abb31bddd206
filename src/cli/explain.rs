//! `onnxq explain`: the manual of a name, or what would become of a model and why.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use passes::quantize::{Kernel, QuantPlan, choose};

use super::choice::ChoiceArgs;
use super::common::read_model;
use super::table::Table;
use crate::pipeline::prepare::quantizable;
use crate::pipeline::quantize::{Mode, adjust, choices};

/// Print the manual of a pass, operator, target or method; or how a model would be quantized, and why
#[derive(clap::Args)]
pub struct Args {
    /// A model, or the name of a pass, operator, target or method
    name: String,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Model: the plan as JSON, as `quantize --plan` takes it (without scales)
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let name = args.name.as_str();
    if let Some(manual) = passes::table::explain(name) {
        println!("{manual}");
    } else if let Some(target) = passes::target::target(name) {
        println!("{}: {}", target.name(), target.about());
    } else if let Some((name, about)) = quant::range::METHODS.iter().find(|(known, _)| *known == name) {
        println!("{name}: {about}");
    } else if name == "simplify" {
        explain_simplify();
    } else if explain_op(name) {
        // Said what there is.
    } else if Path::new(name).exists() {
        return explain_model(args);
    } else {
        if let Some(nearest) = passes::table::nearest(name) {
            bail!("nothing is called {name:?}; did you mean {nearest:?}?");
        }
        bail!(
            "nothing is called {name:?} and there is no such file: see `onnxq list passes`, `list ops`, `list targets`, `list methods`"
        );
    }
    Ok(())
}

/// The preset, which is listed and given to `opt` like a pass.
fn explain_simplify() {
    println!("The passes of `onnxq simplify`, in this order:");
    for step in passes::preset::simplify() {
        match step {
            passes::Step::Once(spec) => println!("  {spec}"),
            passes::Step::Repeat { rounds, passes } => {
                println!("  until nothing changes, at most {rounds} times:");
                passes.iter().for_each(|spec| println!("    {spec}"));
            }
        }
    }
}

/// What the tables say of an operator, one line a range of versions; false if there is none of that name.
fn explain_op(name: &str) -> bool {
    let rules: Vec<_> = ops::rules()
        .filter(|rule| rule.op().to_string() == name || rule.op().name.eq_ignore_ascii_case(name))
        .collect();
    for rule in &rules {
        let opsets = rule.opsets();
        let eval = match rule.evaluates() {
            true => "types, shapes and values are computed",
            false => "types and shapes are computed, values are not",
        };
        println!("{}, operator set {} to {}: {eval}", rule.op(), opsets.start(), opsets.end());
    }
    !rules.is_empty()
}

fn explain_model(args: &Args) -> Result<()> {
    let options = args.choice.options()?;
    if options.mode == Mode::WeightOnly {
        bail!(
            "weights of few bits are chosen without a plan: quantize --mode weight-only --json says what it chose"
        );
    }
    let model = quantizable(read_model(&PathBuf::from(&args.name))?)?;
    let mut asked = choices(&model, &options)?;
    asked.dynamic = options.mode == Mode::Dynamic;
    let mut plan = choose(&model, &asked);
    adjust(&mut plan, &model, &options)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&plan)?),
        false => print(&plan),
    }
    Ok(())
}

fn print(plan: &QuantPlan) {
    let kernel = |kernel| match kernel {
        Kernel::Integer => "integer",
        Kernel::Moves => "moves",
        Kernel::Float => "float",
        Kernel::Fails => "FAILS",
    };
    let mut ops = Table::new(&["operator", "type", "precision", "kernel", "MACs", "why"]);
    for (key, op) in &plan.ops {
        let macs = if op.macs == 0 { String::new() } else { op.macs.to_string() };
        ops.row(vec![
            key.clone(),
            op.kind.clone(),
            op.precision.to_string(),
            kernel(op.kernel).into(),
            macs,
            op.reason.clone(),
        ]);
    }
    print!("{ops}");
    let mut values = Table::new(&["value", "codes", "shares", "range", "why"]);
    for (name, value) in plan.rounded() {
        let form = if value.grid.symmetric { "symmetric" } else { "asymmetric" };
        values.row(vec![
            name.to_string(),
            format!("{} {form}", value.grid.code.name()),
            format!("#{}", value.class),
            value.range.map_or_else(String::new, |(low, high)| format!("{low} to {high}")),
            value.reason.clone(),
        ]);
    }
    println!();
    print!("{values}");
    let mut weights = Table::new(&["weight", "codes", "scales", "of"]);
    for (key, list) in &plan.weights {
        for weight in list {
            weights.row(vec![
                weight.value.clone(),
                weight.grid.code.name().into(),
                weight.axis.map_or_else(|| "one".into(), |axis| format!("along axis {axis}")),
                key.clone(),
            ]);
        }
    }
    println!();
    print!("{weights}");
    if let Some(share) = plan.integer_share() {
        println!(
            "\n{:.1} % of the multiplications on integers, as predicted for {}",
            share * 100.0,
            plan.target
        );
    }
}
