//! A candidate: a float model (perhaps with changed weights and biases), what was decided about it, and the plan that
//! follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use ir::Model;
use passes::quantize::choose::key_of;
use passes::quantize::fit::{FitOptions, Known, Sketches, fit, leave_room};
use passes::quantize::memo::Memo;
use passes::quantize::{Precision, QuantPlan, choose};
use quant::Policy;

use super::super::select::{adjust, choices, methods, pin};
use super::super::{Cpu, QuantizeOptions, emit};

/// See the module.
#[derive(Clone)]
pub struct Draft {
    /// The float model that is quantized. Equal to the original but for what accuracy passes changed.
    pub model: Model,
    /// Precisions of single operators, by the name of the first output.
    pub overrides: BTreeMap<String, Precision>,
    /// Ranges of single values that replace those of the range method.
    pub ranges: BTreeMap<String, (f32, f32)>,
    /// Ranges of values that only a function reads are those with the least error behind it.
    pub behind: bool,
    /// Weight scales are searched.
    pub weights: bool,
    /// Sketches that replace those of calibration: of values whose numbers an accuracy pass changed.
    pub sketches: Arc<Sketches>,
    /// What fitting found out for drafts of the same weights and sketches.
    memo: Arc<Mutex<Memo>>,
    /// What follows.
    pub plan: QuantPlan,
    /// The plan was given, and does not follow from the options.
    given: bool,
}

impl Draft {
    /// Chooses and fits; operators whose values calibration never saw go back to float.
    ///
    /// # Errors
    /// A rule of the options that fits nothing; calibration saw nothing of a value that no operator asks for: the table is
    /// of another model.
    pub fn new(model: Model, sketches: &Sketches, options: &QuantizeOptions) -> Result<Draft> {
        let mut draft = Draft { given: false, ..Draft::of_plan(model, QuantPlan::default()) };
        draft.replan(sketches, options)?;
        Ok(draft)
    }

    /// A draft that follows a given plan.
    pub fn of_plan(model: Model, plan: QuantPlan) -> Draft {
        Draft {
            model,
            overrides: BTreeMap::new(),
            ranges: BTreeMap::new(),
            behind: false,
            weights: false,
            sketches: Arc::default(),
            memo: Arc::default(),
            plan,
            given: true,
        }
    }

    /// Makes the plan again, after a change of the model, the overrides or the ranges.
    ///
    /// # Errors
    /// As [`Draft::new`].
    pub fn replan(&mut self, sketches: &Sketches, options: &QuantizeOptions) -> Result<()> {
        let known = Known { seen: sketches, newer: &self.sketches };
        loop {
            let mut plan = self.chosen(options)?;
            let fit_options = FitOptions {
                method: options.method,
                methods: methods(&plan, options)?,
                ranges: self.ranges.clone(),
                least_width: options.target.min_real_range(),
                policy: Policy::default(),
                behind: self.behind,
                weights: self.weights,
                saturates: options.cpu == Cpu::Avx2,
            };
            let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = fit(&mut plan, &self.model, known, &fit_options, &mut memo);
            drop(memo);
            if missing.is_empty() {
                pin(&mut plan, options)?;
                plan.equalized = self.plan.equalized;
                self.plan = plan;
                return Ok(());
            }
            let before = self.overrides.len();
            let graph = self.model.main();
            for value in missing.iter().filter_map(|name| graph.find(name)) {
                let around = graph.uses(value).into_iter().map(|reader| reader.op);
                for op in around.chain(graph.producer(value).map(|(op, _)| op)) {
                    self.overrides.insert(key_of(graph, op), Precision::Float);
                }
            }
            if self.overrides.len() == before {
                bail!("no statistics of {:?}: the calibration table does not fit the model", missing[0]);
            }
        }
    }

    /// The weights beside these values have changed, and with them the numbers: here are the new ones of those that are
    /// rounded.
    pub fn replace_sketches(&mut self, sketches: Sketches, changed: &BTreeSet<String>) {
        let memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner).changed(changed);
        self.memo = Arc::new(Mutex::new(memo));
        self.sketches = Arc::new(sketches);
    }

    fn chosen(&self, options: &QuantizeOptions) -> Result<QuantPlan> {
        let mut choices = choices(&self.model, options)?;
        choices.overrides.extend(self.overrides.clone());
        let mut plan = choose(&self.model, &choices);
        adjust(&mut plan, &self.model, options)?;
        Ok(plan)
    }

    /// The same decisions about a model that differs in weights and biases only. A bias that was not there before is
    /// planned for; ranges stay.
    ///
    /// # Errors
    /// As [`Draft::new`].
    pub fn with_model(&self, model: Model, options: &QuantizeOptions) -> Result<Draft> {
        let mut draft = Draft { model, ..self.clone() };
        let plan = draft.chosen(options)?;
        if self.given {
            // Of what the options would choose, only the places of biases that the given plan could not know.
            let graph = self.model.main();
            let rounded = |key: &String| {
                let op = self.plan.ops.get(key).is_some_and(|op| op.precision.is_static());
                op && self.plan.weights.contains_key(key)
            };
            let new = plan.biases.into_iter().filter(|(_, bias)| graph.find(&bias.value).is_none());
            draft.plan.biases.extend(new.filter(|(key, _)| rounded(key)));
        } else {
            let (values, conversions) = (self.plan.values.clone(), self.plan.conversions.clone());
            draft.plan = QuantPlan { values, conversions, equalized: self.plan.equalized, ..plan };
            keep_factors(&self.plan, &mut draft.plan);
        }
        leave_room(&mut draft.plan, &draft.model);
        Ok(draft)
    }

    /// The quantized model.
    ///
    /// # Errors
    /// The plan does not fit the model, or its operators cannot be converted to the version that the plan needs.
    pub fn emit(&self, options: &QuantizeOptions) -> Result<Model> {
        emit(&self.model, &self.plan, options)
    }
}

/// Weights that stay as they are keep the factors of their scales.
fn keep_factors(from: &QuantPlan, to: &mut QuantPlan) {
    for (key, weights) in &mut to.weights {
        for weight in weights {
            let same = from.weights.get(key).and_then(|old| old.iter().find(|old| old.slot == weight.slot));
            if let Some(old) = same.filter(|old| old.value == weight.value && old.axis == weight.axis) {
                weight.scale_factors.clone_from(&old.scale_factors);
            }
        }
    }
}
