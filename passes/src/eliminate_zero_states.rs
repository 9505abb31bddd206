//! Leaves out initial states of recurrent operators that are zero, which is what a state that is left out means.
//!
//! ```text
//! h = ConstantOfShape(n)
//! y = LSTM(x, w, r, b, , h, c)   =>   y = LSTM(x, w, r, b)
//! ```
//!
//! Zero is a constant of zeros, a `ConstantOfShape` of zeros, and what only moves, repeats or joins such.
//!
//! Declines: states that are read from elsewhere.
//!
//! What made the shape of the state, often a chain that starts at the `Shape` of the input, has no reader any more.

use ir::{Model, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::numbers;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EliminateZeroStates {}

impl Pass for EliminateZeroStates {
    fn name(&self) -> &'static str {
        "eliminate_zero_states"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&ZeroState], model, cx)
    }
}

struct ZeroState;

/// Slots of `initial_h` and `initial_c`.
const STATES: [usize; 2] = [5, 6];

impl Rule for ZeroState {
    fn name(&self) -> &'static str {
        "zero_state"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("RNN"), OpName::onnx("GRU"), OpName::onnx("LSTM")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut inputs: Vec<Option<Ref>> =
            scope.op_inputs(at).iter().map(|slot| slot.map(Ref::Old)).collect();
        let zero = |slot: &usize| scope.input(at, *slot).is_some_and(|value| is_zero(scope, value, 0));
        let zeros: Vec<usize> = STATES.into_iter().filter(zero).collect();
        matches(!zeros.is_empty())?;
        for slot in zeros {
            *inputs.get_mut(slot).or_no_match()? = None;
        }
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let mut patch = Patch::default();
        patch.inputs(at, &inputs);
        Ok(patch)
    }
}

/// How far a value is followed.
const DEPTH: usize = 16;

/// Every element of the value is zero, whatever its shape.
fn is_zero(scope: Scope, value: ValueId, depth: usize) -> bool {
    if let Some(constant) = scope.constant(value) {
        return numbers::splat(constant) == Some(0.0);
    }
    let Some((op, _)) = scope.producer(value).filter(|_| depth < DEPTH) else { return false };
    let kind = &scope.graph().op(op).kind;
    if !kind.domain().is_empty() {
        return false;
    }
    let first = || scope.input(op, 0).is_some_and(|value| is_zero(scope, value, depth + 1));
    match &*kind.name {
        "ConstantOfShape" => {
            let fill = scope.graph().op(op).attrs.tensor("value");
            fill.is_none_or(|fill| numbers::splat(fill) == Some(0.0))
        }
        "Identity" | "Cast" | "Expand" | "Tile" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze"
        | "Transpose" | "Slice" | "Gather" | "Split" => first(),
        "Concat" => scope.op_inputs(op).iter().flatten().all(|&value| is_zero(scope, value, depth + 1)),
        _ => false,
    }
}
