//! A value that is made of others takes over the grid of the widest of them, where that holds the others too: the elements of
//! that part stay the codes that they are, which costs no second rounding, and a kernel only copies them.
//!
//! Ranges are chosen one by one, so that of a concatenation comes out a little wider or narrower than that of the part
//! which decides it.

use ir::Model;
use ops::scheme::joins_along;
use quant::{Grid, Params};

use super::keys::key_of;
use super::plan::{QuantPlan, ValuePlan};

/// The part must be this wide, of what was chosen for the whole: else something that shares the whole's grid needs more.
const NEARLY: f64 = 0.8;

/// Changes a fitted plan. What the user or an operator fixed stays.
pub(super) fn share(plan: &mut QuantPlan, model: &Model) {
    let graph = model.main();
    // In the order of execution: a whole may be a part of the next one.
    for op in graph.schedule().unwrap_or_default() {
        if joins_along(graph, op).is_none() {
            continue;
        }
        let key = key_of(graph, op);
        let name = |value: ir::ValueId| graph.value(value).name() as &str;
        let Some(whole) = graph.output(op, 0).and_then(|value| plan.values.get(name(value))) else {
            continue;
        };
        let parts: Option<Vec<&ValuePlan>> =
            graph.op_inputs(op).into_iter().map(|value| plan.read_as(name(value?), &key)).collect();
        let Some(found) = parts.and_then(|parts| widest(whole, &parts)) else { continue };
        let class = whole.class;
        for (_, entry) in plan.rounded_mut().filter(|(_, entry)| entry.class == class) {
            (entry.params, entry.range) = (found.0, found.1);
        }
    }
}

type Found = (Option<Params>, Option<(f32, f32)>);

/// Parameters and range of the part that decides, if the whole may take them.
fn widest(whole: &ValuePlan, parts: &[&ValuePlan]) -> Option<Found> {
    let fixed = matches!(whole.source.as_str(), "fixed" | "user" | "searched" | "constant");
    if fixed || parts.iter().any(|part| part.grid != whole.grid || part.class == whole.class) {
        return None;
    }
    let ends = |entry: &ValuePlan| covered(entry.grid, entry.params?);
    let width = |(low, high): (f64, f64)| high - low;
    let mut decides: Option<(&ValuePlan, (f64, f64))> = None;
    for part in parts {
        let own = ends(part)?;
        if decides.is_none_or(|(_, most)| width(own) > width(most)) {
            decides = Some((part, own));
        }
    }
    let (part, (low, high)) = decides?;
    // Half a step beyond the end is rounded to it anyway.
    let slack = f64::from(part.params?.scale()) / 2.0;
    let holds = |(l, h): (f64, f64)| l >= low - slack && h <= high + slack;
    let all = parts.iter().all(|part| ends(part).is_some_and(holds));
    let enough = high - low >= NEARLY * width(ends(whole)?);
    (all && enough).then_some((part.params, part.range))
}

/// The ends of what the codes stand for.
fn covered(grid: Grid, params: Params) -> Option<(f64, f64)> {
    let (low, high) = grid.code.int_range()?;
    let real = |code: i32| f64::from(code - params.zero_point()) * f64::from(params.scale());
    Some((real(low), real(high)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::fit::{FitOptions, Known, Sketches, fit};
    use crate::quantize::memo::Memo;
    use crate::quantize::{Choices, choose};
    use crate::testing::parse;
    use quant::Policy;
    use quant::range::{Method, Sketch};

    const MODEL: &str = "g (float[1,2,2,2] x) => (float[1,4,2,2] z)
        <float[2,2,1,1] v = {1, 0, 0, 1}, float[2,2,1,1] w = {1, 0, 0, 1}, float[4,4,1,1] u = {0.5}>
        { a = Conv(x, v) b = Conv(x, w) c = Concat<axis = 1>(a, b) z = Conv(c, u) }";

    fn fitted(ranges: [(&str, [f32; 2]); 3]) -> QuantPlan {
        let text = MODEL.replace("{0.5}", &format!("{{{}}}", ["0.5"; 16].join(", ")));
        let model = parse(&text);
        let target = crate::target::target("ort-cpu").unwrap();
        let mut plan = choose(&model, &Choices::new(target));
        let mut sketches: Sketches =
            ["x", "z"].map(|name| (name.to_string(), Sketch::of(&[-1.0, 1.0]))).into();
        sketches.extend(ranges.map(|(name, ends)| (name.to_string(), Sketch::of(&ends))));
        let options = FitOptions {
            method: Method::MinMax,
            methods: Default::default(),
            ranges: Default::default(),
            least_width: None,
            policy: Policy::default(),
            behind: false,
            weights: false,
            saturates: false,
        };
        let known = Known { seen: &sketches, newer: &Sketches::new() };
        assert!(fit(&mut plan, &model, known, &options, &mut Memo::default()).is_empty());
        plan
    }

    #[test]
    fn a_concatenation_has_the_grid_of_its_widest_part() {
        let plan = fitted([("a", [0.0, 4.0]), ("b", [0.0, 1.0]), ("c", [0.0, 3.9])]);
        assert_eq!(plan.values["c"].params, plan.values["a"].params);
        assert_ne!(plan.values["b"].params, plan.values["a"].params);
    }

    #[test]
    fn no_part_decides_where_each_reaches_further_on_one_side() {
        let plan = fitted([("a", [0.0, 4.0]), ("b", [-1.0, 1.0]), ("c", [-1.0, 4.0])]);
        assert_ne!(plan.values["c"].params, plan.values["a"].params);
        // Something else needs more than the parts do.
        let plan = fitted([("a", [0.0, 4.0]), ("b", [0.0, 1.0]), ("c", [0.0, 8.0])]);
        assert_ne!(plan.values["c"].params, plan.values["a"].params);
    }
}
