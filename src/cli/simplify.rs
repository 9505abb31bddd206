//! `onnxq simplify`: folds, fuses and cleans up a model; with `--check`, proves on samples that it still computes the same.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use ir::Model;
use passes::{Options, Report, Spec, Step};
use proto::WriteOptions;
use serde_json::{Map, Value, json};

use super::common::{DataArgs, EngineArgs, read_model, warn};
use crate::pipeline::guilty::Judge;

/// Fold constants, fuse and remove what is not needed
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Where to write the result
    #[arg(short, long)]
    output: PathBuf,
    /// Fix a named size: batch=1
    #[arg(long, value_name = "NAME=SIZE")]
    fix_dim: Vec<String>,
    /// Fix the shape of an input: data=1x3x224x224; -1 leaves a size as it is
    #[arg(long, value_name = "INPUT=AxBxC")]
    input_shape: Vec<String>,
    /// Say why rewrites were declined
    #[arg(long)]
    explain: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    /// Run the model before and after on the samples of --data or --random; keep only rewrites that agree
    #[arg(long)]
    check: bool,
    /// With --check: least signal to noise of an output, in dB. Float fusions change the last bits, not more
    #[arg(long, default_value_t = 80.0, value_name = "DB")]
    check_sqnr: f64,
    /// Write although the input holds what this program does not know and would lose
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What `--check` found.
struct Checked {
    samples: usize,
    /// The number and place of the rewrite that was left out with everything behind it, and what it did.
    guilty: Option<(u64, String, String)>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut simple = fixed(read_model(&args.model)?, args)?;
    // A large model is not kept twice for nothing.
    let original = args.check.then(|| simple.clone());
    let mut report = simplify(&mut simple, None, args)?;
    warn(&report);
    let checked = match &original {
        Some(original) => Some(check(original, &mut simple, &mut report, args)?),
        None => None,
    };
    let options = WriteOptions { force: args.force, ..WriteOptions::default() };
    proto::write(&simple, &args.output, &options)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json(&report, checked.as_ref()))?);
        return Ok(());
    }
    println!("{} operators -> {}", report.ops_before, report.ops_after);
    for declined in &report.declined {
        println!("declined {} / {}: {}: {}", declined.pass, declined.rule, declined.at, declined.why);
    }
    Ok(())
}

fn simplify(model: &mut Model, fuel: Option<u64>, args: &Args) -> Result<Report> {
    let options = Options {
        fuel,
        count_only: !args.json && !args.check,
        explain: args.explain,
        relieve: Some(&proto::release_pages),
        ..Options::default()
    };
    passes::simplify(model, options).map_err(|failure| {
        let again = failure.reproducer(&args.model.display().to_string());
        anyhow!("{failure}{}", again.map_or_else(String::new, |again| format!("\nto reproduce: {again}")))
    })
}

fn simplified(model: &Model, fuel: Option<u64>, args: &Args) -> Result<(Model, Report)> {
    let mut model = model.clone();
    let report = simplify(&mut model, fuel, args)?;
    Ok((model, report))
}

/// Compares before and after; where they differ, goes back to before the first rewrite that is at fault.
fn check(original: &Model, simple: &mut Model, report: &mut Report, args: &Args) -> Result<Checked> {
    let source = args.data.open(original)?;
    let engine = args.engine.options();
    let judge = Judge { source: source.as_ref(), engine, least_sqnr: args.check_sqnr };
    let samples = source.len();
    let Some(why) = judge.differs(original, simple)? else {
        eprintln!("checked: {samples} samples agree before and after");
        return Ok(Checked { samples, guilty: None });
    };
    eprintln!("warning: {why}; looking for the rewrite that is at fault");
    let total = report.rewrites.len() as u64;
    let guilty = judge
        .first_bad(original, total, |fuel| simplified(original, Some(fuel), args).map(|(model, _)| model))?;
    let rewrite = usize::try_from(guilty.good).ok().and_then(|at| report.rewrites.get(at));
    let place = rewrite.map_or_else(
        || "after the last rewrite".to_string(),
        |rewrite| format!("{} / {}, {}", rewrite.pass, rewrite.rule, rewrite.at),
    );
    let number = guilty.good + 1;
    eprintln!("warning: rewrite {number} ({place}) is at fault: {}", guilty.why);
    eprintln!("note: the {} rewrites before it are kept, it and those behind it are not", guilty.good);
    let model = args.model.display();
    eprintln!("hint: onnxq opt {model} -o out.onnx --passes simplify --fuel {number} --print-changed");
    (*simple, *report) = simplified(original, Some(guilty.good), args)?;
    Ok(Checked { samples, guilty: Some((number, place, guilty.why)) })
}

fn as_json(report: &Report, checked: Option<&Checked>) -> Value {
    let entry = |pass: &str, rule: &str, at: &ir::Location| json!({ "pass": pass, "rule": rule, "at": at.to_string() });
    let with_reason = |list: &[passes::Declined]| -> Vec<Value> {
        let line = |found: &passes::Declined| {
            let mut line = entry(found.pass, found.rule, &found.at);
            line["why"] = Value::from(found.why.as_str());
            line
        };
        list.iter().map(line).collect()
    };
    json!({
        "version": 1,
        "operators_before": report.ops_before,
        "operators_after": report.ops_after,
        "rewrites": report.rewrites.iter().map(|r| entry(r.pass, r.rule, &r.at)).collect::<Vec<_>>(),
        "declined": with_reason(&report.declined),
        "warnings": with_reason(&report.warnings),
        "checked": checked.map(|checked| json!({
            "samples": checked.samples,
            "guilty": checked.guilty.as_ref().map(|(number, at, why)| json!({ "rewrite": number, "at": at, "why": why })),
        })),
    })
}

/// The model with the sizes that the user gives.
fn fixed(mut model: Model, args: &Args) -> Result<Model> {
    if args.fix_dim.is_empty() && args.input_shape.is_empty() {
        return Ok(model);
    }
    let (mut dims, mut inputs) = (Map::new(), Map::new());
    for text in &args.fix_dim {
        let wrong = || format!("--fix-dim takes NAME=SIZE, not {text:?}");
        let (name, size) = text.rsplit_once('=').with_context(wrong)?;
        dims.insert(name.to_string(), Value::from(size.parse::<i64>().with_context(wrong)?));
    }
    for text in &args.input_shape {
        let wrong = || format!("--input-shape takes INPUT=AxBxC, not {text:?}");
        let (name, sizes) = text.rsplit_once('=').with_context(wrong)?;
        let sizes = sizes.split(['x', ',']).map(|size| size.trim().parse::<i64>());
        inputs
            .insert(name.to_string(), Value::from(sizes.collect::<Result<Vec<_>, _>>().with_context(wrong)?));
    }
    let spec = Spec::new("fix_shapes").with("dims", dims).with("inputs", inputs);
    passes::run(&mut model, &[Step::Once(spec)], Options::default())
        .map_err(|failure| anyhow!("{failure}"))?;
    Ok(model)
}
