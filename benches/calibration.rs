//! What statistics cost: calibration with full sketches against a plain run of the same samples on the same runtime, with
//! one thread and with two. Samples are held in memory: reading them would make the quotient look better.
//!
//! `cargo bench --bench calibration`, or `cargo test --bench calibration` without building the dependencies for release.
//! `ONNXQ_BENCH_MODEL` and `ONNXQ_BENCH_DATA` choose other models and data; ONNX Runtime is measured where it is found.
//! Runs alternate and the fastest of each kind counts, since other work on the machine only ever makes a run slower.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use onnxq::data::{DataOptions, Preprocess, Selection, Source, input_specs, open, random};
use onnxq::pipeline::calibrate::{CalibrateOptions, calibrate};
use onnxq::pipeline::engine::{Engine, EngineOptions, form_for, prepare, run_all};
use onnxq::pipeline::prepare::{lowered, quantizable};
use runtime::{Executor, Feed, View};

/// Samples of a run.
const SAMPLES: usize = 40;
/// Pairs of runs.
const PAIRS: usize = 5;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("ONNXQ_BENCH_MODEL").map(PathBuf::from);
    let path = path.unwrap_or_else(|| root.join("fixtures/mobilenet_v1_0.25_224/model.onnx"));
    let model = quantizable(proto::read(&path, &proto::ReadOptions::default())?.model)?;
    let selection = Selection { samples: Some(SAMPLES), ..Selection::default() };
    let options =
        DataOptions { preprocess: Preprocess::load("imagenet")?, selection, ..DataOptions::default() };
    let specs = input_specs(&model);
    let source = match std::env::var_os("ONNXQ_BENCH_DATA") {
        Some(data) => open(Path::new(&data), &specs, &options)?,
        None => random(&specs, SAMPLES, &options)?,
    };
    let held = Held((0..source.len()).map(|at| source.sample(at)).collect::<Result<_>>()?);
    println!("{}, {} samples", path.display(), held.len());
    for engine in [Engine::Tract, Engine::Ort] {
        for threads in [1, 2] {
            let options = EngineOptions { engine, threads, ..EngineOptions::default() };
            match options.choose(&lowered(&model)?) {
                Ok((executor, _)) => measure(&model, executor.as_ref(), &held, options)?,
                Err(error) => println!("{engine:?}: {error:#}"),
            }
        }
    }
    Ok(())
}

/// Samples in memory.
struct Held(Vec<Feed>);

impl Source for Held {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        self.0.get(at).cloned().with_context(|| format!("there is no sample {at}"))
    }
}

fn measure(
    model: &ir::Model,
    executor: &dyn Executor,
    source: &dyn Source,
    engine: EngineOptions,
) -> Result<()> {
    let all: Vec<usize> = (0..source.len()).collect();
    let plain = || -> Result<Duration> {
        let started = Instant::now();
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
        Ok(started.elapsed())
    };
    let how = CalibrateOptions { engine: engine.clone(), ..CalibrateOptions::default() };
    let statistics = || -> Result<Duration> {
        let started = Instant::now();
        calibrate(model, executor, source, &how, &mut |_, _| {})?;
        Ok(started.elapsed())
    };
    let (mut least_plain, mut least) = (Duration::MAX, Duration::MAX);
    for _ in 0..PAIRS {
        least_plain = least_plain.min(plain()?);
        least = least.min(statistics()?);
    }
    let (a, b) = (least_plain.as_secs_f64(), least.as_secs_f64());
    println!(
        "{} {}, threads {}: plain {a:.3} s, calibration {b:.3} s, ratio {:.2}",
        executor.name(),
        executor.version(),
        engine.threads(),
        b / a
    );
    Ok(())
}
