//! `onnxq quantize`: the main job. Writes a quantized model and says how good it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use passes::quantize::{Kernel, QuantPlan};
use quant::range::Method;
use serde::Serialize;

use super::auto::{self, AutoArgs};
use super::choice::ChoiceArgs;
use super::common::{Bars, DataArgs, EngineArgs, bytes_on_disk, progress, read_model};
use super::table::Table;
use super::weight_only::{self, WeightArgs};
use crate::data::Labels;
use crate::data::{Source, part, telling};
use crate::pipeline::quantize::refine::Step;
use crate::pipeline::quantize::{Format, Mode, QuantizeOptions, Quantized, Validation, quantize};
use crate::pipeline::sensitivity::auto::Found;
use crate::pipeline::table::CalibrationTable;
use crate::report::schema::Budget;

/// Quantize a model, and measure what that did to it
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Where to write the quantized model
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Range method of activations (`onnxq list methods`)
    #[arg(long, default_value = "auto")]
    method: String,
    /// How quantization is written into the file
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Inputs and outputs of the model become codes, where they are quantized anyway
    #[arg(long)]
    integer_io: bool,
    /// Follow this plan (JSON) instead of making one
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Write the plan (JSON)
    #[arg(long, value_name = "FILE")]
    write_plan: Option<PathBuf>,
    /// Leave out the accuracy passes that change weights, biases, ranges and the choice of operators
    #[arg(long)]
    no_refine: bool,
    /// Use the statistics of an earlier `onnxq calibrate`
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Write everything that was decided and measured (JSON); - for stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    auto: AutoArgs,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    bars: Bars,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// The JSON twin of what is printed.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    model: String,
    output: String,
    input_bytes: u64,
    output_bytes: u64,
    integer_share: Option<f64>,
    accuracy: &'a [Step],
    validation: &'a [Validation],
    budgets: &'a [Budget],
    notes: &'a [String],
    plan: &'a QuantPlan,
}

/// Runs the command; false if a stated bar was missed.
pub fn run(args: &Args) -> Result<bool> {
    if args.output == args.model {
        bail!("--output would overwrite the input");
    }
    can_write(args)?;
    if args.choice.mode == Mode::WeightOnly {
        let common = weight_only::Common {
            reports: &args.auto,
            model: &args.model,
            output: &args.output,
            target: &args.choice.target,
            exclude: &args.choice.exclude,
            max_size: args.auto.max_size.as_deref(),
            json: args.json.as_deref(),
            bars: &args.bars,
            data: &args.data,
            engine: &args.engine,
        };
        return weight_only::run(&args.weights, &common);
    }
    if args.auto.max_size.is_some() && !args.auto.auto {
        bail!(
            "--max-size needs --auto, which chooses precisions, or --mode weight-only, which chooses widths"
        );
    }
    let mut options = options(args)?;
    let model = read_model(&args.model)?;
    let before = bytes_on_disk(&args.model, &model);
    let source = match (&args.data.data, args.data.random, args.choice.mode) {
        (None, None, Mode::Dynamic) => None,
        _ => Some(args.data.open(&model)?),
    };
    let kept = source.as_deref().map(|source| telling(&model, source)).transpose()?.unwrap_or_default();
    let left_out = source.as_ref().map_or(0, |source| source.len()) - kept.len();
    if left_out > 0 {
        eprintln!("note: {left_out} of {} samples are empty and were left out", left_out + kept.len());
    }
    let part = source.as_deref().map(|source| part(source, &kept));
    let source = part.as_ref().map(|part| part as &dyn Source);
    let bar = progress("working");
    let mut tell = |what: &'static str, done: usize, all: usize| {
        bar.set_prefix(what);
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let found = args.auto.find(&model, source, &options, &args.bars, &mut tell)?;
    if let Some(found) = &found {
        if found.plan.is_none() {
            bar.finish_and_clear();
            auto::print_missed(found);
            return Ok(false);
        }
        options.plan.clone_from(&found.plan);
        options.table = Some(found.table.clone());
    }
    let kept = args.auto.wants_report().then(|| model.clone());
    let mut made = quantize(model, source, &options, &mut tell)?;
    if let Some(found) = &found {
        made.accuracy.splice(0..0, found.steps.iter().cloned());
    }
    bar.finish_and_clear();
    let after = proto::write(&made.model, &args.output, &proto::WriteOptions::default())?;
    if let Some(path) = &args.write_plan {
        proto::write_file(path, &serde_json::to_vec_pretty(&made.plan)?)?;
    }
    if let Some(model) = kept {
        let size = crate::report::schema::Size { before, after: Some(after) };
        let report = auto::of_quantized(&args.model, &model, source, &options, &made, found.as_ref(), size)?;
        args.auto.write(&report)?;
    }
    made.notes = auto::notes(&made, found.as_ref());
    let report = Report {
        version: 1,
        model: args.model.display().to_string(),
        output: args.output.display().to_string(),
        input_bytes: before,
        output_bytes: after,
        integer_share: made.plan.integer_share(),
        accuracy: &made.accuracy,
        validation: &made.validation,
        budgets: found.as_ref().map_or(&[], |found| &found.budgets),
        notes: &made.notes,
        plan: &made.plan,
    };
    match args.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => println!("{}", serde_json::to_string_pretty(&report)?),
        Some(path) => {
            proto::write_file(path, &serde_json::to_vec_pretty(&report)?)?;
            print(&made, found.as_ref(), before, after);
        }
        None => print(&made, found.as_ref(), before, after),
    }
    if made.validation.is_empty() && args.bars.any() {
        eprintln!("bar missed: nothing was measured");
        return Ok(false);
    }
    Ok(made.validation.iter().all(|validation| args.bars.met(&validation.runtime, &validation.outputs)))
}

/// What the arguments and the recipe ask.
fn options(args: &Args) -> Result<QuantizeOptions> {
    Ok(QuantizeOptions {
        format: args.format,
        method: args.method.parse::<Method>().map_err(|e| anyhow!("--method: {e}"))?,
        integer_io: args.integer_io,
        engine: args.engine.options(),
        plan: args.plan.as_deref().map(read_plan).transpose()?,
        table: args.table.as_deref().map(CalibrationTable::read).transpose()?,
        refine: !args.no_refine,
        labels: args.auto.labels.as_deref().map(Labels::read).transpose()?,
        ..args.choice.options()?
    })
}

/// Files that are written at the end can be: better said before an hour's work than after it.
fn can_write(args: &Args) -> Result<()> {
    let reports = [&args.write_plan, &args.json, &args.auto.report, &args.auto.report_json];
    let files = reports.into_iter().flatten().filter(|path| path.as_os_str() != "-");
    files.chain([&args.output]).try_for_each(|path| Ok(proto::writable(path)?))
}

fn read_plan(path: &std::path::Path) -> Result<QuantPlan> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no plan", path.display()))
}

/// What the accuracy passes did, on samples that calibration did not see.
fn print_steps(steps: &[Step]) {
    if steps.is_empty() {
        return;
    }
    println!();
    let mut table = Table::new(&["accuracy pass", "SQNR dB before", "after", "kept", "what"]);
    for step in steps {
        table.row(vec![
            step.pass.to_string(),
            format!("{:.1}", step.before_db),
            format!("{:.1}", step.after_db),
            if step.kept { "yes" } else { "no" }.into(),
            step.what.clone(),
        ]);
    }
    print!("{table}");
}

fn print(made: &Quantized, found: Option<&Found>, before: u64, after: u64) {
    let kib = |bytes: u64| format!("{:.0} KiB", bytes as f64 / 1024.0);
    println!(
        "size            {} -> {} ({:.2} x smaller)",
        kib(before),
        kib(after),
        before as f64 / after.max(1) as f64
    );
    let ops = made.plan.ops.values();
    let integer = ops.clone().filter(|op| op.kernel == Kernel::Integer).count();
    let float = ops.clone().filter(|op| op.kernel == Kernel::Float).count();
    println!("operators       {integer} on integers, {float} in float (predicted for {})", made.plan.target);
    if let Some(share) = made.plan.integer_share() {
        println!("multiplications {:.1} % on integers", share * 100.0);
    }
    print_steps(&made.accuracy);
    if let Some(found) = found {
        auto::print_reached(found);
    }
    print_validation(&made.validation);
    print_float(&made.plan);
    for note in &made.notes {
        println!("note: {note}");
    }
}

/// The figures of every output in every runtime.
fn print_validation(validation: &[Validation]) {
    if validation.is_empty() {
        return;
    }
    println!();
    let all = || validation.iter().flat_map(|validation| &validation.outputs);
    let labelled = all().any(|figures| figures.top1.is_some());
    let integers = all().any(|figures| figures.differing.is_some());
    let mut heads = vec!["runtime", "output", "SQNR dB", "cosine", "max abs", "top-1 agreement"];
    heads.extend(integers.then_some("equal"));
    heads.extend(labelled.then_some("top-1 accuracy"));
    heads.push("samples");
    let mut table = Table::new(&heads);
    let percent = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0));
    for validation in validation {
        for figures in &validation.outputs {
            // Of numbers that only are equal or not, nothing else was measured.
            let measured = |text: String| if figures.measurable { text } else { "-".into() };
            let mut row = vec![
                validation.runtime.clone(),
                figures.name.clone(),
                measured(format!("{:.1}", figures.sqnr_db)),
                measured(format!("{:.5}", figures.cosine)),
                measured(format!("{:.4}", figures.max_abs)),
                percent(figures.top1_agreement),
            ];
            if integers {
                row.push(percent(figures.differing.map(|differing| 1.0 - differing)));
            }
            if labelled {
                let both = figures.reference_top1.zip(figures.top1);
                row.push(both.map_or("-".into(), |(float, quantized)| {
                    format!("{} of {}", percent(Some(quantized)), percent(Some(float)))
                }));
            }
            row.push(validation.samples.to_string());
            table.row(row);
        }
    }
    print!("{table}");
}

/// What stays in float, a line for each reason, the reason with most multiplications first.
fn print_float(plan: &QuantPlan) {
    let mut reasons: BTreeMap<&str, (u64, BTreeMap<&str, usize>)> = BTreeMap::new();
    for op in plan.ops.values().filter(|op| op.kernel == Kernel::Float) {
        let (macs, kinds) = reasons.entry(&op.reason).or_default();
        *macs += op.macs;
        *kinds.entry(&op.kind).or_default() += 1;
    }
    if reasons.is_empty() {
        return;
    }
    let total: u64 = plan.ops.values().map(|op| op.macs).sum();
    println!("\nin float:");
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (macs, kinds))| Reverse((*macs, kinds.values().sum::<usize>())));
    for (reason, (macs, kinds)) in reasons {
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|&(_, count)| Reverse(count));
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let share = macs as f64 / total.max(1) as f64 * 100.0;
        let weight = if macs > 0 { format!(" ({share:.1} % of the multiplications)") } else { String::new() };
        println!("  {reason}: {}{weight}", kinds.join(", "));
    }
}
