//! Fills a plan with ranges, scales and zero points from what calibration saw.
//!
//! Values of one class are fitted together, from their merged sketches. A value that was never seen, or only as NaN, cannot
//! be quantized: it is listed, and the operators that need it go back to float.

use std::collections::BTreeMap;

use ir::Model;
use quant::range::{Method, Sketch, choose};
use quant::{Params, Policy};

use super::plan::{QuantPlan, ValuePlan};
use super::weights::floats;

/// What calibration saw, by value name.
pub type Sketches = BTreeMap<String, Sketch>;

/// How ranges become scales.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The range method of activations.
    pub method: Method,
    /// Methods of single values; these win.
    pub methods: BTreeMap<String, Method>,
    /// Degenerate ranges.
    pub policy: Policy,
}

/// Fills the plan. Returns the values that calibration did not see, in order.
pub fn fit(plan: &mut QuantPlan, model: &Model, sketches: &Sketches, options: &FitOptions) -> Vec<String> {
    let mut missing = Vec::new();
    let classes: BTreeMap<usize, Vec<String>> = plan
        .classes()
        .into_iter()
        .map(|(class, names)| (class, names.into_iter().map(String::from).collect()))
        .collect();
    for names in classes.values() {
        let entry = plan.values[&names[0]].clone();
        let fitted = match fixed(plan, names) {
            Some(range) => Some(from_range(&entry, range, "fixed", options)),
            None => {
                constant(model, names, &entry, options).or_else(|| seen(names, sketches, &entry, options))
            }
        };
        match fitted {
            Some(fitted) => {
                for name in names {
                    let entry = plan.values.get_mut(name).expect("the class was made from these names");
                    let reason = std::mem::take(&mut entry.reason);
                    *entry = ValuePlan { reason, class: entry.class, ..fitted.clone() };
                }
            }
            None => missing.extend(names.iter().cloned()),
        }
    }
    missing
}

/// The range of a class that an operator or the user fixes.
fn fixed(plan: &QuantPlan, names: &[String]) -> Option<(f32, f32)> {
    let ranges = names.iter().filter_map(|name| plan.values[name].range);
    ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn from_range(entry: &ValuePlan, (low, high): (f32, f32), source: &str, options: &FitOptions) -> ValuePlan {
    let (params, _) = Params::from_range(low, high, entry.grid, &options.policy);
    let source = if entry.source.is_empty() { source.to_string() } else { entry.source.clone() };
    ValuePlan { range: Some((low, high)), params: Some(params), source, ..entry.clone() }
}

fn constant(model: &Model, names: &[String], entry: &ValuePlan, options: &FitOptions) -> Option<ValuePlan> {
    let graph = model.main();
    let [name] = names else { return None };
    let tensor = graph.constant(graph.find(name)?)?;
    let range = quant::quantize::min_max(&floats(tensor).ok()?);
    Some(from_range(entry, range, "constant", options))
}

fn seen(names: &[String], sketches: &Sketches, entry: &ValuePlan, options: &FitOptions) -> Option<ValuePlan> {
    let mut merged: Option<Sketch> = None;
    for sketch in names.iter().filter_map(|name| sketches.get(name)) {
        match &mut merged {
            Some(merged) => merged.merge(&without_channels(sketch)).ok()?,
            None => merged = Some(without_channels(sketch)),
        }
    }
    let sketch = merged.filter(|sketch| sketch.finite() > 0)?;
    let method = names.iter().find_map(|name| options.methods.get(name)).cloned().unwrap_or(options.method);
    let choice = choose(method, &sketch, entry.grid, &options.policy);
    Some(ValuePlan {
        range: Some((choice.lo, choice.hi)),
        params: Some(choice.params),
        source: choice.method.to_string(),
        sqnr_db: Some(choice.sqnr_db),
        clipped: Some(choice.clipped),
        ..entry.clone()
    })
}

/// Values of one class may have different shapes, so their channels cannot be merged; one scale needs none.
fn without_channels(sketch: &Sketch) -> Sketch {
    sketch.clone().without_channels()
}
