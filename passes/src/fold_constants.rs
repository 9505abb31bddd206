//! Computes operators whose inputs are all constant.
//!
//! ```text
//! <float[2,2] w = {...}>
//! t = Transpose(w)          =>   <float[2,2] t = {...}>
//! y = MatMul(x, t)               y = MatMul(x, t)
//! ```
//!
//! Constants of outer graphs count inside bodies; control flow folds as a whole when everything that it reads is
//! constant. Sequences are carried along, so that what is taken out of a constant sequence folds too.
//!
//! Declines:
//! - quantization operators, and so everything behind them: `Quantize`/`Dequantize` carry meaning that numbers do not;
//! - random operators, operators of other domains, operators that neither the rules nor the program's evaluator compute;
//! - results that grow the model: bytes added minus bytes of inputs that nothing else reads, against `max_growth` for
//!   one operator and `max_total_growth` for the pass. A result is checked against the limit before it is allocated.
//!   A larger one, up to four times the limit, is computed all the same where every operator that reads it folds too:
//!   then only their results enter the model.
//!
//! Stands behind `normalize` (constants are initializers) and before the passes that look at constants.

use std::collections::HashMap;

use ir::{GraphId, Model, OpId, Role, Tensor, ValueId};
use ops::OpError;
use ops::eval::{Budget, eval_op};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Evaluator, Pass, PassError, Patch, Scope, schedule};

/// Options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FoldConstants {
    /// Bytes by which one folded operator may grow the model.
    max_growth: usize,
    /// Bytes by which the pass may grow the model.
    max_total_growth: usize,
    /// Operators run for one fold; loops count each round.
    max_steps: u64,
}

impl Default for FoldConstants {
    fn default() -> FoldConstants {
        FoldConstants { max_growth: 16 << 20, max_total_growth: 64 << 20, max_steps: 1_000_000 }
    }
}

/// Operators that carry a meaning beyond their numbers.
const QUANTIZERS: &[&str] = &["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"];

/// Operators that may give another result each time.
const RANDOM: &[&str] =
    &["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// The operator may be computed ahead of the run.
pub fn is_foldable(op: &ir::Op) -> bool {
    let name = &*op.kind.name;
    // Only operators of the default domain have a meaning that nobody else may change.
    matches!(op.kind.domain(), "" | "ai.onnx.ml") && !QUANTIZERS.contains(&name) && !RANDOM.contains(&name)
}

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let mut grown = 0;
        for graph in model.graph_ids() {
            // A file has no place for constants there.
            if model.is_function_body(graph) {
                continue;
            }
            let schedule = schedule(self.name(), model, graph)?;
            let mut fold = Fold { options: self, graph, carried: HashMap::new(), grown, held: 0 };
            for op in schedule {
                if cx.out_of_fuel() {
                    break;
                }
                // An earlier fold may have removed what only fed it.
                if model.graph(graph).is_live(op) && is_foldable(model.graph(graph).op(op)) {
                    fold.op(model, op, cx, &mut changes);
                }
            }
            grown = fold.grown;
        }
        model.settle();
        Ok(changes)
    }
}

struct Fold<'a> {
    options: &'a FoldConstants,
    graph: GraphId,
    /// Constant sequences and optionals, which no initializer can hold.
    carried: HashMap<ValueId, ops::Value>,
    grown: usize,
    /// Bytes of the constants that are too large for the model and wait for their readers.
    held: usize,
}

impl Fold<'_> {
    fn op(&mut self, model: &mut Model, op: OpId, cx: &mut Cx, changes: &mut Changes) {
        let scope = Scope { model, id: self.graph };
        let Some(inputs) = self.inputs(scope, op) else { return };
        let at = scope.location(op);
        let freed = freed(scope, op);
        let promised = promised(scope, op);
        if let Err(why) = self.affordable(promised.saturating_sub(freed))
            && !self.passes_on(scope, op, promised)
        {
            return cx.decline("fold", why, at);
        }
        let results = match self.compute(scope, op, &inputs, freed, cx.evaluator()) {
            Ok(results) => results,
            Err(why) => return cx.decline("fold", why, at),
        };
        let mut patch = Patch::default();
        let mut added = 0;
        let outputs = scope.op_outputs(op);
        let mut carried = Vec::new();
        for (slot, result) in outputs.iter().zip(results) {
            let Some(value) = slot.filter(|&value| scope.is_used(value)) else { continue };
            match result {
                ops::Value::Tensor(tensor) => {
                    added += size(&tensor);
                    patch.fold(value, tensor);
                }
                other => carried.push((value, other)),
            }
        }
        let growth = added.saturating_sub(freed);
        if let Err(why) = self.affordable(growth) {
            if let [Some(value)] = outputs[..]
                && self.passes_on(scope, op, added)
                && let Some(tensor) = patch.folded(value)
            {
                self.held += added;
                self.carried.insert(value, ops::Value::Tensor(tensor));
            }
            return cx.decline("fold", why, at);
        }
        self.carried.extend(carried);
        if !patch.is_empty() && cx.rewrite(model, self.graph, "fold", at, patch) {
            self.grown += growth;
            changes.count("fold");
        }
    }

    /// The single result is too large for the model, but every operator that reads it can be computed with it at hand.
    fn passes_on(&self, scope: Scope, op: OpId, bytes: usize) -> bool {
        let [Some(value)] = scope.op_outputs(op)[..] else { return false };
        let ready = |reader: OpId| {
            let others = scope.op_inputs(reader).into_iter().flatten().filter(|&other| other != value);
            is_foldable(scope.graph().op(reader))
                && scope.captures(reader).is_empty()
                && others.into_iter().all(|other| self.constant(scope, other).is_some())
        };
        let readers = scope.uses(value);
        self.held.saturating_add(bytes) <= self.options.max_growth.saturating_mul(4)
            && !scope.is_output(value)
            && !readers.is_empty()
            && readers.iter().all(|reader| ready(reader.op))
    }

    /// Says why the model may not grow by that many bytes.
    fn affordable(&self, growth: usize) -> Result<(), String> {
        let FoldConstants { max_growth, max_total_growth, .. } = self.options;
        if growth > *max_growth {
            return Err(format!("it would grow the model by {growth} bytes, over {max_growth}"));
        }
        match self.grown.saturating_add(growth) > *max_total_growth {
            true => Err(format!("{growth} more bytes would grow the model by more than {max_total_growth}")),
            false => Ok(()),
        }
    }

    /// The operator's inputs, if every one of them, and all that its bodies read, is constant.
    fn inputs(&self, scope: Scope, op: OpId) -> Option<Vec<Option<ops::Value>>> {
        let constant = |value: ValueId| self.constant(scope, value).is_some();
        if !scope.op_outputs(op).iter().flatten().any(|&value| scope.is_used(value)) {
            return None;
        }
        let inputs = scope.op_inputs(op);
        let ready = inputs.iter().flatten().all(|&value| constant(value))
            && scope.captures(op).into_iter().all(|(_, _, outer)| constant(outer));
        ready.then(|| {
            inputs.into_iter().map(|slot| slot.and_then(|value| self.constant(scope, value))).collect()
        })
    }

    fn constant(&self, scope: Scope, value: ValueId) -> Option<ops::Value> {
        match scope.constant(value) {
            Some(tensor) => Some(ops::Value::Tensor(tensor.clone())),
            None => self.carried.get(&value).cloned(),
        }
    }

    fn compute(
        &self,
        scope: Scope,
        op: OpId,
        inputs: &[Option<ops::Value>],
        freed: usize,
        evaluator: Option<&dyn Evaluator>,
    ) -> Result<Vec<ops::Value>, String> {
        // Rules compute in double precision, which takes up to eight times the room; bodies hold values in between.
        let bytes = freed.saturating_add(self.options.max_growth).saturating_mul(8);
        let budget = Budget::new(bytes, self.options.max_steps);
        let captured = |value: ValueId| self.constant(scope, value);
        match eval_op(scope.model, scope.id, op, inputs, &captured, &budget) {
            Ok(results) => Ok(results),
            Err(error) if error.is_unsupported() => match evaluator {
                Some(evaluator) => outside(scope, op, inputs, evaluator, &error),
                None => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

fn outside(
    scope: Scope,
    op: OpId,
    inputs: &[Option<ops::Value>],
    evaluator: &dyn Evaluator,
    error: &OpError,
) -> Result<Vec<ops::Value>, String> {
    let node = scope.graph().op(op);
    if node.attrs.graphs().next().is_some() {
        return Err(error.to_string());
    }
    let tensors: Vec<Option<&Tensor>> =
        inputs.iter().map(|slot| slot.as_ref().and_then(ops::Value::as_tensor)).collect();
    if inputs.iter().zip(&tensors).any(|(value, tensor)| value.is_some() && tensor.is_none()) {
        return Err(error.to_string());
    }
    let results = evaluator.eval(scope.model.opsets_of(scope.id), node, &tensors, node.output_count());
    let results = results.map_err(|why| format!("{error}; the evaluator: {why}"))?;
    Ok(results.into_iter().map(ops::Value::Tensor).collect())
}

/// Bytes of the results, as far as their types tell: what is too large is refused before anything is allocated.
fn promised(scope: Scope, op: OpId) -> usize {
    let bytes = |value: ValueId| {
        let tensor = scope.ty(value)?.as_tensor()?;
        let sizes = tensor.shape.as_ref()?.known()?;
        let elements = ir::checked_elements(&sizes).unwrap_or(usize::MAX);
        // Strings have no fixed size; eight bytes each is less than any of them takes.
        Some(tensor.dtype?.storage_bytes(elements).unwrap_or(elements.saturating_mul(8)))
    };
    let used = scope.op_outputs(op).into_iter().flatten().filter(|&value| scope.is_used(value));
    used.filter_map(bytes).fold(0, usize::saturating_add)
}

/// Bytes of the constants that only this operator reads.
fn freed(scope: Scope, op: OpId) -> usize {
    let only = |value: &ValueId| {
        scope.sole_use(*value).is_some() && scope.graph().value(*value).role() == Role::Initializer
    };
    let inputs = scope.op_inputs(op);
    inputs
        .iter()
        .flatten()
        .filter(|value| only(value))
        .filter_map(|&value| scope.constant(value))
        .map(size)
        .sum()
}

fn size(tensor: &Tensor) -> usize {
    match tensor.data() {
        ir::Data::Bytes(bytes) => bytes.len(),
        ir::Data::Strings(strings) => strings.iter().map(|string| string.len()).sum(),
    }
}
