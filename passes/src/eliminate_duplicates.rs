//! Merges operators that compute the same and constants that hold the same.
//!
//! ```text
//! <float[2] a = {1, 2}, float[2] b = {1, 2}>        <float[2] a = {1, 2}>
//! y = Add(x, a)                                     y = Add(x, a)
//! z = Add(b, x)                                =>   w = Mul(y, y)
//! w = Mul(y, z)
//! ```
//!
//! Two operators compute the same if kind, attributes and inputs agree (inputs in any order where the operator
//! commutes). Constants are equal if type, sizes and every byte agree: 0.0 and -0.0 differ. A first look at a few bytes
//! decides whether the whole is compared, so that unequal weights are not read.
//!
//! Declines: operators that may give another result the second time (random ones, training mode), operators without a
//! rule, operators that hold graphs, and where both results are outputs of the graph. Graphs are treated one by one.
//!
//! Stands behind the passes that rewrite operators into normal forms, and before those that ask for a single reader.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use ir::{AttrValue, Attrs, Data, GraphId, Model, Op, OpId, Role, Slots, Tensor, ValueId};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Patch, Scope, schedule, value_place};

/// Options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EliminateDuplicates {
    /// Merge equal constants.
    constants: bool,
}

impl Default for EliminateDuplicates {
    fn default() -> EliminateDuplicates {
        EliminateDuplicates { constants: true }
    }
}

/// Operators that may give another result each time.
const RANDOM: &[&str] =
    &["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// Operators whose first two inputs may change places.
const COMMUTATIVE: &[&str] =
    &["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"];

impl Pass for EliminateDuplicates {
    fn name(&self) -> &'static str {
        "eliminate_duplicates"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for graph in model.graph_ids() {
            if self.constants {
                constants(model, graph, cx, &mut changes);
            }
            let schedule = schedule(self.name(), model, graph)?;
            operators(model, graph, &schedule, cx, &mut changes);
        }
        model.settle();
        Ok(changes)
    }
}

fn constants(model: &mut Model, graph: GraphId, cx: &mut Cx, changes: &mut Changes) {
    let mut seen: HashMap<u64, Vec<ValueId>> = HashMap::new();
    for value in model.graph(graph).values().collect::<Vec<_>>() {
        let g = model.graph(graph);
        if !g.is_live_value(value) || g.value(value).role() != Role::Initializer || !g.is_used(value) {
            continue;
        }
        let Some(data) = g.constant(value) else { continue };
        let same = seen.entry(sample(data)).or_default();
        let equal = |&other: &ValueId| {
            g.constant(other)
                .is_some_and(|o| (o.dtype(), o.dims(), o.data()) == (data.dtype(), data.dims(), data.data()))
        };
        let Some(first) = same.iter().copied().find(equal) else {
            same.push(value);
            continue;
        };
        let at = value_place(model, graph, value);
        if g.is_output(value) {
            cx.decline("equal_constant", "it is an output of the graph", at);
            continue;
        }
        let mut patch = Patch::default();
        patch.redirect(value, first);
        if cx.rewrite(model, graph, "equal_constant", at, patch) {
            changes.count("equal_constant");
        }
    }
}

/// A hash of type, sizes and a few bytes of a constant.
fn sample(tensor: &Tensor) -> u64 {
    const FEW: usize = 64;
    let mut hasher = DefaultHasher::new();
    (tensor.dtype(), tensor.dims()).hash(&mut hasher);
    match tensor.data() {
        Data::Bytes(bytes) => {
            bytes[..bytes.len().min(FEW)].hash(&mut hasher);
            bytes[bytes.len() - bytes.len().min(FEW)..].hash(&mut hasher);
            let middle = bytes.len() / 2;
            bytes[middle..bytes.len().min(middle + FEW)].hash(&mut hasher);
        }
        Data::Strings(strings) => strings.iter().take(FEW).for_each(|string| string.hash(&mut hasher)),
    }
    hasher.finish()
}

fn operators(model: &mut Model, graph: GraphId, schedule: &[OpId], cx: &mut Cx, changes: &mut Changes) {
    let mut seen: HashMap<u64, Vec<OpId>> = HashMap::new();
    for &op in schedule {
        let scope = Scope { model, id: graph };
        if !scope.is_live(op) || !repeatable(scope, op) {
            continue;
        }
        let (node, inputs) = (scope.graph().op(op), inputs_of(scope, op));
        let same = seen.entry(hash_of(node, &inputs)).or_default();
        let equal = |&&other: &&OpId| {
            let earlier = scope.graph().op(other);
            scope.is_live(other)
                && earlier.kind == node.kind
                && earlier.output_count() >= node.output_count()
                && same_attrs(&earlier.attrs, &node.attrs)
                && inputs_of(scope, other) == inputs
        };
        let Some(&first) = same.iter().find(equal) else {
            same.push(op);
            continue;
        };
        let at = scope.location(op);
        match merge(scope, first, op) {
            Err(why) => cx.decline("equal_operator", why, at),
            Ok(patch) => {
                if cx.rewrite(model, graph, "equal_operator", at, patch) {
                    changes.count("equal_operator");
                }
            }
        }
    }
}

fn merge(scope: Scope, first: OpId, op: OpId) -> Result<Patch, String> {
    let mut patch = Patch::default();
    for (kept, dropped) in scope.op_outputs(first).into_iter().zip(scope.op_outputs(op)) {
        let Some(dropped) = dropped.filter(|&value| scope.is_used(value)) else { continue };
        let kept = kept.ok_or("the earlier operator does not write that output")?;
        if scope.is_output(kept) && scope.is_output(dropped) {
            return Err("both results are outputs of the graph".to_string());
        }
        patch.redirect(dropped, kept);
    }
    Ok(patch)
}

/// The operator gives the same result for the same inputs, and comparing attributes is enough.
fn repeatable(scope: Scope, op: OpId) -> bool {
    let node = scope.graph().op(op);
    let opset = ir::version(scope.model.opsets_of(scope.id), node.kind.domain());
    let random = node.kind.domain().is_empty() && RANDOM.contains(&&*node.kind.name);
    // Dropout is random only when its third input says so; it is left alone whenever there is one.
    let training = node.kind.is("Dropout") && node.input_count() > 2;
    !random && !training && node.attrs.graphs().next().is_none() && ops::rule(&node.kind, opset).is_ok()
}

fn inputs_of(scope: Scope, op: OpId) -> Slots {
    let mut inputs = scope.op_inputs(op);
    // Trailing gaps say nothing.
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let kind = &scope.graph().op(op).kind;
    if kind.domain().is_empty() && COMMUTATIVE.contains(&&*kind.name) {
        inputs.sort_unstable();
    }
    inputs
}

fn same_attrs(a: &Attrs, b: &Attrs) -> bool {
    a.len() == b.len() && a.iter().all(|attr| b.get(&attr.name) == Some(&attr.value))
}

fn hash_of(op: &Op, inputs: &Slots) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&op.kind, inputs).hash(&mut hasher);
    // Attributes in any order: their hashes are added.
    let attrs = op.attrs.iter().map(|attr| {
        let mut hasher = DefaultHasher::new();
        attr.name.hash(&mut hasher);
        match &attr.value {
            AttrValue::Int(value) => value.hash(&mut hasher),
            AttrValue::Ints(values) => values.hash(&mut hasher),
            AttrValue::Float(value) => value.to_bits().hash(&mut hasher),
            AttrValue::String(value) => value.hash(&mut hasher),
            AttrValue::Tensor(tensor) => sample(tensor).hash(&mut hasher),
            _ => {}
        }
        hasher.finish()
    });
    attrs.fold(0u64, u64::wrapping_add).hash(&mut hasher);
    hasher.finish()
}
