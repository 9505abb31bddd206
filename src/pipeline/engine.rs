//! Which runtime runs a model, and running many samples on it.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use anyhow::{Context, Result, anyhow, bail};
use ir::Model;
use passes::target::Target;
use runtime::{Executor, Feed, Level, Observer, Ort, Prepare, RuntimeError, Session, Tract};

use super::prepare::lowered;
use super::specialize::Adaptive;
use crate::data::Source;
use crate::memory;

/// Which runtime, by the name that users type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// tract if it can run the model, else ONNX Runtime if it is installed, else the reference evaluator.
    #[default]
    Auto,
    /// tract, embedded.
    Tract,
    /// ONNX Runtime, loaded from a shared library.
    Ort,
    /// The plain evaluator of operator definitions: slow, for small models.
    Reference,
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Which runtime.
    pub engine: Engine,
    /// The ONNX Runtime library, if not found by itself.
    pub ort_library: Option<PathBuf>,
    /// Samples run at the same time; 0 means one per core.
    pub threads: usize,
}

impl EngineOptions {
    /// Threads, resolved.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// ONNX Runtime at a level, if it can be found.
    pub fn ort(&self, level: Level) -> Result<Ort> {
        let path = super::super::ort_library::find(self.ort_library.as_deref())?;
        Ok(Ort::load(&path, level)?)
    }

    /// What to try when the runtime that was chosen by itself fails on the data: some models tract accepts and cannot load
    /// for the sizes of a sample.
    pub fn instead_of(&self, failed: &dyn Executor) -> Option<Ort> {
        if self.engine != Engine::Auto || failed.name() == "ort" {
            return None;
        }
        self.ort(Level::Basic).ok()
    }

    /// What judges candidates for a target in the place of `executor`: the runtime that the file is for, as it is deployed, if
    /// it is the one at hand. Its integer kernels are what the file will be run by, and several times as fast as its plain
    /// operators. On a CPU where these kernels saturate, that would be judged too, which another CPU does not have.
    pub fn deployed(&self, executor: &dyn Executor, target: &dyn Target) -> Option<Box<dyn Executor>> {
        let own = executor.name() == "ort" && target.reads_qoperators();
        let ort = (own && runtime::multiplies_exactly()).then(|| self.ort(Level::All).ok())?;
        ort.map(|ort| Box::new(ort) as Box<dyn Executor>)
    }

    /// The runtime for this model; the answer says why if it is not the first choice.
    pub fn choose(&self, model: &Model) -> Result<(Box<dyn Executor>, Option<String>)> {
        match self.engine {
            Engine::Tract => Ok((Box::new(Tract), remark(&Tract, model))),
            Engine::Ort => Ok((Box::new(self.ort(Level::Basic)?), None)),
            Engine::Reference => Ok((Box::new(runtime::Reference), None)),
            Engine::Auto => {
                let Err(missing) = Tract.supports(model) else {
                    return Ok((Box::new(Tract), remark(&Tract, model)));
                };
                let mut what: Vec<String> = missing.iter().map(|m| format!("{} ({})", m.op, m.why)).collect();
                what.truncate(3);
                let lacks = format!("tract cannot run {}", what.join(", "));
                match self.ort(Level::Basic) {
                    Ok(ort) => Ok((Box::new(ort), Some(format!("{lacks}; running in ONNX Runtime")))),
                    Err(error) => {
                        let note =
                            format!("{lacks}; {error:#}; running in the reference evaluator, which is slow");
                        Ok((Box::new(runtime::Reference), Some(note)))
                    }
                }
            }
        }
    }
}

/// How many operators a note names.
const NAMED: usize = 3;

/// What is worth knowing about how the runtime runs the model.
fn remark(executor: &dyn Executor, model: &Model) -> Option<String> {
    let remarks = executor.remarks(model);
    let named: Vec<String> =
        remarks.iter().take(NAMED).map(|item| format!("{} ({})", item.op, item.why)).collect();
    let more = if remarks.len() > NAMED { ", ..." } else { "" };
    (!remarks.is_empty()).then(|| {
        let count = remarks.len();
        let plural = if count == 1 { "" } else { "s" };
        format!(
            "{} runs {count} operator{plural} by definition, which is slow: {}{more}",
            executor.name(),
            named.join(", ")
        )
    })
}

/// The form of a model that a runtime is given: the model itself, or its lowered form.
///
/// # Errors
/// As [`lowered`].
pub fn form_for<'m>(executor: &dyn Executor, model: &'m Model) -> Result<Cow<'m, Model>> {
    Ok(if executor.wants_lowered() { Cow::Owned(lowered(model)?) } else { Cow::Borrowed(model) })
}

/// Runs samples on forks of a session, one a thread. Each worker makes its own `state`, observes with it, and hands it
/// back; `done` is called on this thread after each sample. Stops at the first error.
pub fn run_all<S: Send>(
    session: &dyn Session,
    source: &dyn Source,
    samples: &[usize],
    threads: usize,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &mut dyn Session, usize, Feed) -> Result<()> + Sync,
    mut done: impl FnMut(usize),
) -> Result<Vec<S>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<(usize, anyhow::Error)>> = Mutex::new(None);
    let workers = threads.clamp(1, samples.len().max(1));
    let mut forks = Vec::new();
    for _ in 0..workers {
        forks.push(session.fork()?);
    }
    let (tell, told) = mpsc::channel();
    let states = std::thread::scope(|scope| {
        let (next, stop, failure, make, work) = (&next, &stop, &failure, &make, &work);
        let handles: Vec<_> = forks
            .into_iter()
            .map(|mut fork| {
                let tell = tell.clone();
                scope.spawn(move || {
                    let mut state = make();
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&sample) = samples.get(at) else { break };
                        let result = source.sample(sample).and_then(|feed| {
                            work(&mut state, fork.as_mut(), sample, feed)
                                .map_err(hinted)
                                .with_context(|| format!("sample {}", source.label(sample)))
                        });
                        match result {
                            Ok(()) => {
                                let _ = tell.send(sample);
                            }
                            Err(error) => {
                                stop.store(true, Ordering::Relaxed);
                                let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
                                // The earliest sample's error, whichever thread was first.
                                if slot.as_ref().is_none_or(|(known, _)| sample < *known) {
                                    *slot = Some((sample, error));
                                }
                            }
                        }
                    }
                    state
                })
            })
            .collect();
        drop(tell);
        for (finished, sample) in (1..).zip(told) {
            done(sample);
            if finished % memory::EVERY == 0 {
                memory::trim();
            }
        }
        handles.into_iter().map(|handle| handle.join()).collect::<Vec<_>>()
    });
    if let Some((_, error)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    states.into_iter().map(|state| state.map_err(|_| anyhow!("a worker thread panicked"))).collect()
}

/// Runs one sample and collects the wanted values.
pub fn collect(session: &mut dyn Session, feed: &Feed) -> Result<Vec<(String, ir::Tensor)>> {
    let mut values = Vec::new();
    let mut keep = |name: &str, view: runtime::View<'_>| {
        if let Some(tensor) = view.to_tensor() {
            values.push((name.to_string(), tensor));
        }
    };
    session.run(feed, &mut keep as &mut dyn Observer).map_err(|error| hinted(error.into()))?;
    if values.is_empty() {
        bail!("the model has no output that can be shown");
    }
    Ok(values)
}

/// The next step where a runtime finds out late that it cannot run a model.
fn hinted(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<RuntimeError>() {
        Some(RuntimeError::Load { runtime, .. }) if *runtime != "ort" => anyhow!("{error:#}{HINT}"),
        Some(RuntimeError::Run { runtime: "reference", .. }) => anyhow!("{error:#}{ELSEWHERE}"),
        _ => error,
    }
}

/// What to do where the embedded runtime cannot run a model.
const HINT: &str =
    "\nhint: --runtime ort runs it in ONNX Runtime, --runtime reference by plain definitions, slowly";

/// What to do where the definitions end.
const ELSEWHERE: &str = "\nhint: --runtime ort runs it in ONNX Runtime, if that is installed: name its library with --ort-lib, \
    set ORT_DYLIB_PATH, or install the Python package onnxruntime (1.20 or later)";

/// Prepares a model whose values are replaced in replays: all taps, and these inputs.
pub fn prepare_replays(
    executor: &dyn Executor,
    model: &Model,
    taps: Vec<String>,
    inputs: Vec<String>,
) -> Result<Box<dyn Session>> {
    let replaced = taps.iter().cloned().chain(inputs).collect();
    let options = Prepare { taps, replaced, threads: 1 };
    executor.prepare(model, &options).with_context(|| format!("runtime {}", executor.name()))
}

/// Prepares a model, naming the runtime in errors.
pub fn prepare(executor: &dyn Executor, model: &Model, taps: Vec<String>) -> Result<Box<dyn Session>> {
    let options = Prepare { taps: taps.clone(), replaced: Vec::new(), threads: 1 };
    let session = executor.prepare(model, &options).map_err(|error| {
        let hint = match &error {
            RuntimeError::Unsupported { .. } | RuntimeError::Load { .. } if executor.wants_lowered() => HINT,
            _ => "",
        };
        anyhow!("{error}{hint}")
    })?;
    let has_branches = model.graph_ids().len() > 1;
    Ok(if executor.name() == Tract.name() && has_branches {
        Box::new(Adaptive::new(session, model, taps))
    } else {
        session
    })
}
