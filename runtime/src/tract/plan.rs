//! From a model to a tract plan: once with symbolic sizes, or once for each combination of input shapes where tract cannot
//! optimize the symbolic model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ir::{DType, Model};
use tract_onnx::Onnx;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::plan::EvalContext;
use tract_onnx::tract_hir::internal::{InferenceFact, InferenceModelExt};

use super::convert::datum_type;
use super::{NAME, evaluate, fake_quant};
use crate::error::chain;
use crate::{Prepare, RuntimeError};

/// A parsed model, ready to be optimized.
pub(super) struct Source {
    model: InferenceModel,
    outlets: HashMap<String, OutletId>,
    pub(super) inputs: Arc<[Input]>,
    /// Outputs first, then taps; each name once.
    wanted: Vec<String>,
    outputs: usize,
    /// Names behind the barriers, by the value that may be replaced there.
    barriers: HashMap<String, String>,
    pub(super) missing: Vec<String>,
}

/// An input of the model.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) dtype: Option<DType>,
    /// Fixed sizes; none for a size that the data decide.
    pub(super) dims: Option<Vec<Option<usize>>>,
}

/// Sizes of every input in order.
pub(super) type Shapes = Vec<Vec<usize>>;

/// An optimized model and where its wanted values are.
pub(super) struct Plan {
    pub(super) runnable: Arc<TypedSimplePlan>,
    /// Wanted names at each node: `(slot, name)`.
    pub(super) watched: HashMap<usize, Vec<(usize, String)>>,
    /// Wanted values that tract folded to constants.
    pub(super) constants: Vec<(String, Arc<Tensor>)>,
    /// Node and slot of each wanted name, for replays.
    pub(super) places: HashMap<String, OutletId>,
    /// Some operator keeps what it computed, as a scan does its state: the next run would go on where this one ended.
    pub(super) remembers: bool,
}

fn load(error: TractError) -> RuntimeError {
    RuntimeError::Load { runtime: NAME, what: chain(error.as_ref()) }
}

impl Source {
    pub(super) fn load(model: &Model, options: &Prepare) -> Result<Source, RuntimeError> {
        let mut model = with_unique_names(model);
        let barriers = super::barrier::insert(&mut model, &options.replaced)
            .map_err(|what| RuntimeError::Load { runtime: NAME, what })?;
        let model = &model;
        let bytes =
            proto::to_bytes(model).map_err(|e| RuntimeError::Load { runtime: NAME, what: e.to_string() })?;
        let proto: ModelProto = framework().proto_model_for_read(&mut &bytes[..]).map_err(load)?;
        drop(bytes);
        let parsed = framework().parse(&proto, None).map_err(load)?;
        let graph = model.main();
        let inputs = graph.inputs().iter().map(|&id| graph.value(id)).filter(|value| value.data.is_none());
        let inputs = inputs
            .map(|value| Input {
                name: value.name().to_string(),
                dtype: value.dtype(),
                dims: value.shape().map(|shape| shape.dims.iter().map(ir::Dim::known).collect()),
            })
            .collect();
        let mut seen = HashSet::new();
        let mut wanted: Vec<String> =
            graph.outputs().iter().map(|&id| graph.value(id).name().to_string()).collect();
        wanted.retain(|name| seen.insert(name.clone()));
        let outputs = wanted.len();
        for tap in &options.taps {
            if !parsed.outlets_by_name.contains_key(tap) {
                return Err(RuntimeError::NoValue(tap.clone()));
            }
            if seen.insert(tap.clone()) {
                wanted.push(tap.clone());
            }
        }
        wanted.extend(options.replaced.iter().filter_map(|name| barriers.get(name).cloned()));
        let (model, outlets) = (parsed.model, parsed.outlets_by_name);
        Ok(Source { model, outlets, inputs, wanted, outputs, barriers, missing: Vec::new() })
    }

    /// Some size is decided by the data.
    pub(super) fn is_symbolic(&self) -> bool {
        self.inputs.iter().any(|input| input.dims.as_ref().is_none_or(|dims| dims.contains(&None)))
    }

    /// Optimizes for these input shapes, or for all shapes.
    pub(super) fn plan(&self, shapes: Option<&Shapes>) -> Result<Plan, RuntimeError> {
        let mut model = self.model.clone();
        if let Some(shapes) = shapes {
            for (at, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
                let datum = input.dtype.and_then(datum_type).unwrap_or(f32::datum_type());
                model.set_input_fact(at, InferenceFact::dt_shape(datum, shape.as_slice())).map_err(load)?;
            }
        }
        let outlets: Vec<OutletId> = self.wanted.iter().map(|name| self.outlets[name]).collect();
        model.select_output_outlets(&outlets).map_err(load)?;
        let mut model = model.into_optimized().map_err(load)?;
        let found: Vec<OutletId> = model.output_outlets().map_err(load)?.to_vec();
        let kept = with_strays(&model, &found, self.outputs);
        model.select_output_outlets(&kept).map_err(load)?;
        let mut watched: HashMap<usize, Vec<(usize, String)>> = HashMap::new();
        let (mut constants, mut places) = (Vec::new(), HashMap::new());
        let hidden: HashSet<&String> = self.barriers.values().collect();
        for (name, outlet) in self.wanted.iter().zip(&found) {
            places.insert(name.clone(), *outlet);
            if hidden.contains(name) {
                continue;
            }
            match &model.outlet_fact(*outlet).map_err(load)?.konst {
                Some(constant) => constants.push((name.clone(), constant.clone())),
                None => watched.entry(outlet.node).or_default().push((outlet.slot, name.clone())),
            }
        }
        for (name, behind) in &self.barriers {
            if let Some(&place) = places.get(behind) {
                places.insert(name.clone(), place);
            }
        }
        let forgets = |node: &TypedNode| matches!(node.op.state(&EvalContext::out_of_plan()), Ok(None));
        let remembers = !model.nodes.iter().all(forgets);
        let runnable = model.into_runnable().map_err(load)?;
        Ok(Plan { runnable, watched, constants, places, remembers })
    }
}

/// The model's outputs (the first `outputs` of these), and those of the rest that nothing else would make tract compute: where
/// it moved a transposition or an axis to the readers, a wanted value is an end of its own.
fn with_strays(model: &TypedModel, found: &[OutletId], outputs: usize) -> Vec<OutletId> {
    let (mut kept, rest) = (found[..outputs].to_vec(), &found[outputs..]);
    let mut computed: HashSet<usize> = HashSet::new();
    let mut stack: Vec<usize> = kept.iter().map(|outlet| outlet.node).collect();
    for stray in std::iter::once(None).chain(rest.iter().copied().map(Some)) {
        if let Some(outlet) = stray.filter(|outlet| !computed.contains(&outlet.node)) {
            kept.push(outlet);
            stack.push(outlet.node);
        }
        while let Some(node) = stack.pop() {
            if computed.insert(node) {
                stack.extend(model.nodes[node].inputs.iter().map(|input| input.node));
            }
        }
    }
    kept
}

/// tract asks for a name of its own for each node of a graph; ONNX does not.
pub(super) fn with_unique_names(model: &Model) -> Model {
    let mut model = model.clone();
    for id in model.graph_ids() {
        let graph = model.graph_mut(id);
        let mut taken: HashMap<String, usize> = HashMap::new();
        for op in graph.ops() {
            let name = graph.op(op).name.clone();
            if name.is_empty() {
                continue;
            }
            let count = taken.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                graph.op_mut(op).name = format!("{name} ({count})");
            }
        }
    }
    model
}

/// tract with our operators instead of its own where those are wrong or missing.
fn framework() -> Onnx {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
    onnx.op_register.insert("FakeQuant", fake_quant::build);
    onnx.op_register.insert("Barrier", super::barrier::build);
    onnx.op_register.insert("Evaluate", evaluate::build);
    onnx.with_ignore_output_types(true)
}
