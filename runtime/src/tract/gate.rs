//! Which operators tract runs itself, which run by their definition inside it, and which it cannot run: never a guess.
//!
//! tract 0.23.9 runs some forms wrong without a word. What the table of [`crate::proof`] knows to be right is left to it;
//! everything else is run by [`super::evaluate`], by the definition in `ops`. What is left is refused: operators without
//! definition, element types that tract has not, sequences, and bodies around what it cannot run.

use ir::{AttrValue, Graph, GraphId, Model, OpId, TypeKind};

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
    if let Some(why) = disputed(graph, op, ir::version(model.opsets_of(id), domain)) {
        return Verdict::Refused(why.into());
    }
    let why = match special(graph, op).map_or_else(|| proven(&form(model, id, op)), Err) {
        Ok(()) => return Verdict::Native,
        Err(why) => why,
    };
    if node.attrs.graphs().next().is_some() {
        return Verdict::Refused(format!("{why}, and it has a body"));
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

/// The operator can be run by its definition, without tract.
pub(super) fn has_definition(model: &Model, id: GraphId, op: OpId) -> bool {
    let graph = model.graph(id);
    let node = graph.op(op);
    let version = ir::version(model.opsets_of(id), node.kind.domain());
    node.kind.domain() != "onnxq"
        && node.attrs.graphs().next().is_none()
        && disputed(graph, op, version).is_none()
        && ops::rule(&node.kind, version).is_ok_and(|rule| rule.evaluates())
}

/// Forms about which the standard and ONNX Runtime differ, or which it leaves open. The definitions in `ops` refuse them, too.
fn disputed(graph: &Graph, id: OpId, version: Option<i64>) -> Option<&'static str> {
    let node = graph.op(id);
    let dtype = graph.input(id, 0).and_then(|value| graph.value(value).dtype());
    let text = |name: &str, default: &'static str| match node.attrs.get(name) {
        Some(AttrValue::String(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => default.to_string(),
    };
    match node.kind.key() {
        ("", "Resize" | "Upsample")
            if text("mode", "nearest") != "nearest" && dtype.is_some_and(|dtype| !dtype.is_float()) =>
        {
            Some("the standard and ONNX Runtime round means of integers differently")
        }
        ("", "Resize")
            if text("coordinate_transformation_mode", "") == "align_corners" && !keeps_corners(graph, id) =>
        {
            Some("the standard and ONNX Runtime align the corners of a fractional size differently")
        }
        ("", "GridSample")
            if text("padding_mode", "zeros") == "border" && text("mode", "").ends_with("cubic") =>
        {
            Some("the standard and ONNX Runtime differ about what lies beyond the border")
        }
        ("", "Dropout")
            if version.is_none_or(|v| v < 12) && graph.op_outputs(id).get(1).is_some_and(Option::is_some) =>
        {
            Some("the standard leaves the mask open")
        }
        _ => None,
    }
}

/// Scales of aligned corners give whole sizes, or sizes are given.
fn keeps_corners(graph: &Graph, id: OpId) -> bool {
    let Some(scales) = graph.input(id, 2) else { return true };
    let Some(scales) = graph.constant(scales).and_then(|tensor| tensor.to_vec::<f32>().ok()) else {
        return false;
    };
    let dims =
        graph.input(id, 0).and_then(|value| graph.value(value).shape()).map(|shape| shape.dims.to_vec());
    scales.iter().enumerate().all(|(axis, &scale)| {
        let size = dims.as_ref().and_then(|dims| dims.get(axis)?.known());
        // As near to a whole number as the definition asks for.
        size.map_or(scale.fract() == 0.0, |size| {
            let scaled = scale * size as f32;
            (scaled - scaled.floor()).abs() <= 1e-4 * scaled
        })
    })
}

/// What no table of forms can say: it depends on more than the form.
pub(super) fn special(graph: &Graph, id: OpId) -> Option<String> {
    let rank = |at| graph.input(id, at).and_then(|v| graph.value(v).shape()).map(|s| s.rank());
    let constant = |at| graph.input(id, at).and_then(|value| graph.constant(value));
    match graph.op(id).kind.key() {
        ("", "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear") => {
            Some("tract miscompiles it around Softmax".into())
        }
        ("", "BitShift") => Some("tract runs it wrong for shifts by the width".into()),
        ("", "CumSum") => Some("tract cannot run it on sizes".into()),
        ("", "MatMul") if rank(0) == Some(1) && rank(1) == Some(1) => {
            Some("tract cannot multiply a vector and a vector".into())
        }
        ("", "GatherND" | "ScatterND") => {
            let indices = constant(1).and_then(|tensor| tensor.to_vec::<i64>().ok());
            let counted = indices.is_some_and(|indices| indices.iter().all(|&index| index >= 0));
            (!counted).then(|| "tract does not count indices from the end".into())
        }
        ("", "Pad") => {
            let given = constant(1).and_then(|tensor| tensor.to_vec::<i64>().ok());
            let cuts = given.is_some_and(|pads| pads.iter().any(|&pad| pad < 0));
            cuts.then(|| "tract does not cut by negative pads".into())
        }
        ("", "LSTM" | "GRU" | "RNN") => {
            let size = |axis: usize| {
                graph.input(id, 0).and_then(|v| graph.value(v).shape()?.dims.get(axis)?.known())
            };
            let first = |at| graph.input(id, at).and_then(|v| graph.value(v).shape()?.dims.get(1)?.known());
            let computed_state = graph.input(id, 5).is_some() && constant(5).is_none();
            // An LSTM of an open batch was right, whatever the length.
            let open_sizes = match size(1) {
                Some(_) => size(0).is_none(),
                None => !graph.op(id).kind.is("LSTM"),
            };
            if graph.input(id, 4).is_some() && constant(4).is_none() {
                Some("tract takes no computed lengths".into())
            } else if graph.input(id, 5).is_none() && first(0) != Some(1) {
                Some("tract takes a state that is left out for one of batch 1".into())
            } else if computed_state && open_sizes {
                Some(
                    "tract was seen to run it wrong for a computed state and sizes that only a run tells"
                        .into(),
                )
            } else {
                None
            }
        }
        _ => None,
    }
}
