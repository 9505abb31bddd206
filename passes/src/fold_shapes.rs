//! Computes with sizes: makes constants of values that depend on shapes only, as far as the shapes are known.
//!
//! ```text
//! (float[batch, 12, 64] x)
//! s = Shape(x)
//! b = Gather(s, 0)                =>   y = Reshape(x, {0, -1})
//! t = Concat(b, 768)
//! y = Reshape(x, t)
//! ```
//!
//! - `known`: a value whose contents follow from sizes that are numbers becomes a constant.
//! - `reshape_target`: the target of a `Reshape` of which all but one entry is a number, or the same size as that
//!   dimension of the input, becomes a constant with 0 (copy) and -1 (the rest).
//! - `same_size`: of several values that hold the same expressions of sizes, the first replaces the others, although
//!   they were read off different tensors.
//!
//! Nothing here reads elements of data: a constant behind a quantization operator stays, and so does everything
//! behind it except its shape.
//!
//! Declines: a `-1` beside copied dimensions cannot be told apart when one of those is zero in some run, which
//! `assume_nonempty=false` takes into account; element types other than integers and those that the rules found
//! constant.
//!
//! Stands behind `infer_shapes`; what fed the folded values falls to `eliminate_dead`.

use std::collections::{HashMap, HashSet};

use ir::{DType, Dim, GraphId, Model, OpId, Tensor, ValueId};
use ops::infer::{CONTENTS_LIMIT, Inferred, Known, infer_model};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Patch, Scope, schedule};
use crate::fold_constants::is_foldable;
use crate::numbers;

/// Options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FoldShapes {
    /// Dimensions with a name are never zero in a run.
    assume_nonempty: bool,
}

impl Default for FoldShapes {
    fn default() -> FoldShapes {
        FoldShapes { assume_nonempty: true }
    }
}

impl Pass for FoldShapes {
    fn name(&self) -> &'static str {
        "fold_shapes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let inferred = infer_model(model, &ops::infer::Options::default());
        let mut changes = Changes::default();
        for graph in model.graph_ids() {
            let schedule = schedule(self.name(), model, graph)?;
            let mut fold =
                Fold { pass: self, graph, inferred: &inferred, opaque: HashSet::new(), seen: HashMap::new() };
            for op in schedule {
                fold.op(model, op, cx, &mut changes);
            }
        }
        model.settle();
        Ok(changes)
    }
}

type Contents = (DType, Vec<usize>, Vec<Dim>);

struct Fold<'a> {
    pass: &'a FoldShapes,
    graph: GraphId,
    inferred: &'a Inferred,
    /// Values that hold what a quantization operator wrote.
    opaque: HashSet<ValueId>,
    seen: HashMap<Contents, ValueId>,
}

impl Fold<'_> {
    fn op(&mut self, model: &mut Model, op: OpId, cx: &mut Cx, changes: &mut Changes) {
        let scope = Scope { model, id: self.graph };
        if !scope.is_live(op) {
            return;
        }
        let node = scope.graph().op(op);
        let sizes_only = node.kind.is("Shape") || node.kind.is("Size");
        let reads_opaque = scope.op_inputs(op).iter().flatten().any(|v| self.opaque.contains(v));
        if !is_foldable(node) || (reads_opaque && !sizes_only) {
            self.opaque.extend(scope.op_outputs(op).into_iter().flatten());
            return;
        }
        let reshape = node.kind.is("Reshape");
        for value in scope.op_outputs(op).into_iter().flatten() {
            self.value(model, op, value, cx, changes);
        }
        if reshape && model.graph(self.graph).is_live(op) {
            self.reshape(model, op, cx, changes);
        }
    }

    fn value(&mut self, model: &mut Model, op: OpId, value: ValueId, cx: &mut Cx, changes: &mut Changes) {
        let scope = Scope { model, id: self.graph };
        if !scope.is_live(op) || !scope.is_live_value(value) || !scope.is_used(value) {
            return;
        }
        let Some(known) = self.inferred.known(self.graph, value) else { return };
        let at = scope.location(op);
        if let Some(data) = constant(known) {
            let mut patch = Patch::default();
            patch.fold(value, data);
            if cx.rewrite(model, self.graph, "known", at, patch) {
                changes.count("known");
            }
            return;
        }
        let Some(contents) = named(known) else { return };
        let first = self.seen.entry(contents).or_insert(value);
        if !scope.is_live_value(*first) {
            *first = value;
        }
        let first = *first;
        if first == value {
            return;
        }
        if let Err(crate::Skip::Because { why, at }) = scope.can_redirect(op, value, first) {
            return cx.decline("same_size", why, *at);
        }
        let mut patch = Patch::default();
        patch.redirect(value, first);
        if cx.rewrite(model, self.graph, "same_size", at, patch) {
            changes.count("same_size");
        }
    }

    fn reshape(&self, model: &mut Model, op: OpId, cx: &mut Cx, changes: &mut Changes) {
        let scope = Scope { model, id: self.graph };
        let (Some(x), Some(target)) = (scope.input(op, 0), scope.input(op, 1)) else { return };
        if scope.constant(target).is_some() {
            return;
        }
        let known = |value: ValueId| {
            let (graph, value) = scope.defined(value);
            self.inferred.known(graph, value)
        };
        let Some(wanted) = known(target).and_then(Known::contents) else { return };
        let dims = known(x).and_then(Known::dims).unwrap_or_default();
        let literal = scope.graph().op(op).attrs.int("allowzero").unwrap_or(0) != 0;
        let at = scope.location(op);
        match self.target(&wanted, dims, literal) {
            Err(why) => cx.decline("reshape_target", why, at),
            Ok(target) => {
                let mut patch = Patch::default();
                let hint = format!("{}_shape", scope.graph().value(x).name());
                let target = patch.constant(&hint, numbers::vector(&target));
                patch.inputs(op, &[Some(x.into()), Some(target)]);
                if cx.rewrite(model, self.graph, "reshape_target", at, patch) {
                    changes.count("reshape_target");
                }
            }
        }
    }

    /// The target as constants, 0 for a dimension that is copied and -1 for the one that follows from the others.
    fn target(&self, wanted: &[Dim], dims: &[Dim], literal: bool) -> Result<Vec<i64>, String> {
        let copies =
            |at: usize, dim: &Dim| !literal && matches!(dim, Dim::Symbol(_)) && dims.get(at) == Some(dim);
        let mut target = Vec::with_capacity(wanted.len());
        let (mut copied, mut rest) = (0, 0);
        for (at, dim) in wanted.iter().enumerate() {
            target.push(match dim {
                // In a computed target, too, 0 copies and -1 is the rest.
                Dim::Known(-1) => {
                    rest += 1;
                    -1
                }
                // So does a zero in the target, unless it is taken literally.
                Dim::Known(0) if !literal => {
                    copied += 1;
                    0
                }
                Dim::Known(size) => *size,
                dim if copies(at, dim) => {
                    copied += 1;
                    0
                }
                _ => {
                    rest += 1;
                    -1
                }
            });
        }
        if rest > 1 {
            return Err(format!("{rest} entries of the target are not known"));
        }
        let zero = literal && wanted.contains(&Dim::Known(0));
        if rest == 1 && zero {
            return Err("an entry of the target is zero, so the unknown one does not follow".to_string());
        }
        if rest == 1 && copied > 0 && !self.pass.assume_nonempty {
            return Err("a copied dimension may be zero in some run".to_string());
        }
        Ok(target)
    }
}

/// The tensor that the value is in every run.
fn constant(known: &Known) -> Option<Tensor> {
    if let Some(data) = &known.constant {
        return Some(data.clone());
    }
    let (dtype, ints) = (known.dtype()?, known.ints()?);
    let sizes: Option<Vec<usize>> = known.dims()?.iter().map(Dim::known).collect();
    match dtype {
        DType::I64 => Tensor::from_slice(&sizes?, &ints).ok(),
        DType::I32 => {
            let ints: Result<Vec<i32>, _> = ints.into_iter().map(i32::try_from).collect();
            Tensor::from_slice(&sizes?, &ints.ok()?).ok()
        }
        _ => None,
    }
}

/// What the value holds, if every element is a number or an expression of sizes.
fn named(known: &Known) -> Option<Contents> {
    let dtype = known.dtype().filter(|dtype| matches!(dtype, DType::I64 | DType::I32))?;
    let sizes: Option<Vec<usize>> = known.dims()?.iter().map(Dim::known).collect();
    let contents = known.contents()?;
    let all = contents.len() <= CONTENTS_LIMIT && !contents.contains(&Dim::Unknown);
    all.then(|| Some((dtype, sizes?, contents.into_owned())))?
}
