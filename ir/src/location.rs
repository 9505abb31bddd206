//! A place in a model, as errors and reports cite it.
//!
//! `in graph "main", input 1 of "conv2" (Conv), value "w_t", produced by "dyn_w" (Transpose)`
//!
//! It is made of names, so it outlives the pass, and is cheap enough to be made for every refusal.

use std::fmt;
use std::sync::Arc;

use crate::{Graph, GraphId, Model, OpId, ValueId};

/// What of an operator is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Input slot, from 0.
    Input(usize),
    /// Output slot, from 0.
    Output(usize),
    /// The attribute of this name.
    Attr(Arc<str>),
}

/// A place in a model: a graph, and in it an operator, a part of it, or a value. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The graph: its name in quotes, or the way to it from the main graph; see [`Location::within`].
    pub graph: Option<Box<str>>,
    /// The operator: `"name" (Kind)`.
    pub op: Option<Box<str>>,
    /// The part of the operator.
    pub part: Option<Part>,
    /// The value's name.
    pub value: Option<Arc<str>>,
    /// The operator that produces the value.
    pub producer: Option<Box<str>>,
}

impl Location {
    /// A graph.
    pub fn graph(graph: &Graph) -> Location {
        Location { graph: Some(format!("{:?}", graph.name).into()), ..Location::default() }
    }

    /// An operator.
    pub fn op(graph: &Graph, op: OpId) -> Location {
        Location { op: Some(cite(graph, op)), ..Location::graph(graph) }
    }

    /// An input slot of an operator, with the value there and what produces it.
    pub fn input(graph: &Graph, op: OpId, at: usize) -> Location {
        let read = graph.input(op, at).map(|value| Location::value(graph, value)).unwrap_or_default();
        Location {
            part: Some(Part::Input(at)),
            value: read.value,
            producer: read.producer,
            ..Location::op(graph, op)
        }
    }

    /// An output slot of an operator, with the value there.
    pub fn output(graph: &Graph, op: OpId, at: usize) -> Location {
        let value = graph.output(op, at).map(|value| graph.value(value).name().clone());
        Location { part: Some(Part::Output(at)), value, ..Location::op(graph, op) }
    }

    /// An attribute of an operator.
    pub fn attr(graph: &Graph, op: OpId, name: &str) -> Location {
        Location { part: Some(Part::Attr(Arc::from(name))), ..Location::op(graph, op) }
    }

    /// A value, with what produces it.
    pub fn value(graph: &Graph, value: ValueId) -> Location {
        let producer = graph.producer(value).map(|(op, _)| cite(graph, op));
        let value = Some(graph.value(value).name().clone());
        Location { value, producer, ..Location::graph(graph) }
    }

    /// The same with the way from the outermost graph instead of the graph's name alone:
    /// `"main" > "if1" (If) > "then"`.
    pub fn within(mut self, model: &Model, id: GraphId) -> Location {
        let mut way = format!("{:?}", model.graph(id).name);
        let mut inner = id;
        for outer in model.surrounding(id) {
            let graph = model.graph(outer);
            let holder = model.graph(inner).parent().filter(|&(_, op)| graph.is_live(op));
            let holder = holder.map_or_else(|| "?".into(), |(_, op)| cite(graph, op));
            way = format!("{:?} > {holder} > {way}", graph.name);
            inner = outer;
        }
        self.graph = Some(way.into());
        self
    }
}

/// `"name" (Kind)`; an operator without a name is known by what it writes: `Kind -> "value"`.
fn cite(graph: &Graph, id: OpId) -> Box<str> {
    let op = graph.op(id);
    let first = graph.op_outputs(id).into_iter().flatten().next();
    match first {
        Some(output) if op.name.is_empty() => format!("{op} -> {:?}", graph.value(output).name()).into(),
        _ => op.to_string().into(),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(graph) = &self.graph {
            parts.push(format!("in graph {graph}"));
        }
        match (&self.part, &self.op) {
            (Some(Part::Input(at)), Some(op)) => parts.push(format!("input {at} of {op}")),
            (Some(Part::Output(at)), Some(op)) => parts.push(format!("output {at} of {op}")),
            (Some(Part::Attr(name)), Some(op)) => parts.push(format!("attribute {name:?} of {op}")),
            (_, Some(op)) => parts.push(format!("at {op}")),
            (_, None) => {}
        }
        if let Some(value) = &self.value {
            parts.push(format!("value {value:?}"));
        }
        if let Some(producer) = &self.producer {
            parts.push(format!("produced by {producer}"));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Place};

    fn model() -> (Model, GraphId) {
        let mut main = Graph::new("main");
        let x = main.add_input("x", None).unwrap();
        let w = main.add_computed("w_t", None).unwrap();
        main.add_op(Op::new("Transpose").named("dyn_w"), &[Some(x)], &[Some(w)], Place::End).unwrap();
        let y = main.add_computed("y", None).unwrap();
        let op = Op::new("Conv").named("conv2").with("group", 1);
        main.add_op(op, &[Some(x), Some(w), None], &[Some(y)], Place::End).unwrap();
        let mut model = Model::new(10, 21, main);
        let body = model.reserve_graph();
        let branch = Op::new("If").with("then_branch", body);
        let z = model.main_mut().new_value("z", None);
        let branch = model.main_mut().add_op(branch, &[Some(y)], &[Some(z)], Place::End).unwrap();
        model.put_graph(body, Graph::new("then"), Some((model.main_id(), branch)));
        (model, body)
    }

    #[test]
    fn every_kind_of_place_reads_well() {
        let (model, body) = model();
        let main = model.main();
        let [transpose, conv, branch] = main.ops()[..] else { panic!() };
        let text = |location: Location| location.to_string();
        assert_eq!(text(Location::default()), "");
        assert_eq!(text(Location::graph(main)), "in graph \"main\"");
        assert_eq!(text(Location::op(main, conv)), "in graph \"main\", at \"conv2\" (Conv)");
        assert_eq!(text(Location::op(main, branch)), "in graph \"main\", at If -> \"z\"");
        assert_eq!(
            text(Location::input(main, conv, 1)),
            "in graph \"main\", input 1 of \"conv2\" (Conv), value \"w_t\", produced by \"dyn_w\" (Transpose)"
        );
        assert_eq!(text(Location::input(main, conv, 2)), "in graph \"main\", input 2 of \"conv2\" (Conv)");
        assert_eq!(
            text(Location::output(main, transpose, 0)),
            "in graph \"main\", output 0 of \"dyn_w\" (Transpose), value \"w_t\""
        );
        assert_eq!(
            text(Location::attr(main, conv, "group")),
            "in graph \"main\", attribute \"group\" of \"conv2\" (Conv)"
        );
        let x = main.inputs()[0];
        assert_eq!(text(Location::value(main, x)), "in graph \"main\", value \"x\"");
        let inner = Location::graph(model.graph(body)).within(&model, body);
        assert_eq!(text(inner), "in graph \"main\" > If -> \"z\" > \"then\"");
        let outer = Location::graph(main).within(&model, model.main_id());
        assert_eq!(text(outer), "in graph \"main\"");
    }
}
