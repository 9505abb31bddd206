//! `onnxq calibrate`: runs the model once over the data and writes what was seen of every value.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quant::range::Method;

use super::common::{DataArgs, EngineArgs, progress, read_model};
use crate::pipeline::calibrate::{CalibrateOptions, SAVE_EVERY, calibrate_somewhere};
use crate::pipeline::observed::{every, usable};
use crate::pipeline::prepare::lowered;
use crate::pipeline::table::CalibrationTable;
use crate::pipeline::tensorrt_cache::{HEADER, tensorrt_cache};

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
    /// How often an unfinished table is saved beside the output, for going on after a kill
    #[arg(long, value_name = "SECONDS", default_value_t = SAVE_EVERY.as_secs())]
    save_every: u64,
    /// Join these tables instead of running anything
    #[arg(long, value_name = "TABLE", num_args = 1.., conflicts_with = "shard")]
    merge: Vec<PathBuf>,
    /// Also write a calibration cache for TensorRT's implicit quantization
    #[arg(long, value_name = "FILE")]
    tensorrt_cache: Option<PathBuf>,
    /// How the ranges in that cache follow from the statistics
    #[arg(long, value_name = "METHOD", default_value_t = Method::MinMax, requires = "tensorrt_cache")]
    cache_method: Method,
    /// First line of that cache: the TensorRT version and calibrator that it counts as made by
    #[arg(long, value_name = "LINE", default_value = HEADER, requires = "tensorrt_cache")]
    cache_header: String,
    /// Look at every value, also at those that no target would round
    #[arg(long)]
    all: bool,
    /// Print what the data cover as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Where an unfinished table is kept: beside the output.
fn unfinished(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_os_string();
    name.push(".partial");
    PathBuf::from(name)
}

/// `I/N` with 1 <= I <= N.
///
/// # Errors
/// Anything else.
pub fn parse_shard(text: &str) -> Result<(usize, usize)> {
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
    // TensorRT asks for a range of every tensor, also within what it fuses.
    let all = args.all || args.tensorrt_cache.is_some();
    let values = if all { every(&model) } else { usable(&model) };
    let options = CalibrateOptions {
        values: Some(values.clone()),
        engine: args.engine.options(),
        shard: args.shard.as_deref().map(parse_shard).transpose()?,
        save_every: Some(Duration::from_secs(args.save_every)),
        partial: Some(unfinished(&args.output)),
        ..CalibrateOptions::default()
    };
    let (executor, note) = options.engine.choose(&lowered(&model)?)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    crate::memory::keep_level();
    let bar = progress("calibrating");
    let mut tell = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let (table, note) = calibrate_somewhere(&model, executor.as_ref(), source.as_ref(), &options, &mut tell)?;
    bar.finish_and_clear();
    note.iter().for_each(|note| eprintln!("note: {note}"));
    table.write(&args.output)?;
    if let Some(partial) = options.partial.filter(|path| path.exists()) {
        std::fs::remove_file(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    report(args, &table, &values)
}

fn merge(args: &Args) -> Result<()> {
    let mut tables = args.merge.iter();
    let first = tables.next().context("--merge takes tables")?;
    let mut whole = CalibrationTable::read(first)?;
    for path in tables {
        whole.merge(CalibrationTable::read(path)?).with_context(|| path.display().to_string())?;
    }
    whole.write(&args.output)?;
    let expected: Vec<String> = whole.values.keys().cloned().collect();
    report(args, &whole, &expected)
}

fn report(args: &Args, table: &CalibrationTable, expected: &[String]) -> Result<()> {
    if let Some(path) = &args.tensorrt_cache {
        let (text, left_out) = tensorrt_cache(table, args.cache_method, &args.cache_header);
        proto::write_file(path, text.as_bytes())?;
        if left_out > 0 {
            eprintln!("note: {left_out} values that were zero or never seen are not in {}", path.display());
        }
    }
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
        let plural = if settled == 1 { "" } else { "s" };
        println!("nine of ten ranges settled after {settled} sample{plural}");
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
