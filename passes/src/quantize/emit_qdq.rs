//! Writes a plan as QuantizeLinear and DequantizeLinear around float operators.
//!
//! Before: `x -> Conv(w, b) -> y`. After: `x -> Q -> DQ -> Conv(DQ(w codes), DQ(b codes)) -> y -> Q -> DQ`, every reader of
//! `x` and `y` reading the rounded value. Axis and zero point are always written; values of one class share their
//! parameters' initializers; each reader of a weight gets a DequantizeLinear of its own, because runtimes fuse only those.
//! Readers of another precision get the value converted: `codes -> DQ -> Q -> DQ -> reader`, from the first grid to theirs.
//! Raises the operator set to what the types need: 13, 19 for float8, 21 for 16 and 4 bits.

use std::collections::BTreeMap;

use ir::{AttrValue, DType, Graph, GraphError, Model, Op, OpId, Place, Tensor, ValueId};
use quant::{CodeType, Params};
use thiserror::Error;

use super::keys::{OpNames, places};
use super::plan::{BiasPlan, Precision, QuantPlan, ValuePlan, WeightPlan};
use super::weights::{Codes, WeightError, encode, pack, weight_params};

/// Why a plan cannot be written into a model.
#[derive(Debug, Error)]
pub enum EmitError {
    /// The plan names something that the model has not: it was made for another model.
    #[error("the plan names {0:?}, which the model has not; was it made for another model?")]
    Missing(String),
    /// A value has no scale: the plan was not fitted.
    #[error("the plan has no scale for {0:?}: calibrate first")]
    Unfitted(String),
    /// A constant cannot be quantized.
    #[error("cannot quantize {value:?} of {op}: {source}")]
    Weight {
        /// The constant.
        value: String,
        /// The operator.
        op: String,
        /// Why.
        source: WeightError,
    },
    /// The plan asks for a form that the operator has not.
    #[error("{op} has no {form} form; was the plan made for another model?")]
    Form {
        /// The operator.
        op: String,
        /// What was asked.
        form: &'static str,
    },
    /// An operator cannot be put into the graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The plan names a target that there is not.
    #[error("the plan is for the target {0:?}, which there is not")]
    Target(String),
    /// The model's operator set is too old to be raised.
    #[error("the quantized form needs opset {needed}, and the model's operators were not converted to it")]
    Opset {
        /// What is needed.
        needed: i64,
    },
}

/// The operator set that the plan's types need.
pub fn needed_opset(plan: &QuantPlan) -> i64 {
    let codes =
        plan.rounded().map(|(_, v)| v.grid.code).chain(plan.weights.values().flatten().map(|w| w.grid.code));
    codes.map(opset_of).max().unwrap_or(13).max(13)
}

fn opset_of(code: CodeType) -> i64 {
    match code {
        CodeType::I2 | CodeType::U2 => 25,
        CodeType::F4E2M1 => 23,
        CodeType::I4 | CodeType::U4 | CodeType::I16 | CodeType::U16 => 21,
        code if code.is_float() => 19,
        _ => 13,
    }
}

/// Writes the plan into the model: the main graph with all it says, bodies with what needs no range.
pub fn emit_qdq(model: &mut Model, plan: &QuantPlan) -> Result<(), EmitError> {
    let needed = needed_opset(plan);
    if model.opset("").is_some_and(|opset| opset < needed) {
        return Err(EmitError::Opset { needed });
    }
    let target = crate::target::target(&plan.target).ok_or_else(|| EmitError::Target(plan.target.clone()))?;
    let places = places(model);
    if let Some(missing) = plan.weights.keys().find(|key| !places.contains_key(*key)) {
        return Err(EmitError::Missing(missing.clone()));
    }
    let mut names = OpNames::new(model);
    for id in model.graph_ids() {
        let mut ops: BTreeMap<String, OpId> = places
            .iter()
            .filter(|(key, (graph, _))| *graph == id && plan.weights.contains_key(*key))
            .map(|(key, (_, op))| (key.clone(), *op))
            .collect();
        super::emit_dynamic::emit(model, id, plan, &ops, &mut names)?;
        let dynamic = |key: &String| plan.ops.get(key).is_some_and(|op| op.precision == Precision::Dynamic);
        ops.retain(|key, _| !dynamic(key));
        let mut done = Vec::new();
        if target.gathers_codes() {
            done = super::emit_lookup::emit(model, id, plan, &ops, &mut names)?;
        }
        let graph = model.graph_mut(id);
        let mut emitter =
            Emitter { graph, plan, params: BTreeMap::new(), codes: BTreeMap::new(), names: &mut names };
        // Weights first: biases need the scale of the data, which the plan knows by the value's name before it is moved.
        for (key, &op) in &ops {
            if !done.contains(key) {
                emitter.weights(key, op, &plan.weights[key])?;
            }
        }
    }
    let mut halves = BTreeMap::new();
    for (key, (id, op)) in &places {
        if plan.ops.get(key).is_some_and(|entry| entry.precision == Precision::Fp16) {
            halve(model.graph_mut(*id), *op, &mut names, halves.entry(*id).or_default())?;
        }
    }
    let graph = model.main_mut();
    let mut emitter =
        Emitter { graph, plan, params: BTreeMap::new(), codes: BTreeMap::new(), names: &mut names };
    let schedule = emitter.graph.schedule().unwrap_or_else(|_| emitter.graph.ops());
    let inputs = emitter.graph.inputs().to_vec().into_iter();
    let written = schedule
        .into_iter()
        .flat_map(|op| emitter.graph.op_outputs(op).into_iter().flatten().collect::<Vec<_>>());
    let order: Vec<ValueId> = inputs.chain(written).collect();
    for value in order {
        let name = emitter.graph.value(value).name().to_string();
        if let Some(entry) = plan.values.get(&name) {
            emitter.round(value, &name, entry, &places)?;
        }
    }
    for (name, entry) in &plan.values {
        let value = emitter.graph.find(name).ok_or_else(|| EmitError::Missing(name.clone()))?;
        if emitter.graph.constant(value).is_some() {
            emitter.constant(value, name, entry, &places)?;
        }
    }
    for (key, (id, op)) in &places {
        let Some(entry) = plan.ops.get(key) else { continue };
        // Codes of weights alone are a form of their own; weights in half precision are floats by the time they are used.
        let coded = matches!(entry.precision, Precision::Dynamic | Precision::W8 | Precision::W4);
        let graph = model.graph_mut(*id);
        if !coded && graph.is_live(*op) {
            target.keep_form(graph, *op, entry.precision.is_static());
        }
    }
    Ok(())
}

/// Operators by their keys, as they were before the first change.
type Places = BTreeMap<String, (ir::GraphId, OpId)>;

/// Stores the weights of an operator in half precision, with a Cast before it. A constant that others read too is stored
/// beside it: the others need it in float. `known` holds what was stored, by name.
fn halve(
    graph: &mut Graph,
    op: OpId,
    names: &mut OpNames,
    known: &mut BTreeMap<String, ValueId>,
) -> Result<(), EmitError> {
    let Some(scheme) = ops::scheme(graph, op) else { return Ok(()) };
    let slots = crate::target::Candidate { graph, op, scheme: &scheme }.weight_slots();
    for slot in slots {
        let Some(value) = graph.input(op, slot) else { continue };
        let Some(tensor) = graph.constant(value).filter(|tensor| tensor.dtype() == DType::F32) else {
            continue;
        };
        let name = graph.value(value).name().to_string();
        let wrong = |source: WeightError| EmitError::Weight {
            value: name.clone(),
            op: graph.op(op).to_string(),
            source,
        };
        let ty = graph.value(value).ty.clone();
        let stored = match known.get(&name) {
            Some(&stored) => stored,
            None => {
                let numbers = tensor.to_vec::<f32>().map_err(|error| wrong(error.into()))?;
                let half: Vec<half::f16> = numbers.into_iter().map(half::f16::from_f32).collect();
                let half = Tensor::from_slice(tensor.dims(), &half).map_err(|error| wrong(error.into()))?;
                graph.new_constant(&format!("{name}_half"), half)
            }
        };
        known.insert(name.clone(), stored);
        let wide = graph.new_value(&format!("{name}_float"), ty);
        let cast = Op::new("Cast").named(&names.fresh(&format!("{name}_Cast"))).with("to", 1i64);
        graph.add_op(cast, &[Some(stored)], &[Some(wide)], Place::Near(op))?;
        graph.set_input(op, slot, Some(wide));
        graph.remove_value(value);
    }
    Ok(())
}

struct Emitter<'a> {
    graph: &'a mut Graph,
    plan: &'a QuantPlan,
    /// Scale and zero point of each class of activations.
    params: BTreeMap<usize, (ValueId, ValueId)>,
    /// Codes, scale, zero point of each constant that was quantized one way.
    codes: BTreeMap<String, (ValueId, ValueId, ValueId, Vec<Params>)>,
    names: &'a mut OpNames,
}

impl Emitter<'_> {
    fn params_of(&mut self, name: &str, entry: &ValuePlan) -> Result<(ValueId, ValueId), EmitError> {
        if let Some(&known) = self.params.get(&entry.class) {
            return Ok(known);
        }
        let params = entry.params.ok_or_else(|| EmitError::Unfitted(name.to_string()))?;
        let pair = self.add_params(name, &[params], entry.grid.code, &[]);
        self.params.insert(entry.class, pair);
        Ok(pair)
    }

    /// Initializers of scale and zero point with these sizes.
    fn add_params(
        &mut self,
        name: &str,
        params: &[Params],
        code: CodeType,
        dims: &[usize],
    ) -> (ValueId, ValueId) {
        let scales: Vec<f32> = params.iter().map(|p| p.scale()).collect();
        let zero_points: Vec<i32> = params.iter().map(|p| p.zero_point()).collect();
        let scale = Tensor::from_slice(dims, &scales).expect("as many scales as the sizes say");
        let zero_point = pack(&zero_points, dims, code).expect("as many zero points as the sizes say");
        let scale = self.graph.new_constant(&format!("{name}_scale"), scale);
        (scale, self.graph.new_constant(&format!("{name}_zero_point"), zero_point))
    }

    /// Puts a pair of roundings behind a value; everything that read the value reads the rounded one.
    fn round(
        &mut self,
        value: ValueId,
        name: &str,
        entry: &ValuePlan,
        places: &Places,
    ) -> Result<(), EmitError> {
        let (scale, zero_point) = self.params_of(name, entry)?;
        let graph = &mut *self.graph;
        let ty = graph.value(value).ty.clone();
        let codes = graph.new_value(&format!("{name}_quantized"), None);
        let rounded = graph.new_value(&format!("{name}_dequantized"), ty);
        let listed: Vec<usize> =
            (0..graph.outputs().len()).filter(|&at| graph.outputs()[at] == value).collect();
        // A graph input has no producer to stand beside: its first reader then.
        let beside = graph
            .producer(value)
            .map(|(op, _)| op)
            .or_else(|| graph.uses(value).first().map(|reader| reader.op));
        let place = beside.map_or(Place::End, Place::Near);
        graph.replace_uses(value, rounded);
        self.add("QuantizeLinear", name, &[value, scale, zero_point], codes, None, place);
        self.add("DequantizeLinear", name, &[codes, scale, zero_point], rounded, None, place);
        for conversion in self.plan.conversions.get(name).into_iter().flatten() {
            let (to_scale, to_zero) = self.params_of(name, &conversion.to)?;
            let ty = self.graph.value(rounded).ty.clone();
            let code = conversion.to.grid.code.name();
            let between = self.graph.new_value(&format!("{name}_for_{code}"), ty.clone());
            let converted = self.graph.new_value(&format!("{name}_{code}"), None);
            let read = self.graph.new_value(&format!("{name}_{code}_dequantized"), ty);
            self.add("DequantizeLinear", name, &[codes, scale, zero_point], between, None, place);
            self.add("QuantizeLinear", name, &[between, to_scale, to_zero], converted, None, place);
            self.add("DequantizeLinear", name, &[converted, to_scale, to_zero], read, None, place);
            self.redirect(&conversion.readers, places, rounded, read);
        }
        let graph = &mut *self.graph;
        if !listed.is_empty() && graph.value(value).role() == ir::Role::Computed {
            listed.into_iter().for_each(|at| graph.set_output(at, rounded));
            // The name of an output is part of the model's interface: the rounded value takes it over.
            let spare = graph.fresh_name(&format!("{name}_float"));
            graph.rename(value, &spare).expect("the name is fresh");
            graph.rename(rounded, name).expect("the name was just freed");
        }
        Ok(())
    }

    /// These operators read another value from now on.
    fn redirect(&mut self, readers: &[String], places: &Places, from: ValueId, to: ValueId) {
        for &(_, op) in readers.iter().filter_map(|key| places.get(key)) {
            for slot in 0..self.graph.op(op).input_count() {
                if self.graph.input(op, slot) == Some(from) {
                    self.graph.set_input(op, slot, Some(to));
                }
            }
        }
    }

    /// A constant operand of an elementwise operator: codes of the activations' type, for each precision of its readers.
    fn constant(
        &mut self,
        value: ValueId,
        name: &str,
        entry: &ValuePlan,
        places: &Places,
    ) -> Result<(), EmitError> {
        for conversion in self.plan.conversions.get(name).into_iter().flatten() {
            let ops: Vec<OpId> =
                conversion.readers.iter().filter_map(|key| places.get(key)).map(|&(_, op)| op).collect();
            self.encode_constant(value, name, &conversion.to, |reader| ops.contains(&reader))?;
        }
        self.encode_constant(value, name, entry, |_| true)?;
        self.graph.remove_value(value);
        Ok(())
    }

    /// The readers that are asked for read the constant's codes, dequantized.
    fn encode_constant(
        &mut self,
        value: ValueId,
        name: &str,
        entry: &ValuePlan,
        of: impl Fn(OpId) -> bool,
    ) -> Result<(), EmitError> {
        let tensor =
            self.graph.constant(value).cloned().ok_or_else(|| EmitError::Missing(name.to_string()))?;
        let params = entry.params.ok_or_else(|| EmitError::Unfitted(name.to_string()))?;
        let layout = quant::quantize::Layout::per_tensor(tensor.elements());
        let wrong = |source| EmitError::Weight { value: name.to_string(), op: entry.reason.clone(), source };
        let codes = encode(&tensor, &layout, vec![params], entry.grid).map_err(wrong)?;
        let (scale, zero_point) = self.params_of(name, entry)?;
        let stored = self.graph.new_constant(&format!("{name}_quantized"), codes.tensor);
        for reader in self.graph.uses(value).into_iter().filter(|reader| of(reader.op)) {
            let ir::Slot::In(slot) = reader.slot else { continue };
            let rounded = self.graph.new_value(&format!("{name}_dequantized"), None);
            self.add(
                "DequantizeLinear",
                name,
                &[stored, scale, zero_point],
                rounded,
                None,
                Place::Near(reader.op),
            );
            self.graph.set_input(reader.op, slot as usize, Some(rounded));
        }
        Ok(())
    }

    fn weights(&mut self, key: &str, op: OpId, weights: &[WeightPlan]) -> Result<(), EmitError> {
        for weight in weights {
            let Some(value) = self.graph.input(op, weight.slot) else {
                return Err(EmitError::Missing(weight.value.clone()));
            };
            let params = self.dequantize(op, value, weight)?;
            if let Some(bias) = self.plan.biases.get(key).filter(|bias| bias.weight_slot == weight.slot) {
                self.bias(key, op, bias, &params)?;
            }
        }
        Ok(())
    }

    /// Replaces a constant input by its codes and a DequantizeLinear; returns the scales.
    fn dequantize(&mut self, op: OpId, value: ValueId, plan: &WeightPlan) -> Result<Vec<Params>, EmitError> {
        let name = self.graph.value(value).name().to_string();
        let tensor = self.graph.constant(value).cloned().ok_or_else(|| EmitError::Missing(name.clone()))?;
        let way =
            format!("{name}\n{:?} {:?} {:?} {:?}", plan.grid, plan.axis, plan.block, plan.scale_factors);
        if !self.codes.contains_key(&way) {
            let wrong =
                |source| EmitError::Weight { value: name.clone(), op: self.graph.op(op).to_string(), source };
            let (layout, params) = weight_params(&tensor, plan).map_err(wrong)?;
            let Codes { tensor: codes, params } =
                encode(&tensor, &layout, params, plan.grid).map_err(wrong)?;
            let dims = match (plan.axis, plan.block) {
                (Some(axis), Some(block)) => {
                    let mut dims = tensor.dims().to_vec();
                    dims[axis] = dims[axis].div_ceil(block);
                    dims
                }
                (Some(_), None) => vec![params.len()],
                _ => vec![],
            };
            let (scale, zero_point) = self.add_params(&name, &params, plan.grid.code, &dims);
            let codes = self.graph.new_constant(&format!("{name}_quantized"), codes);
            self.codes.insert(way.clone(), (codes, scale, zero_point, params));
        }
        let (codes, scale, zero_point, params) = self.codes[&way].clone();
        let rounded = self.graph.new_value(&format!("{name}_dequantized"), None);
        let inputs = [codes, scale, zero_point];
        let node = self.add("DequantizeLinear", &name, &inputs, rounded, plan.axis, Place::Near(op));
        if let Some(block) = plan.block {
            self.graph.op_mut(node).attrs.set("block_size", AttrValue::Int(block as i64));
        }
        self.graph.set_input(op, plan.slot, Some(rounded));
        self.graph.remove_value(value);
        Ok(params)
    }

    /// `round(b / (s_x * s_w))` as int32. Where the data are not rounded (weight-only) the bias stays float.
    fn bias(&mut self, key: &str, op: OpId, plan: &BiasPlan, weights: &[Params]) -> Result<(), EmitError> {
        let data =
            self.graph.input(op, plan.data_slot).map(|value| self.graph.value(value).name().to_string());
        let Some(entry) = data.as_ref().and_then(|name| self.plan.read_as(name, key)) else { return Ok(()) };
        let data = entry.params.ok_or_else(|| EmitError::Unfitted(plan.value.clone()))?;
        let Some(value) = self.graph.input(op, plan.slot) else {
            return Err(EmitError::Missing(plan.value.clone()));
        };
        let tensor =
            self.graph.constant(value).cloned().ok_or_else(|| EmitError::Missing(plan.value.clone()))?;
        let wrong = |source| EmitError::Weight {
            value: plan.value.clone(),
            op: self.graph.op(op).to_string(),
            source,
        };
        let bias = super::weights::floats(&tensor).map_err(wrong)?;
        // One scale an output channel, or one for all. A bias that broadcasts is written out so that each has its own.
        let channels = weights.len();
        let spread = bias.len() == 1 && channels > 1;
        let count = if spread { channels } else { bias.len() };
        if channels != 1 && count != channels {
            return Ok(());
        }
        let (mut codes, mut params) = (Vec::with_capacity(count), Vec::new());
        for at in 0..count {
            let weight = weights[if channels == 1 { 0 } else { at }];
            let scale = data.scale() * weight.scale();
            let Ok(param) = Params::new(scale, 0) else { return Ok(()) };
            let code = f64::from(bias[if spread { 0 } else { at }]) / f64::from(scale);
            codes.push(code.round_ties_even().clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32);
            if at < channels {
                params.push(param);
            }
        }
        let (dims, axis) = if channels == 1 { (vec![], None) } else { (vec![channels], Some(0)) };
        let (scale, zero_point) = self.add_params(&plan.value, &params, CodeType::I32, &dims);
        let codes = pack(&codes, &[count], CodeType::I32).expect("as many codes as the sizes say");
        let codes = self.graph.new_constant(&format!("{}_quantized", plan.value), codes);
        let rounded = self.graph.new_value(&format!("{}_dequantized", plan.value), None);
        self.add(
            "DequantizeLinear",
            &plan.value,
            &[codes, scale, zero_point],
            rounded,
            axis,
            Place::Near(op),
        );
        self.graph.set_input(op, plan.slot, Some(rounded));
        self.graph.remove_value(value);
        Ok(())
    }

    fn add(
        &mut self,
        kind: &str,
        name: &str,
        inputs: &[ValueId],
        output: ValueId,
        axis: Option<usize>,
        place: Place,
    ) -> OpId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        // For one scale the axis says nothing, and importers differ about its default: it is written all the same.
        let op = Op::new(kind)
            .named(&self.names.fresh(&format!("{name}_{kind}")))
            .with("axis", axis.unwrap_or(0) as i64);
        self.graph.add_op(op, &inputs, &[Some(output)], place).expect("the output was just made")
    }
}
