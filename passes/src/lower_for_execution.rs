//! Makes an equal model that any float runtime can run: no operator on codes is left, and nothing but plain operators.
//!
//! ```text
//! y = local.F(x), Loop({3}, …)                                 =>  the body, as often as it runs
//! y = QLinearConv(…), com.microsoft.QLinearAdd(…), …            =>  Dequantize, the float operator, Quantize
//! y = com.microsoft.MatMulNBits(x, codes, …)                    =>  MatMul(x, constant floats)
//! q, s, z = DynamicQuantizeLinear(x)                            =>  its formula
//! y = DequantizeLinear(constant codes, s, z)                    =>  y = constant floats
//! q = QuantizeLinear(x, s, z); y = DequantizeLinear(q, s, z)    =>  y = onnxq.FakeQuant<code, scales, zero_points, …>(x)
//! y = DequantizeLinear(q, s, z), q computed or fed              =>  y = (Cast(q) - z) * s
//! q = QuantizeLinear(x, s, z), q read as codes                  =>  q = Cast(Clip(Round(x / s) + z))
//! sparse constants                                              =>  dense ones
//! bfloat16 anywhere                                             =>  float
//! ```
//!
//! Every element type is folded, also those that the runtime lacks (4 and 2 bits, float8), per tensor, per axis and
//! blocked. Scales may be computed where there is one, or one an index of an axis. What is declined stays, with the
//! reason, and a runtime refuses it by name.
//!
//! Results are those of the definitions in float: a sum that lies within float rounding of a tie may end one step away.

mod bodies;
mod codes;
mod dynamic;
mod pairs;
mod sparse;
mod weights;

use ir::{Location, Model};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Rule, apply_rules};
use crate::narrow;
use crate::normalize::lift_constants;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowerForExecution {}

impl Pass for LowerForExecution {
    fn name(&self) -> &'static str {
        "lower_for_execution"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        // Before everything else: bodies hold operators of every other kind.
        bodies::inline_functions(model, cx, &mut changes);
        // A function's body spells its constants as operators.
        lift_constants(model, cx, &mut changes);
        sparse::densify(model, cx, &mut changes);
        bodies::unroll_loops(model, cx, &mut changes);
        // Before the pairs: definitions are written with them.
        let rules: Vec<&dyn Rule> =
            [codes::RULES, weights::RULES, dynamic::RULES].into_iter().flatten().copied().collect();
        add(&mut changes, apply_rules(self.name(), &rules, model, cx)?);
        pairs::lower(model, cx, &mut changes);
        // Last: the folded weights are among what is widened.
        if narrow::is_in(model) && cx.spend("widen", Location::graph(model.main())) {
            narrow::widen(model);
            changes.count("widen");
        }
        if !changes.is_empty() {
            for id in model.graph_ids() {
                // A circle is the verifier's to report.
                let _ = model.graph_mut(id).settle_order();
            }
        }
        Ok(changes)
    }
}

fn add(changes: &mut Changes, more: Changes) {
    changes.notes += more.notes;
    more.by_rule.into_iter().for_each(|(rule, count)| *changes.by_rule.entry(rule).or_default() += count);
}
