//! Removes operators that pass their first input on unchanged.
//!
//! ```text
//! t = Identity(x)
//! u = Reshape(t, {0, 0})    =>   y = Relu(x)
//! y = Relu(u)
//! ```
//!
//! That is: `Identity`; `Dropout` outside training; `Cast` to the type that is there; `Concat`, `Sum`, `Max`, `Min`,
//! `Mean` of one input; `Transpose` that moves nothing; `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Expand`, `Tile`
//! whose result has the input's shape; `Slice` that takes everything; `Pad` by zero; `Split` into one; `Resize` and
//! `Upsample` by one; reductions and global pools over dimensions of size one; windows of one element;
//! `DepthToSpace` in blocks of one; `Clip` without bounds.
//!
//! Shapes agree if every dimension is the same number or the same expression. Declines: a result that is an output of
//! the graph while the input is an input, a constant or another output, because the interface keeps its names; a second
//! output that is read; shapes that are not known well enough.
//!
//! Stands behind `infer_shapes`. Arithmetic without effect is in `eliminate_arithmetic`.

use ir::{DType, Dim, Model, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EliminateIdentity {}

impl Pass for EliminateIdentity {
    fn name(&self) -> &'static str {
        "eliminate_identity"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&NoOp], model, cx)
    }
}

/// Says whether output 0 always equals input 0.
type Check = fn(Scope, OpId) -> Result<(), Skip>;

/// One line an operator.
const CHECKS: &[(OpName, Check)] = &[
    (OpName::onnx("Identity"), always),
    (OpName::onnx("Dropout"), dropout),
    (OpName::onnx("Cast"), cast),
    (OpName::onnx("CastLike"), cast_like),
    (OpName::onnx("Concat"), one_input),
    (OpName::onnx("Sum"), one_input),
    (OpName::onnx("Max"), one_input),
    (OpName::onnx("Min"), one_input),
    (OpName::onnx("Mean"), one_input),
    (OpName::onnx("Transpose"), transpose),
    (OpName::onnx("Reshape"), regroup),
    (OpName::onnx("Flatten"), regroup),
    (OpName::onnx("Squeeze"), regroup),
    (OpName::onnx("Unsqueeze"), regroup),
    (OpName::onnx("Expand"), expand),
    (OpName::onnx("Tile"), tile),
    (OpName::onnx("Slice"), slice),
    (OpName::onnx("Pad"), pad),
    (OpName::onnx("Split"), split),
    (OpName::onnx("Resize"), resize),
    (OpName::onnx("Upsample"), resize),
    (OpName::onnx("ReduceSum"), same),
    (OpName::onnx("ReduceMean"), same),
    (OpName::onnx("ReduceMax"), same),
    (OpName::onnx("ReduceMin"), same),
    (OpName::onnx("ReduceProd"), same),
    (OpName::onnx("GlobalAveragePool"), same),
    (OpName::onnx("GlobalMaxPool"), same),
    (OpName::onnx("AveragePool"), window),
    (OpName::onnx("MaxPool"), window),
    (OpName::onnx("DepthToSpace"), block),
    (OpName::onnx("SpaceToDepth"), block),
    (OpName::onnx("Clip"), unbounded),
];

const ROOTS: &[OpName] = &{
    let mut roots = [OpName::onnx(""); CHECKS.len()];
    let mut at = 0;
    while at < CHECKS.len() {
        roots[at] = CHECKS[at].0;
        at += 1;
    }
    roots
};

struct NoOp;

impl Rule for NoOp {
    fn name(&self) -> &'static str {
        "no_op"
    }

    fn roots(&self) -> &'static [OpName] {
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let key = scope.graph().op(at).kind.key();
        let (_, check) = CHECKS.iter().find(|(op, _)| (op.domain, op.name) == key).or_no_match()?;
        check(scope, at)?;
        let x = scope.input(at, 0).or_no_match()?;
        let outputs = scope.op_outputs(at);
        let y = outputs.first().copied().flatten().or_no_match()?;
        if outputs.iter().skip(1).flatten().any(|&other| scope.is_used(other)) {
            return Err(scope.because(at, "its second output is read"));
        }
        scope.can_redirect(at, y, x)?;
        let mut patch = Patch::default();
        patch.redirect(y, x);
        Ok(patch)
    }
}

fn always(_: Scope, _: OpId) -> Result<(), Skip> {
    Ok(())
}

fn ends(scope: Scope, op: OpId) -> Result<(ValueId, ValueId), Skip> {
    Ok((scope.input(op, 0).or_no_match()?, scope.output(op, 0).or_no_match()?))
}

fn same(scope: Scope, op: OpId) -> Result<(), Skip> {
    let (x, y) = ends(scope, op)?;
    matches(forms::same_shape(scope, x, y))
}

fn dropout(scope: Scope, op: OpId) -> Result<(), Skip> {
    let node = scope.graph().op(op);
    if scope.opset() < 7 && node.attrs.int("is_test").unwrap_or(0) == 0 {
        return Err(scope.because(op, "it is in training mode"));
    }
    let Some(training) = scope.input(op, 2) else { return Ok(()) };
    match scope.constant(training).and_then(numbers::splat) {
        Some(0.0) => Ok(()),
        Some(_) => Err(scope.because(op, "it is in training mode")),
        None => Err(scope.because(op, "whether it is in training mode is not constant")),
    }
}

fn cast(scope: Scope, op: OpId) -> Result<(), Skip> {
    let to = scope.graph().op(op).attrs.int("to").or_no_match()?;
    let to = i32::try_from(to).ok().and_then(DType::from_code).or_no_match()?;
    matches(scope.dtype(scope.input(op, 0).or_no_match()?) == Some(to))
}

fn cast_like(scope: Scope, op: OpId) -> Result<(), Skip> {
    let (x, like) = (scope.input(op, 0).or_no_match()?, scope.input(op, 1).or_no_match()?);
    matches(scope.dtype(x).is_some() && scope.dtype(x) == scope.dtype(like))
}

fn one_input(scope: Scope, op: OpId) -> Result<(), Skip> {
    matches(scope.graph().op(op).input_count() == 1)
}

fn transpose(scope: Scope, op: OpId) -> Result<(), Skip> {
    let perm = forms::permutation(scope, op)?;
    if perm.iter().enumerate().all(|(at, &axis)| at == axis) {
        return Ok(());
    }
    // Dimensions of size one may move as long as the others keep their order and the shape stays.
    let (x, y) = ends(scope, op)?;
    matches(forms::same_shape(scope, x, y))?;
    let shape = scope.shape(x).or_no_match()?;
    let long: Vec<usize> =
        perm.into_iter().filter(|&axis| shape.dims.get(axis).and_then(Dim::known) != Some(1)).collect();
    matches(long.is_sorted())
}

/// The number of elements stays, so one dimension may be unknown as long as it stands in the same place.
fn regroup(scope: Scope, op: OpId) -> Result<(), Skip> {
    let (x, y) = ends(scope, op)?;
    let (from, to) = (scope.shape(x).or_no_match()?, scope.shape(y).or_no_match()?);
    matches(from.rank() == to.rank())?;
    let pairs = || from.dims.iter().zip(&to.dims);
    let unlike = pairs().filter(|(a, b)| a != b || **a == Dim::Unknown).count();
    if unlike == 0 {
        return Ok(());
    }
    let open = |dim: &Dim| dim.known().is_none();
    let only_one = unlike == 1
        && pairs().all(|(a, b)| (a == b && !open(a) && a.known() != Some(0)) || (open(a) && open(b)))
        && pairs().filter(|(a, _)| open(a)).count() == 1;
    match only_one {
        true => Ok(()),
        false => Err(Skip::NoMatch),
    }
}

fn expand(scope: Scope, op: OpId) -> Result<(), Skip> {
    let (x, y) = ends(scope, op)?;
    if forms::same_shape(scope, x, y) {
        return Ok(());
    }
    let target = forms::ints(scope, op, "shape", 1).map_err(|_| Skip::NoMatch)?.or_no_match()?;
    matches(scope.rank(x).is_some_and(|rank| target.len() <= rank) && target.iter().all(|&size| size == 1))
}

fn tile(scope: Scope, op: OpId) -> Result<(), Skip> {
    let repeats = forms::ints(scope, op, "repeats", 1).map_err(|_| Skip::NoMatch)?.or_no_match()?;
    matches(repeats.iter().all(|&times| times == 1))
}

fn slice(scope: Scope, op: OpId) -> Result<(), Skip> {
    let (x, y) = ends(scope, op)?;
    let steps = forms::ints(scope, op, "steps", 4)?;
    matches(steps.iter().flatten().all(|&step| step > 0))?;
    if forms::same_shape(scope, x, y) {
        return Ok(());
    }
    let slice = forms::Slice::of(scope, op).map_err(|_| Skip::NoMatch)?;
    // What lies behind every possible index means: to the end.
    let whole =
        |at: usize| slice.starts[at] == 0 && slice.ends[at] >= i64::from(i32::MAX) && slice.steps[at] == 1;
    matches((0..slice.starts.len()).all(whole))
}

fn pad(scope: Scope, op: OpId) -> Result<(), Skip> {
    let pad = forms::Pad::of(scope, op).or_else(|skip| match zero_pads(scope, op) {
        true => Ok(forms::Pad { before: vec![], behind: vec![], mode: String::new(), value: None }),
        false => Err(skip),
    })?;
    matches(pad.before.iter().chain(&pad.behind).all(|&amount| amount == 0))
}

/// Pads that are all zero do nothing whatever the axes and the value are.
fn zero_pads(scope: Scope, op: OpId) -> bool {
    matches!(forms::ints(scope, op, "pads", 1), Ok(Some(pads)) if pads.iter().all(|&amount| amount == 0))
}

fn split(scope: Scope, op: OpId) -> Result<(), Skip> {
    matches(scope.graph().op(op).output_count() == 1)?;
    same(scope, op)
}

fn resize(scope: Scope, op: OpId) -> Result<(), Skip> {
    let node = scope.graph().op(op);
    let mode = node.attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel");
    matches(mode != "tf_crop_and_resize")?;
    let (x, y) = ends(scope, op)?;
    // By sizes, the same shape means a factor of one. By factors, 1.05 may leave a small shape as it is.
    let by_sizes = node.kind.is("Resize") && scope.input(op, 3).is_some();
    if by_sizes {
        return matches(forms::same_shape(scope, x, y));
    }
    let at = if node.kind.is("Upsample") || scope.opset() < 11 { 1 } else { 2 };
    let attr = node.attrs.floats("scales").map(|scales| scales.iter().all(|&scale| scale == 1.0));
    let ones = || {
        scope.constant_input(op, at).and_then(numbers::floats).map(|s| s.iter().all(|&scale| scale == 1.0))
    };
    matches(attr.or_else(ones).unwrap_or(false))
}

fn window(scope: Scope, op: OpId) -> Result<(), Skip> {
    let attrs = &scope.graph().op(op).attrs;
    let all = |name: &str, value: i64| attrs.ints(name).is_none_or(|found| found.iter().all(|&v| v == value));
    matches(
        attrs.ints("kernel_shape").is_some() && all("kernel_shape", 1) && all("strides", 1) && all("pads", 0),
    )
}

fn block(scope: Scope, op: OpId) -> Result<(), Skip> {
    matches(scope.graph().op(op).attrs.int("blocksize") == Some(1))
}

fn unbounded(scope: Scope, op: OpId) -> Result<(), Skip> {
    let attrs = &scope.graph().op(op).attrs;
    let attr = attrs.get("min").is_none() && attrs.get("max").is_none();
    matches(attr && scope.input(op, 1).is_none() && scope.input(op, 2).is_none())
}
