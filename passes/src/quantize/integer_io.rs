//! Makes inputs and outputs of the model codes, where they are rounded anyway.
//!
//! ```text
//! (float x) => (float y) { Q(x) -> … -> DQ -> y }   =>   (uint8 x) => (uint8 y) { … }
//! ```
//!
//! The caller rounds and scales itself, with the parameters that are reported. An input that something reads in float, or
//! an output that is computed in float, stays as it is.

use ir::{Graph, Model, Role, Type, ValueId};

/// What an input or output stands for from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerIo {
    /// Its name.
    pub name: String,
    /// Type of the codes.
    pub codes: &'static str,
    /// A code stands for `(code - zero_point) * scale`.
    pub scale: f32,
    /// See `scale`.
    pub zero_point: i32,
}

/// Rewrites what can be; says what the codes mean.
pub fn integer_io(model: &mut Model) -> Vec<IntegerIo> {
    let graph = model.main_mut();
    let mut changed = Vec::new();
    for input in graph.inputs().to_vec() {
        changed.extend(open_input(graph, input));
    }
    for at in 0..graph.outputs().len() {
        changed.extend(open_output(graph, at));
    }
    model.settle();
    changed
}

fn meaning(graph: &Graph, name: &str, op: ir::OpId) -> Option<IntegerIo> {
    let scale = graph.constant(graph.input(op, 1)?)?.to_vec::<f32>().ok()?;
    let zero_point = graph.constant(graph.input(op, 2)?)?;
    let code = quant::CodeType::ALL.iter().find(|code| code.name() == zero_point.dtype().name())?;
    let points = quant::pack::from_raw(zero_point.bytes(), *code, zero_point.elements()).ok()?;
    match (&scale[..], &points[..]) {
        (&[scale], &[zero_point]) => {
            Some(IntegerIo { name: name.into(), codes: code.name(), scale, zero_point })
        }
        _ => None,
    }
}

fn open_input(graph: &mut Graph, input: ValueId) -> Option<IntegerIo> {
    let [reader] = graph.uses(input)[..] else { return None };
    if !graph.op(reader.op).kind.is("QuantizeLinear") || graph.is_output(input) {
        return None;
    }
    let name = graph.value(input).name().to_string();
    let found = meaning(graph, &name, reader.op)?;
    let codes = graph.output(reader.op, 0)?;
    let dtype = graph.constant(graph.input(reader.op, 2)?)?.dtype();
    let shape = graph.value(input).shape();
    graph.replace_uses(codes, input);
    graph.remove_op(reader.op);
    graph.value_mut(input).ty = Some(Type::tensor(dtype, shape));
    Some(found)
}

fn open_output(graph: &mut Graph, at: usize) -> Option<IntegerIo> {
    let output = graph.outputs()[at];
    let (op, _) = graph.producer(output)?;
    if !graph.op(op).kind.is("DequantizeLinear") || graph.use_count(output) > 0 {
        return None;
    }
    let codes = graph.input(op, 0)?;
    if graph.value(codes).role() != Role::Computed || graph.is_output(codes) {
        return None;
    }
    let name = graph.value(output).name().to_string();
    let found = meaning(graph, &name, op)?;
    let dtype = graph.constant(graph.input(op, 2)?)?.dtype();
    let shape = graph.value(output).shape();
    graph.set_output(at, codes);
    graph.remove_op(op);
    graph.value_mut(codes).ty = Some(Type::tensor(dtype, shape));
    // The name belongs to the model's interface.
    if graph.is_live_value(output) {
        let spare = graph.fresh_name(&format!("{name}_float"));
        graph.rename(output, &spare).ok()?;
    }
    graph.rename(codes, &name).ok()?;
    Some(found)
}
