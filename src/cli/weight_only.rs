//! `onnxq quantize --mode weight-only`: weights of few bits, everything else as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use passes::quantize::low_bit::{Kept, PROFILES, RowsForm, profile};
use quant::weight::gptq::GptqOptions;
use quant::weight::kmix::Mix;
use quant::weight::outliers::OutlierOptions;
use serde::Serialize;

use super::auto::{AutoArgs, named, quoted};
use super::common::{Bars, DataArgs, EngineArgs, bytes_on_disk, external_bytes, progress, read_model};
use super::table::Table;
use crate::pipeline::digest;
use crate::pipeline::low_bit::{
    Budget, CalibratedOptions, Imatrix, Infeasible, LowBit, LowBitOptions, Targets, WeightMethod,
    WeightReport,
};
use crate::pipeline::quantize::Validation;
use crate::pipeline::quantize::weight_only::{Judge, weight_only};
use crate::pipeline::sensitivity::costs::Limit;
use crate::report::schema::Size;
use crate::report::{self, Facts};

/// Arguments of this mode.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Weights of few bits (--mode weight-only)")]
pub struct WeightArgs {
    /// Width of the codes: 2, 3 (stored as 4), 4, 8; K-quants also 5 and 6. 4 where the runtime has it
    #[arg(long)]
    bits: Option<u8>,
    /// Inputs that share a scale: a multiple of 16; 0 for one scale an output channel. 32, or free under a budget
    #[arg(long)]
    block: Option<usize>,
    /// How codes are chosen; gptq, awq and awq+gptq need --data
    #[arg(long, value_enum, default_value_t)]
    weight_method: WeightMethod,
    /// No zero points
    #[arg(long)]
    symmetric: bool,
    /// Width of embedding tables, or `float`; 8 where the runtime has it
    #[arg(long, value_name = "BITS|float")]
    embedding_bits: Option<String>,
    /// The runtime and the version it must be at least: `ort-cpu>=1.23`, `plain`, ...; by --target otherwise
    #[arg(long)]
    profile: Option<String>,
    /// accuracy_level of MatMulNBits: 0 unset, 1 float32, 4 int8 activations
    #[arg(long, value_name = "LEVEL")]
    accuracy_level: Option<i64>,
    /// Another width for some weights: PATTERN=BITS; the last that fits counts
    #[arg(long, visible_alias = "bits-for", value_name = "PATTERN=BITS", value_delimiter = ',')]
    widths: Vec<String>,
    /// 8: scales, and the offsets of kquant and hqq-affine, are integers with a float step for some rows: about 4.4 bits a
    /// weight at 4 bits in blocks of 32, 4.5 with offsets. Under a budget such scales are among the choices anyway
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(8..=8))]
    scale_bits: Option<u8>,
    /// int8-outliers: inputs whose largest magnitude on the data reaches this are multiplied in float
    #[arg(long, value_name = "MAGNITUDE", default_value_t = 6.0)]
    outlier_threshold: f32,
    /// int8-outliers: at most this share of the inputs
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    outlier_share: f64,
    /// llama.cpp's mixture of widths by role and depth: q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k
    #[arg(long, value_name = "NAME", conflicts_with = "bits")]
    mix: Option<Mix>,
    /// Choose widths and blocks for at most this many bits a weight on average; exit 1 if that cannot be
    #[arg(long, value_name = "BITS", conflicts_with_all = ["mix", "max_size"])]
    target_bpw: Option<f64>,
    /// Weigh errors by the mean squares of inputs in this file (.npz of --write-imatrix, llama.cpp's .dat)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Measure mean squares of inputs on the data, weigh errors by them, and write them (.npz)
    #[arg(long, value_name = "FILE", conflicts_with = "imatrix")]
    write_imatrix: Option<PathBuf>,
    /// What calibrated weights reproduce
    #[arg(long, value_enum, default_value_t)]
    weight_targets: Targets,
    /// Most rows of activations that a calibrated method looks at
    #[arg(long, value_name = "N", default_value_t = 16384)]
    tokens: usize,
    /// gptq: part of the mean diagonal that is added to the Gram matrix
    #[arg(long, default_value_t = 0.01)]
    damping: f64,
    /// gptq: improvement sweeps after the rounding; by themselves up to 2, where they cost little beside the rest
    #[arg(long)]
    sweeps: Option<usize>,
    /// Compare the outputs with the float model's on samples that were held back; runs both models as a whole
    #[arg(long, value_enum, default_value_t)]
    validate: Judge,
    /// Forget what an interrupted run left behind
    #[arg(long)]
    restart: bool,
}

/// What the command line gives beside [`WeightArgs`].
pub struct Common<'a> {
    /// The model.
    pub model: &'a Path,
    /// Where to write it.
    pub output: &'a Path,
    /// The runtime.
    pub target: &'a str,
    /// Patterns of weights that stay float.
    pub exclude: &'a [String],
    /// Size of the file.
    pub max_size: Option<&'a str>,
    /// Where to write the report.
    pub json: Option<&'a Path>,
    /// Where to write the report that people open.
    pub reports: &'a AutoArgs,
    /// Bars for the exit code.
    pub bars: &'a Bars,
    /// Samples.
    pub data: &'a DataArgs,
    /// Runtime.
    pub engine: &'a EngineArgs,
}

/// The JSON twin of what is printed.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    model: String,
    output: String,
    profile: &'static str,
    input_bytes: u64,
    output_bytes: u64,
    bits_per_weight: f64,
    weights: &'a [WeightReport],
    float: Vec<(&'a str, usize, &'a str)>,
    validation: &'a [Validation],
    notes: &'a [String],
}

impl WeightArgs {
    fn options(&self, common: &Common<'_>, before: u64) -> Result<LowBitOptions> {
        let asked = self.profile.as_deref().unwrap_or(common.target);
        let profile = profile(asked).ok_or_else(|| {
            let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
            anyhow!("no runtime {asked:?} reads weights of few bits; there are: {}", names.join(", "))
        })?;
        let has = |bits: u8| profile.widths.iter().any(|found| found.width() == u32::from(bits));
        let eight = self.weight_method == WeightMethod::Int8Outliers;
        ensure!(!eight || self.bits.is_none_or(|bits| bits == 8), "int8-outliers has 8 bits");
        let bits = self.bits.unwrap_or(if has(4) && !eight { 4 } else { 8 });
        let rows = !matches!(profile.rows, RowsForm::Float | RowsForm::GatherInt4);
        let table_bits = match self.embedding_bits.as_deref() {
            Some("float") => None,
            Some(text) => Some(text.parse().context("--embedding-bits takes a number or `float`")?),
            None => (rows && has(8)).then_some(8),
        };
        let widths = self.widths.iter().map(|text| {
            let (pattern, bits) = text.rsplit_once('=').context("--widths takes PATTERN=BITS")?;
            Ok((pattern.to_string(), bits.parse().with_context(|| format!("--widths {text:?}"))?))
        });
        ensure!(
            self.mix.is_none() || common.max_size.is_none(),
            "--mix says every width, and --max-size chooses them: give only one of them"
        );
        let budget = match (self.target_bpw, common.max_size) {
            (Some(bits), _) => {
                ensure!(bits.is_finite() && bits > 0.0, "--target-bpw is a number above 0, found {bits}");
                Some(Budget::Bits(bits))
            }
            (None, Some(text)) => {
                let limit = text.parse::<Limit>().map_err(|why| anyhow!("--max-size: {why}"))?;
                Some(Budget::Bytes(limit.of(before as f64) as u64))
            }
            (None, None) => None,
        };
        let gptq = GptqOptions { damping: self.damping, sweeps: self.sweeps, ..GptqOptions::default() };
        let mut work = common.output.as_os_str().to_owned();
        work.push(".partial");
        Ok(LowBitOptions {
            method: self.weight_method,
            bits,
            block: self.block.unwrap_or(32),
            any_block: self.block.is_none(),
            symmetric: self.symmetric,
            table_bits,
            profile,
            accuracy: self.accuracy_level,
            exclude: common.exclude.to_vec(),
            widths: widths.collect::<Result<_>>()?,
            outliers: OutlierOptions { threshold: self.outlier_threshold, most: self.outlier_share },
            small_scales: self.scale_bits.is_some(),
            mix: self.mix,
            budget,
            imatrix: self.imatrix.as_deref().map(Imatrix::read).transpose()?,
            observe: self.write_imatrix.is_some(),
            calibrated: CalibratedOptions { targets: self.weight_targets, tokens: self.tokens, gptq },
            engine: common.engine.options(),
            work: Some(PathBuf::from(work)),
        })
    }
}

/// Runs the mode; false if a stated bar was missed.
pub fn run(args: &WeightArgs, common: &Common<'_>) -> Result<bool> {
    let model = read_model(common.model)?;
    let (before, beside) = (bytes_on_disk(common.model, &model), external_bytes(&model));
    let options = args.options(common, before)?;
    if let Some(work) = options.work.as_deref().filter(|work| args.restart && work.exists()) {
        std::fs::remove_dir_all(work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    let has_data = common.data.data.is_some() || common.data.random.is_some();
    let source = has_data.then(|| common.data.open(&model)).transpose()?;
    // A bar that nobody looks at would count as met.
    let bars = common.bars.min_sqnr.is_some() || common.bars.min_top1_agreement.is_some();
    let judge = if bars { Judge::Always } else { args.validate };
    let bar = progress("working");
    ensure!(source.is_some() || !options.observe, "--write-imatrix measures: give --data PATH");
    let made = weight_only(model, source.as_deref(), &options, judge, &mut |what, done, all| {
        bar.set_prefix(what.to_string());
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (made, validation) = match made {
        Err(error) if error.is::<Infeasible>() => {
            eprintln!("bar missed: {error}");
            return Ok(false);
        }
        made => made?,
    };
    if let (Some(path), Some(imatrix)) = (&args.write_imatrix, &made.imatrix) {
        proto::write_file(path, &imatrix.to_npz()?)?;
    }
    // Weights that were beside the model stay there, and those beyond what one message comfortably holds go there: at whole
    // pages, where runtimes can map them.
    let external =
        beside > 0 || made.weights.iter().map(|weight| weight.rows * weight.cols).sum::<usize>() > 1 << 28;
    let layout =
        if external { proto::Layout::External(proto::External::default()) } else { proto::Layout::AsRead };
    let after = proto::write(&made.model, common.output, &proto::WriteOptions { layout, force: false })?;
    let mut within = true;
    if let Some(Budget::Bytes(most)) =
        options.budget.filter(|b| matches!(b, Budget::Bytes(most) if after > *most))
    {
        eprintln!("bar missed: the file has {after} bytes, wanted at most {most}");
        within = false;
    }
    if common.reports.wants_report() {
        let size = Size { before, after: Some(after) };
        common.reports.write(&page(common, &options, &made, &validation, size))?;
    }
    let report = Report {
        version: 1,
        model: common.model.display().to_string(),
        output: common.output.display().to_string(),
        profile: options.profile.name,
        input_bytes: before,
        output_bytes: after,
        bits_per_weight: bits_per_weight(&made.weights),
        weights: &made.weights,
        float: made.kept.iter().map(|kept| (&*kept.name, kept.elements, &*kept.why)).collect(),
        validation: &validation,
        notes: &made.notes,
    };
    match common.json {
        Some(path) if path.as_os_str() == "-" => println!("{}", serde_json::to_string_pretty(&report)?),
        path => {
            if let Some(path) = path {
                proto::write_file(path, &serde_json::to_vec_pretty(&report)?)?;
            }
            print(&made, &validation, before, after);
        }
    }
    let met = validation.iter().all(|found| common.bars.met(&found.runtime, &found.outputs));
    made.finish()?;
    Ok(met && within)
}

/// The report that people open.
fn page(
    common: &Common<'_>,
    options: &LowBitOptions,
    made: &LowBit,
    validation: &[Validation],
    size: Size,
) -> report::Report {
    let plan = report::low_bit::plan(made, options.profile.name);
    let mean = bits_per_weight(&made.weights);
    let samples = validation.iter().map(|found| found.samples).max().unwrap_or(0);
    let report = report::build(Facts {
        name: named(common.model),
        float: &made.float,
        quantized: Some(&made.model),
        plan: &plan,
        table: None,
        measured: None,
        accumulated: &[],
        validation,
        metric: None,
        front: vec![],
        budgets: options.budget.map(|budget| kept(budget, mean, size)).into_iter().collect(),
        size,
        settings: vec![
            ("mode".into(), "weight-only".into()),
            ("runtime".into(), options.profile.name.into()),
            ("method".into(), name_of(options.method)),
            ("bits a weight, with scales".into(), format!("{mean:.3}")),
            ("samples compared".into(), samples.to_string()),
        ],
        hashes: vec![
            ("model, simplified".into(), digest::model(&made.float)),
            ("written model".into(), digest::model(&made.model)),
        ],
        command: std::env::args().map(quoted).collect::<Vec<_>>().join(" "),
        notes: made.notes.clone(),
    });
    report::low_bit::with_weights(report, made)
}

/// A choice as users type it.
fn name_of(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

/// What became of the budget.
fn kept(budget: Budget, mean: f64, size: Size) -> report::schema::Budget {
    let after = size.after.unwrap_or(0);
    let (asked, reached, met) = match budget {
        Budget::Bits(most) => {
            (format!("--target-bpw {most}"), format!("{mean:.3} bits a weight"), mean <= most + 1e-9)
        }
        Budget::Bytes(most) => (format!("--max-size {most}"), format!("{after} bytes"), after <= most),
    };
    report::schema::Budget { asked, reached, met }
}

fn bits_per_weight(weights: &[WeightReport]) -> f64 {
    let count: f64 = weights.iter().map(|w| (w.rows * w.cols) as f64).sum();
    let bits: f64 = weights.iter().map(|w| w.bits_per_weight * (w.rows * w.cols) as f64).sum();
    if count > 0.0 { bits / count } else { 0.0 }
}

fn print(made: &LowBit, validation: &[Validation], before: u64, after: u64) {
    let kib = |bytes: u64| format!("{:.0} KiB", bytes as f64 / 1024.0);
    println!(
        "size     {} -> {} ({:.2} x smaller)",
        kib(before),
        kib(after),
        before as f64 / after.max(1) as f64
    );
    let elements: usize = made.weights.iter().map(|w| w.rows * w.cols).sum();
    println!(
        "weights  {} of {elements} elements, {:.3} bits each",
        made.weights.len(),
        bits_per_weight(&made.weights)
    );
    println!();
    let mut table = Table::new(&[
        "weight",
        "N x K",
        "method",
        "bits",
        "block",
        "bits each",
        "error",
        "output error",
        "why",
    ]);
    let share = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
    for weight in &made.weights {
        table.row(vec![
            weight.name.clone(),
            format!("{} x {}", weight.rows, weight.cols),
            weight.method.clone(),
            weight.bits.to_string(),
            weight.block.to_string(),
            format!("{:.3}", weight.bits_per_weight),
            share(weight.relative_error),
            share(weight.output_error),
            weight.why.clone(),
        ]);
    }
    print!("{table}");
    for weight in made.weights.iter().filter(|weight| !weight.notes.is_empty()) {
        println!("note: {}: {}", weight.name, weight.notes.join(", "));
    }
    if !validation.is_empty() {
        println!();
        let mut table =
            Table::new(&["runtime", "output", "SQNR dB", "mean KL", "top-1 agreement", "samples"]);
        for found in validation {
            for figures in &found.outputs {
                table.row(vec![
                    found.runtime.clone(),
                    figures.name.clone(),
                    format!("{:.1}", figures.sqnr_db),
                    format!("{:.5}", figures.kl),
                    figures.top1_agreement.map_or("-".into(), |share| format!("{:.1} %", share * 100.0)),
                    found.samples.to_string(),
                ]);
            }
        }
        print!("{table}");
    }
    for Kept { name, why, .. } in &made.kept {
        println!("in float: {name}: {why}");
    }
    for note in &made.notes {
        println!("note: {note}");
    }
}
