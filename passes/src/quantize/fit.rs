//! Fills a plan with ranges, scales and zero points from what calibration saw.
//!
//! Values of one class are fitted together, from their merged sketches. A value that was never seen, or only as NaN, cannot
//! be quantized: it is listed, and the operators that need it go back to float.

use std::collections::BTreeMap;

use ir::{Model, Tensor};
use quant::bias::{code_limit, raise_weight_scales};
use quant::range::{Channels, Method, Sketch, after, choose, weigh};
use quant::{CodeType, Grid, Params, Policy};

use super::behind::Functions;
use super::join;
use super::keys::places;
use super::memo::{Asked, Memo};
use super::plan::{Precision, QuantPlan, ValuePlan, WeightPlan};
use super::weights::{floats, weight_params};
use crate::driver::Scope;
use crate::weights::Linear;

/// What calibration saw, by value name.
pub type Sketches = BTreeMap<String, Sketch>;

/// What is known of values: what calibration saw, but for values whose numbers changed since.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What calibration saw.
    pub seen: &'a Sketches,
    /// What replaces it.
    pub newer: &'a Sketches,
}

impl<'a> Known<'a> {
    fn get(&self, name: &str) -> Option<&'a Sketch> {
        self.newer.get(name).or_else(|| self.seen.get(name))
    }
}

/// How ranges become scales.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The range method of activations.
    pub method: Method,
    /// Methods of single values; these win.
    pub methods: BTreeMap<String, Method>,
    /// Ranges of single values, found by an accuracy pass; these win over methods. The first of a class that has one counts.
    pub ranges: BTreeMap<String, (f32, f32)>,
    /// The least width of a range that the target takes: narrower ones are widened. None for any.
    pub least_width: Option<f32>,
    /// Degenerate ranges.
    pub policy: Policy,
    /// Where only a function reads a value, take the range with the least error behind the function.
    pub behind: bool,
    /// Search the scale of each weight channel.
    pub weights: bool,
    /// Keep pairs of products within int16: see [`avoid_saturation`].
    pub saturates: bool,
}

/// A range with less error behind a function is taken if it is that much better, in dB: the density is an estimate.
const BEHIND_DB: f64 = 0.3;

/// Fills the plan. Returns the values that calibration did not see, in order. What `memo` holds of earlier plans is taken
/// from there: it must be of these numbers and of this model's weights and functions (see [`Memo`]).
pub fn fit(
    plan: &mut QuantPlan,
    model: &Model,
    known: Known<'_>,
    options: &FitOptions,
    memo: &mut Memo,
) -> Vec<String> {
    let mut missing = Vec::new();
    let functions = options.behind.then(|| Functions::of(model));
    let classes: BTreeMap<usize, Vec<String>> = plan
        .classes()
        .into_iter()
        .map(|(class, names)| (class, names.into_iter().map(String::from).collect()))
        .collect();
    // What has to be searched is searched on all threads.
    let mut open = Vec::new();
    for (&class, names) in &classes {
        let Some(entry) = plan.rounded().find(|(_, entry)| entry.class == class).map(|(_, e)| e.clone())
        else {
            continue;
        };
        let known = match fixed(plan, class) {
            Some(range) => Some(from_range(&entry, range, "fixed", options)),
            None => constant(model, names, &entry, options),
        };
        let asked = Asked::new(names, &entry, options);
        match known.or_else(|| memo.range(&asked).cloned()) {
            Some(fitted) => take(plan, class, &fitted),
            None => open.push((class, asked, entry)),
        }
    }
    let found = quant::parallel::map(&open, |(_, asked, entry)| {
        seen(asked.names(), known, entry, options, functions.as_ref())
    });
    for ((class, asked, _), found) in open.into_iter().zip(found) {
        match found {
            Some(fitted) => {
                take(plan, class, &fitted);
                memo.keep(asked, fitted);
            }
            None => missing.extend(asked.names().iter().cloned()),
        }
    }
    if missing.is_empty() {
        join::share(plan, model);
        if options.weights {
            search_weights(plan, model, known, memo);
        }
        if options.saturates {
            avoid_saturation(plan, model);
        }
        leave_room(plan, model);
    }
    missing
}

/// Gives what was found to every member of a class.
fn take(plan: &mut QuantPlan, class: usize, fitted: &ValuePlan) {
    for (_, entry) in plan.rounded_mut().filter(|(_, entry)| entry.class == class) {
        let reason = std::mem::take(&mut entry.reason);
        *entry = ValuePlan { reason, class, ..fitted.clone() };
    }
}

/// A weight scale is changed if that takes this share of the expected error.
const WORTHWHILE: f64 = 0.02;

/// Sets the scale of each weight channel to where the expected error of the product's output is least, given the power of
/// each input channel. Products whose data were not seen channel by channel count all inputs alike.
fn search_weights(plan: &mut QuantPlan, model: &Model, known: Known<'_>, memo: &mut Memo) {
    let scope = Scope { model, id: model.main_id() };
    for (key, weights) in &mut plan.weights {
        let computes =
            plan.ops.get(key).is_some_and(|op| matches!(op.precision, Precision::Int8 | Precision::A16w8));
        let [weight] = &mut weights[..] else { continue };
        if !computes || weight.slot != 1 {
            continue;
        }
        let found = || -> Option<Vec<f32>> {
            let (op, _) = scope.producer(scope.find(key)?)?;
            let linear = Linear::of(scope, op).ok()?;
            let data = scope.input(op, 0)?;
            let powers = known
                .get(scope.value(data).name() as &str)
                .and_then(Sketch::channels)
                .map(powers)
                .filter(|powers| powers.len() == linear.input_channels());
            let power =
                |index: usize| powers.as_ref().map_or(1.0, |powers| powers[linear.input_channel(index)]);
            let values = floats(linear.weight).ok()?;
            let importance: Vec<f32> = (0..values.len()).map(power).collect();
            let (layout, params) = weight_params(linear.weight, weight).ok()?;
            quant::scale_search::factors(&values, &importance, &layout, &params, weight.grid, WORTHWHILE).ok()
        };
        let searched = || found().filter(|factors| factors.iter().any(|&f| f != 1.0));
        if let Some(factors) = memo.factors(key, weight, searched) {
            weight.scale_factors = factors;
        }
    }
}

/// Raises the scales of int8 weights until no two codes of one channel can saturate the int16 in which x86 CPUs without VNNI
/// add pairs of products (see [`quant::saturation`]). Which two become neighbours depends on the kernel, so every two of one
/// sign count; a channel whose largest weights are few and of both signs loses less than one bit. Returns the number of
/// channels changed.
pub fn avoid_saturation(plan: &mut QuantPlan, model: &Model) -> usize {
    let places = places(model);
    let mut changed = 0;
    for (key, weights) in &mut plan.weights {
        let computes =
            plan.ops.get(key).is_some_and(|op| matches!(op.precision, Precision::Int8 | Precision::Dynamic));
        let Some(&(id, op)) = places.get(key) else { continue };
        for weight in weights.iter_mut().filter(|weight| computes && weight.grid.code == CodeType::I8) {
            let graph = model.graph(id);
            let Some(tensor) = graph.input(op, weight.slot).and_then(|value| graph.constant(value)) else {
                continue;
            };
            let Some(factors) = safe_factors(tensor, weight) else { continue };
            changed += factors
                .iter()
                .zip(weight.scale_factors.iter().chain(std::iter::repeat(&1.0)))
                .filter(|(a, b)| a != b)
                .count();
            weight.scale_factors = factors;
        }
    }
    changed
}

/// The factors of the weight's scales with which no pair can saturate; none if they do already.
fn safe_factors(tensor: &Tensor, weight: &WeightPlan) -> Option<Vec<f32>> {
    let values = floats(tensor).ok()?;
    let (layout, mut params) = weight_params(tensor, weight).ok()?;
    let mut factors = weight.scale_factors.clone();
    factors.resize(params.len(), 1.0);
    // Once is enough but for roundings; each further turn raises by a hundredth.
    for turn in 0..4 {
        let mut ends = vec![[0i32; 4]; params.len()];
        for (at, &value) in values.iter().enumerate() {
            let param = layout.param_of(at);
            let code = quant::quantize::quantize_one(value, params[param], weight.grid.codes());
            let [most, second, least, last] = &mut ends[param];
            if code > *most {
                (*second, *most) = (*most, code);
            } else {
                *second = (*second).max(code);
            }
            if code < *least {
                (*last, *least) = (*least, code);
            } else {
                *last = (*last).min(code);
            }
        }
        let mut all_safe = true;
        for (at, [most, second, least, last]) in ends.into_iter().enumerate() {
            let pair = (most + second).max(-(least + last));
            if pair > SAFE_PAIR {
                all_safe = false;
                let raise = pair as f32 / SAFE_PAIR as f32 * (1.0 + 0.01 * turn as f32);
                factors[at] *= raise;
                params[at] = Params::new(params[at].scale() * raise, params[at].zero_point()).ok()?;
            }
        }
        if all_safe {
            return (turn > 0).then_some(factors);
        }
    }
    Some(factors)
}

/// Two weight codes of this sum, times the greatest activation code, stay within an int16: 255 * 128 = 32,640.
const SAFE_PAIR: i32 = 128;

/// The second moment of each channel, from its extrema and mean: a channel's variance is at most (most - mean)·(mean - least)
/// (Bhatia and Davis, 2000), and a ninth of that for a normal one seen for a while.
fn powers(channels: &Channels) -> Vec<f32> {
    let power = |((lo, hi), mean): ((f32, f32), f64)| {
        let spread = (f64::from(hi) - mean).max(0.0) * (mean - f64::from(lo)).max(0.0);
        (mean * mean + spread / 9.0) as f32
    };
    let powers: Vec<f32> = channels.ranges().into_iter().zip(channels.mean()).map(power).collect();
    // Relative: squares of large numbers must not leave float32.
    let most = powers.iter().copied().fold(0.0, f32::max);
    let relative = |p: f32| if most > 0.0 && most.is_finite() { (p / most).max(1e-6) } else { 1.0 };
    powers.into_iter().map(relative).collect()
}

/// Raises the scales of weights beside a bias that would overflow its int32 codes (see [`quant::bias`]): dead weights, or
/// nearly dead ones, next to a bias that is not.
pub fn leave_room(plan: &mut QuantPlan, model: &Model) {
    let graph = model.main();
    let mut raised = Vec::new();
    for (key, bias) in &plan.biases {
        let weights = plan.weights.get(key).into_iter().flatten();
        let Some(weight) = weights.clone().find(|weight| weight.slot == bias.weight_slot) else { continue };
        let room = || -> Option<Vec<f32>> {
            let (op, _) = graph.producer(graph.find(key)?)?;
            let data = graph.value(graph.input(op, bias.data_slot)?).name();
            let data = plan.read_as(data, key)?.params?;
            let numbers = floats(graph.constant(graph.find(&bias.value)?)?).ok()?;
            let tensor = graph.constant(graph.find(&weight.value)?)?;
            let (_, mut params) = weight_params(tensor, weight).ok()?;
            let numbers =
                if numbers.len() == 1 { vec![numbers[0]; params.len()] } else { numbers.into_owned() };
            let terms = tensor.elements() / params.len().max(1);
            let before: Vec<f32> = params.iter().map(|param| param.scale()).collect();
            let limit = code_limit(terms, 255, 128);
            let raised = raise_weight_scales(&numbers, data.scale(), &mut params, limit).ok()?;
            if raised.is_empty() {
                return None;
            }
            let old = |at: usize| weight.scale_factors.get(at).copied().unwrap_or(1.0);
            Some(
                params.iter().zip(before).enumerate().map(|(at, (p, b))| old(at) * (p.scale() / b)).collect(),
            )
        };
        raised.extend(room().map(|factors| (key.clone(), bias.weight_slot, factors)));
    }
    for (key, slot, factors) in raised {
        let weights = plan.weights.get_mut(&key).into_iter().flatten();
        weights
            .filter(|weight| weight.slot == slot)
            .for_each(|weight| weight.scale_factors.clone_from(&factors));
    }
}

/// The range of a class that an operator or the user fixes.
fn fixed(plan: &QuantPlan, class: usize) -> Option<(f32, f32)> {
    let ranges =
        plan.rounded().filter(|(_, entry)| entry.class == class).filter_map(|(_, entry)| entry.range);
    ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

fn from_range(entry: &ValuePlan, range: (f32, f32), source: &str, options: &FitOptions) -> ValuePlan {
    let (low, high) = widened(range, entry.grid, options);
    let (params, _) = Params::from_range(low, high, entry.grid, &options.policy);
    let source = if entry.source.is_empty() { source.to_string() } else { entry.source.clone() };
    ValuePlan { range: Some((low, high)), params: Some(params), source, ..entry.clone() }
}

/// The range, made as wide as the target wants: upwards from zero, to both sides on a symmetric grid.
fn widened((low, high): (f32, f32), grid: Grid, options: &FitOptions) -> (f32, f32) {
    let Some(least) = options.least_width else { return (low, high) };
    let width = high.max(0.0) - low.min(0.0);
    match () {
        _ if width >= least => (low, high),
        _ if grid.symmetric => (low.min(-least / 2.0), high.max(least / 2.0)),
        _ => (low.min(0.0), low.min(0.0) + least),
    }
}

fn constant(model: &Model, names: &[String], entry: &ValuePlan, options: &FitOptions) -> Option<ValuePlan> {
    let graph = model.main();
    let [name] = names else { return None };
    let tensor = graph.constant(graph.find(name)?)?;
    let range = quant::quantize::min_max(&floats(tensor).ok()?);
    Some(from_range(entry, range, "constant", options))
}

fn seen(
    names: &[String],
    known: Known<'_>,
    entry: &ValuePlan,
    options: &FitOptions,
    functions: Option<&Functions<'_>>,
) -> Option<ValuePlan> {
    // Values of one class may have different shapes, so their channels cannot be merged; one scale needs none.
    let mut sketches =
        names.iter().filter_map(|name| known.get(name)).map(|sketch| sketch.clone().without_channels());
    let mut merged = sketches.next();
    for sketch in sketches {
        merged.as_mut()?.merge(&sketch).ok()?;
    }
    let sketch = merged.filter(|sketch| sketch.finite() > 0)?;
    let method = names.iter().find_map(|name| options.methods.get(name)).cloned().unwrap_or(options.method);
    let mut choice = match names.iter().find_map(|name| options.ranges.get(name)) {
        Some(&range) => weigh(method, range, &sketch, entry.grid, &options.policy),
        None => choose(method, &sketch, entry.grid, &options.policy),
    };
    let mut behind = false;
    // A range or method that somebody chose stays.
    if let ([name], Some(functions)) = (names, functions)
        && !options.ranges.contains_key(name)
        && !options.methods.contains_key(name)
        && let Some(table) = sketch.extent().and_then(|extent| functions.behind(name, extent))
        && let Some(found) = after::range(&sketch, entry.grid, &options.policy, &table, &choice, BEHIND_DB)
    {
        (choice, behind) = (found, true);
    }
    let wide = widened((choice.lo, choice.hi), entry.grid, options);
    if wide != (choice.lo, choice.hi) {
        choice = weigh(choice.method, wide, &sketch, entry.grid, &options.policy);
    }
    let searched = names.iter().any(|name| options.ranges.contains_key(name));
    Some(ValuePlan {
        range: Some((choice.lo, choice.hi)),
        params: Some(choice.params),
        source: match () {
            _ if searched => "searched".into(),
            _ if behind => "mse behind the function".into(),
            _ => choice.method.to_string(),
        },
        sqnr_db: Some(choice.sqnr_db),
        clipped: Some(choice.clipped),
        ..entry.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Choices, choose as plan_of};
    use crate::testing::{min_max, parse};
    use quant::saturation::{dot, dot_saturating};

    fn fitted(model: &Model, saturates: bool, weights: bool, x: &[f32]) -> QuantPlan {
        let target = crate::target::target("ort-cpu").unwrap();
        let mut plan = plan_of(model, &Choices::new(target));
        let names = plan.rounded().map(|(name, _)| name.to_string());
        let mut sketches: Sketches = names.map(|name| (name, Sketch::of(&[-1.0, 1.0]))).collect();
        let mut seen = Sketch::new();
        let layout = quant::Layout::per_axis(&[x.len() / 4, 4], 1).unwrap();
        seen.observe_channels(0, x, &layout).unwrap();
        sketches.insert("x".into(), seen);
        let options = FitOptions { weights, saturates, ..min_max() };
        let known = Known { seen: &sketches, newer: &Sketches::new() };
        assert!(fit(&mut plan, model, known, &options, &mut Memo::default()).is_empty());
        plan
    }

    /// Codes of the weight by output channel.
    fn codes(model: &Model, plan: &QuantPlan) -> Vec<Vec<i8>> {
        let weight = &plan.weights["y"][0];
        let tensor = model.main().constant(model.main().find("w").unwrap()).unwrap();
        let values = floats(tensor).unwrap();
        let (layout, params) = weight_params(tensor, weight).unwrap();
        let mut rows = vec![Vec::new(); params.len()];
        for (at, &value) in values.iter().enumerate() {
            let param = layout.param_of(at);
            let code = quant::quantize::quantize_one(value, params[param], weight.grid.codes());
            rows[param].push(code as i8);
        }
        rows
    }

    const GEMM: &str = "g (float[1,4] x) => (float[1,3] y)
        <float[3,4] w = {1, 0.99, 0.5, 0.98,  1, -1, 0.001, 0.005,  -0.3, -0.29, -0.3, 0.3}, float[3] b = {1, 1, 1}>
        { y = Gemm<transB: int = 1>(x, w, b) }";

    #[test]
    fn pairs_of_products_stay_within_16_bits_without_vnni() {
        let model = parse(GEMM);
        let x = [1.0, 1.0, 1.0, 1.0];
        let worst = [255u8; 4];
        let plain = codes(&model, &fitted(&model, false, false, &x));
        assert_ne!(dot(&worst, &plain[0]), dot_saturating(&worst, &plain[0]), "else this shows nothing");
        let plan = fitted(&model, true, false, &x);
        for row in codes(&model, &plan) {
            // Whatever the order of the sum: all pairs of one sign are safe.
            for (at, &a) in row.iter().enumerate() {
                for &b in &row[at + 1..] {
                    let (x, w) = ([255u8; 2], [a, b]);
                    assert_eq!(dot(&x, &w), dot_saturating(&x, &w), "{row:?}");
                }
            }
        }
        // The second row has one large weight of each sign: it keeps all its bits.
        assert_eq!(plan.weights["y"][0].scale_factors[1], 1.0);
        assert_eq!(codes(&model, &plan)[1][..2], [127, -127]);
    }

    #[test]
    fn errors_that_meet_nothing_do_not_count() {
        let model = parse(
            "g (float[1,4] x) => (float[1,1] y)
            <float[1,4] w = {0.5, 0.313, -0.227, 1.0}, float[1] b = {0}> { y = Gemm<transB: int = 1>(x, w, b) }",
        );
        // The last channel is always zero: only the errors of the first three weights show.
        let x = [3.0, 2.0, 2.5, 0.0, -3.0, -2.0, -2.5, 0.0];
        let error = |plan: &QuantPlan| -> f64 {
            let tensor = model.main().constant(model.main().find("w").unwrap()).unwrap();
            let (_, params) = weight_params(tensor, &plan.weights["y"][0]).unwrap();
            let codes = &codes(&model, plan)[0];
            let real = floats(tensor).unwrap();
            let off = |at: usize| f64::from(f32::from(codes[at]) * params[0].scale() - real[at]).powi(2);
            (0..3).map(off).sum()
        };
        let (plain, searched) = (fitted(&model, false, false, &x), fitted(&model, false, true, &x));
        assert!(error(&searched) < 0.5 * error(&plain), "{} {}", error(&searched), error(&plain));
    }

    #[test]
    fn a_large_bias_beside_dead_weights_leaves_room_in_32_bits() {
        let model = parse(
            "g (float[1,4] x) => (float[1,2] y)
            <float[2,4] w = {1e-9, 0, 0, 1e-9,  1, 1, 1, 1}, float[2] b = {1000, 1}>
            { y = Gemm<transB: int = 1>(x, w, b) }",
        );
        let x = [0.001, 0.001, 0.001, 0.001];
        let plan = fitted(&model, false, false, &x);
        let factors = &plan.weights["y"][0].scale_factors;
        assert!(factors[0] > 1.0 && factors[1] == 1.0, "{factors:?}");
        let tensor = model.main().constant(model.main().find("w").unwrap()).unwrap();
        let (_, params) = weight_params(tensor, &plan.weights["y"][0]).unwrap();
        let scale = f64::from(plan.values["x"].params.unwrap().scale()) * f64::from(params[0].scale());
        // Four products of 255 * 128 fit beside the bias's code.
        assert!(1000.0 / scale + 4.0 * 255.0 * 128.0 <= f64::from(i32::MAX));
    }
}
