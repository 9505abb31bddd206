//! `onnxq run`: runs a model on samples and writes the outputs.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::common::{DataArgs, EngineArgs, read_model};
use crate::pipeline::engine::{collect, form_for, prepare};
use crate::pipeline::prepare::lowered;

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
    let source = args.data.open(&model)?;
    let (executor, note) = args.engine.options().choose(&lowered(&model)?)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    let form = form_for(executor.as_ref(), &model)?;
    let mut session = prepare(executor.as_ref(), &form, Vec::new())?;
    let main = model.main();
    let outputs: Vec<String> = main.outputs().iter().map(|&id| main.value(id).name().to_string()).collect();
    for at in 0..source.len() {
        let values = collect(session.as_mut(), &source.sample(at)?)?;
        let folder = args.output.join(format!("test_data_set_{at}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (k, name) in outputs.iter().enumerate() {
            let found = values.iter().find(|(known, _)| known == name);
            let (_, tensor) =
                found.with_context(|| format!("the runtime gave no tensor for output {name:?}"))?;
            let file = folder.join(format!("output_{k}.pb"));
            proto::write_value(&file, name, &proto::TestValue::Tensor(tensor.clone()))?;
        }
    }
    Ok(())
}
