//! Writes a lookup in a constant table with the table in 8 bits, a scale for each row.
//!
//! ```text
//! y = Gather(table, i)  =>  y = Cast(Gather(codes, i)) * Gather(scales, i)     scales [rows, 1, …]
//! ```
//!
//! Only the rows that are asked for are dequantized. Targets that fold or compress a dequantized table themselves get a
//! DequantizeLinear of the whole table instead.

use std::collections::BTreeMap;

use ir::{DType, Graph, GraphId, Model, Op, OpId, Place, Tensor, ValueId};

use super::emit_qdq::EmitError;
use super::keys::OpNames;
use super::plan::{QuantPlan, WeightPlan};
use super::weights::{encode, weight_params};

/// The operator reads rows of its first input.
fn is_lookup(graph: &Graph, op: OpId) -> bool {
    ops::scheme(graph, op).is_some_and(|scheme| scheme.work == ops::Work::Lookup)
}

/// Writes every lookup of a graph; returns the keys that are done.
pub(super) fn emit(
    model: &mut Model,
    id: GraphId,
    plan: &QuantPlan,
    ops: &BTreeMap<String, OpId>,
    names: &mut OpNames,
) -> Result<Vec<String>, EmitError> {
    let mut done = Vec::new();
    let mut codes = BTreeMap::new();
    for (key, &op) in ops {
        let graph = model.graph_mut(id);
        let Some([weight]) = plan.weights.get(key).map(Vec::as_slice) else { continue };
        // Zero points of rows would have to be gathered too, and sub-byte codes cannot be.
        let fits = weight.axis == Some(0)
            && weight.block.is_none()
            && weight.grid.symmetric
            && weight.grid.code.bits() == 8;
        if fits && !weight.grid.code.is_float() && is_lookup(graph, op) {
            write(graph, op, weight, &mut codes, names)?;
            done.push(key.clone());
        }
    }
    Ok(done)
}

type Stored = BTreeMap<String, (ValueId, ValueId)>;

fn write(
    graph: &mut Graph,
    op: OpId,
    plan: &WeightPlan,
    stored: &mut Stored,
    names: &mut OpNames,
) -> Result<(), EmitError> {
    let node = graph.op(op).clone();
    let (Some(table), Some(indices), Some(output)) =
        (graph.input(op, 0), graph.input(op, 1), graph.output(op, 0))
    else {
        return Err(EmitError::Missing(node.to_string()));
    };
    let tensor = graph.constant(table).cloned().ok_or_else(|| EmitError::Missing(plan.value.clone()))?;
    let way = format!("{}\n{:?} {:?}", plan.value, plan.grid, plan.scale_factors);
    if !stored.contains_key(&way) {
        let wrong = |source| EmitError::Weight { value: plan.value.clone(), op: node.to_string(), source };
        let (layout, params) = weight_params(&tensor, plan).map_err(wrong)?;
        let codes = encode(&tensor, &layout, params, plan.grid).map_err(wrong)?;
        let mut dims = vec![1; tensor.rank()];
        dims[0] = codes.params.len();
        let scales: Vec<f32> = codes.params.iter().map(|p| p.scale()).collect();
        let scales = Tensor::from_slice(&dims, &scales).map_err(|e| wrong(e.into()))?;
        let pair = (
            graph.new_constant(&format!("{}_quantized", plan.value), codes.tensor),
            graph.new_constant(&format!("{}_scale", plan.value), scales),
        );
        stored.insert(way.clone(), pair);
    }
    let (codes, scales) = stored[&way];
    let name = graph.value(output).name().to_string();
    let _ = graph.set_op_output(op, 0, None);
    let mut step = |graph: &mut Graph, op_: Op, part: &str, inputs: &[ValueId], output: Option<ValueId>| {
        let name = format!("{name}_{part}");
        let output = output.unwrap_or_else(|| graph.new_value(&name, None));
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let new = op_.named(&names.fresh(&name));
        graph.add_op(new, &inputs, &[Some(output)], Place::Near(op)).map(|_| output).map_err(EmitError::Graph)
    };
    let gather = || Op::of(node.kind.clone()).with_attrs(node.attrs.clone());
    let rows = step(graph, gather(), "quantized", &[codes, indices], None)?;
    let factors = step(graph, gather(), "scale", &[scales, indices], None)?;
    let to_float = Op::new("Cast").with("to", i64::from(DType::F32.code()));
    let rows = step(graph, to_float, "float", &[rows], None)?;
    step(graph, Op::new("Mul"), "dequantized", &[rows, factors], Some(output))?;
    graph.remove_op(op);
    graph.remove_value(table);
    Ok(())
}
