//! The function of one number that stands behind a value, where nothing else reads it.
//!
//! `x -> Sigmoid -> s; x, s -> Mul -> y` is a SiLU of x: what rounding x costs shows at y. Found for any operators that work
//! element by element on `x` and on constants of one element, whatever their names, up to the first value through which
//! everything leaves; the operators' own evaluators make the table.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, Model, OpId, Tensor, ValueId};
use ops::eval::{Budget, eval_op};
use ops::{Value, is_pointwise};
use quant::range::after::Table;

/// Most operators of a function: a Gelu that is written out has five.
const MOST: usize = 8;
/// Points of the table: sixteen to a step of 8 bits.
const POINTS: usize = 4096;

/// The operators between a value and the one through which everything computed from it leaves, in order.
#[derive(Debug, Clone, PartialEq)]
struct Cone {
    ops: Vec<OpId>,
    exit: ValueId,
}

fn cone(graph: &Graph, order: &BTreeMap<OpId, usize>, value: ValueId) -> Option<Cone> {
    let scalar = |v: ValueId| graph.constant(v).is_some_and(|tensor| tensor.elements() == 1);
    let mut inside = BTreeSet::from([value]);
    let mut ops: Vec<OpId> = Vec::new();
    // What reads the values so far and is not in, in the order of execution.
    let mut open: BTreeSet<(usize, OpId)> = BTreeSet::new();
    let widen = |open: &mut BTreeSet<(usize, OpId)>, v: ValueId| -> Option<()> {
        if graph.is_output(v) {
            return None;
        }
        for reader in graph.uses(v) {
            open.insert((*order.get(&reader.op)?, reader.op));
        }
        Some(())
    };
    widen(&mut open, value)?;
    while let Some((_, op)) = open.pop_first() {
        let outputs: Vec<ValueId> = graph.op_outputs(op).into_iter().flatten().collect();
        let fits = is_pointwise(graph.op(op))
            && graph.op_inputs(op).into_iter().flatten().all(|v| inside.contains(&v) || scalar(v));
        let [output] = outputs[..] else { return None };
        if !fits || ops.len() == MOST {
            return None;
        }
        ops.push(op);
        if open.is_empty() {
            return Some(Cone { ops, exit: output });
        }
        inside.insert(output);
        widen(&mut open, output)?;
    }
    None
}

/// The functions behind the values of these names, those that have one.
pub(super) struct Functions<'a> {
    model: &'a Model,
    order: BTreeMap<OpId, usize>,
}

impl<'a> Functions<'a> {
    pub(super) fn of(model: &'a Model) -> Functions<'a> {
        let graph = model.main();
        let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
        Functions { model, order: schedule.into_iter().enumerate().map(|(at, op)| (op, at)).collect() }
    }

    /// The function behind the value, over an interval. None where there is none, where it is a straight line through the
    /// interval (rounding before it costs what it costs), or where an operator has no evaluator.
    pub(super) fn behind(&self, name: &str, (lo, hi): (f32, f32)) -> Option<Table> {
        let graph = self.model.main();
        let value = graph.find(name)?;
        let cone = cone(graph, &self.order, value)?;
        let points = Table::points(lo, hi, POINTS);
        let mut known: BTreeMap<ValueId, Value> = BTreeMap::new();
        known.insert(value, Value::Tensor(Tensor::from_slice(&[points.len()], &points).ok()?));
        for &op in &cone.ops {
            let given = |v: Option<ValueId>| {
                v.and_then(|v| {
                    known.get(&v).cloned().or_else(|| graph.constant(v).cloned().map(Value::Tensor))
                })
            };
            let inputs: Vec<Option<Value>> = graph.op_inputs(op).into_iter().map(given).collect();
            let budget = Budget::new(1 << 24, 100);
            let id = self.model.main_id();
            let outputs = eval_op(self.model, id, op, &inputs, &|_| None, &budget).ok()?;
            known.insert(graph.output(op, 0)?, outputs.into_iter().next()?);
        }
        let behind = known.remove(&cone.exit)?;
        let values = behind.as_tensor()?.to_vec::<f32>().ok().filter(|v| v.len() == points.len())?;
        if is_line(&values) {
            return None;
        }
        Table::new(lo, hi, &values)
    }
}

/// The points lie on a straight line, to a thousandth of their spread.
fn is_line(values: &[f32]) -> bool {
    let (Some(&first), Some(&last)) = (values.first(), values.last()) else { return true };
    let (low, high) = quant::quantize::min_max(values);
    let slope = (last - first) / (values.len().max(2) - 1) as f32;
    let near = |(at, v): (usize, &f32)| (first + slope * at as f32 - v).abs() <= 1e-3 * (high - low);
    values.iter().enumerate().all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(body: &str, value: &str) -> Option<Table> {
        let text = format!("<ir_version: 10, opset_import: [\"\": 20]>\n{body}");
        let model = ir::text::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        Functions::of(&model).behind(value, (-8.0, 8.0))
    }

    const HEAD: &str =
        "g (float[4] a) => (float[4] z) <float k = {3.0}, float low = {0.0}, float six = {6.0},
        float[4] each = {1, 2, 3, 4}>";

    #[test]
    fn a_silu_and_a_hard_swish_in_parts_are_functions() {
        let silu =
            behind(&format!("{HEAD} {{ x = Neg(a) s = Sigmoid(x) y = Mul(x, s) z = Softmax(y) }}"), "x");
        // Points 1/256 apart: a chord of SiLU is off by less than 1e-5.
        assert!((silu.unwrap().at(1.0) - 0.731_058_58).abs() < 1e-5);
        let parts =
            "x = Neg(a) b = Add(x, k) c = Clip(b, low, six) d = Div(c, six) y = Mul(d, x) z = Softmax(y)";
        let swish = behind(&format!("{HEAD} {{ {parts} }}"), "x").unwrap();
        assert!(swish.at(-4.0).abs() < 1e-6 && (swish.at(1.0) - 4.0 / 6.0).abs() < 1e-5);
    }

    #[test]
    fn other_readers_other_operands_and_lines_are_declined() {
        for (body, why) in [
            ("x = Neg(a) s = Sigmoid(x) w = Softmax(x) z = Add(s, w)", "another reader"),
            ("x = Neg(a) y = Mul(x, each) z = Softmax(y)", "a constant of many elements"),
            ("x = Neg(a) y = Mul(x, k) z = Softmax(y)", "a line"),
            ("z = Sigmoid(a) x = Neg(z)", "nothing reads it"),
        ] {
            assert!(behind(&format!("{HEAD} {{ {body} }}"), "x").is_none(), "{why}");
        }
        assert!(behind(&format!("{HEAD} {{ x = Neg(a) z = Sigmoid(x) }}"), "z").is_none(), "an output");
        assert!(behind(&format!("{HEAD} {{ z = Softmax(a) }}"), "nowhere").is_none());
    }
}
