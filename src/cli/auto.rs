//! `quantize --auto` and `--report`: arguments, and what happens before and after the main job.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ir::Model;
use passes::quantize::Precision;

use super::common::Bars;
use super::table::Table;
use crate::data::{Labels, Source};
use crate::pipeline::digest;
use crate::pipeline::prepare::quantizable;
use crate::pipeline::quantize::{QuantizeOptions, Quantized, as_planned};
use crate::pipeline::sensitivity::accumulated;
use crate::pipeline::sensitivity::auto::{Asked, AutoOptions, Found, auto};
use crate::pipeline::sensitivity::costs::{CostTable, Limit};
use crate::report::schema::{Metric, Report, Size};
use crate::report::{self, Facts, Measured};

/// Samples for the curve of accumulated error.
const ACCUMULATED: usize = 8;

/// Mixed precision within budgets.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Mixed precision")]
pub struct AutoArgs {
    /// Measure every layer and find the best mix of precisions within the budgets
    #[arg(long)]
    pub auto: bool,
    /// The file at most: 12MB, 900KiB, 0.3x of the float model; with --auto, and with --mode weight-only
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Multiplications times bits at most: 5e9, 0.08x of the float model
    #[arg(long, value_name = "OPS", requires = "auto")]
    pub max_bitops: Option<String>,
    /// One run at most, by the cost table: 800us, 1.2ms, 0.5x of the float model
    #[arg(long, value_name = "TIME", requires = "costs")]
    pub max_latency: Option<String>,
    /// Accuracy lost at most, in points: 0.5% or 0.005. Of the labels, or without them the share of changed first choices
    #[arg(long, value_name = "DROP", requires = "auto")]
    pub max_drop: Option<String>,
    /// Candidate precisions beside float
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["int8", "a16w8", "w8", "w4", "fp16"])]
    pub precisions: Vec<String>,
    /// Times of every layer, from `onnxq measure-costs` (CSV)
    #[arg(long, value_name = "FILE")]
    pub costs: Option<PathBuf>,
    /// The right class of each sample: one number a line, or name and number
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Write a report that anybody can open (HTML)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the numbers of the report (JSON)
    #[arg(long, value_name = "FILE")]
    pub report_json: Option<PathBuf>,
}

/// Precisions by name.
///
/// # Errors
/// A name that is none.
pub fn precisions(names: &[String]) -> Result<Vec<Precision>> {
    let one = |name: &String| {
        let known = Precision::ALL.iter().find(|(_, known)| known == name).map(|(precision, _)| *precision);
        known.ok_or_else(|| {
            let names: Vec<&str> = Precision::ALL.iter().map(|(_, name)| *name).collect();
            anyhow!("no precision is called {name:?}; there are: {}", names.join(", "))
        })
    };
    names.iter().map(one).collect()
}

/// The class of each sample.
///
/// # Errors
/// An unreadable file, or a sample without a class or with several (a batch).
pub fn classes(path: &Path, source: &dyn Source) -> Result<BTreeMap<usize, usize>> {
    let labels = Labels::read(path)?;
    let one = |at: usize| match labels.of(source, at)?[..] {
        [class] => Ok((at, class)),
        _ => bail!("--labels: sample {} is a batch; measure single samples", source.label(at)),
    };
    (0..source.len()).map(one).collect()
}

fn limit(text: &Option<String>, flag: &str) -> Result<Option<(String, Limit)>> {
    let parse = |text: &String| {
        let limit = text.parse::<Limit>().map_err(|why| anyhow!("{flag}: {why}"))?;
        Ok((text.clone(), limit))
    };
    text.as_ref().map(parse).transpose()
}

/// `0.5%` or `0.005`.
fn share(text: &str) -> Result<f64> {
    let wrong = || format!("--max-drop takes a share such as 0.5% or 0.005, not {text:?}");
    let share = match text.strip_suffix('%') {
        Some(points) => points.trim().parse::<f64>().with_context(wrong)? / 100.0,
        None => text.parse::<f64>().with_context(wrong)?,
    };
    if !(0.0..=1.0).contains(&share) {
        bail!(wrong());
    }
    Ok(share)
}

impl AutoArgs {
    /// Finds the mix, if one was asked for.
    ///
    /// # Errors
    /// Arguments that are none, or a model that cannot be measured.
    pub fn find(
        &self,
        model: &Model,
        source: Option<&dyn Source>,
        options: &QuantizeOptions,
        bars: &Bars,
        progress: &mut dyn FnMut(&'static str, usize, usize),
    ) -> Result<Option<Found>> {
        if !self.auto {
            return Ok(None);
        }
        let source = source.context("--auto measures on data: give --data PATH")?;
        if options.plan.is_some() {
            bail!("--auto makes a plan and --plan follows one: give only one of them");
        }
        let asked = Asked {
            size: limit(&self.max_size, "--max-size")?,
            bitops: limit(&self.max_bitops, "--max-bitops")?,
            latency: limit(&self.max_latency, "--max-latency")?,
            drop: self
                .max_drop
                .as_ref()
                .map(|text| Ok::<_, anyhow::Error>((text.clone(), share(text)?)))
                .transpose()?,
            sqnr: bars.min_sqnr.map(|least| (format!("{least}"), least)),
        };
        let labels = self.labels.as_deref().map(|path| classes(path, source)).transpose()?;
        let how = AutoOptions {
            asked,
            precisions: precisions(&self.precisions)?,
            labels: labels.unwrap_or_default(),
            costs: self.costs.as_deref().map(CostTable::read).transpose()?,
        };
        auto(model.clone(), source, options, &how, progress).map(Some)
    }

    /// Some output of this argument group was asked for.
    pub fn wants_report(&self) -> bool {
        self.report.is_some() || self.report_json.is_some()
    }

    /// Writes the report in the forms that were asked for.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, report: &Report) -> Result<()> {
        if let Some(path) = &self.report {
            proto::write_file(path, report::html(report)?.as_bytes())?;
        }
        if let Some(path) = &self.report_json {
            proto::write_file(path, report::json(report)?.as_bytes())?;
        }
        Ok(())
    }
}

/// Says that the budgets cannot be kept, and what comes nearest.
pub fn print_missed(found: &Found) {
    eprintln!("no plan keeps all budgets; the nearest that was found:");
    eprint!("{}", budgets(found));
}

/// Says what was reached of each budget.
pub fn print_reached(found: &Found) {
    if !found.budgets.is_empty() {
        print!("\n{}", budgets(found));
    }
}

fn budgets(found: &Found) -> Table {
    let mut table = Table::new(&["budget", "reached", ""]);
    for budget in &found.budgets {
        let mark = if budget.met { "kept" } else { "MISSED" };
        table.row(vec![budget.asked.clone(), budget.reached.clone(), mark.into()]);
    }
    table
}

/// Notes of the search and of the main job, each once.
pub fn notes(made: &Quantized, found: Option<&Found>) -> Vec<String> {
    let searched = found.iter().flat_map(|found| &found.notes).filter(|note| !made.notes.contains(note));
    made.notes.iter().chain(searched).cloned().collect()
}

/// The report of the main job.
///
/// # Errors
/// The curve of accumulated error cannot be measured.
pub fn of_quantized(
    path: &Path,
    model: &Model,
    source: Option<&dyn Source>,
    options: &QuantizeOptions,
    made: &Quantized,
    found: Option<&Found>,
    size: Size,
) -> Result<Report> {
    let float = quantizable(model.clone())?;
    let table = made.table.as_ref().or(options.table.as_ref());
    let of_plan = table.map(|table| as_planned(&float, &made.plan, table)).transpose()?;
    let curve = match source {
        Some(source) => {
            let samples: Vec<usize> = (0..source.len().min(ACCUMULATED)).collect();
            let float = of_plan.as_ref().unwrap_or(&float);
            accumulated(float, &made.model, &made.plan, source, &samples, &options.engine)?
        }
        None => Vec::new(),
    };
    let measured = found.map(|found| Measured { scores: &found.scores, groups: &found.groups });
    let metric = found.and_then(|found| {
        found.accuracy.map(|(float, quantized, samples)| Metric {
            name: "top-1".into(),
            float,
            quantized,
            samples,
        })
    });
    Ok(report::build(Facts {
        name: named(path),
        quantized: Some(&made.model),
        plan: &made.plan,
        table,
        measured,
        accumulated: &curve,
        validation: &made.validation,
        metric,
        front: found.map(|found| found.points.clone()).unwrap_or_default(),
        budgets: found.map(|found| found.budgets.clone()).unwrap_or_default(),
        size,
        settings: vec![
            ("target".into(), options.target.name().into()),
            ("precision".into(), options.precision.to_string()),
            ("range method".into(), options.method.to_string()),
            ("samples".into(), source.map_or(0, |source| source.len()).to_string()),
        ],
        hashes: vec![
            ("model, simplified".into(), digest::model(&float)),
            ("written model".into(), digest::model(&made.model)),
        ],
        command: std::env::args().map(quoted).collect::<Vec<_>>().join(" "),
        notes: notes(made, found),
        float: &float,
    }))
}

/// What a report calls a model: its file and the folder that holds it, because many files are called `model.onnx`.
pub fn named(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    let last = parts.iter().rev().take(2).filter(|part| !matches!(part.as_ref(), "/" | ".." | "."));
    last.collect::<Vec<_>>().into_iter().rev().cloned().collect::<Vec<_>>().join("/")
}

/// An argument as a shell takes it.
pub fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+%@".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}
