//! Recipes: what `onnxq quantize` is asked, in a TOML file.
//!
//! Every flag is a key of the same name (`per-tensor = true`, `exclude = ["head*"]`); what is given on the command line
//! wins. Beside them stand rules for single operators and tensors, the later of two that match wins:
//!
//! ```toml
//! target = "ort-cpu"
//! method = "mse"
//! include = ["Conv", "Gemm"]
//!
//! [[node]]                  # by name, key or type; * and ? match
//! match = "head/*"
//! precision = "float"       # float, int8, a16w8, fp8, dynamic, w8, w4, fp16
//!
//! [[tensor]]                # by name
//! match = "image"
//! dtype = "uint8"
//! symmetric = false
//! range = [0.0, 1.0]        # or scale and zero_point, or method
//! ```
//!
//! Unknown keys are errors, and so is a rule that matches nothing in the model.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ArgMatches, Command, parser::ValueSource};
use passes::quantize::Precision;
use quant::CodeType;
use quant::range::Method;
use serde::{Deserialize, Deserializer};
use toml::Value;

/// What is asked about operators that match.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRule {
    /// Node name, value name or type; `*` and `?` match.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What they compute in.
    #[serde(deserialize_with = "precision")]
    pub precision: Precision,
}

/// What is asked about tensors that match.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRule {
    /// Name of the value; `*` and `?` match.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Type of the codes.
    pub dtype: Option<CodeType>,
    /// Zero point in the middle of the codes.
    pub symmetric: Option<bool>,
    /// Weights: the axis along which scales differ.
    pub axis: Option<usize>,
    /// Weights: one scale for all.
    #[serde(default)]
    pub per_tensor: bool,
    /// Activations: the range that the codes cover.
    pub range: Option<[f32; 2]>,
    /// Activations: the scale.
    pub scale: Option<f32>,
    /// Activations: the zero point.
    pub zero_point: Option<i32>,
    /// Activations: the range method.
    #[serde(default, deserialize_with = "method")]
    pub method: Option<Method>,
}

/// The rules of a recipe.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rules {
    /// About operators, in the order of the file.
    #[serde(default, rename = "node")]
    pub nodes: Vec<NodeRule>,
    /// About tensors, in the order of the file.
    #[serde(default, rename = "tensor")]
    pub tensors: Vec<TensorRule>,
}

fn precision<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Precision, D::Error> {
    let name = String::deserialize(deserializer)?;
    named_precision(&name).map_err(serde::de::Error::custom)
}

fn method<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Method>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(serde::de::Error::custom)
}

/// The precision that users call this.
///
/// # Errors
/// No precision has that name; the message lists them.
pub fn named_precision(name: &str) -> Result<Precision> {
    let known = || Precision::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    let found = Precision::ALL.iter().find(|(_, known)| *known == name);
    found
        .map(|(precision, _)| *precision)
        .with_context(|| format!("no precision is called {name:?}; there are {}", known()))
}

impl Rules {
    /// Reads the rules of a recipe's text.
    ///
    /// # Errors
    /// Text that is no TOML, or a rule that is not understood, with its place.
    pub fn parse(text: &str) -> Result<Rules> {
        let rules: Rules = toml::from_str(text)?;
        for rule in &rules.tensors {
            let ways = [rule.range.is_some(), rule.scale.is_some(), rule.method.is_some()];
            if ways.iter().filter(|&&given| given).count() > 1 {
                bail!("tensor {:?}: give one of range, scale (with zero_point) and method", rule.pattern);
            }
            if rule.zero_point.is_some() && rule.scale.is_none() {
                bail!("tensor {:?}: zero_point needs scale", rule.pattern);
            }
            if let Some([low, high]) = rule.range
                && !(low.is_finite() && high.is_finite() && low < high)
            {
                bail!("tensor {:?}: the range [{low}, {high}] is not one", rule.pattern);
            }
            if rule.scale.is_some_and(|scale| !(scale.is_finite() && scale > 0.0)) {
                bail!("tensor {:?}: a scale is positive and finite", rule.pattern);
            }
        }
        Ok(rules)
    }
}

/// Reads a recipe: its text, for [`Rules::parse`] and [`flags`].
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {}", path.display()))
}

/// The arguments that a recipe's keys stand for, without those given on the command line and those that the command which
/// reads the recipe (`reader`) has not.
///
/// # Errors
/// A key that is no flag of the command that recipes are for, or a value of the wrong kind.
pub fn flags(text: &str, command: &Command, reader: &Command, given: &ArgMatches) -> Result<Vec<OsString>> {
    let table: toml::Table = toml::from_str(text)?;
    let mut flags = Vec::new();
    for (key, value) in &table {
        if matches!(key.as_str(), "node" | "tensor") {
            continue;
        }
        let long = key.replace('_', "-");
        let known = || {
            command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| !OUTSIDE.contains(&long)))
        };
        let Some(arg) = known().find(|arg| arg.get_long() == Some(&long)) else {
            let names: Vec<&str> = known().filter_map(|arg| arg.get_long()).collect();
            bail!("{key:?} is no key of a recipe; there are node, tensor, {}", names.join(", "));
        };
        let takes = reader.get_arguments().any(|own| own.get_long() == Some(&long));
        if !takes || given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        match (value, arg.get_action()) {
            (Value::Boolean(true), ArgAction::SetTrue) => flags.push(format!("--{long}").into()),
            (Value::Boolean(false), ArgAction::SetTrue) => {}
            (_, ArgAction::SetTrue) => bail!("{key} is true or false, not {value}"),
            (Value::Array(items), _) => {
                for item in items {
                    flags.push(format!("--{long}={}", scalar(key, item)?).into());
                }
            }
            (value, _) => flags.push(format!("--{long}={}", scalar(key, value)?).into()),
        }
    }
    Ok(flags)
}

/// Flags that belong to one call and not to a recipe.
const OUTSIDE: &[&str] = &["recipe", "help", "version"];

fn scalar(key: &str, value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        other => bail!("{key}: {other} is neither text nor a number"),
    })
}

#[cfg(test)]
mod tests {
    use clap::{Arg, value_parser};

    use super::*;

    fn command() -> Command {
        Command::new("quantize")
            .arg(Arg::new("target").long("target").default_value("ort-cpu"))
            .arg(Arg::new("samples").long("samples").value_parser(value_parser!(usize)))
            .arg(Arg::new("per_tensor").long("per-tensor").action(ArgAction::SetTrue))
            .arg(Arg::new("exclude").long("exclude").action(ArgAction::Append))
    }

    fn expanded(recipe: &str, line: &[&str]) -> Result<Vec<String>> {
        let given = command().get_matches_from(line);
        Ok(flags(recipe, &command(), &command(), &given)?
            .into_iter()
            .map(|flag| flag.to_string_lossy().into_owned())
            .collect())
    }

    #[test]
    fn keys_are_flags_and_the_command_line_wins() {
        let recipe = "target = \"qnn\"\nsamples = 8\nper_tensor = true\nexclude = [\"a\", \"b*\"]";
        let all = expanded(recipe, &["quantize"]).unwrap();
        assert_eq!(all, ["--exclude=a", "--exclude=b*", "--per-tensor", "--samples=8", "--target=qnn"]);
        let some = expanded(recipe, &["quantize", "--target", "tract", "--exclude", "c"]).unwrap();
        assert_eq!(some, ["--per-tensor", "--samples=8"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (recipe, message) in [
            ("tarket = \"qnn\"", "no key of a recipe"),
            ("per-tensor = 3", "true or false"),
            ("samples = {}", "neither text nor a number"),
        ] {
            let error = expanded(recipe, &["quantize"]).unwrap_err().to_string();
            assert!(error.contains(message), "{recipe}: {error}");
        }
        for (recipe, message) in [
            ("[[node]]\nmatch = \"x\"\nprecision = \"int7\"", "int7"),
            ("[[node]]\nmatch = \"x\"\nprecision = \"int8\"\ndtype = \"int8\"", "dtype"),
            ("[[tensor]]\nmatch = \"x\"\nrange = [1.0, 0.0]", "not one"),
            ("[[tensor]]\nmatch = \"x\"\nzero_point = 3", "needs scale"),
            ("[[tensor]]\nmatch = \"x\"\nscale = 1.0\nmethod = \"mse\"", "one of"),
            ("[[tensor]]\nmatch = \"x\"\nscale = -1.0", "positive"),
            ("[[tensor]]\nmatch = \"x\"\ndtype = \"int9\"", "int9"),
        ] {
            let error = format!("{:#}", Rules::parse(recipe).unwrap_err());
            assert!(error.contains(message), "{recipe}: {error}");
        }
    }

    #[test]
    fn rules_keep_the_order_of_the_file() {
        let rules = Rules::parse(
            "[[node]]\nmatch = \"a\"\nprecision = \"float\"\n[[node]]\nmatch = \"b\"\nprecision = \"w8\"",
        )
        .unwrap();
        assert_eq!(rules.nodes.iter().map(|rule| rule.pattern.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
