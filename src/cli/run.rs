//! `onnxq run`: runs a model on samples and writes the outputs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ir::Model;
use proto::TestValue;
use runtime::Executor;

use super::common::{DataArgs, EngineArgs, read_model};
use crate::data::Source;
use crate::pipeline::engine::{Engine, collect, form_for, prepare};
use crate::pipeline::prepare::lowered;
use crate::pipeline::values::{data_sets, needs_values, run_set};

/// Run a model on samples and write its outputs
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Folder for `test_data_set_K/output_J.pb`
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let model = read_model(&args.model)?;
    if let Some(path) = &args.data.data
        && (args.engine.runtime == Engine::Reference
            || args.engine.runtime == Engine::Auto && needs_values(&model))
    {
        let sets = data_sets(path)?;
        if !sets.is_empty() {
            if args.engine.runtime == Engine::Auto {
                eprintln!("note: it takes or gives more than numbers; running in the reference evaluator");
            }
            return run_values(&model, &sets, &args.output);
        }
    }
    let source = args.data.open(&model)?;
    let (executor, note) = args.engine.options().choose(&lowered(&model)?)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    let Err(error) = run_samples(&model, executor.as_ref(), source.as_ref(), &args.output) else {
        return Ok(());
    };
    let Some(ort) = args.engine.options().instead_of(executor.as_ref()) else { return Err(error) };
    // If it is the data's fault, the first runtime's words are as good as the second's.
    if run_samples(&model, &ort, source.as_ref(), &args.output).is_err() {
        return Err(error);
    }
    eprintln!("note: run in ONNX Runtime, because {} failed: {error:#}", executor.name());
    Ok(())
}

fn run_samples(model: &Model, executor: &dyn Executor, source: &dyn Source, output: &Path) -> Result<()> {
    let form = form_for(executor, model)?;
    let mut session = prepare(executor, &form, Vec::new())?;
    let main = model.main();
    let outputs: Vec<String> = main.outputs().iter().map(|&id| main.value(id).name().to_string()).collect();
    for at in 0..source.len() {
        let values = collect(session.as_mut(), &source.sample(at)?)?;
        let mut named = Vec::new();
        for name in &outputs {
            let found = values.iter().find(|(known, _)| known == name);
            let (_, tensor) =
                found.with_context(|| format!("the runtime gave no tensor for output {name:?}"))?;
            named.push((name.clone(), TestValue::Tensor(tensor.clone())));
        }
        write(output, at, &named)?;
    }
    Ok(())
}

/// Values of any type, also those that no runtime's tensors can hold, through the reference evaluator.
fn run_values(model: &Model, sets: &[PathBuf], output: &Path) -> Result<()> {
    for (at, set) in sets.iter().enumerate() {
        let outputs = run_set(model, set).with_context(|| set.display().to_string())?;
        write(output, at, &outputs)?;
    }
    Ok(())
}

fn write(output: &Path, sample: usize, values: &[(String, TestValue)]) -> Result<()> {
    let folder = output.join(format!("test_data_set_{sample}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (k, (name, value)) in values.iter().enumerate() {
        proto::write_value(&folder.join(format!("output_{k}.pb")), name, value)?;
    }
    Ok(())
}
