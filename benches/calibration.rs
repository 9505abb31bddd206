//! What statistics cost: calibration with full sketches against a plain run of the same samples on the same runtime, with
//! one thread and with two. Plain: the same form of the model at the same optimization level, nothing shown but its outputs,
//! which is what `onnxq run` does. In ONNX Runtime that level keeps every value as the model defines it; the time of its
//! usual level, which rewrites the graph and has no such values, stands beside. Both load the model; samples are held in
//! memory, since reading them would make the quotient look better.
//!
//! `cargo bench --bench calibration`, or `cargo test --bench calibration` without building the dependencies for release. A
//! convolutional network and a transformer of `fixtures/` are measured, or `ONNXQ_BENCH_MODEL` with `ONNXQ_BENCH_DATA`
//! (random without); ONNX Runtime where it is found. Runs alternate and the fastest of each kind counts, since other work on
//! the machine only ever makes a run slower. Processor time is given beside the time on the clock: it says what the work is,
//! the clock what a user waits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use onnxq::data::{DataOptions, Preprocess, Selection, Source, TextOptions, input_specs, open, random};
use onnxq::pipeline::calibrate::{CalibrateOptions, calibrate};
use onnxq::pipeline::engine::{Engine, EngineOptions, form_for, prepare, run_all};
use onnxq::pipeline::prepare::{lowered, quantizable};
use runtime::{Executor, Feed, Level, View};

/// Samples of a run.
const SAMPLES: usize = 40;
/// Pairs of runs.
const PAIRS: usize = 5;

/// A model and its data, none for random data.
struct Subject {
    model: PathBuf,
    data: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
}

fn subjects() -> Vec<Subject> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let Some(model) = named("ONNXQ_BENCH_MODEL") {
        return vec![Subject { model, data: named("ONNXQ_BENCH_DATA"), tokenizer: None }];
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let vision = fixtures.join("mobilenet_v1_0.25_224/model.onnx");
    let language = fixtures.join("stories260K");
    vec![
        Subject { model: vision, data: Some(fixtures.join("data/calib")), tokenizer: None },
        Subject {
            model: language.join("model.onnx"),
            data: Some(language.join("calib.txt")),
            tokenizer: Some(language.join("tokenizer.json")),
        },
    ]
}

fn main() -> Result<()> {
    for subject in subjects() {
        let model = quantizable(proto::read(&subject.model, &proto::ReadOptions::default())?.model)?;
        let selection = Selection { samples: Some(SAMPLES), ..Selection::default() };
        let text = TextOptions { tokenizer: subject.tokenizer, ..TextOptions::default() };
        let options = DataOptions { preprocess: Preprocess::load("imagenet")?, text, selection };
        let specs = input_specs(&model);
        let source = match &subject.data {
            Some(data) => open(data, &specs, &options)?,
            None => random(&specs, SAMPLES, &options)?,
        };
        let held = Held((0..source.len()).map(|at| source.sample(at)).collect::<Result<_>>()?);
        println!("{}, {} samples", subject.model.display(), held.len());
        for engine in [Engine::Tract, Engine::Ort] {
            for threads in [1, 2] {
                let options = EngineOptions { engine, threads, ..EngineOptions::default() };
                match options.choose(&lowered(&model)?) {
                    Ok((executor, _)) => measure(&model, executor.as_ref(), &held, options.clone())?,
                    Err(error) => println!("{engine:?}: {error:#}"),
                }
                if let (Engine::Ort, Ok(all)) = (engine, options.ort(Level::All)) {
                    let mut least = Spent::MOST;
                    for _ in 0..PAIRS {
                        least = least.least(time(|| plain(&model, &all, &held, &options))?);
                    }
                    println!("    plain at level all: {:.3} s", least.clock.as_secs_f64());
                }
            }
        }
    }
    Ok(())
}

/// Samples in memory, taken in turn until there are [`SAMPLES`].
struct Held(Vec<Feed>);

impl Source for Held {
    fn len(&self) -> usize {
        SAMPLES
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        self.0.get(at % self.0.len()).cloned().with_context(|| format!("there is no sample {at}"))
    }
}

/// Time on the clock, and of the processor on all threads.
#[derive(Clone, Copy)]
struct Spent {
    clock: Duration,
    processor: Duration,
}

impl Spent {
    const MOST: Spent = Spent { clock: Duration::MAX, processor: Duration::MAX };

    fn least(self, other: Spent) -> Spent {
        let (clock, processor) = (self.clock.min(other.clock), self.processor.min(other.processor));
        Spent { clock, processor }
    }
}

/// What the system counts for this process, in its ticks of a hundredth of a second; zero where it does not tell.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program is in parentheses and may hold anything; user and system time are fields 14 and 15.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let (started, before) = (Instant::now(), processor());
    work()?;
    Ok(Spent { clock: started.elapsed(), processor: processor().saturating_sub(before) })
}

/// Runs every sample and looks at nothing but outputs.
fn plain(
    model: &ir::Model,
    executor: &dyn Executor,
    source: &dyn Source,
    engine: &EngineOptions,
) -> Result<()> {
    let all: Vec<usize> = (0..source.len()).collect();
    let form = form_for(executor, model)?;
    let session = prepare(executor, &form, Vec::new())?;
    run_all(
        session.as_ref(),
        source,
        &all,
        engine.threads(),
        || (),
        |(), session, _, feed| Ok(session.run(&feed, &mut |_: &str, _: View<'_>| {})?),
        |_| {},
    )?;
    Ok(())
}

fn measure(
    model: &ir::Model,
    executor: &dyn Executor,
    source: &dyn Source,
    engine: EngineOptions,
) -> Result<()> {
    let how = CalibrateOptions { engine: engine.clone(), ..CalibrateOptions::default() };
    let statistics =
        || -> Result<()> { calibrate(model, executor, source, &how, &mut |_, _| {}).map(|_| ()) };
    let (mut a, mut b) = (Spent::MOST, Spent::MOST);
    for _ in 0..PAIRS {
        a = a.least(time(|| plain(model, executor, source, &engine))?);
        b = b.least(time(statistics)?);
    }
    let ratio = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64().max(1e-9);
    println!(
        "{} {}, threads {}: plain {:.3} s, calibration {:.3} s, ratio {:.2} on the clock, {:.2} of processor time",
        executor.name(),
        executor.version(),
        engine.threads(),
        a.clock.as_secs_f64(),
        b.clock.as_secs_f64(),
        ratio(a.clock, b.clock),
        ratio(a.processor, b.processor)
    );
    Ok(())
}
