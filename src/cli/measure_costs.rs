//! `onnxq measure-costs`: how long each layer takes at each precision.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use super::auto::precisions;
use super::common::{DataArgs, EngineArgs, read_model};
use super::table::Table;
use crate::data;
use crate::pipeline::calibrate::{CalibrateOptions, calibrate};
use crate::pipeline::prepare::{lowered, quantizable};
use crate::pipeline::quantize::{QuantizeOptions, base_plan};
use crate::pipeline::sensitivity::mix::Mixer;
use crate::pipeline::sensitivity::timing::times;
use crate::pipeline::table::CalibrationTable;

/// Samples that are run in turn.
const SAMPLES: usize = 4;

/// The target whose runtime times are taken in.
const TIMED: &str = "ort-cpu";

/// Measure how long each layer takes at each precision, for `quantize --auto --max-latency`
///
/// Writes a CSV that --costs reads. The same form can be written by hand for any target, one line an item:
///
///   what,name,precision,microseconds
///   group,conv1,float,120.5       a group of layers (as `sensitivity` names them) at a precision
///   conversion,relu1_out,,6.2     rounding or unrounding this value, where its neighbours' precisions differ
///   rest,,,15.0                   everything that is not up for choice
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The float model
    model: PathBuf,
    /// The table (CSV)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The runtime that the plan is for: times are taken in ONNX Runtime on this machine
    #[arg(long, default_value = TIMED)]
    target: String,
    /// Precisions beside float
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["int8", "w8", "w4", "fp16"])]
    precisions: Vec<String>,
    /// Runs of every mix of precisions; medians are taken
    #[arg(long, value_name = "N", default_value_t = 30)]
    runs: usize,
    /// Use the statistics of an earlier `onnxq calibrate`
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let target = passes::target::target(&args.target)
        .ok_or_else(|| anyhow!("no target is called {:?}", args.target))?;
    if target.name() != TIMED {
        bail!(
            "times are measured in ONNX Runtime on a CPU (--target {TIMED}); for {} write the table by hand, its form is in \
             `onnxq measure-costs --help`",
            target.name()
        );
    }
    if args.runs == 0 {
        bail!("--runs 0: a time takes at least one run");
    }
    let given = read_model(&args.model)?;
    let source = match (&args.data.data, args.data.random) {
        (None, None) => {
            eprintln!("note: no data: made-up samples; times hardly depend on the numbers");
            data::random(&data::input_specs(&given), SAMPLES, &args.data.options()?)?
        }
        _ => args.data.open(&given)?,
    };
    let source = source.as_ref();
    let float = quantizable(given)?;
    let engine = args.engine.options();
    let table = match &args.table {
        Some(path) => CalibrationTable::read(path)?,
        None => {
            let (executor, _) = engine.choose(&lowered(&float)?)?;
            let how = CalibrateOptions { engine: engine.clone(), ..CalibrateOptions::default() };
            let few: Vec<usize> = (0..source.len().min(2 * SAMPLES)).collect();
            calibrate(&float, executor.as_ref(), &data::part(source, &few), &how, &mut |_, _| ())?
        }
    };
    let options = QuantizeOptions { engine: engine.clone(), ..QuantizeOptions::new(target) };
    let base = base_plan(&float, &table, &options)?;
    let mixer = Mixer::new(&float, &base, &options);
    if mixer.groups.is_empty() {
        bail!("nothing in this model can be quantized for {}", target.name());
    }
    let feeds = (0..source.len().min(SAMPLES)).map(|at| source.sample(at)).collect::<Result<Vec<_>>>()?;
    let ort = engine.ort(runtime::Level::All).context("times are taken in ONNX Runtime")?;
    // One thread unless told otherwise: times of layers add up only so.
    let threads = if args.engine.threads == 0 { 1 } else { args.engine.threads };
    let found = times(&mixer, &precisions(&args.precisions)?, &ort, &feeds, args.runs, threads)?;
    found.table.write(&args.output)?;
    println!("microseconds of one run, {threads} thread(s), medians of {} runs", args.runs);
    let mut lines = Table::new(&["mix", "operators", "by the table"]);
    for (name, measured, predicted) in &found.checks {
        lines.row(vec![name.clone(), format!("{measured:.0}"), format!("{predicted:.0}")]);
    }
    print!("{lines}");
    println!("{} groups, {} conversions", mixer.groups.len(), found.table.conversions.len());
    Ok(())
}
