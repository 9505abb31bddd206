//! Which values calibration looks at, and which of them need no look because their parts were seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use ir::{Model, Role};
use ops::scheme::joins_along;
use passes::quantize::{Choices, Precision, choose};
use passes::target::TARGETS;
use quant::range::Sketch;

use super::calibrate::channel_axis;

/// Every float value that can be looked at: inputs and computed values of the main graph.
pub fn every(model: &Model) -> Vec<String> {
    let main = model.main();
    let wanted = main.values().map(|id| main.value(id)).filter(|value| {
        matches!(value.role(), Role::Input | Role::Computed)
            && value.data.is_none()
            && value.dtype().is_none_or(|dtype| dtype.is_compute_float())
    });
    wanted.map(|value| value.name().to_string()).collect()
}

/// The values that a plan may round, whatever the target and the precision, and the model's inputs and outputs. Left out
/// is what no runtime computes as a value of its own: a convolution's result before the activation in its kernel, above
/// all.
pub fn usable(model: &Model) -> Vec<String> {
    let main = model.main();
    let ends = main.inputs().iter().chain(main.outputs()).map(|&id| main.value(id).name().to_string());
    let mut names: BTreeSet<String> = ends.collect();
    for target in TARGETS {
        for precision in [Precision::Int8, Precision::A16w8, Precision::Fp8] {
            let choices =
                Choices { precision, computed_products: true, any_weights: true, ..Choices::new(*target) };
            names.extend(choose(model, &choices).values.into_keys());
        }
    }
    every(model).into_iter().filter(|name| names.contains(name)).collect()
}

/// A value that holds the elements of other values, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its name.
    pub name: String,
    /// Names of the others.
    pub parts: Vec<String>,
    /// Its channels are theirs, one after the other; else they are the same channels.
    pub stacked: bool,
}

/// Those of these values whose parts are all among them: their sketches follow. In the order of execution, so that a part
/// that is joined itself comes first.
pub fn joined(model: &Model, names: &[String]) -> Vec<Joined> {
    let main = model.main();
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for op in main.schedule().unwrap_or_default() {
        let Some(axis) = joins_along(main, op) else { continue };
        let Some(output) = main.op_outputs(op).first().copied().flatten() else { continue };
        let inputs: Option<Vec<_>> = main.op_inputs(op).into_iter().collect();
        let Some(inputs) = inputs.filter(|inputs| !inputs.is_empty()) else { continue };
        let names = |id| main.value(id).name().to_string();
        let (name, parts) = (names(output), inputs.into_iter().map(names).collect::<Vec<_>>());
        let rank = main.value(output).shape().map_or(0, |shape| shape.dims.len());
        if known.contains(name.as_str()) && parts.iter().all(|part| known.contains(part.as_str())) {
            found.push(Joined { name, parts, stacked: channel_axis(rank) == Some(axis) });
        }
    }
    found
}

/// Adds the sketches of the joined values.
///
/// # Errors
/// Parts whose channels do not fit together.
pub fn join(values: &mut BTreeMap<String, Sketch>, joined: &[Joined]) -> Result<()> {
    for value in joined {
        let parts: Option<Vec<&Sketch>> = value.parts.iter().map(|part| values.get(part)).collect();
        // A part that the runtime did not show leaves a gap here too.
        let Some(parts) = parts else { continue };
        let sketch =
            Sketch::joined(parts, value.stacked).with_context(|| format!("value {:?}", value.name))?;
        values.insert(value.name.clone(), sketch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,1,2] x) => (float[1,9,1,2] y, float[1,7,1,2] pair)
<float[4,3,1,1] w = {0.5, -1, 2, 1, 1, 1, -2, 0, 1, 3, 1, -1}, float[1,1,1,2] c = {1, 2}>
{
  conv = Conv(x, w)
  relu = Relu(conv)
  pair = Concat<axis = -3>(relu, x)
  other = Concat<axis = 1>(pair, c, c)
  y = Relu(other)
}"#;

    #[test]
    fn values_made_of_others_follow_from_them() {
        let mut model = ir::text::parse(MODEL).unwrap();
        passes::simplify(&mut model, passes::Options::default()).unwrap();
        let names = every(&model);
        let found: Vec<(String, Vec<String>, bool)> =
            joined(&model, &names).into_iter().map(|j| (j.name, j.parts, j.stacked)).collect();
        // `other` has a part that is no value of the run.
        let pair = ("pair".to_string(), vec!["relu".to_string(), "x".to_string()], true);
        assert_eq!(found.first(), Some(&pair));
        assert!(found.iter().all(|(name, ..)| name != "other"), "{found:?}");
        // A part that nobody looks at leaves the value to be looked at.
        assert!(joined(&model, &["pair".to_string(), "x".to_string()]).is_empty());
    }

    #[test]
    fn what_stands_before_an_activation_in_the_kernel_is_left_out() {
        let mut model = ir::text::parse(MODEL).unwrap();
        passes::simplify(&mut model, passes::Options::default()).unwrap();
        let (all, some) = (every(&model), usable(&model));
        assert!(all.contains(&"conv".to_string()) && !some.contains(&"conv".to_string()));
        for end in ["x", "relu", "y"] {
            assert!(some.contains(&end.to_string()), "{end}");
        }
        assert!(some.iter().all(|name| all.contains(name)));
    }
}
