//! `onnxq sensitivity`: what quantizing each group of layers alone does to the outputs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use quant::range::Method;
use serde_json::json;

use super::auto::{classes, named, precisions, quoted};
use super::calibrate::parse_shard;
use super::common::{DataArgs, EngineArgs, progress, read_model};
use super::table::Table;
use crate::data::{Source, part, telling};
use crate::pipeline::digest;
use crate::pipeline::prepare::quantizable;
use crate::pipeline::quantize::{QuantizeOptions, base_plan};
use crate::pipeline::sensitivity::assign::choice;
use crate::pipeline::sensitivity::damage::Score;
use crate::pipeline::sensitivity::mix::Mixer;
use crate::pipeline::sensitivity::table::{Change, SensitivityTable};
use crate::pipeline::sensitivity::{MeasureOptions, accumulated, emitted, measure, statistics};
use crate::pipeline::table::CalibrationTable;
use crate::report::schema::{Point, Size};
use crate::report::{self, Facts, Measured};

/// Measure what quantizing each layer alone does to the outputs
#[derive(clap::Args)]
pub struct Args {
    /// The model; with --merge, not needed
    model: Option<PathBuf>,
    /// Keep what was measured of every sample (JSON): a run that was stopped goes on, parts are joined
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The runtime that the plan is for (`onnxq list targets`)
    #[arg(long, default_value = "ort-cpu")]
    target: String,
    /// Range method of activations (`onnxq list methods`)
    #[arg(long, default_value = "auto")]
    method: String,
    /// Candidate precisions
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["int8", "a16w8", "w8", "w4", "fp16"])]
    precisions: Vec<String>,
    /// One scale a weight instead of one a channel
    #[arg(long)]
    per_tensor: bool,
    /// Use the statistics of an earlier `onnxq calibrate`
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The right class of each sample: one number a line, or name and number
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Every layer on every sample, instead of spending samples where they decide
    #[arg(long)]
    exhaustive: bool,
    /// Run a whole model for every layer instead of what is downstream of it: slow, to compare with
    #[arg(long, hide = true)]
    naive: bool,
    /// Only part I of N of the layers, to be joined by --merge
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Join these tables instead of running anything
    #[arg(long, value_name = "TABLE", num_args = 1.., conflicts_with_all = ["shard", "report"])]
    merge: Vec<PathBuf>,
    /// Write a report that anybody can open (HTML)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the scores as JSON; - for stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if !args.merge.is_empty() {
        return merge(args);
    }
    let path = args.model.as_ref().context("no model: give the file to measure, or --merge TABLE...")?;
    let target = passes::target::target(&args.target)
        .ok_or_else(|| anyhow!("no target is called {:?}", args.target))?;
    let given = read_model(path)?;
    let all = args.data.open(&given)?;
    let kept = telling(&given, all.as_ref())?;
    let source: &dyn Source = &part(all.as_ref(), &kept);
    let float = quantizable(given)?;
    let mut notes = Vec::new();
    let bar = progress("working");
    let mut tell = |what: &'static str, done: usize, all: usize| {
        bar.set_prefix(what);
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let (table, engine) = match &args.table {
        Some(path) => (CalibrationTable::read(path)?, args.engine.options()),
        None => statistics(&float, source, &args.engine.options(), &mut notes, &mut |done, all| {
            tell("calibrating", done, all);
        })?,
    };
    let options = QuantizeOptions {
        per_tensor: args.per_tensor,
        method: args.method.parse::<Method>().map_err(|e| anyhow!("--method: {e}"))?,
        engine: engine.clone(),
        ..QuantizeOptions::new(target)
    };
    let base = base_plan(&float, &table, &options)?;
    let candidates = precisions(&args.precisions)?;
    let mixer = Mixer::new(&float, &base, &options).with(&candidates, &table)?;
    let labels = args.labels.as_deref().map(|path| classes(path, source)).transpose()?.unwrap_or_default();
    let how = MeasureOptions {
        engine: engine.clone(),
        precisions: candidates,
        shard: args.shard.as_deref().map(parse_shard).transpose()?,
        exhaustive: args.exhaustive,
        whole: args.naive,
    };
    let partial = args.output.as_ref().map(|path| path.with_extension("partial"));
    let known = match &partial {
        Some(path) if path.exists() => Some(SensitivityTable::read(path)?),
        _ => None,
    };
    let save = |table: &SensitivityTable| partial.as_ref().map_or(Ok(()), |path| table.write(path));
    let found = measure(&mixer, source, &labels, &how, known, &mut tell, &mut |table| save(table))?;
    bar.finish_and_clear();
    notes.extend(found.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>());
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if let Some(path) = &args.output {
        found.table.write(path)?;
    }
    if let Some(path) = partial.filter(|path| path.exists()) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let scores = found.table.scores();
    if let Some(path) = &args.report {
        let groups = mixer.groups.iter().map(|group| (group.name.clone(), group.ops.clone())).collect();
        let whole = proto::to_bytes(&float)?.len() as u64;
        let choice = choice(&mixer, &scores, &found.bytes, whole, None, 1.0);
        let front: Vec<Point> = choice
            .fronts(&[None; 4])?
            .iter()
            .flat_map(|(column, front)| {
                front
                    .iter()
                    .map(|found| choice.point(*column, &found.picks, &found.costs))
                    .collect::<Vec<_>>()
            })
            .collect();
        let few: Vec<usize> = (0..source.len().min(8)).collect();
        let quantized = emitted(&float, &base)?;
        let curve = accumulated(&float, &quantized, &base, source, &few, &engine)?;
        let page = report::build(Facts {
            name: name(args),
            float: &float,
            quantized: None,
            plan: &base,
            table: Some(&table),
            measured: Some(Measured { scores: &scores, groups: &groups }),
            accumulated: &curve,
            validation: &[],
            metric: None,
            front,
            budgets: vec![],
            size: Size { before: whole, after: None },
            settings: vec![
                ("target".into(), args.target.clone()),
                ("range method".into(), args.method.clone()),
            ],
            hashes: vec![("model, simplified".into(), digest::model(&float))],
            command: std::env::args().map(quoted).collect::<Vec<_>>().join(" "),
            notes,
        });
        proto::write_file(path, report::html(&page)?.as_bytes())?;
    }
    print(args, &found.table, &scores)
}

fn name(args: &Args) -> String {
    args.model.as_deref().map(named).unwrap_or_default()
}

fn merge(args: &Args) -> Result<()> {
    let Some(output) = &args.output else { bail!("--merge needs --output") };
    let mut tables = args.merge.iter();
    let mut whole = SensitivityTable::read(tables.next().context("--merge takes tables")?)?;
    for path in tables {
        whole.merge(SensitivityTable::read(path)?).with_context(|| path.display().to_string())?;
    }
    whole.write(output)?;
    print(args, &whole, &whole.scores())
}

fn print(args: &Args, table: &SensitivityTable, scores: &BTreeMap<Change, Score>) -> Result<()> {
    let mut rows: Vec<(&Change, &Score)> = scores.iter().collect();
    rows.sort_by(|a, b| a.1.global_db.total_cmp(&b.1.global_db).then_with(|| a.0.cmp(b.0)));
    if let Some(path) = &args.json {
        let list: Vec<_> = rows
            .iter()
            .map(|((group, precision), score)| json!({ "group": group, "precision": precision, "score": score }))
            .collect();
        let whole =
            json!({ "version": 1, "runtime": table.runtime, "samples": table.total, "changes": list });
        let text = serde_json::to_string_pretty(&whole)?;
        if path.as_os_str() == "-" {
            println!("{text}");
            return Ok(());
        }
        proto::write_file(path, text.as_bytes())?;
    }
    println!(
        "{}, {} samples; what each change alone does, the most harmful first",
        table.runtime, table.total
    );
    let mut lines = Table::new(&[
        "layer",
        "precision",
        "outputs dB",
        "90 % interval",
        "own dB",
        "cosine",
        "KL",
        "accuracy",
        "samples",
    ]);
    for ((group, precision), score) in rows {
        lines.row(vec![
            group.clone(),
            precision.to_string(),
            format!("{:.1}", score.global_db),
            format!("{:.1} to {:.1}", score.interval_db.0, score.interval_db.1),
            format!("{:.1}", score.local_db),
            format!("{:.6}", score.cosine),
            format!("{:.2e}", score.kl),
            score.accuracy.map_or("-".into(), |share| format!("{:.2} %", share * 100.0)),
            score.samples.to_string(),
        ]);
    }
    print!("{lines}");
    Ok(())
}
