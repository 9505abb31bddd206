//! Writes the types and shapes that follow from the inputs to every value.
//!
//! ```text
//! (float[N, 3] x) y = Transpose(x)   =>   y is float[3, N]
//! ```
//!
//! Sizes that are not numbers are canonical expressions over the sizes that the inputs name, so that equal sizes have
//! equal text; a size that only a run tells gets a name of its own. Where the file promises a number for an expression of
//! such a name (`3*name` is 672), it is solved for the name. What the file declares is kept where nothing better is known. Where it contradicts what the operators
//! compute, the operators win, except that an output of the graph keeps the type that the model promises; every
//! contradiction is reported, and so is every operator without a rule.
//!
//! Stands before the passes that ask for ranks and sizes, and again behind those that change operators.

use std::collections::HashSet;

use ir::{GraphId, Location, Model, Role, Type, TypeKind, ValueId};
use ops::infer::{Issue, infer_model, shape};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError};

const UNSUPPORTED: &str = "unsupported";

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferShapes {}

impl Pass for InferShapes {
    fn name(&self) -> &'static str {
        "infer_shapes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut inferred = infer_model(model, &ops::infer::Options::default());
        let mut changes = Changes::default();
        let mut types = HashSet::new();
        for graph in model.graph_ids() {
            for value in model.graph(graph).values().collect::<Vec<_>>() {
                let Some(ty) = inferred.written_type(graph, value) else { continue };
                if wanted(model, graph, value, &ty) {
                    let shared = shared(&mut types, ty);
                    model.graph_mut(graph).value_mut(value).ty = Some(shared);
                    changes.notes += 1;
                }
            }
        }
        for issue in inferred.issues.drain(..) {
            let (rule, place, why) = match issue {
                Issue::Wrong(place, why) => ("wrong", place, why),
                Issue::Contradiction(place, why) => ("contradiction", place, why),
                Issue::Unsupported(place, why) => (UNSUPPORTED, place, why),
            };
            let named = |name: String| (!name.is_empty()).then_some(name);
            let at = Location {
                graph: Some(format!("{:?}", place.graph).into()),
                op: named(place.op).map(Into::into),
                value: named(place.value).map(Into::into),
                ..Location::default()
            };
            if rule != UNSUPPORTED {
                cx.warn(rule, why.clone(), at.clone());
            }
            cx.decline(rule, why, at);
        }
        Ok(changes)
    }
}

/// The type, held once for all values that have it. One that a file wrote in its own way stays its own.
fn shared(types: &mut HashSet<Type>, ty: Type) -> Type {
    if ty.spelling.0 != 0 {
        return ty;
    }
    types.get(&ty).cloned().unwrap_or_else(|| {
        types.insert(ty.clone());
        ty
    })
}

/// The type is news, and it is ours to write.
fn wanted(model: &Model, graph: GraphId, value: ValueId, ty: &Type) -> bool {
    let g = model.graph(graph);
    let held = g.value(value);
    if held.role() != Role::Computed || held.ty.as_ref() == Some(ty) || !is_whole(ty) {
        return false;
    }
    match &held.ty {
        Some(promised) if g.is_output(value) => shape::merge(ty, promised).is_some(),
        _ => true,
    }
}

/// Every element type is there: a file cannot say that only the shape is known.
fn is_whole(ty: &Type) -> bool {
    match &ty.kind {
        TypeKind::Tensor(tensor) | TypeKind::Sparse(tensor) => tensor.dtype.is_some(),
        TypeKind::Sequence(inner) | TypeKind::Optional(inner) => is_whole(inner),
        TypeKind::Map { key, value } => key.is_some() && is_whole(value),
        TypeKind::Opaque { .. } => true,
        TypeKind::None => false,
    }
}
