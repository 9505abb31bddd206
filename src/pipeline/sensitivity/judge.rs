//! Whole plans on held-back samples: what the sum of parts is checked against.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use ir::{Model, Tensor};
use passes::quantize::QuantPlan;
use quant::measure::top;
use runtime::{Executor, Level, Session, View};

use super::super::engine::{EngineOptions, collect, form_for, prepare, run_all};
use super::super::prepare::lowered;
use super::damage::{Damage, Score};
use super::run::Labels;
use crate::data::Source;

/// What a plan was found to do.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Bytes of the file.
    pub bytes: u64,
    /// Outputs against float.
    pub score: Score,
    /// Task accuracy lost, 0 to 1: of the labels where there are any, else the share of changed first choices. None where
    /// outputs are no choices.
    pub drop: Option<f64>,
    /// Share of labelled samples that are right: of the float model, of the plan; and how many there are.
    pub accuracy: Option<(f64, f64, usize)>,
}

/// The float side, run once.
pub struct Judge<'a> {
    model: &'a Model,
    source: &'a dyn Source,
    samples: Vec<usize>,
    labels: &'a Labels,
    engine: &'a EngineOptions,
    outputs: Vec<String>,
    float: BTreeMap<usize, BTreeMap<String, Tensor>>,
}

impl<'a> Judge<'a> {
    /// Runs the float model on the samples.
    ///
    /// # Errors
    /// The runtime fails on a sample.
    pub fn new(
        model: &'a Model,
        source: &'a dyn Source,
        samples: Vec<usize>,
        labels: &'a Labels,
        engine: &'a EngineOptions,
    ) -> Result<Judge<'a>> {
        let main = model.main();
        let outputs = main.outputs().iter().map(|&value| main.value(value).name().to_string()).collect();
        let mut judge = Judge { model, source, samples, labels, engine, outputs, float: BTreeMap::new() };
        judge.float = judge.run(model)?;
        Ok(judge)
    }

    fn run(&self, model: &Model) -> Result<BTreeMap<usize, BTreeMap<String, Tensor>>> {
        let (executor, _) = self.engine.choose(&lowered(model)?)?;
        self.run_in(executor.as_ref(), model)
    }

    fn run_in(
        &self,
        executor: &dyn Executor,
        model: &Model,
    ) -> Result<BTreeMap<usize, BTreeMap<String, Tensor>>> {
        let session = prepare(executor, form_for(executor, model)?.as_ref(), vec![])?;
        let found = Mutex::new(BTreeMap::new());
        run_all(
            session.as_ref(),
            self.source,
            &self.samples,
            self.engine.threads(),
            || (),
            |(), session: &mut dyn Session, sample, feed| {
                let values: BTreeMap<String, Tensor> = collect(session, &feed)?.into_iter().collect();
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(sample, values);
                Ok(())
            },
            |_| {},
        )?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model that a plan makes.
    ///
    /// # Errors
    /// The plan does not fit the model.
    pub fn emit(&self, plan: &QuantPlan) -> Result<Model> {
        super::emitted(self.model, plan)
    }

    /// Judges a plan.
    ///
    /// # Errors
    /// The plan does not fit the model, or the runtime fails on a sample.
    pub fn judge(&self, plan: &QuantPlan) -> Result<Verdict> {
        self.judge_model(&self.emit(plan)?)
    }

    /// Judges a quantized model.
    ///
    /// # Errors
    /// The runtime fails on a sample.
    pub fn judge_model(&self, model: &Model) -> Result<Verdict> {
        self.compared(model, &self.run(model)?)
    }

    /// Judges a model as it will be written, in every runtime at hand: it is as good as in the worst of them, because a
    /// runtime may change a graph of mixed precision before it runs it.
    ///
    /// # Errors
    /// The runtime of the float model fails on a sample.
    pub fn judge_written(&self, model: &Model) -> Result<Verdict> {
        let worst = self.judge_model(model)?;
        let Ok(ort) = self.engine.ort(Level::All) else { return Ok(worst) };
        // That ONNX Runtime cannot run it is found again, and said, when the written file is validated.
        let Ok(found) = self.run_in(&ort, model) else { return Ok(worst) };
        let found = self.compared(model, &found)?;
        Ok(if found.score.noise > worst.score.noise { found } else { worst })
    }

    fn compared(&self, model: &Model, other: &BTreeMap<usize, BTreeMap<String, Tensor>>) -> Result<Verdict> {
        let bytes = proto::to_bytes(model)?.len() as u64;
        let mut damages = Vec::new();
        let mut right = (0, 0);
        for (sample, float) in &self.float {
            let values = other.get(sample).context("a sample was not run")?;
            let mut damage = Damage::default();
            // Without labels the float model's own first choice is the right one.
            let label = self.labels.get(sample).copied().or_else(|| {
                self.labels
                    .is_empty()
                    .then(|| self.outputs.iter().find_map(|name| first(float.get(name)?)))
                    .flatten()
            });
            let mut reference = Damage::default();
            for name in &self.outputs {
                let a = float.get(name).with_context(|| format!("no output {name:?}"))?;
                let b = values.get(name).with_context(|| format!("no output {name:?}"))?;
                damage.output(a, View::of(b), label);
                reference.output(a, View::of(a), label);
            }
            right.0 += usize::from(reference.right == Some(true));
            right.1 += usize::from(damage.right == Some(true));
            damages.push(damage);
        }
        let score = Score::of(&damages.iter().collect::<Vec<_>>(), 0);
        let labelled = damages.iter().filter(|damage| damage.right.is_some()).count();
        let drop = (labelled > 0).then(|| (right.0 as f64 - right.1 as f64) / labelled as f64);
        let share = |right: usize| right as f64 / labelled.max(1) as f64;
        let known = labelled > 0 && !self.labels.is_empty();
        let accuracy = known.then(|| (share(right.0), share(right.1), labelled));
        Ok(Verdict { bytes, score, drop, accuracy })
    }
}

/// The place of the greatest element of the first row.
fn first(tensor: &Tensor) -> Option<usize> {
    let row = tensor.dims().last().copied().filter(|&row| row > 1)?;
    let values = View::of(tensor).floats()?;
    top(values.get(..row)?, 1).first().copied()
}
