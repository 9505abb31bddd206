//! Writes a plan with operators that compute on codes, instead of Q/DQ around float operators (`--format qoperator`).
//!
//! ```text
//! x -> DQ -> Conv(DQ(w), DQ(b)) -> Relu -> Q   =>   QLinearConv(x, s, z, w, s, z, s, z, b)      Relu is in the codes' range
//! x -> DQ -> Add(DQ(y)) -> Q                    =>   com.microsoft.QLinearAdd(x, s, z, y, s, z, s, z)
//! x -> DQ -> Reshape -> Q                       =>   Reshape(x)                                  where both share a scale
//! ```
//!
//! It starts from the Q/DQ form, so what has no such operator stays between Q and DQ and computes in float: the file always
//! says the same as its plan. A function behind a product goes only where the codes of the product's output cannot leave the
//! function's range.

use ir::{AttrValue, DType, Graph, Model, Op, OpId, OpKind, Place, Tensor, ValueId};

use super::emit_qdq::{EmitError, emit_qdq};
use super::plan::QuantPlan;

const CONTRIB: &str = "com.microsoft";

/// How an operator computes on codes.
enum Form {
    /// Data, weight, bias; the operator of ONNX.
    Conv,
    /// Two operands; the operator of ONNX.
    MatMul,
    /// Data, weight, bias; may write float.
    Gemm,
    /// Data with scale and zero point, each; the contributed operator.
    Each(&'static str),
    /// A condition, then data with scale and zero point.
    Where,
    /// Scale and zero point of the output first.
    Concat,
    /// The operator itself, on codes.
    Moves,
}

fn form(graph: &Graph, op: OpId) -> Option<Form> {
    let node = graph.op(op);
    let (domain, name) = node.kind.key();
    if !domain.is_empty() {
        return None;
    }
    Some(match name {
        "Conv" => Form::Conv,
        "MatMul" => Form::MatMul,
        "Gemm" if node.attrs.float("beta").unwrap_or(1.0) == 1.0 => Form::Gemm,
        "Add" => Form::Each("QLinearAdd"),
        "Mul" => Form::Each("QLinearMul"),
        "Sigmoid" => Form::Each("QLinearSigmoid"),
        "LeakyRelu" => Form::Each("QLinearLeakyRelu"),
        "Softmax" => Form::Each("QLinearSoftmax"),
        "AveragePool" if node.attrs.ints("dilations").is_none_or(|d| d.iter().all(|&x| x == 1)) => {
            Form::Each("QLinearAveragePool")
        }
        "GlobalAveragePool" => Form::Each("QLinearGlobalAveragePool"),
        "Where" => Form::Where,
        "Concat" => Form::Concat,
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Gather" | "Split"
        | "Expand" | "Tile" | "MaxPool" | "Identity" => Form::Moves,
        "Resize" if node.attrs.str("mode").unwrap_or("nearest") == "nearest" => Form::Moves,
        _ => return None,
    })
}

/// Writes the plan into the model.
///
/// # Errors
/// As [`emit_qdq`].
pub fn emit_qoperator(model: &mut Model, plan: &QuantPlan) -> Result<(), EmitError> {
    emit_qdq(model, plan)?;
    let opset = model.opset("").unwrap_or(13);
    let graph = model.main_mut();
    let mut contrib = false;
    for op in graph.schedule().unwrap_or_else(|_| graph.ops()) {
        if !graph.is_live(op) {
            continue;
        }
        if let Some(change) = form(graph, op).and_then(|form| look(graph, op, &form, opset)) {
            contrib |= change.by.as_ref().is_some_and(|by| by.kind.domain() == CONTRIB);
            change.apply(graph, op)?;
        }
    }
    drop_unread(graph);
    if contrib {
        model.raise_opset(CONTRIB, 1);
    }
    Ok(())
}

/// Codes with their scale and zero point.
#[derive(Clone, Copy)]
struct Codes {
    codes: ValueId,
    scale: ValueId,
    zero_point: ValueId,
}

impl Codes {
    fn three(self) -> [ValueId; 3] {
        [self.codes, self.scale, self.zero_point]
    }

    fn dtype(self, graph: &Graph) -> Option<DType> {
        graph.constant(self.zero_point).map(Tensor::dtype)
    }

    fn is_byte(self, graph: &Graph) -> bool {
        matches!(self.dtype(graph), Some(DType::U8 | DType::I8))
    }

    /// Equal numbers, whichever constants hold them.
    fn same(self, other: Codes, graph: &Graph) -> bool {
        let equal = |a: ValueId, b: ValueId| {
            a == b || (graph.constant(a).is_some() && graph.constant(a) == graph.constant(b))
        };
        equal(self.scale, other.scale) && equal(self.zero_point, other.zero_point)
    }
}

/// The codes that a value was dequantized from.
fn read(graph: &Graph, value: Option<ValueId>) -> Option<Codes> {
    let (op, _) = graph.producer(value?)?;
    if !graph.op(op).kind.is("DequantizeLinear") || graph.op(op).attrs.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    Some(Codes { codes: graph.input(op, 0)?, scale: graph.input(op, 1)?, zero_point: graph.input(op, 2)? })
}

/// The codes that are all that is made of a value, with the operators in between: functions that the range of the codes
/// implies, and the QuantizeLinear.
fn written(graph: &Graph, value: ValueId) -> Option<(Codes, Vec<OpId>)> {
    let mut between = Vec::new();
    let mut value = value;
    loop {
        if graph.is_output(value) {
            return None;
        }
        let [reader] = graph.uses(value)[..] else { return None };
        if !matches!(reader.slot, ir::Slot::In(0)) {
            return None;
        }
        between.push(reader.op);
        if graph.op(reader.op).kind.is("QuantizeLinear") {
            let codes = Codes {
                codes: graph.output(reader.op, 0)?,
                scale: graph.input(reader.op, 1)?,
                zero_point: graph.input(reader.op, 2)?,
            };
            let functions = &between[..between.len() - 1];
            let implied = functions.iter().all(|&function| is_implied(graph, function, codes));
            return (implied && codes.is_byte(graph)).then_some((codes, between));
        }
        let kind = &graph.op(reader.op).kind;
        if !(kind.is("Relu") || kind.is("Clip")) {
            return None;
        }
        value = graph.output(reader.op, 0)?;
    }
}

/// Every code stands for a number that the function leaves as it is.
fn is_implied(graph: &Graph, function: OpId, codes: Codes) -> bool {
    let bounds = || -> Option<(f64, f64)> {
        let node = graph.op(function);
        if node.kind.is("Relu") {
            return Some((0.0, f64::INFINITY));
        }
        let bound = |slot: usize, none: f64| match graph.input(function, slot) {
            None => Some(none),
            Some(value) => graph.constant(value)?.to_vec::<f32>().ok()?.first().map(|&v| f64::from(v)),
        };
        Some((bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?))
    };
    let range = || -> Option<(f64, f64)> {
        let scale = f64::from(*graph.constant(codes.scale)?.to_vec::<f32>().ok()?.first()?);
        let zero_point = graph.constant(codes.zero_point)?;
        let (zero, low, high) = match zero_point.dtype() {
            DType::U8 => (f64::from(*zero_point.to_vec::<u8>().ok()?.first()?), 0.0, 255.0),
            _ => (f64::from(*zero_point.to_vec::<i8>().ok()?.first()?), -128.0, 127.0),
        };
        Some(((low - zero) * scale, (high - zero) * scale))
    };
    match (bounds(), range()) {
        // Half a step of play: the bound itself is rounded to the nearest code.
        (Some((least, most)), Some((low, high))) => {
            let play = (high - low) / 255.0 / 2.0;
            low >= least - play && high <= most + play
        }
        _ => false,
    }
}

/// What becomes of an operator.
struct Change {
    /// What stands in its place; none: itself, with these inputs.
    by: Option<Op>,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    /// What goes with it.
    removed: Vec<OpId>,
}

impl Change {
    fn apply(self, graph: &mut Graph, op: OpId) -> Result<(), EmitError> {
        let new = match self.by {
            Some(by) => by.named(&graph.op(op).name.clone()),
            None => {
                let old = graph.op(op);
                Op::of(old.kind.clone()).named(&old.name.clone()).with_attrs(old.attrs.clone())
            }
        };
        for output in self.outputs.iter().flatten() {
            if let Some((writer, slot)) = graph.producer(*output) {
                graph.set_op_output(writer, slot, None)?;
            }
        }
        graph.add_op(new, &self.inputs, &self.outputs, Place::Near(op))?;
        // Readers first: a value goes with the operator that writes it.
        for gone in self.removed.into_iter().rev().chain([op]) {
            graph.remove_op(gone);
        }
        Ok(())
    }
}

fn look(graph: &Graph, op: OpId, form: &Form, opset: i64) -> Option<Change> {
    let node = graph.op(op);
    let count = node.input_count();
    let input = |slot: usize| read(graph, graph.input(op, slot));
    let bytes = |slot: usize| input(slot).filter(|codes| codes.is_byte(graph));
    let contrib = |name: &str| Op::of(OpKind::new(CONTRIB, name)).with_attrs(node.attrs.clone());
    let output = graph.output(op, 0)?;
    if let Form::Moves = form {
        return moves(graph, op);
    }
    if let Form::Gemm = form
        && written(graph, output).is_none()
    {
        // The sums leave as float: no rounding of the last layer.
        let mut inputs = product_inputs(graph, op, true)?;
        inputs.resize(7, None);
        let mut by = contrib("QGemm");
        by.attrs.remove("beta");
        return Some(Change { by: Some(by), inputs, outputs: vec![Some(output)], removed: vec![] });
    }
    let (to, removed) = written(graph, output)?;
    let outputs = vec![Some(to.codes)];
    let target = [Some(to.scale), Some(to.zero_point)];
    let same_kind = |codes: Codes| codes.dtype(graph) == to.dtype(graph);
    let (by, inputs) = match form {
        Form::Conv => {
            let mut inputs = product_inputs(graph, op, true)?;
            let bias = inputs.split_off(6);
            inputs.extend(target);
            inputs.extend(bias);
            (Op::new("QLinearConv").with_attrs(node.attrs.clone()), inputs)
        }
        Form::MatMul => {
            let mut inputs = product_inputs(graph, op, false)?;
            inputs.extend(target);
            (Op::new("QLinearMatMul"), inputs)
        }
        Form::Gemm => {
            let mut inputs = product_inputs(graph, op, true)?;
            inputs.resize(7, None);
            inputs.extend(target);
            let mut by = contrib("QGemm");
            by.attrs.remove("beta");
            (by, inputs)
        }
        Form::Each(name) => {
            let data: Option<Vec<Codes>> = (0..count).map(bytes).collect();
            let data = data?;
            if !data.iter().all(|&codes| same_kind(codes)) {
                return None;
            }
            let mut inputs: Vec<Option<ValueId>> =
                data.iter().flat_map(|codes| codes.three()).map(Some).collect();
            inputs.extend(target);
            let mut by = contrib(name);
            if node.kind.is("Softmax") {
                by.attrs.set("opset", AttrValue::Int(opset));
                let axis = by.attrs.int("axis").unwrap_or(-1);
                by.attrs.set("axis", AttrValue::Int(axis));
            }
            by.attrs.remove("dilations");
            (by, inputs)
        }
        Form::Where => {
            let (a, b) = (bytes(1)?, bytes(2)?);
            if !same_kind(a) || !same_kind(b) {
                return None;
            }
            let mut inputs = vec![graph.input(op, 0)];
            inputs.extend([a, b].iter().flat_map(|codes| codes.three()).map(Some));
            inputs.extend(target);
            (contrib("QLinearWhere"), inputs)
        }
        Form::Concat => {
            let data: Option<Vec<Codes>> = (0..count).map(bytes).collect();
            let data = data?;
            if !data.iter().all(|&codes| same_kind(codes)) {
                return None;
            }
            let mut inputs = target.to_vec();
            inputs.extend(data.iter().flat_map(|codes| codes.three()).map(Some));
            (contrib("QLinearConcat"), inputs)
        }
        Form::Moves => return None,
    };
    Some(Change { by: Some(by), inputs, outputs, removed })
}

/// Both operands with their parameters, and the codes of a bias. None if something is not in codes.
fn product_inputs(graph: &Graph, op: OpId, bias: bool) -> Option<Vec<Option<ValueId>>> {
    let (a, b) = (read(graph, graph.input(op, 0))?, read(graph, graph.input(op, 1))?);
    // Kernels exist for uint8 data with weights of either kind, and for int8 with int8.
    let pair = (a.dtype(graph)?, b.dtype(graph)?);
    if !matches!(pair, (DType::U8, DType::U8 | DType::I8) | (DType::I8, DType::I8)) {
        return None;
    }
    // Scales a channel belong to the weight, on the right.
    if graph.constant(a.scale)?.elements() != 1 {
        return None;
    }
    let mut inputs: Vec<Option<ValueId>> = [a, b].iter().flat_map(|codes| codes.three()).map(Some).collect();
    if bias && graph.input(op, 2).is_some() {
        let codes = read(graph, graph.input(op, 2))?;
        if codes.dtype(graph) != Some(DType::I32) {
            return None;
        }
        inputs.push(Some(codes.codes));
    }
    Some(inputs)
}

/// The operator on codes, where what goes in and what comes out share their parameters.
fn moves(graph: &Graph, op: OpId) -> Option<Change> {
    let from = read(graph, graph.input(op, 0)).filter(|codes| codes.is_byte(graph))?;
    let mut outputs = Vec::new();
    let mut removed = Vec::new();
    for output in graph.op_outputs(op) {
        match output {
            None => outputs.push(None),
            Some(output) => {
                let (to, between) = written(graph, output)?;
                if !from.same(to, graph) {
                    return None;
                }
                outputs.push(Some(to.codes));
                removed.extend(between);
            }
        }
    }
    let mut inputs: Vec<Option<ValueId>> = graph.op_inputs(op).into_iter().collect();
    *inputs.first_mut()? = Some(from.codes);
    Some(Change { by: None, inputs, outputs, removed })
}

/// Removes Q and DQ that nothing reads any more, and their constants.
fn drop_unread(graph: &mut Graph) {
    for op in graph.schedule().unwrap_or_else(|_| graph.ops()).into_iter().rev() {
        let kind = &graph.op(op).kind;
        if !(kind.is("QuantizeLinear") || kind.is("DequantizeLinear")) {
            continue;
        }
        let unread = graph.output(op, 0).is_none_or(|value| !graph.is_used(value) && !graph.is_output(value));
        if unread {
            let inputs: Vec<ValueId> = graph.op_inputs(op).into_iter().flatten().collect();
            graph.remove_op(op);
            for value in inputs {
                graph.remove_value(value);
            }
        }
    }
}
