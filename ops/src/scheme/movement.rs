//! Operators that only move elements or pick among them: one scale serves input and output.

use ir::{Graph, OpId};

use super::{Role, Rule, Scheme, SchemeCx, Work};

pub(super) const RULES: &[Rule] = &[
    ("", "Reshape", moves),
    ("", "Flatten", moves),
    ("", "Transpose", moves),
    ("", "Squeeze", moves),
    ("", "Unsqueeze", moves),
    ("", "Identity", moves),
    ("", "Expand", moves),
    ("", "Tile", moves),
    ("", "Slice", moves),
    ("", "Gather", gather),
    ("", "GatherElements", moves),
    ("", "GatherND", moves),
    ("", "DepthToSpace", moves),
    ("", "SpaceToDepth", moves),
    ("", "Split", split),
    ("", "MaxPool", moves),
    ("", "GlobalMaxPool", moves),
    ("", "ReduceMax", moves),
    ("", "ReduceMin", moves),
    ("", "TopK", moves),
    ("", "Resize", resize),
    ("", "Upsample", resize),
    ("", "Pad", pad),
    ("", "Concat", concat),
    ("", "Max", merge),
    ("", "Min", merge),
    ("", "Where", choose),
    ("", "ArgMax", picks),
    ("", "ArgMin", picks),
];

fn moves(_: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Movement, vec![Role::Data], vec![Role::Moves(0)]))
}

/// Rows of a constant table are an embedding: its codes are gathered and scaled row by row.
fn gather(cx: SchemeCx<'_>) -> Option<Scheme> {
    let table = cx.is_constant(0) && cx.op().attrs.int("axis").unwrap_or(0) == 0;
    match cx.rank(0) {
        Some(rank) if table && rank >= 2 => {
            let weight = Role::Weight { channel: Some(0), depth: Some(rank - 1) };
            Some(Scheme::new(Work::Lookup, vec![weight], vec![]))
        }
        _ => moves(cx),
    }
}

fn split(cx: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Movement, vec![Role::Data], vec![Role::Moves(0); cx.output_count()]))
}

/// Nearest picks elements; linear and cubic compute new ones.
fn resize(cx: SchemeCx<'_>) -> Option<Scheme> {
    match cx.op().attrs.str("mode").unwrap_or("nearest") {
        "nearest" => moves(cx),
        _ => Some(Scheme::new(Work::Arithmetic, vec![Role::Data], vec![Role::Data])),
    }
}

/// Every mode but `constant` repeats elements; a constant of zero is exact on every grid.
fn pad(cx: SchemeCx<'_>) -> Option<Scheme> {
    let repeats = matches!(cx.op().attrs.str("mode"), Some("reflect" | "edge" | "wrap"));
    let zero = match cx.input(2) {
        None => cx.op().attrs.float("value").unwrap_or(0.0) == 0.0,
        Some(value) => {
            cx.graph.constant(value).is_some_and(|tensor| tensor.bytes().iter().all(|&byte| byte == 0))
        }
    };
    if repeats || zero { moves(cx) } else { None }
}

/// Every input may keep a scale of its own (the kernel rescales), so the output is not said to move one of them; a
/// target that wants one scale for all unifies them.
fn concat(cx: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Movement, vec![Role::Data; cx.input_count()], vec![Role::Data]))
}

/// The axis along which the operator puts its inputs one behind the other, each once and unchanged; none for every other
/// operator. What is known of the elements of the inputs is then known of the output's.
pub fn joins_along(graph: &Graph, op: OpId) -> Option<usize> {
    let node = graph.op(op);
    if !node.kind.is("Concat") {
        return None;
    }
    let output = graph.op_outputs(op).first().copied().flatten()?;
    let rank = i64::try_from(graph.value(output).shape()?.dims.len()).ok()?;
    let axis = node.attrs.int("axis").unwrap_or(1);
    let axis = if axis < 0 { axis + rank } else { axis };
    usize::try_from(axis).ok().filter(|_| axis < rank)
}

fn merge(cx: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Arithmetic, vec![Role::Data; cx.input_count()], vec![Role::Data]))
}

fn choose(_: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Movement, vec![Role::Keep, Role::Data, Role::Data], vec![Role::Data]))
}

/// The answer is an index: any scale gives the same.
fn picks(_: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Movement, vec![Role::Data], vec![Role::Keep]))
}
