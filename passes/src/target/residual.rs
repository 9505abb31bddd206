//! Residual additions as TensorRT fuses them: which input of an `Add` is the skip.
//!
//! Each input is followed back through what fuses behind a convolution (a bias, a constant factor, normalization,
//! activation functions, pooling, data movement) to the convolution it comes from. If both come from one, the branch with
//! the longer way to the point where both branches part is computed into the convolution's epilogue, and the other input,
//! the skip, is read from memory: only that one is worth rounding. If only one comes from a convolution, the other is the
//! skip, unless that convolution is itself where the branches part. The rules are those of NVIDIA's quantizer for ONNX.

use std::collections::{BTreeMap, VecDeque};

use ir::{Graph, OpId, ValueId};

/// Operators looked at behind one input. Branches of real networks are far shorter; the bound keeps models of chained
/// additions linear.
const DEEPEST: usize = 256;

/// What fuses behind a convolution and has one data input in slot 0.
const EPILOGUE: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "MaxPool",
    "BatchNormalization",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Slice",
    "Cast",
    "Dropout",
    "QuantizeLinear",
    "DequantizeLinear",
];

/// The input slot of an `Add` of two computed values that is the skip of a residual block; none if it is no such addition.
pub fn skip_slot(graph: &Graph, add: OpId) -> Option<usize> {
    if !graph.op(add).kind.is("Add") {
        return None;
    }
    let (a, b) = (graph.input(add, 0)?, graph.input(add, 1)?);
    if a == b || graph.constant(a).is_some() || graph.constant(b).is_some() {
        return None;
    }
    let backbones = (backbone(graph, a), backbone(graph, b));
    if backbones == (None, None) {
        return None;
    }
    let (from_a, from_b) = (distances(graph, a), distances(graph, b));
    let (parting, (far_a, far_b)) = from_a
        .iter()
        .filter_map(|(value, &far_a)| Some((*value, (far_a, *from_b.get(value)?))))
        .min_by_key(|(value, (far_a, far_b))| (far_a + far_b, *value))?;
    let parting = graph.producer(parting).map(|(op, _)| op);
    match backbones {
        (Some(left), Some(right)) if left == right => None,
        (Some(_), Some(_)) => Some(if far_a >= far_b { 1 } else { 0 }),
        (Some(left), None) => (Some(left) != parting).then_some(1),
        (None, Some(right)) => (Some(right) != parting).then_some(0),
        (None, None) => None,
    }
}

/// Values behind this one, with the number of operators between (shortest way), nearest first.
fn distances(graph: &Graph, from: ValueId) -> BTreeMap<ValueId, usize> {
    let mut found = BTreeMap::from([(from, 0)]);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((value, far)) = queue.pop_front() {
        if found.len() > DEEPEST {
            break;
        }
        let Some((op, _)) = graph.producer(value) else { continue };
        for input in graph.op_inputs(op).into_iter().flatten() {
            if graph.constant(input).is_none() && !found.contains_key(&input) {
                found.insert(input, far + 1);
                queue.push_back((input, far + 1));
            }
        }
    }
    found
}

/// The convolution whose result arrives here, through what fuses behind it.
pub(super) fn backbone(graph: &Graph, mut value: ValueId) -> Option<OpId> {
    for _ in 0..DEEPEST {
        let (op, _) = graph.producer(value)?;
        let kind = &graph.op(op).kind;
        if !kind.domain().is_empty() {
            return None;
        }
        value = match &*kind.name {
            "Conv" | "ConvTranspose" => return Some(op),
            "Add" | "Mul" => through_binary(graph, op)?,
            name if EPILOGUE.contains(&name) => graph.input(op, 0)?,
            _ => return None,
        };
    }
    None
}

/// The data input of an operator with a constant operand, or of `x * Sigmoid(x)`.
fn through_binary(graph: &Graph, op: OpId) -> Option<ValueId> {
    let (a, b) = (graph.input(op, 0)?, graph.input(op, 1)?);
    match (graph.constant(a).is_some(), graph.constant(b).is_some()) {
        (false, true) => return Some(a),
        (true, false) => return Some(b),
        _ => {}
    }
    let gate = |x: ValueId, y: ValueId| {
        let (gate, _) = graph.producer(y)?;
        let kind = &graph.op(gate).kind;
        ((kind.is("Sigmoid") || kind.is("HardSigmoid")) && graph.input(gate, 0) == Some(x)).then_some(x)
    };
    if graph.op(op).kind.is("Mul") { gate(a, b).or_else(|| gate(b, a)) } else { None }
}
