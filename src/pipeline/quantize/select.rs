//! Operators and tensors chosen by pattern: what the options and the rules of a recipe ask of this model.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use globset::{Glob, GlobMatcher};
use ir::Model;
use passes::quantize::keys::places;
use passes::quantize::{Choices, Kernel, Precision, QuantPlan};
use passes::target::Target;
use quant::range::Method;
use quant::{CodeType, Grid, Params, Span};

use super::{Mode, QuantizeOptions};
use crate::recipe::TensorRule;

/// What the options ask of the operators of this model.
///
/// # Errors
/// A pattern that matches nothing.
pub fn choices<'a>(model: &Model, options: &'a QuantizeOptions) -> Result<Choices<'a>> {
    supported(options.target, options.precision)?;
    Ok(Choices {
        precision: options.precision,
        overrides: overrides(model, options)?,
        per_tensor: options.per_tensor,
        activation: options.activation,
        weight: options.weight,
        ..Choices::new(options.target)
    })
}

/// An error if the target cannot load what this precision makes.
pub fn supported(target: &dyn Target, precision: Precision) -> Result<()> {
    let loads = |precision: &Precision| target.kernel(*precision) != Kernel::Fails;
    if !loads(&precision) {
        let known = Precision::ALL.iter().filter(|(known, _)| loads(known)).map(|(_, name)| *name);
        bail!("{} cannot load {precision}; it loads {}", target.name(), known.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// Precisions by operator: what is not included is float, then what is excluded, then the rules in their order.
fn overrides(model: &Model, options: &QuantizeOptions) -> Result<BTreeMap<String, Precision>> {
    let places = places(model);
    let matching = |what: &str, pattern: &str| -> Result<Vec<String>> {
        let glob = glob(pattern)?;
        let names = |(key, &(graph, op)): (&String, &(ir::GraphId, ir::OpId))| {
            let node = model.graph(graph).op(op);
            [&node.name, key, &node.kind.to_string()]
                .iter()
                .any(|name| glob.is_match(name))
                .then(|| key.clone())
        };
        let found: Vec<String> = places.iter().filter_map(names).collect();
        if found.is_empty() {
            let near = similar(pattern, places.keys().map(String::as_str));
            bail!("{what} {pattern:?} matches no operator{near}; names are listed by `onnxq explain MODEL`");
        }
        Ok(found)
    };
    let mut overrides = BTreeMap::new();
    if !options.include.is_empty() {
        overrides.extend(places.keys().map(|key| (key.clone(), Precision::Float)));
        for pattern in &options.include {
            matching("--include", pattern)?.iter().for_each(|key| {
                overrides.remove(key);
            });
        }
    }
    for pattern in &options.exclude {
        overrides.extend(matching("--exclude", pattern)?.into_iter().map(|key| (key, Precision::Float)));
    }
    for rule in &options.rules.nodes {
        let what = format!("the rule for node {:?}", rule.pattern);
        supported(options.target, rule.precision).with_context(|| what.clone())?;
        if options.mode == Mode::Dynamic && rule.precision.is_static() {
            bail!("{what}: {} needs ranges known ahead of time, and the mode is dynamic", rule.precision);
        }
        for key in matching("the rule for node", &rule.pattern)? {
            if rule.precision == options.precision {
                overrides.remove(&key);
            } else {
                overrides.insert(key, rule.precision);
            }
        }
    }
    Ok(overrides)
}

/// Applies the rules for tensors to a plan before it is fitted.
///
/// # Errors
/// A rule that matches nothing that is quantized, or that does not fit what it matches.
pub fn adjust(plan: &mut QuantPlan, model: &Model, options: &QuantizeOptions) -> Result<()> {
    for rule in &options.rules.tensors {
        let glob = glob(&rule.pattern)?;
        let classes: Vec<usize> = plan
            .values
            .iter()
            .filter(|(name, _)| glob.is_match(name))
            .map(|(_, value)| value.class)
            .collect();
        let mut matched = classes.len();
        // Values of one class share their parameters: a rule for one is a rule for all.
        for (_, value) in plan.rounded_mut().filter(|(_, value)| classes.contains(&value.class)) {
            value.grid = grid(value.grid, rule);
            let bounds =
                rule.range.or_else(|| pinned(value.grid, rule).map(|params| covered(value.grid, params)));
            if let Some([low, high]) = bounds {
                value.range = Some((low, high));
                value.source = "user".into();
            }
        }
        let graph = model.main();
        let places = places(model);
        let weights =
            plan.weights.iter_mut().flat_map(|(key, list)| list.iter_mut().map(move |weight| (key, weight)));
        for (key, weight) in weights.filter(|(_, weight)| glob.is_match(&weight.value)) {
            matched += 1;
            if rule.range.is_some() || rule.scale.is_some() || rule.method.is_some() {
                bail!(
                    "the rule for tensor {:?}: {:?} is a weight, its scales follow from its numbers",
                    rule.pattern,
                    weight.value
                );
            }
            weight.grid = grid(weight.grid, rule);
            let rank =
                graph.find(&weight.value).and_then(|value| graph.constant(value)).map(|tensor| tensor.rank());
            if let (Some(axis), Some(rank)) = (rule.axis, rank) {
                if axis >= rank {
                    bail!(
                        "the rule for tensor {:?}: {:?} has no axis {axis}, its rank is {rank}",
                        rule.pattern,
                        weight.value
                    );
                }
                let channels = places.get(key).and_then(|&(graph, op)| {
                    match ops::scheme(model.graph(graph), op)?.input(weight.slot) {
                        ops::Role::Weight { channel, .. } => channel,
                        _ => None,
                    }
                });
                if channels != Some(axis) {
                    let own = channels.map_or("has none".into(), |axis| format!("are axis {axis}"));
                    bail!(
                        "the rule for tensor {:?}: scales of {:?} cannot differ along axis {axis}: they lie along the output channels of {key:?}, which {own}",
                        rule.pattern,
                        weight.value
                    );
                }
                weight.axis = Some(axis);
            }
            if rule.per_tensor {
                weight.axis = None;
            }
        }
        if matched == 0 {
            let exists = graph.values().any(|value| glob.is_match(&**graph.value(value).name()));
            let names = plan.values.keys().chain(plan.weights.values().flatten().map(|weight| &weight.value));
            let near = similar(&rule.pattern, names.map(String::as_str));
            match exists {
                true => bail!(
                    "the rule for tensor {:?}: nothing that it matches is quantized{near}",
                    rule.pattern
                ),
                false => bail!("the rule for tensor {:?} matches nothing{near}", rule.pattern),
            }
        }
    }
    Ok(())
}

/// Sets the scales that rules give, after the rest was fitted.
pub fn pin(plan: &mut QuantPlan, options: &QuantizeOptions) -> Result<()> {
    for rule in &options.rules.tensors {
        let glob = glob(&rule.pattern)?;
        let classes: Vec<usize> = plan
            .values
            .iter()
            .filter(|(name, _)| glob.is_match(name))
            .map(|(_, value)| value.class)
            .collect();
        for value in plan.values.values_mut().filter(|value| classes.contains(&value.class)) {
            if let Some(params) = pinned(value.grid, rule) {
                value.params = Some(params);
            }
        }
    }
    Ok(())
}

/// Range methods that rules give, by value.
pub fn methods(plan: &QuantPlan, options: &QuantizeOptions) -> Result<BTreeMap<String, Method>> {
    let mut methods = BTreeMap::new();
    for rule in &options.rules.tensors {
        let Some(method) = rule.method else { continue };
        let glob = glob(&rule.pattern)?;
        methods
            .extend(plan.values.keys().filter(|name| glob.is_match(name)).map(|name| (name.clone(), method)));
    }
    Ok(methods)
}

fn glob(pattern: &str) -> Result<GlobMatcher> {
    Ok(Glob::new(pattern).with_context(|| format!("the pattern {pattern:?}"))?.compile_matcher())
}

fn grid(old: Grid, rule: &TensorRule) -> Grid {
    let code = rule.dtype.unwrap_or(old.code);
    let symmetric = rule.symmetric.unwrap_or(old.symmetric);
    // A span of other codes says nothing about these.
    let span = if code == old.code && symmetric == old.symmetric { old.span } else { Span::Full };
    Grid { code, symmetric, span }
}

fn pinned(grid: Grid, rule: &TensorRule) -> Option<Params> {
    let middle = if grid.symmetric && !grid.code.is_signed() { middle(grid.code) } else { 0 };
    Params::new(rule.scale?, rule.zero_point.unwrap_or(middle)).ok()
}

fn middle(code: CodeType) -> i32 {
    code.int_range().map_or(0, |(low, high)| (low + high + 1) / 2)
}

/// The numbers that the codes stand for.
fn covered(grid: Grid, params: Params) -> [f32; 2] {
    let (low, high) = grid.code.int_range().unwrap_or((-448, 448));
    [low, high].map(|code| (code - params.zero_point()) as f32 * params.scale())
}

/// `; did you mean "a", "b"?` for names that hold the pattern's longest plain part.
fn similar<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> String {
    let plain =
        pattern.split(['*', '?', '[', ']', '{', '}', '/']).max_by_key(|part| part.len()).unwrap_or("");
    let wanted = plain.to_ascii_lowercase();
    let near: Vec<String> = names
        .filter(|name| !wanted.is_empty() && name.to_ascii_lowercase().contains(&wanted))
        .take(3)
        .map(|name| format!("{name:?}"))
        .collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

/// A grid by the name that users type: a type of codes, `-symmetric` or `-asymmetric` behind it.
///
/// # Errors
/// No such type, or one that has no such form.
pub fn named_grid(name: &str, weights: bool) -> Result<Grid> {
    let (code, symmetric) = match name.rsplit_once('-') {
        Some((code, "symmetric")) => (code, Some(true)),
        Some((code, "asymmetric")) => (code, Some(false)),
        _ => (name, None),
    };
    let code = if code == "fp8" { CodeType::F8E4M3FN } else { code.parse::<CodeType>()? };
    if code == CodeType::I32 {
        bail!("int32 codes are for biases only");
    }
    if code.is_float() {
        if symmetric == Some(false) {
            bail!("{name}: float codes have no zero point");
        }
        return Ok(Grid::symmetric(code));
    }
    Ok(match symmetric.unwrap_or(weights && code.is_signed()) {
        true if weights => Grid::symmetric(code).with_span(Span::Narrow),
        true => Grid::symmetric(code),
        false => Grid::asymmetric(code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_names() {
        assert_eq!(named_grid("uint8", false).unwrap(), Grid::asymmetric(CodeType::U8));
        assert_eq!(named_grid("int8", false).unwrap(), Grid::asymmetric(CodeType::I8));
        assert_eq!(named_grid("int8", true).unwrap(), Grid::symmetric(CodeType::I8).with_span(Span::Narrow));
        assert_eq!(named_grid("int16-symmetric", false).unwrap(), Grid::symmetric(CodeType::I16));
        assert_eq!(named_grid("fp8", true).unwrap(), Grid::symmetric(CodeType::F8E4M3FN));
        for wrong in ["int9", "fp8-asymmetric", "int32", "int8-"] {
            assert!(named_grid(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn near_names_are_offered() {
        assert_eq!(similar("conv1*", ["Conv10", "pool"].into_iter()), "; did you mean \"Conv10\"?");
        assert_eq!(similar("*", ["a"].into_iter()), "");
    }
}
