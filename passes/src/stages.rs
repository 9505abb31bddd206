//! Cuts a graph into stages that can be run one after the other, each by itself.
//!
//! ```text
//! stops [a], [b]:   x -> f -> a -> g -> b -> h -> y      =>      stage 0: x -> f -> a      stage 1: a -> g -> b
//! ```
//!
//! A stage ends where the values of a stop are computed. What goes from stage to stage are the values that are alive at the
//! cut, in the stable topological order of the graph: at the input of a linear layer of a residual network that is the stream
//! and the input itself, whatever the size of the model. What no stop depends on is in no stage. Only the main graph is cut;
//! bodies of control flow go with their operator, constants with their readers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ir::{Graph, GraphError, Model, OpId, Role, ValueId};

/// A piece of the main graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The operators, in order.
    pub ops: Vec<OpId>,
    /// Values that the stage reads: inputs of the model, and outputs of earlier stages.
    pub inputs: Vec<ValueId>,
    /// Values of this stage that later stages read or its stop wants.
    pub outputs: Vec<ValueId>,
    /// Values that no later stage reads and no later stop wants: those of the stop itself among them.
    pub last_use: Vec<ValueId>,
}

/// Where each computed value of the main graph stands in its order; values that are not computed stand before all.
pub struct Positions {
    order: Vec<OpId>,
    of: HashMap<ValueId, usize>,
}

impl Positions {
    /// Of the model's main graph.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(model: &Model) -> Result<Positions, GraphError> {
        let graph = model.main();
        let order = graph.schedule()?;
        let mut of = HashMap::new();
        for (at, &op) in order.iter().enumerate() {
            for output in graph.op_outputs(op).into_iter().flatten() {
                of.insert(output, at + 1);
            }
        }
        Ok(Positions { order, of })
    }

    /// How many operators must have run before the value is there.
    pub fn of(&self, value: ValueId) -> usize {
        self.of.get(&value).copied().unwrap_or(0)
    }
}

/// Everything that an operator reads and that is not constant, bodies included.
fn reads(graph: &Graph, op: OpId) -> impl Iterator<Item = ValueId> + '_ {
    let captured = graph.captures(op).into_iter().map(|(_, _, outer)| outer);
    let inputs = graph.op_inputs(op).into_iter().flatten();
    inputs.chain(captured).filter(|&value| graph.value(value).role() != Role::Initializer)
}

/// One stage for each stop. Stops are ordered by where their last value stands.
pub fn cut(model: &Model, positions: &Positions, stops: &[Vec<ValueId>]) -> Vec<Stage> {
    let graph = model.main();
    let needed = ancestors(graph, stops.iter().flatten().copied());
    // The last stage that wants each value.
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut stages = Vec::new();
    let mut begin = 0;
    for (at, stop) in stops.iter().enumerate() {
        let end = stop.iter().map(|&value| positions.of(value)).max().unwrap_or(0).max(begin);
        let ops: Vec<OpId> =
            positions.order[begin..end].iter().copied().filter(|op| needed.contains(op)).collect();
        let made: BTreeSet<ValueId> = ops.iter().flat_map(|&op| graph.op_outputs(op)).flatten().collect();
        let inputs: BTreeSet<ValueId> =
            ops.iter().flat_map(|&op| reads(graph, op)).filter(|value| !made.contains(value)).collect();
        for &value in inputs.iter().chain(stop) {
            last.insert(value, at);
        }
        stages.push((ops, inputs, made));
        begin = end;
    }
    let cut = stages.into_iter().enumerate().map(|(at, (ops, inputs, made))| Stage {
        ops,
        inputs: inputs.into_iter().collect(),
        outputs: made.into_iter().filter(|value| last.contains_key(value)).collect(),
        last_use: last.iter().filter(|(_, stage)| **stage == at).map(|(value, _)| *value).collect(),
    });
    cut.collect()
}

/// The operators that some of the values depend on.
fn ancestors(graph: &Graph, values: impl Iterator<Item = ValueId>) -> HashSet<OpId> {
    let mut found = HashSet::new();
    let mut open: Vec<ValueId> = values.collect();
    while let Some(value) = open.pop() {
        if let Some((op, _)) = graph.producer(value)
            && found.insert(op)
        {
            open.extend(reads(graph, op));
        }
    }
    found
}

/// The stage as a model of its own. Its inputs and outputs have the names and ids of its operators, values and constants are
/// those of the model.
pub fn extract(model: &Model, stage: &Stage) -> Model {
    let mut part = model.clone();
    let graph = part.main_mut();
    let kept: HashSet<OpId> = stage.ops.iter().copied().collect();
    while let Some(at) = graph.outputs().len().checked_sub(1) {
        graph.remove_output(at);
    }
    for op in graph.ops().into_iter().rev().filter(|op| !kept.contains(op)) {
        graph.remove_op(op);
    }
    for &value in &stage.inputs {
        if graph.value(value).role() != Role::Computed {
            continue;
        }
        let (name, ty) = (graph.value(value).name().to_string(), graph.value(value).ty.clone());
        let spare = graph.fresh_name(&name);
        graph.rename(value, &spare).expect("the name is fresh");
        let input = graph.add_input(&name, ty).expect("the name was just freed");
        graph.replace_uses(value, input);
    }
    for &value in &stage.outputs {
        graph.add_output(value);
    }
    for value in graph.values().collect::<Vec<_>>() {
        match graph.value(value).role() {
            Role::Input => graph.remove_input(value),
            _ => graph.remove_value(value),
        };
    }
    part.settle();
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        ir::text::parse(
            r#"<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> {
  s = Neg(x)
  a = Mul(s, c)
  p = Exp(a)
  b = Add(p, s)
  unused = Relu(b)
  y = Sqrt(b)
}"#,
        )
        .unwrap_or_else(|e| panic!("{e}"))
    }

    fn names(model: &Model, values: &[ValueId]) -> Vec<String> {
        values.iter().map(|&value| model.main().value(value).name().to_string()).collect()
    }

    #[test]
    fn live_values_go_from_stage_to_stage() {
        let model = model();
        let find = |name: &str| model.main().find(name).unwrap();
        let positions = Positions::new(&model).unwrap();
        let stages = cut(&model, &positions, &[vec![find("a")], vec![find("b")]]);
        assert_eq!(names(&model, &stages[0].inputs), ["x"]);
        assert_eq!(names(&model, &stages[0].outputs), ["s", "a"]);
        assert_eq!(names(&model, &stages[0].last_use), ["x"]);
        assert_eq!(names(&model, &stages[1].inputs), ["s", "a"]);
        assert_eq!(names(&model, &stages[1].outputs), ["b"]);
        assert_eq!(stages[1].ops.len(), 2, "what no stop needs is left out");
        let part = extract(&model, &stages[1]);
        assert!(ir::verify(&part).is_ok());
        let main = part.main();
        assert_eq!(names(&part, main.inputs()), ["s", "a"]);
        assert_eq!(names(&part, main.outputs()), ["b"]);
        assert!(main.find("c").is_none());
        let first = extract(&model, &stages[0]);
        assert_eq!(names(&first, first.main().inputs()), ["x"]);
        assert!(first.main().find("c").is_some());
    }

    #[test]
    fn a_stop_that_is_there_already_makes_an_empty_stage() {
        let model = model();
        let find = |name: &str| model.main().find(name).unwrap();
        let positions = Positions::new(&model).unwrap();
        let stages = cut(&model, &positions, &[vec![find("a")], vec![find("s"), find("a")]]);
        assert!(stages[1].ops.is_empty() && stages[1].outputs.is_empty());
        assert_eq!(names(&model, &stages[1].last_use), ["s", "a"]);
    }
}
