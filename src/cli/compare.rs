//! `onnxq compare`: runs two models on the same samples and says how far they are apart.

use std::path::PathBuf;

use anyhow::Result;
use runtime::{Executor, Level};
use serde_json::json;

use super::common::{Bars, DataArgs, EngineArgs, progress, read_model};
use super::table::Table;
use crate::pipeline::calibrate::observed;
use crate::pipeline::engine::{Engine, prepare};
use crate::pipeline::measure::compare;
use crate::pipeline::prepare::lowered;

/// Compare two models on the same samples
#[derive(clap::Args)]
pub struct Args {
    /// The reference
    reference: PathBuf,
    /// The other model
    other: PathBuf,
    /// Compare intermediate values of the same name too
    #[arg(long)]
    values: bool,
    /// ONNX Runtime: all optimizations instead of the exact ones
    #[arg(long)]
    optimized: bool,
    /// What runs the other model, if not the same runtime
    #[arg(long, value_enum)]
    other_runtime: Option<Engine>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bars: Bars,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command; false if a stated bar was missed.
pub fn run(args: &Args) -> Result<bool> {
    let (a, b) = (read_model(&args.reference)?, read_model(&args.other)?);
    let source = args.data.open(&a)?;
    let mut options = args.engine.options();
    let mut sessions = Vec::new();
    let mut names = Vec::new();
    let shared: Vec<String> = if args.values {
        observed(&a).into_iter().filter(|name| b.main().find(name).is_some()).collect()
    } else {
        vec![]
    };
    for (at, model) in [&a, &b].into_iter().enumerate() {
        if let (1, Some(engine)) = (at, args.other_runtime) {
            options.engine = engine;
        }
        let low = lowered(model)?;
        let (executor, note) = options.choose(&low)?;
        note.iter().for_each(|note| eprintln!("note: {note}"));
        // ONNX Runtime runs the file's own operators; only float runtimes need the lowered form.
        let native = executor.name() == "ort";
        let executor: Box<dyn Executor> =
            if native && args.optimized { Box::new(options.ort(Level::All)?) } else { executor };
        names.push(format!("{} {}", executor.name(), executor.version()));
        sessions.push(prepare(executor.as_ref(), if native { model } else { &low }, shared.clone())?);
    }
    let samples: Vec<usize> = (0..source.len()).collect();
    let bar = progress("comparing");
    bar.set_length(samples.len() as u64);
    let figures = compare(
        sessions[0].as_ref(),
        sessions[1].as_ref(),
        source.as_ref(),
        &samples,
        options.threads(),
        &mut |_| bar.inc(1),
    )?;
    bar.finish_and_clear();
    if args.json {
        let whole = json!({ "version": 1, "runtimes": names, "samples": samples.len(), "values": figures });
        println!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        println!("{} against {}, {} samples", names[0], names[1], samples.len());
        let mut table = Table::new(&[
            "value", "SQNR dB", "cosine", "max abs", "mean abs", "rel. L2", "KL", "top-1", "top-5",
        ]);
        let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.2} %", share * 100.0));
        for f in &figures {
            table.row(vec![
                f.name.clone(),
                format!("{:.2}", f.sqnr_db),
                format!("{:.6}", f.cosine),
                format!("{:.3e}", f.max_abs),
                format!("{:.3e}", f.mean_abs),
                format!("{:.3e}", f.relative_l2),
                format!("{:.3e}", f.kl),
                share(f.top1_agreement),
                share(f.top5_agreement),
            ]);
        }
        print!("{table}");
    }
    let main = b.main();
    let outputs: Vec<_> =
        figures.into_iter().filter(|f| main.find(&f.name).is_some_and(|v| main.is_output(v))).collect();
    Ok(args.bars.met(&names[1], &outputs))
}
