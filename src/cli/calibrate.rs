//! `onnxq calibrate`: runs the model once over the data and writes what was seen of every value.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::common::{DataArgs, EngineArgs, progress, read_model};
use crate::pipeline::calibrate::{CalibrateOptions, calibrate, observed};
use crate::pipeline::table::CalibrationTable;

/// Run the model over the data once and write the statistics of every value
#[derive(clap::Args)]
pub struct Args {
    /// The model; with --merge, not needed
    model: Option<PathBuf>,
    /// Where to write the table (JSON)
    #[arg(short, long)]
    output: PathBuf,
    /// Only part I of N, to be joined by --merge
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Join these tables instead of running anything
    #[arg(long, value_name = "TABLE", num_args = 1.., conflicts_with = "shard")]
    merge: Vec<PathBuf>,
    /// Print what the data cover as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

fn parse_shard(text: &str) -> Result<(usize, usize)> {
    let wrong = || format!("--shard takes I/N with 1 <= I <= N, not {text:?}");
    let (part, parts) = text.split_once('/').with_context(wrong)?;
    let (part, parts): (usize, usize) =
        (part.parse().with_context(wrong)?, parts.parse().with_context(wrong)?);
    if part == 0 || part > parts {
        bail!(wrong());
    }
    Ok((part, parts))
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if !args.merge.is_empty() {
        return merge(args);
    }
    let path = args.model.as_ref().context("no model: give the file to calibrate, or --merge TABLE...")?;
    let model = crate::pipeline::prepare::quantizable(read_model(path)?)?;
    let source = args.data.open(&model)?;
    let options = CalibrateOptions {
        engine: args.engine.options(),
        shard: args.shard.as_deref().map(parse_shard).transpose()?,
        partial: Some(args.output.with_extension("partial")),
        ..CalibrateOptions::default()
    };
    let lowered = crate::pipeline::prepare::lowered(&model)?;
    let (executor, note) = options.engine.choose(&lowered)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    let bar = progress("calibrating");
    let table = calibrate(&lowered, executor.as_ref(), source.as_ref(), &options, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    table.write(&args.output)?;
    if let Some(partial) = options.partial.filter(|path| path.exists()) {
        std::fs::remove_file(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    report(args, &table, &observed(&lowered))
}

fn merge(args: &Args) -> Result<()> {
    let mut tables = args.merge.iter();
    let first = tables.next().context("--merge takes tables")?;
    let mut whole = CalibrationTable::read(first)?;
    for path in tables {
        whole.merge(&CalibrationTable::read(path)?).with_context(|| path.display().to_string())?;
    }
    whole.write(&args.output)?;
    let expected: Vec<String> = whole.values.keys().cloned().collect();
    report(args, &whole, &expected)
}

fn report(args: &Args, table: &CalibrationTable, expected: &[String]) -> Result<()> {
    let coverage = table.coverage(expected);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&coverage)?);
        return Ok(());
    }
    println!(
        "{} of {} samples, {} values, {}",
        coverage.samples, table.total, coverage.values, table.runtime
    );
    if let Some(settled) = coverage.settled_after {
        println!("nine of ten ranges settled after {settled} samples");
    }
    for (name, share) in coverage.drift.iter().filter(|(_, share)| *share > 0.1) {
        println!(
            "range of {name:?} differs by {:.0} % between two halves of the data: more samples may help",
            share * 100.0
        );
    }
    for (name, count) in &coverage.not_finite {
        println!("{name:?} held {count} NaN or infinite elements");
    }
    for name in &coverage.never_seen {
        println!("{name:?} was never seen");
    }
    Ok(())
}
