//! One pass over the data: every float value that a plan may round into a sketch, on all threads, resumable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ir::Model;
use quant::range::Sketch;
use runtime::{Executor, Observer, View};

use super::digest;
use super::engine::{EngineOptions, form_for, prepare, run_all};
use super::observed::{every, join, joined, usable};
use super::table::CalibrationTable;
use crate::data::Source;

/// How often an unfinished table is saved, unless told otherwise.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What to calibrate and how.
#[derive(Clone, Debug, Default)]
pub struct CalibrateOptions {
    /// The runtime.
    pub engine: EngineOptions,
    /// Only every `n`-th sample from `i` on: part `i` of `n`, counted from 1.
    pub shard: Option<(usize, usize)>,
    /// Where an unfinished table is kept, for resuming; none keeps nothing.
    pub partial: Option<PathBuf>,
    /// How often an unfinished table is saved.
    pub save_every: Option<Duration>,
    /// Leave out the per-channel extrema.
    pub without_channels: bool,
    /// The values to look at; none means those that a plan may round ([`usable`]).
    pub values: Option<Vec<String>>,
}

/// The axis of the channels of a value of this rank: pictures keep them on axis 1, everything else on its last axis.
pub fn channel_axis(rank: usize) -> Option<usize> {
    match rank {
        0 | 1 => None,
        2 | 3 => Some(rank - 1),
        _ => Some(1),
    }
}

/// Collects sketches by value name.
struct Collector<'a> {
    model: &'a Model,
    seen: HashMap<String, Seen>,
    /// Values whose sketches follow from others.
    follows: &'a BTreeSet<String>,
    sample: u64,
    error: Option<anyhow::Error>,
    /// Extrema by channel too.
    channels: bool,
}

/// What was seen of a value.
struct Seen {
    sketch: Sketch,
    /// The rank that it has, the axis of its channels, and how many there are: only where the model says that every sample has
    /// as many indices along this axis, they are channels.
    rank: usize,
    channels: Option<(usize, usize)>,
}

impl Collector<'_> {
    fn channels(&self, name: &str, rank: usize) -> Option<(usize, usize)> {
        let axis = channel_axis(rank).filter(|_| self.channels)?;
        let graph = self.model.main();
        let shape = graph.value(graph.find(name)?).shape()?;
        Some((axis, shape.dims.get(axis)?.known()?))
    }

    fn into_sketches(self) -> BTreeMap<String, Sketch> {
        self.seen.into_iter().map(|(name, seen)| (name, seen.sketch)).collect()
    }
}

impl Observer for Collector<'_> {
    fn see(&mut self, name: &str, value: View<'_>) {
        if self.error.is_some() {
            return;
        }
        let Some(elements) = value.floats() else { return };
        let dims = value.dims();
        // Names are copied and shapes looked up once, not for every sample.
        if self.seen.get(name).is_none_or(|seen| seen.rank != dims.len()) {
            if self.follows.contains(name) {
                return;
            }
            let (rank, channels) = (dims.len(), self.channels(name, dims.len()));
            let sketch = self.seen.remove(name).map_or_else(Sketch::new, |seen| seen.sketch);
            self.seen.insert(name.to_string(), Seen { sketch, rank, channels });
        }
        let Some(seen) = self.seen.get_mut(name) else { return };
        let axis = seen.channels.filter(|&(axis, size)| dims.get(axis) == Some(&size)).map(|(axis, _)| axis);
        let layout = axis.and_then(|axis| quant::Layout::per_axis(dims, axis).ok());
        let result = match layout {
            Some(layout) => seen.sketch.observe_channels(self.sample, &elements, &layout),
            None => {
                seen.sketch.observe(self.sample, &elements);
                Ok(())
            }
        };
        self.error = result.err().map(|error| anyhow::Error::from(error).context(format!("value {name:?}")));
    }
}

/// Runs the samples and returns the table. The executor is given its form of the model; what is observed are the values
/// that this form and the model share. `progress` hears of each finished sample.
pub fn calibrate(
    model: &Model,
    executor: &dyn Executor,
    source: &dyn Source,
    options: &CalibrateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CalibrationTable> {
    let label = format!("{} {}", executor.name(), executor.version());
    let form = form_for(executor, model)?;
    let mut table = CalibrationTable::new(digest::model(model), label, source.is_random(), source.len());
    let all: Vec<usize> = match options.shard {
        Some((part, parts)) => (0..source.len()).filter(|sample| sample % parts == part - 1).collect(),
        None => (0..source.len()).collect(),
    };
    if let Some(partial) = options.partial.as_deref().filter(|path| path.exists()) {
        resume(&mut table, partial, source)?;
    }
    let mut left: Vec<usize> =
        all.iter().copied().filter(|sample| !table.samples.contains_key(sample)).collect();
    let wanted = options.values.clone().unwrap_or_else(|| usable(model));
    let joined = joined(model, &wanted);
    let follows: BTreeSet<String> = joined.iter().map(|value| value.name.clone()).collect();
    let shown: BTreeSet<String> = every(&form).into_iter().collect();
    let names = wanted.into_iter().filter(|name| shown.contains(name) && !follows.contains(name)).collect();
    let session = prepare(executor, &form, names)?;
    let mut finished = all.len() - left.len();
    // In rounds, so that an unfinished table can be saved between them; all at once where none is kept.
    let mut round =
        if options.partial.is_some() { options.engine.threads().max(1) } else { left.len().max(1) };
    while !left.is_empty() {
        let started = Instant::now();
        let now: Vec<usize> = left.drain(..round.min(left.len())).collect();
        let part = observe_round(model, session.as_ref(), source, &now, &follows, options, &mut |_| {
            finished += 1;
            progress(finished, all.len());
        })?;
        merge(&mut table, part)?;
        if let Some(partial) = &options.partial {
            let spent = started.elapsed();
            if !left.is_empty() && spent * 2 < options.save_every.unwrap_or(SAVE_EVERY) {
                round *= 2;
            } else if !left.is_empty() {
                table.write(partial)?;
            }
        }
    }
    join(&mut table.values, &joined)?;
    Ok(table)
}

/// [`calibrate`], and where the runtime that was chosen by itself fails, in ONNX Runtime if that is there: some models
/// tract accepts and cannot load for the sizes of a sample. The answer says so.
///
/// # Errors
/// Those of the first runtime: if it is the data's fault, its words are as good as the second's.
pub fn calibrate_somewhere(
    model: &Model,
    executor: &dyn Executor,
    source: &dyn Source,
    options: &CalibrateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(CalibrationTable, Option<String>)> {
    let error = match calibrate(model, executor, source, options, progress) {
        Ok(table) => return Ok((table, None)),
        Err(error) => error,
    };
    let Some(ort) = options.engine.instead_of(executor) else { return Err(error) };
    let Ok(table) = calibrate(model, &ort, source, options, progress) else { return Err(error) };
    let note = format!("calibrated in ONNX Runtime, because {} failed: {error:#}", executor.name());
    Ok((table, Some(note)))
}

type Part = (BTreeMap<usize, String>, BTreeMap<String, Sketch>);

fn observe_round(
    model: &Model,
    session: &dyn runtime::Session,
    source: &dyn Source,
    samples: &[usize],
    follows: &BTreeSet<String>,
    options: &CalibrateOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Part>> {
    let channels = !options.without_channels;
    let make = || {
        let collector = Collector { model, seen: HashMap::new(), follows, sample: 0, error: None, channels };
        (BTreeMap::<usize, String>::new(), collector)
    };
    let states = run_all(
        session,
        source,
        samples,
        options.engine.threads(),
        make,
        |(digests, collector), session, sample, feed| {
            collector.sample = sample as u64;
            digests.insert(sample, digest::sample(&feed));
            session.run(&feed, collector)?;
            collector.error.take().map_or(Ok(()), Err)
        },
        done,
    )?;
    Ok(states.into_iter().map(|(digests, collector)| (digests, collector.into_sketches())).collect())
}

fn merge(table: &mut CalibrationTable, parts: Vec<Part>) -> Result<()> {
    for (samples, values) in parts {
        let mut part = CalibrationTable { samples, values, ..table.clone_head() };
        part.random = table.random;
        table.merge(part)?;
    }
    Ok(())
}

impl CalibrationTable {
    fn clone_head(&self) -> CalibrationTable {
        CalibrationTable::new(self.model.clone(), self.runtime.clone(), self.random, self.total)
    }
}

/// How many of the samples that are done are read again, to see that the data are still the same.
const CHECKED: usize = 8;

/// Takes up an unfinished table, if it is of the same run over the same data.
fn resume(table: &mut CalibrationTable, partial: &Path, source: &dyn Source) -> Result<()> {
    let other =
        || format!("{} is left of another run: delete it or give another --output", partial.display());
    let found = CalibrationTable::read(partial).with_context(other)?;
    for (&sample, known) in found.samples.iter().step_by(found.samples.len().div_ceil(CHECKED).max(1)) {
        ensure!(sample < source.len(), other());
        ensure!(
            digest::sample(&source.sample(sample)?) == *known,
            "sample {sample} has changed: {}",
            other()
        );
    }
    table.merge(found).with_context(other)
}
