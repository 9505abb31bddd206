//! `onnxq compare`: runs two models on the same samples and says how far they are apart.

use std::path::PathBuf;

use anyhow::{Result, bail};
use ir::Model;
use runtime::{Executor, Level};
use serde_json::json;

use super::common::{Bars, DataArgs, EngineArgs, progress, read_model};
use super::table::Table;
use crate::data::{Labels, Source};

use crate::pipeline::engine::{Engine, form_for, prepare};
use crate::pipeline::measure::{Figures, compare_labelled};
use crate::pipeline::observed::every;
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
    /// Right answers: one class a line in the order of the data, or `file,class` a line; or an array (.npy, `labels` in .npz)
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// With --labels: exit with 1 if the other model's top-1 accuracy is below this, 0 to 1
    #[arg(long, value_name = "SHARE", requires = "labels")]
    min_accuracy: Option<f64>,
    /// With --labels: exit with 1 if top-1 accuracy drops by more than this, 0 to 1
    #[arg(long, value_name = "SHARE", requires = "labels")]
    max_accuracy_drop: Option<f64>,
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
    let labels = args.labels.as_deref().map(Labels::read).transpose()?;
    let chosen = [args.choose(&a, None)?, args.choose(&b, args.other_runtime)?];
    let (figures, names) = match args.figures([&a, &b], &chosen, source.as_ref(), labels.as_ref()) {
        Ok(found) => found,
        Err(error) => {
            // What was chosen by itself may fail for the sizes of a sample. If it is the data's fault, these words are as
            // good as the other runtime's.
            let Some(others) = args.instead_of(&chosen) else { return Err(error) };
            let Ok(found) = args.figures([&a, &b], &others, source.as_ref(), labels.as_ref()) else {
                return Err(error);
            };
            eprintln!("note: compared in ONNX Runtime, because the runtime chosen first failed: {error:#}");
            found
        }
    };
    let main = b.main();
    let is_output = |f: &&Figures| main.find(&f.name).is_some_and(|v| main.is_output(v));
    let outputs: Vec<Figures> = figures.iter().filter(is_output).cloned().collect();
    if labels.is_some() && outputs.iter().all(|f| f.top1.is_none()) {
        bail!("--labels: no output holds one row of scores a label");
    }
    if args.json {
        let whole = json!({
            "version": 1,
            "runtimes": names,
            "samples": source.len(),
            "random_data": source.is_random(),
            "values": figures,
        });
        println!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        println!("{} against {}, {} samples", names[0], names[1], source.len());
        print!("{}", show(&figures));
        for f in &outputs {
            let share = |share: Option<f64>| format!("{:.2} %", share.unwrap_or_default() * 100.0);
            if f.top1.is_some() {
                println!(
                    "accuracy of {:?}: top-1 {} (reference {}), top-5 {} (reference {})",
                    f.name,
                    share(f.top1),
                    share(f.reference_top1),
                    share(f.top5),
                    share(f.reference_top5)
                );
            }
        }
    }
    Ok(args.bars.met(&names[1], &outputs) & args.accurate(&names[1], &outputs))
}

impl Args {
    /// Runs the models, each in its runtime. Gives the figures and what the runtimes are called.
    fn figures(
        &self,
        [a, b]: [&Model; 2],
        [first, second]: &[Box<dyn Executor>; 2],
        source: &dyn Source,
        labels: Option<&Labels>,
    ) -> Result<(Vec<Figures>, [String; 2])> {
        let (form_a, form_b) = (form_for(first.as_ref(), a)?, form_for(second.as_ref(), b)?);
        let computed = |name: &String| {
            let main = form_b.main();
            main.find(name).is_some_and(|value| main.value(value).data.is_none())
        };
        let shared: Vec<String> =
            if self.values { every(&form_a).into_iter().filter(computed).collect() } else { vec![] };
        let names = [first, second].map(|executor| format!("{} {}", executor.name(), executor.version()));
        let reference = prepare(first.as_ref(), &form_a, shared.clone())?;
        let other = prepare(second.as_ref(), &form_b, shared)?;
        let samples: Vec<usize> = (0..source.len()).collect();
        let bar = progress("comparing");
        bar.set_length(samples.len() as u64);
        let figures = compare_labelled(
            reference.as_ref(),
            other.as_ref(),
            source,
            &samples,
            labels,
            self.engine.options().threads(),
            &mut |_| bar.inc(1),
        )?;
        bar.finish_and_clear();
        Ok((figures, names))
    }

    /// ONNX Runtime in the place of what was chosen by itself; none where nothing was, or it is not there.
    fn instead_of(&self, [first, second]: &[Box<dyn Executor>; 2]) -> Option<[Box<dyn Executor>; 2]> {
        let mut changed = false;
        let mut other = |executor: &dyn Executor, engine: Option<Engine>| -> Option<Box<dyn Executor>> {
            let mut options = self.engine.options();
            options.engine = engine.unwrap_or(options.engine);
            let ort = match options.instead_of(executor) {
                Some(ort) => {
                    changed = true;
                    ort
                }
                None if executor.name() == "ort" => options.ort(Level::Basic).ok()?,
                None => return None,
            };
            Some(Box::new(if self.optimized { ort.at(Level::All) } else { ort }))
        };
        let pair = [other(first.as_ref(), None)?, other(second.as_ref(), self.other_runtime)?];
        changed.then_some(pair)
    }

    /// What runs one of the models.
    fn choose(&self, model: &Model, engine: Option<Engine>) -> Result<Box<dyn Executor>> {
        let mut options = self.engine.options();
        options.engine = engine.unwrap_or(options.engine);
        let (executor, note) = options.choose(&lowered(model)?)?;
        note.iter().for_each(|note| eprintln!("note: {note}"));
        // What is given the model itself is ONNX Runtime or the plain definitions, which have no levels.
        let levels = executor.name() == "ort";
        Ok(if self.optimized && levels { Box::new(options.ort(Level::All)?) } else { executor })
    }

    /// The bars on right answers.
    fn accurate(&self, runtime: &str, outputs: &[Figures]) -> bool {
        let mut met = true;
        for f in outputs {
            let (Some(found), Some(reference)) = (f.top1, f.reference_top1) else { continue };
            if let Some(bar) = self.min_accuracy.filter(|&bar| found < bar) {
                eprintln!(
                    "bar missed: top-1 accuracy of {:?} in {runtime} is {found:.4}, wanted {bar}",
                    f.name
                );
                met = false;
            }
            if let Some(bar) = self.max_accuracy_drop.filter(|&bar| reference - found > bar) {
                let drop = reference - found;
                eprintln!(
                    "bar missed: top-1 accuracy of {:?} in {runtime} drops by {drop:.4}, allowed {bar}",
                    f.name
                );
                met = false;
            }
        }
        met
    }
}

fn show(figures: &[Figures]) -> Table {
    let mut table =
        Table::new(&["value", "SQNR dB", "cosine", "max abs", "mean abs", "rel. L2", "KL", "top-1", "top-5"]);
    let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.2} %", share * 100.0));
    for f in figures {
        // Integers are equal or not: distances mean nothing.
        if let Some(differing) = f.differing {
            let mut row = vec![f.name.clone(), format!("{:.2} % differ", differing * 100.0)];
            row.resize(9, "-".into());
            table.row(row);
            continue;
        }
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
    table
}
