//! `onnxq simplify`: folds, fuses and cleans up a model; with `--check`, proves on samples that it still computes the same.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use ir::{Dim, Model};
use passes::Options;
use proto::WriteOptions;

use super::common::{DataArgs, EngineArgs, read_model};
use crate::data::Source;
use crate::pipeline::engine::{EngineOptions, form_for, prepare};
use crate::pipeline::measure::compare;
use crate::pipeline::prepare::lowered;

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
    /// Fix the shape of an input: data=1x3x224x224
    #[arg(long, value_name = "INPUT=AxBxC")]
    input_shape: Vec<String>,
    /// Say why rewrites were declined
    #[arg(long)]
    explain: bool,
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

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut model = read_model(&args.model)?;
    fix_shapes(&mut model, args)?;
    let original = args.check.then(|| model.clone());
    let (mut simple, report) = simplified(&model, None, args.explain, args)?;
    if let Some(original) = original {
        let source = args.data.open(&original)?;
        let engine = args.engine.options();
        if let Some(why) = differs(&original, &simple, source.as_ref(), &engine, args.check_sqnr)? {
            let total = report.rewrites.len() as u64;
            let (good, name) = bisect(&original, total, source.as_ref(), &engine, args)?;
            eprintln!(
                "warning: {why}; rewrite {} ({name}) is at fault, the {good} before it are kept",
                good + 1
            );
            simple = simplified(&original, Some(good), false, args)?.0;
        } else {
            eprintln!("checked: {} samples agree before and after", source.len());
        }
    }
    let options = WriteOptions { force: args.force, ..WriteOptions::default() };
    proto::write(&simple, &args.output, &options)?;
    println!("{} operators -> {}", report.ops_before, passes::op_count(&simple));
    for declined in &report.declined {
        println!("declined {} / {}: {}: {}", declined.pass, declined.rule, declined.at, declined.why);
    }
    Ok(())
}

fn simplified(
    model: &Model,
    fuel: Option<u64>,
    explain: bool,
    args: &Args,
) -> Result<(Model, passes::Report)> {
    let mut model = model.clone();
    let options = Options { fuel, explain, ..Options::default() };
    let report = passes::simplify(&mut model, options).map_err(|failure| {
        anyhow!("{failure}\nto reproduce: {}", failure.reproducer(&args.model.display().to_string()))
    })?;
    Ok((model, report))
}

/// Why the two models do not compute the same, if they do not.
fn differs(
    a: &Model,
    b: &Model,
    source: &dyn Source,
    engine: &EngineOptions,
    least: f64,
) -> Result<Option<String>> {
    let (executor, note) = engine.choose(&lowered(a)?)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    let (a, b) = (form_for(executor.as_ref(), a)?, form_for(executor.as_ref(), b)?);
    let (a, b) = (prepare(executor.as_ref(), &a, vec![])?, prepare(executor.as_ref(), &b, vec![])?);
    let samples: Vec<usize> = (0..source.len()).collect();
    let figures = compare(a.as_ref(), b.as_ref(), source, &samples, engine.threads(), &mut |_| {})?;
    let bad = figures.iter().find(|f| match f.differing {
        Some(share) => share > 0.0,
        None => f.sqnr_db < least,
    });
    Ok(bad.map(|f| format!("output {:?} differs (SQNR {:.1} dB)", f.name, f.sqnr_db)))
}

/// The number of rewrites that are right, and the name of the first that is not.
fn bisect(
    model: &Model,
    total: u64,
    source: &dyn Source,
    engine: &EngineOptions,
    args: &Args,
) -> Result<(u64, String)> {
    let (mut good, mut bad) = (0, total);
    while good + 1 < bad {
        let middle = good + (bad - good) / 2;
        let (part, _) = simplified(model, Some(middle), false, args)?;
        match differs(model, &part, source, engine, args.check_sqnr)? {
            None => good = middle,
            Some(_) => bad = middle,
        }
    }
    let (_, report) = simplified(model, Some(bad), false, args)?;
    let guilty = report.rewrites.last().map(|rewrite| format!("{rewrite:?}")).unwrap_or_default();
    Ok((good, guilty))
}

fn fix_shapes(model: &mut Model, args: &Args) -> Result<()> {
    for text in &args.fix_dim {
        let (name, size) =
            text.split_once('=').with_context(|| format!("--fix-dim takes NAME=SIZE, not {text:?}"))?;
        let size: i64 = size.parse().with_context(|| format!("--fix-dim {text:?}"))?;
        let mut found = false;
        let main = model.main_mut();
        for value in main.inputs().to_vec() {
            let Some(ty) = &mut main.value_mut(value).ty else { continue };
            let ir::TypeKind::Tensor(tensor) = &mut ty.kind else { continue };
            for dim in tensor.shape.iter_mut().flat_map(|shape| shape.dims.iter_mut()) {
                if matches!(dim, Dim::Symbol(symbol) if **symbol == *name) {
                    *dim = Dim::Known(size);
                    found = true;
                }
            }
        }
        if !found {
            bail!("--fix-dim: no input has a size named {name:?}");
        }
    }
    for text in &args.input_shape {
        let wrong = || format!("--input-shape takes INPUT=AxBxC, not {text:?}");
        let (name, sizes) = text.rsplit_once('=').with_context(wrong)?;
        let sizes =
            sizes.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>().with_context(wrong)?;
        let main = model.main_mut();
        let value = main.find(name).filter(|value| main.inputs().contains(value));
        let value = value.with_context(|| format!("--input-shape: the model has no input {name:?}"))?;
        let dtype =
            main.value(value).dtype().with_context(|| format!("input {name:?} has no element type"))?;
        main.value_mut(value).ty = Some(ir::Type::tensor(dtype, Some(ir::Shape::fixed(&sizes))));
    }
    if !args.fix_dim.is_empty() || !args.input_shape.is_empty() {
        forget_computed_shapes(model);
    }
    Ok(())
}

/// What the file says about computed values was true for the old sizes.
fn forget_computed_shapes(model: &mut Model) {
    let main = model.main_mut();
    for value in main.values().collect::<Vec<_>>() {
        let held = main.value_mut(value);
        if held.role() != ir::Role::Computed {
            continue;
        }
        if let Some(ir::TypeKind::Tensor(tensor)) = held.ty.as_mut().map(|ty| &mut ty.kind) {
            tensor.shape = None;
        }
    }
}
