//! Which operators tract runs itself, which run by their definition inside it, and which it cannot run: never a guess.
//!
//! tract 0.23.9 runs some forms wrong without a word. What the table of [`crate::proof`] knows to be right is left to it;
//! everything else is run by [`super::evaluate`], by the definition in `ops`. What is left is refused: operators without
//! definition, element types that tract has not, sequences, and bodies around what it cannot run.

use ir::{Graph, GraphId, Model, OpId, TypeKind};

use super::convert::datum_type;
use crate::Unsupported;
use crate::proof::{form, proven};

/// Operators of our own that tract was given.
const OWN: &[&str] = &["FakeQuant", "Evaluate", "Barrier"];

/// Operators with bodies: what is inside is judged by itself.
const BODIES: &[&str] = &["If", "Scan"];

/// What becomes of an operator.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// tract runs it.
    Native,
    /// Its definition runs, and why.
    Defined(String),
    /// It cannot be run, and why.
    Refused(String),
}

/// The operators that are not tract's own business.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) defined: Vec<(GraphId, OpId)>,
    pub(super) remarks: Vec<Unsupported>,
    pub(super) refused: Vec<Unsupported>,
}

/// Judges every operator of the model.
pub(super) fn judge(model: &Model) -> Judgement {
    let mut found = Judgement::default();
    for id in model.graph_ids() {
        let graph = model.graph(id);
        for op in graph.ops() {
            let item = |why| Unsupported { op: graph.op(op).to_string(), why };
            match verdict(model, id, op) {
                Verdict::Native => {}
                Verdict::Defined(why) => {
                    found.defined.push((id, op));
                    found.remarks.push(item(why));
                }
                Verdict::Refused(why) => found.refused.push(item(why)),
            }
        }
    }
    if !model.functions.is_empty() {
        found.refused.push(Unsupported { op: "model".into(), why: "local functions".into() });
    }
    found
}

pub(super) fn verdict(model: &Model, id: GraphId, op: OpId) -> Verdict {
    let graph = model.graph(id);
    let node = graph.op(op);
    let (domain, name) = node.kind.key();
    if let Some(why) = foreign_type(graph, op) {
        return Verdict::Refused(why);
    }
    if domain == "onnxq" && OWN.contains(&name) || domain.is_empty() && BODIES.contains(&name) {
        return Verdict::Native;
    }
    let why = match special(graph, op).map_or_else(|| proven(&form(model, id, op)), Err) {
        Ok(()) => return Verdict::Native,
        Err(why) => why,
    };
    if node.attrs.graphs().next().is_some() {
        return Verdict::Refused(format!("{why}, and it has a body"));
    }
    if let Some(missing) = undefined(graph, op) {
        return Verdict::Refused(format!("{why}, and {missing}"));
    }
    match ops::rule(&node.kind, ir::version(model.opsets_of(id), domain)) {
        Ok(rule) if rule.evaluates() => Verdict::Defined(why),
        Ok(_) => Verdict::Refused(format!("{why}, and it has no definition here")),
        Err(missing) => Verdict::Refused(format!("{why}; {missing}")),
    }
}

/// A value of a kind that tract has not.
fn foreign_type(graph: &Graph, op: OpId) -> Option<String> {
    let slots = graph.op_inputs(op).into_iter().chain(graph.op_outputs(op)).flatten();
    slots.map(|value| graph.value(value)).find_map(|value| {
        let ty = value.ty.as_ref()?;
        match (&ty.kind, value.dtype()) {
            (TypeKind::Tensor(_), Some(dtype)) => {
                datum_type(dtype).is_none().then(|| format!("{dtype} elements"))
            }
            (TypeKind::Tensor(_) | TypeKind::None, _) => None,
            _ => Some("values that are no tensors".into()),
        }
    })
}

/// Forms that the definitions in `ops` refuse.
fn undefined(graph: &Graph, id: OpId) -> Option<&'static str> {
    let dtype = graph.input(id, 0).and_then(|value| graph.value(value).dtype());
    match graph.op(id).kind.key() {
        ("", "Resize" | "Upsample") if dtype.is_some_and(|dtype| !dtype.is_float()) => {
            Some("its definition here is of floats")
        }
        _ => None,
    }
}

/// What no table of forms can say: it depends on more than the form.
pub(super) fn special(graph: &Graph, id: OpId) -> Option<String> {
    let rank = |at| graph.input(id, at).and_then(|v| graph.value(v).shape()).map(|s| s.rank());
    match graph.op(id).kind.key() {
        ("", "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear") => {
            Some("tract miscompiles it around Softmax".into())
        }
        ("", "BitShift") => Some("tract runs it wrong for shifts by the width".into()),
        ("", "CumSum") => Some("tract cannot run it on sizes".into()),
        ("", "MatMul") if rank(0) == Some(1) && rank(1) == Some(1) => {
            Some("tract cannot multiply a vector and a vector".into())
        }
        _ => None,
    }
}
