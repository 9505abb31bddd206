//! Running samples: feeding inputs, showing and changing values, replaying parts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ir::Tensor;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::plan::eval;

use super::convert::{dtype, to_tract, without_dims};
use super::mend::Mender;
use super::plan::{Input, Plan, Shapes, Source};
use super::{NAME, guard};
use crate::error::chain;
use crate::executor::widened;
use crate::{Feed, Observer, Recording, RuntimeError, Session, View};

/// How many plans for different input shapes are kept: enough for a handful of sequence lengths, few enough that
/// thousands of image sizes do not fill the memory.
const KEPT_PLANS: usize = 16;

/// A session; forks share the parsed model and the plans.
pub(super) struct TractSession {
    shared: Arc<Shared>,
    state: Option<(Arc<Plan>, TypedSimpleState)>,
}

struct Shared {
    inputs: Arc<[Input]>,
    missing: Vec<String>,
    loaded: Mutex<Loaded>,
}

/// The model as tract loads it, and its plans.
struct Loaded {
    source: Arc<Source>,
    mender: Option<Mender>,
    plans: Plans,
}

/// The plan for all shapes, or plans by shape if that one cannot be built or has failed.
#[derive(Default)]
struct Plans {
    any_shape: Option<Arc<Plan>>,
    proven: bool,
    only_by_shape: bool,
    by_shape: Vec<(Shapes, Arc<Plan>)>,
}

/// Evaluates the node at hand, once.
type Evaluate<'a> = dyn FnMut() -> TractResult<TVec<TValue>> + 'a;

/// What happens at each node of a plan; the symbols are the sizes of this run.
type Step<'a> =
    dyn FnMut(&Plan, &TypedNode, &SymbolValues, &mut Evaluate<'_>) -> TractResult<TVec<TValue>> + 'a;

impl TractSession {
    /// `mender` helps where tract does not load the model after all.
    pub(super) fn new(source: Arc<Source>, mender: Option<Mender>) -> TractSession {
        let (inputs, missing) = (source.inputs.clone(), source.missing.clone());
        let loaded = Mutex::new(Loaded { plans: Plans::of(&source), source, mender });
        TractSession { shared: Arc::new(Shared { inputs, missing, loaded }), state: None }
    }

    /// The inputs in the model's order, and their sizes.
    fn arrange(&self, feed: &Feed) -> Result<(TVec<TValue>, Shapes), RuntimeError> {
        let (mut values, mut shapes) = (tvec![], Vec::new());
        for input in self.shared.inputs.iter() {
            let found = feed.iter().find(|(name, _)| *name == input.name).map(|(_, tensor)| tensor);
            let wrong = |found: String| RuntimeError::Input {
                input: input.name.clone(),
                expected: input.to_string(),
                found,
            };
            let tensor = found.ok_or_else(|| wrong("nothing".into()))?;
            let tensor = &*widened(tensor, input.dtype);
            let describe = || format!("{} {:?}", tensor.dtype(), tensor.dims());
            let fits = input.dims.as_ref().is_none_or(|dims| {
                dims.len() == tensor.rank()
                    && dims.iter().zip(tensor.dims()).all(|(want, got)| want.is_none_or(|w| w == *got))
            });
            if !fits || input.dtype.is_some_and(|dtype| dtype != tensor.dtype()) {
                return Err(wrong(describe()));
            }
            values.push(to_tract(tensor).ok_or_else(|| wrong(describe()))?.into_tvalue());
            shapes.push(tensor.dims().to_vec());
        }
        Ok((values, shapes))
    }

    fn run_with(
        &mut self,
        plan: Arc<Plan>,
        inputs: TVec<TValue>,
        step: &mut Step<'_>,
    ) -> Result<(), RuntimeError> {
        let fail = |error: TractError| RuntimeError::Run { runtime: NAME, what: chain(error.as_ref()) };
        let state = match self.state.take() {
            Some((held, state)) if Arc::ptr_eq(&held, &plan) && !plan.remembers => Some(state),
            _ => None,
        };
        let mut state = match state {
            Some(state) => state,
            None => plan.runnable.spawn().map_err(fail)?,
        };
        // A state that failed in the middle of a run is not used again.
        let result = state.run_plan_with_eval(inputs, |cx, op_state, node, inputs| {
            let mut once = Some((op_state, inputs));
            step(&plan, node, cx.symbols, &mut || {
                let (op_state, inputs) = once.take().ok_or_else(|| anyhow("a node ran twice"))?;
                eval(cx, op_state, node, inputs)
            })
        });
        result.map_err(fail)?;
        self.state = Some((plan, state));
        Ok(())
    }

    /// Runs with the plan that fits; where the plan for all shapes fails, with one for exactly these.
    fn run_any(&mut self, feed: &Feed, step: &mut Step<'_>) -> Result<Arc<Plan>, RuntimeError> {
        let (inputs, shapes) = self.arrange(feed)?;
        let mut plan = self.shared.plan(&shapes)?;
        if self.shared.wants_proof(&plan) {
            // Nothing may be shown twice, so the trial run has no observer.
            let trial = guard(|| self.run_with(plan.clone(), inputs.clone(), &mut |_, _, _, eval| eval()));
            self.shared.judge(trial.is_ok());
            plan = self.shared.plan(&shapes)?;
        }
        self.run_with(plan.clone(), inputs, step)?;
        Ok(plan)
    }
}

fn anyhow(text: &str) -> TractError {
    TractError::msg(text.to_string())
}

impl std::fmt::Display for super::plan::Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.dtype {
            Some(dtype) => write!(f, "{dtype}")?,
            None => write!(f, "any type")?,
        }
        match &self.dims {
            Some(dims) => {
                let dims: Vec<String> =
                    dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
                write!(f, " [{}]", dims.join(", "))
            }
            None => write!(f, " of any shape"),
        }
    }
}

impl Plans {
    fn of(source: &Source) -> Plans {
        Plans { only_by_shape: !source.is_symbolic(), ..Plans::default() }
    }

    fn get(&mut self, source: &Source, shapes: &Shapes) -> Result<Arc<Plan>, RuntimeError> {
        if !self.only_by_shape {
            if let Some(plan) = &self.any_shape {
                return Ok(plan.clone());
            }
            if let Ok(plan) = guard(|| source.plan(None)) {
                let plan = Arc::new(plan);
                self.any_shape = Some(plan.clone());
                return Ok(plan);
            }
            self.only_by_shape = true;
        }
        if let Some((_, plan)) = self.by_shape.iter().find(|(known, _)| known == shapes) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(guard(|| source.plan(Some(shapes)))?);
        if self.by_shape.len() == KEPT_PLANS {
            self.by_shape.remove(0);
        }
        self.by_shape.push((shapes.clone(), plan.clone()));
        Ok(plan)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, shapes: &Shapes) -> Result<Arc<Plan>, RuntimeError> {
        let loaded = &mut *self.lock();
        loop {
            let error = match loaded.plans.get(&loaded.source, shapes) {
                Ok(plan) => return Ok(plan),
                Err(error) => error,
            };
            let Some(mender) = loaded.mender.as_mut() else { return Err(error) };
            if !mender.mend(&error) {
                return Err(error);
            }
            // A model that loaded and does not any more: the first words were the better ones.
            let Ok(source) = mender.load() else { return Err(error) };
            (loaded.plans, loaded.source) = (Plans::of(&source), Arc::new(source));
        }
    }

    /// The plan is the one for all shapes and has not run yet. tract accepts some symbolic models that then fail.
    fn wants_proof(&self, plan: &Arc<Plan>) -> bool {
        let plans = &self.lock().plans;
        !plans.proven && plans.any_shape.as_ref().is_some_and(|any| Arc::ptr_eq(any, plan))
    }

    fn judge(&self, works: bool) {
        let plans = &mut self.lock().plans;
        plans.proven = works;
        plans.only_by_shape |= !works;
    }
}

/// Shows a value, after letting the observer change it.
fn show(observer: &mut dyn Observer, name: &str, value: &mut TValue, symbols: &SymbolValues) {
    let plain = without_dims(value, symbols);
    let Some(dtype) = dtype(plain.datum_type()) else { return };
    if dtype == ir::DType::F32 && observer.edits(name) {
        let mut tensor = plain.into_tensor();
        let dims: Vec<usize> = tensor.shape().to_vec();
        if let Some(mut view) = tensor.as_plain_ram_mut()
            && let Ok(elements) = view.as_slice_mut::<f32>()
        {
            observer.edit(name, &dims, elements);
        }
        *value = tensor.into_tvalue();
        observer.see(name, View::new(dtype, value.shape(), value.as_bytes()));
    } else {
        observer.see(name, View::new(dtype, plain.shape(), plain.as_bytes()));
    }
}

fn show_constants(plan: &Plan, observer: &mut dyn Observer, symbols: &SymbolValues) {
    for (name, constant) in &plan.constants {
        show(observer, name, &mut constant.clone().into_tvalue(), symbols);
    }
}

fn show_node(
    plan: &Plan,
    node: usize,
    values: &mut TVec<TValue>,
    observer: &mut dyn Observer,
    symbols: &SymbolValues,
) {
    for (slot, name) in plan.watched.get(&node).into_iter().flatten() {
        if let Some(value) = values.get_mut(*slot) {
            show(observer, name, value, symbols);
        }
    }
}

/// What a [`Recording`] of tract holds.
struct Recorded {
    feed: Feed,
    plan: Arc<Plan>,
    values: HashMap<usize, Vec<Arc<tract_onnx::prelude::Tensor>>>,
}

impl Session for TractSession {
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError> {
        let mut started = false;
        let mut step = |plan: &Plan, node: &TypedNode, symbols: &SymbolValues, eval: &mut Evaluate<'_>| {
            if !std::mem::replace(&mut started, true) {
                show_constants(plan, observer, symbols);
            }
            let mut values = eval()?;
            show_node(plan, node.id, &mut values, observer, symbols);
            Ok(values)
        };
        let plan = guard(|| self.run_any(feed, &mut step))?;
        // A model of which everything was folded has no node to evaluate.
        if !started {
            show_constants(&plan, observer, &SymbolValues::default());
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError> {
        Ok(Box::new(TractSession { shared: self.shared.clone(), state: None }))
    }

    fn missing(&self) -> &[String] {
        &self.shared.missing
    }

    fn record(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<Recording, RuntimeError> {
        let mut values = HashMap::new();
        let mut started = false;
        let mut see = |name: &str, view: View<'_>| observer.see(name, view);
        let mut step = |plan: &Plan, node: &TypedNode, symbols: &SymbolValues, eval: &mut Evaluate<'_>| {
            if !std::mem::replace(&mut started, true) {
                show_constants(plan, &mut see, symbols);
            }
            let outputs: Vec<_> = eval()?.into_iter().map(|value| value.into_arc_tensor()).collect();
            let mut again: TVec<TValue> = outputs.iter().map(|value| value.clone().into_tvalue()).collect();
            show_node(plan, node.id, &mut again, &mut see, symbols);
            values.insert(node.id, outputs);
            Ok(again)
        };
        let plan = guard(|| self.run_any(feed, &mut step))?;
        if !started {
            show_constants(&plan, observer, &SymbolValues::default());
        }
        Ok(Recording(Box::new(Recorded { feed: feed.clone(), plan, values })))
    }

    fn replay(
        &mut self,
        recording: &Recording,
        replaced: &[(String, Tensor)],
        observer: &mut dyn Observer,
    ) -> Result<(), RuntimeError> {
        let recorded = recording.0.downcast_ref::<Recorded>();
        let recorded = recorded
            .ok_or_else(|| RuntimeError::Run { runtime: NAME, what: "a foreign recording".into() })?;
        let plan = recorded.plan.clone();
        let mut changed: HashMap<OutletId, TValue> = HashMap::new();
        for (name, tensor) in replaced {
            let place = plan.places.get(name).ok_or_else(|| RuntimeError::NoValue(name.clone()))?;
            let tensor = to_tract(tensor).ok_or_else(|| RuntimeError::NoValue(name.clone()))?;
            changed.insert(*place, tensor.into_tvalue());
        }
        let mut dirty: HashSet<usize> = HashSet::new();
        let (inputs, _) = self.arrange(&recorded.feed)?;
        let mut step = |plan: &Plan, node: &TypedNode, symbols: &SymbolValues, eval: &mut Evaluate<'_>| {
            let reads = |outlet: &OutletId| dirty.contains(&outlet.node) || changed.contains_key(outlet);
            if !node.inputs.iter().any(reads) {
                let known = recorded.values.get(&node.id).ok_or_else(|| anyhow("a node was not recorded"))?;
                let value = |(slot, value): (usize, &Arc<tract_onnx::prelude::Tensor>)| {
                    let here = changed.get(&OutletId::new(node.id, slot));
                    here.cloned().unwrap_or_else(|| value.clone().into_tvalue())
                };
                return Ok(known.iter().enumerate().map(value).collect());
            }
            dirty.insert(node.id);
            let mut values = eval()?;
            for (slot, value) in values.iter_mut().enumerate() {
                if let Some(replacement) = changed.get(&OutletId::new(node.id, slot)) {
                    *value = replacement.clone();
                }
            }
            show_node(plan, node.id, &mut values, observer, symbols);
            Ok(values)
        };
        guard(|| self.run_with(plan, inputs, &mut step))
    }
}
