//! Writes operators whose data are rounded when the model runs.
//!
//! ```text
//! y = MatMul(x, w), Gemm(x, w, b)  =>  q, s, z = DynamicQuantizeLinear(x)      once for all readers of x
//!                                      y = Cast(MatMulInteger(q, codes, z)) * (s * scales) + b
//! y = Conv(x, w, b), windows of 1  =>  the same between two transpositions that bring the channels last and back
//! y = LSTM(x, w, r, …)             =>  com.microsoft.DynamicQuantizeLSTM(x, codes, codes, …)
//! ```
//!
//! These are the forms that ONNX Runtime fuses into one kernel. Codes of weights are written anew for each form, so a tied
//! weight that others read otherwise stays as it was.

use std::collections::BTreeMap;

use ir::{AttrValue, DType, Graph, GraphId, Model, Op, OpId, OpKind, Place, Tensor, ValueId};
use quant::Params;

use super::emit_qdq::EmitError;
use super::keys::OpNames;
use super::plan::{Precision, QuantPlan, WeightPlan};
use super::weights::{encode, pack, weight_params};
use crate::target::Candidate;

/// Why an operator cannot be written this way; none if it can.
pub(super) fn objection(candidate: Candidate<'_>) -> Option<&'static str> {
    let Candidate { graph, op, .. } = candidate;
    let constant = |slot| graph.input(op, slot).and_then(|value| graph.constant(value));
    let rank = |slot| graph.input(op, slot).and_then(|value| graph.value(value).shape()).map(|s| s.rank());
    match candidate.onnx_name() {
        Some("MatMul") if rank(0) == Some(1) => Some("the data are one vector"),
        Some("MatMul") if constant(1).is_none_or(|w| w.rank() < 2) => Some("the weight is no matrix"),
        Some("MatMul") => None,
        Some("Gemm") => constant(1).is_none().then_some("the weight is not constant"),
        Some("Conv") if rank(0).is_none() => Some("the rank of its data is not known"),
        Some("Conv") => constant(1).is_none().then_some("the weight is not constant"),
        Some("LSTM") if constant(1).is_none() || constant(2).is_none() => Some("a weight is not constant"),
        Some("LSTM") => None,
        _ => Some("there is no such form"),
    }
}

/// Writes every operator of a graph that the plan makes dynamic.
pub(super) fn emit(
    model: &mut Model,
    id: GraphId,
    plan: &QuantPlan,
    ops: &BTreeMap<String, OpId>,
    names: &mut OpNames,
) -> Result<(), EmitError> {
    let mut contrib = false;
    let mut writer = Writer { graph: model.graph_mut(id), names, rounded: BTreeMap::new() };
    for (key, &op) in ops {
        let dynamic = plan.ops.get(key).is_some_and(|entry| entry.precision == Precision::Dynamic);
        let Some(weights) = plan.weights.get(key).filter(|_| dynamic) else { continue };
        let kind = writer.graph.op(op).kind.clone();
        match (kind.domain(), &*kind.name, &weights[..]) {
            ("", "MatMul" | "Gemm" | "Conv", [weight]) => writer.product(op, weight)?,
            ("", "LSTM", [w, r]) => {
                writer.recurrent(op, w, r)?;
                contrib = true;
            }
            _ => return Err(EmitError::Form { op: writer.graph.op(op).to_string(), form: "dynamic" }),
        }
    }
    if contrib {
        model.raise_opset("com.microsoft", 1);
    }
    Ok(())
}

struct Writer<'a> {
    graph: &'a mut Graph,
    names: &'a mut OpNames,
    /// Codes, scale and zero point of each value that was rounded.
    rounded: BTreeMap<ValueId, [ValueId; 3]>,
}

/// A matrix of codes with a scale for each column, or one for all.
struct Matrix {
    codes: Tensor,
    params: Vec<Params>,
}

impl Writer<'_> {
    fn step(&mut self, op: Op, name: &str, inputs: &[ValueId], at: OpId) -> Result<ValueId, EmitError> {
        let output = self.graph.new_value(name, None);
        self.write(op, name, inputs, output, at)?;
        Ok(output)
    }

    fn write(
        &mut self,
        op: Op,
        name: &str,
        inputs: &[ValueId],
        output: ValueId,
        at: OpId,
    ) -> Result<(), EmitError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let op = op.named(&self.names.fresh(name));
        let place = Place::Near(at);
        self.graph.add_op(op, &inputs, &[Some(output)], place).map(|_| ()).map_err(EmitError::Graph)
    }

    /// Codes of a value, once for all its readers: the kernels share them.
    fn round(&mut self, value: ValueId, at: OpId) -> Result<[ValueId; 3], EmitError> {
        if let Some(&known) = self.rounded.get(&value) {
            return Ok(known);
        }
        let name = self.graph.value(value).name().to_string();
        let new = ["quantized", "scale", "zero_point"]
            .map(|part| self.graph.new_value(&format!("{name}_{part}"), None));
        let op = Op::new("DynamicQuantizeLinear")
            .named(&self.names.fresh(&format!("{name}_DynamicQuantizeLinear")));
        // Beside its producer, so that it stands before every reader.
        let beside = self.graph.producer(value).map_or(at, |(op, _)| op);
        self.graph
            .add_op(op, &[Some(value)], &new.map(Some), Place::Near(beside))
            .map_err(EmitError::Graph)?;
        self.rounded.insert(value, new);
        Ok(new)
    }

    fn constant(&self, op: OpId, slot: usize) -> Result<(ValueId, Tensor), EmitError> {
        let value = self.graph.input(op, slot);
        let found = value.and_then(|value| Some((value, self.graph.constant(value)?.clone())));
        found.ok_or_else(|| EmitError::Missing(format!("input {slot} of {}", self.graph.op(op))))
    }

    /// The weight as a matrix `[depth, channels]`, stacks of matrices with one scale.
    fn matrix(
        &self,
        op: OpId,
        tensor: &Tensor,
        plan: &WeightPlan,
        columns_first: bool,
    ) -> Result<Matrix, EmitError> {
        let wrong = |source| EmitError::Weight {
            value: plan.value.clone(),
            op: self.graph.op(op).to_string(),
            source,
        };
        let (layout, params) = weight_params(tensor, plan).map_err(wrong)?;
        let codes = encode(tensor, &layout, params, plan.grid).map_err(wrong)?;
        let tensor = match (columns_first, tensor.dims()) {
            (true, [channels, depth, ..]) => {
                turned(&codes.tensor, 1, *channels, *depth, &[*depth, *channels])
            }
            _ => Ok(codes.tensor),
        };
        Ok(Matrix { codes: tensor.map_err(|e| wrong(e.into()))?, params: codes.params })
    }

    fn product(&mut self, op: OpId, plan: &WeightPlan) -> Result<(), EmitError> {
        let node = self.graph.op(op).clone();
        let (data, output) = match (self.graph.input(op, 0), self.graph.output(op, 0)) {
            (Some(data), Some(output)) => (data, output),
            _ => return Err(EmitError::Missing(node.to_string())),
        };
        let conv = node.kind.is("Conv");
        let turned = conv || node.attrs.int("transB").unwrap_or(0) != 0;
        let (weight, tensor) = self.constant(op, plan.slot)?;
        let matrix = self.matrix(op, &tensor, plan, turned)?;
        let name = self.graph.value(output).name().to_string();
        let part = |part: &str| format!("{name}_{part}");
        let rank = self.graph.value(data).shape().map(|shape| shape.rank()).filter(|_| conv);
        let bias = self.graph.input(op, 2).filter(|_| !node.kind.is("MatMul"));
        let bias = bias
            .map(|bias| self.scaled_bias(op, bias, node.attrs.float("beta").unwrap_or(1.0)))
            .transpose()?;

        let data = match rank {
            Some(rank) => {
                let last: Vec<i64> = std::iter::once(0).chain(2..rank as i64).chain([1]).collect();
                self.step(
                    Op::new("Transpose").with("perm", AttrValue::Ints(last)),
                    &part("channels_last"),
                    &[data],
                    op,
                )?
            }
            None => data,
        };
        let [codes, scale, zero_point] = self.round(data, op)?;
        let weight_name = plan.value.clone();
        let weight_codes = self.graph.new_constant(&format!("{weight_name}_quantized"), matrix.codes);
        let scales: Vec<f32> = matrix.params.iter().map(|p| p.scale()).collect();
        let dims: &[usize] = if scales.len() == 1 { &[] } else { &[scales.len()] };
        let scales = Tensor::from_slice(dims, &scales).expect("as many scales as the sizes say");
        let scales = self.graph.new_constant(&format!("{weight_name}_scale"), scales);
        let mut inputs = vec![codes, weight_codes, zero_point];
        if matrix.params.iter().any(|p| p.zero_point() != 0) {
            let points: Vec<i32> = matrix.params.iter().map(|p| p.zero_point()).collect();
            let points = pack(&points, dims, plan.grid.code).expect("as many zero points as the sizes say");
            inputs.push(self.graph.new_constant(&format!("{weight_name}_zero_point"), points));
        }
        let sums = self.step(Op::new("MatMulInteger"), &part("sums"), &inputs, op)?;
        let to_float = Op::new("Cast").with("to", i64::from(DType::F32.code()));
        let sums = self.step(to_float, &part("sums_float"), &[sums], op)?;
        let factor = self.step(Op::new("Mul"), &part("scales"), &[scale, scales], op)?;
        let last = match (rank, bias) {
            (None, None) => None,
            _ => Some(self.step(Op::new("Mul"), &part("scaled"), &[sums, factor], op)?),
        };
        let _ = self.graph.set_op_output(op, 0, None);
        match (last, bias, rank) {
            (Some(scaled), Some(bias), Some(rank)) => {
                let added = self.step(Op::new("Add"), &part("biased"), &[scaled, bias], op)?;
                self.channels_first(rank, &part("channels_first"), added, output, op)?;
            }
            (Some(scaled), None, Some(rank)) => {
                self.channels_first(rank, &part("channels_first"), scaled, output, op)?;
            }
            (Some(scaled), Some(bias), None) => {
                self.write(Op::new("Add"), &part("biased"), &[scaled, bias], output, op)?;
            }
            _ => self.write(Op::new("Mul"), &part("scaled"), &[sums, factor], output, op)?,
        }
        self.graph.remove_op(op);
        self.graph.remove_value(weight);
        Ok(())
    }

    fn channels_first(
        &mut self,
        rank: usize,
        name: &str,
        value: ValueId,
        output: ValueId,
        at: OpId,
    ) -> Result<(), EmitError> {
        let rank = rank as i64;
        let perm: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        self.write(Op::new("Transpose").with("perm", AttrValue::Ints(perm)), name, &[value], output, at)
    }

    /// `beta * bias`.
    fn scaled_bias(&mut self, op: OpId, bias: ValueId, beta: f32) -> Result<ValueId, EmitError> {
        if beta == 1.0 {
            return Ok(bias);
        }
        let name = self.graph.value(bias).name().to_string();
        let beta = self.graph.new_constant(&format!("{name}_beta"), Tensor::scalar(beta));
        self.step(Op::new("Mul"), &format!("{name}_scaled"), &[bias, beta], op)
    }

    fn recurrent(&mut self, op: OpId, w: &WeightPlan, r: &WeightPlan) -> Result<(), EmitError> {
        let mut inputs: Vec<Option<ValueId>> = (0..8).map(|slot| self.graph.input(op, slot)).collect();
        let mut scales = Vec::new();
        for plan in [w, r] {
            let (value, tensor) = self.constant(op, plan.slot)?;
            let wrong = |source| EmitError::Weight {
                value: plan.value.clone(),
                op: self.graph.op(op).to_string(),
                source,
            };
            let &[directions, gates, depth] = tensor.dims() else {
                return Err(EmitError::Form { op: self.graph.op(op).to_string(), form: "dynamic" });
            };
            // Every row of every direction has a scale of its own, or every direction has one.
            let rows = if plan.axis.is_some() { directions * gates } else { directions };
            let flat = tensor
                .reshaped([rows, tensor.elements() / rows.max(1)].as_slice())
                .map_err(|e| wrong(e.into()))?;
            let by_row = WeightPlan { axis: Some(0), block: None, ..plan.clone() };
            let (layout, params) = weight_params(&flat, &by_row).map_err(wrong)?;
            let codes = encode(&flat, &layout, params, plan.grid).map_err(wrong)?;
            let turned = turned(&codes.tensor, directions, gates, depth, &[directions, depth, gates]);
            let turned = turned.map_err(|e| wrong(e.into()))?;
            let dims = if plan.axis.is_some() { vec![directions, gates] } else { vec![directions] };
            let numbers: Vec<f32> = codes.params.iter().map(|p| p.scale()).collect();
            let points: Vec<i32> = codes.params.iter().map(|p| p.zero_point()).collect();
            let numbers = Tensor::from_slice(&dims, &numbers).map_err(|e| wrong(e.into()))?;
            let points = pack(&points, &dims, plan.grid.code).map_err(wrong)?;
            inputs[plan.slot] = Some(self.graph.new_constant(&format!("{}_quantized", plan.value), turned));
            scales.push(Some(self.graph.new_constant(&format!("{}_scale", plan.value), numbers)));
            scales.push(Some(self.graph.new_constant(&format!("{}_zero_point", plan.value), points)));
            let _ = value;
        }
        inputs.extend(scales);
        let old = self.graph.op(op).clone();
        let mut attrs = old.attrs.clone();
        attrs.remove("layout");
        let outputs: Vec<Option<ValueId>> = self.graph.op_outputs(op).into_iter().collect();
        for slot in 0..outputs.len() {
            let _ = self.graph.set_op_output(op, slot, None);
        }
        let new =
            Op::of(OpKind::new("com.microsoft", "DynamicQuantizeLSTM")).named(&old.name).with_attrs(attrs);
        self.graph.add_op(new, &inputs, &outputs, Place::Near(op)).map_err(EmitError::Graph)?;
        let weights = [w, r].map(|plan| self.graph.input(op, plan.slot));
        self.graph.remove_op(op);
        for weight in weights.into_iter().flatten() {
            self.graph.remove_value(weight);
        }
        Ok(())
    }
}

/// A stack of `count` matrices of bytes, each turned from `[rows, columns]` to `[columns, rows]`.
fn turned(
    codes: &Tensor,
    count: usize,
    rows: usize,
    columns: usize,
    dims: &[usize],
) -> Result<Tensor, ir::TensorError> {
    let bytes = codes.bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for matrix in bytes.chunks_exact((rows * columns).max(1)).take(count) {
        for column in 0..columns {
            out.extend(matrix.chunks_exact(columns).map(|row| row[column]));
        }
    }
    Tensor::new(codes.dtype(), dims, out)
}
