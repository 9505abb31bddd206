//! The form of a fixture: directives in comments, a text model, and what is expected below a line of `====`.

use ir::{Dim, Model};
use onnxq_passes::Spec;
use ops::Value;

use crate::values::{Feed, made};

/// A fixture.
pub struct Fixture {
    /// The passes under test.
    pub passes: Vec<Spec>,
    /// Passes that run first; what they change is not shown.
    pub prepare: Vec<Spec>,
    /// How far results may differ, relative to the larger of 1 and the value; none: not at all, bit by bit.
    pub tolerance: Option<f64>,
    /// Why the reference evaluator does not run it.
    pub not_evaluated: Option<String>,
    /// Why it cannot run twice.
    pub once: Option<String>,
    /// Sizes of named dimensions.
    pub dims: Vec<(String, usize)>,
    /// Ranges of inputs by name, for those that are indices or must not be anything.
    pub ranges: Vec<(String, f64, f64)>,
    /// Inputs are finite.
    pub finite: bool,
    /// The model's text, with the comments above it.
    pub model: String,
    /// What is expected.
    pub expected: String,
}

const LINE: &str = "====";

impl Fixture {
    /// Reads the text of a fixture.
    pub fn parse(text: &str) -> Result<Fixture, String> {
        let (model, expected) = match text.split_once(&format!("\n{LINE}\n")) {
            Some((model, expected)) => (format!("{model}\n"), expected.to_string()),
            None => (text.to_string(), String::new()),
        };
        let mut fixture = Fixture {
            passes: Vec::new(),
            prepare: vec![Spec::new("infer_shapes")],
            tolerance: None,
            not_evaluated: None,
            once: None,
            dims: Vec::new(),
            ranges: Vec::new(),
            finite: false,
            model,
            expected,
        };
        for line in text.lines() {
            let Some(directive) = line.strip_prefix("#: ") else { continue };
            let (key, value) = directive.split_once(' ').ok_or_else(|| format!("{line:?} has no value"))?;
            fixture.directive(key, value.trim()).map_err(|why| format!("{line:?}: {why}"))?;
        }
        if fixture.passes.is_empty() {
            return Err("the fixture names no pass".to_string());
        }
        Ok(fixture)
    }

    fn directive(&mut self, key: &str, value: &str) -> Result<(), String> {
        let list = |value: &str| Spec::list(value).map_err(|error| error.to_string());
        let number = |value: &str| value.parse::<f64>().map_err(|error| error.to_string());
        // Whatever loosens a check says why behind a colon.
        let reasoned = |value: &str| {
            let (value, reason) = value.split_once(':').ok_or("there is no reason behind a colon")?;
            if reason.trim().is_empty() { Err("the reason is empty") } else { Ok(value.trim().to_string()) }
        };
        match key {
            "pass" => self.passes = list(value)?,
            "prepare" if value == "nothing" => self.prepare.clear(),
            "prepare" => self.prepare = list(value)?,
            "tolerance" => self.tolerance = Some(number(&reasoned(value)?)?),
            "not_evaluated" => self.not_evaluated = Some(value.to_string()),
            "once" => self.once = Some(value.to_string()),
            "finite" => {
                reasoned(&format!("yes:{value}"))?;
                self.finite = true;
            }
            "dims" => {
                for pair in value.split_whitespace() {
                    let (name, size) = pair.split_once('=').ok_or("a size is NAME=N")?;
                    self.dims.push((name.to_string(), size.parse().map_err(|_| "a size is a number")?));
                }
            }
            "range" => match value.split_whitespace().collect::<Vec<_>>()[..] {
                [name, low, high] => self.ranges.push((name.to_string(), number(low)?, number(high)?)),
                _ => return Err("a range is NAME LOW HIGH".to_string()),
            },
            _ => return Err("no such directive".to_string()),
        }
        Ok(())
    }

    /// The fixture's text with other expectations.
    pub fn with_expected(&self, expected: &str) -> String {
        format!("{}\n{LINE}\n{expected}", self.model.trim_end())
    }
}

/// Two sets of inputs: plain numbers with zeros of both signs, and one with infinities and not-a-numbers.
pub fn feeds(model: &Model, fixture: &Fixture) -> Result<Vec<(&'static str, Feed)>, String> {
    let mut sets = vec![("plain numbers", feed(model, fixture, false)?)];
    if !fixture.finite {
        sets.push(("numbers that are none", feed(model, fixture, true)?));
    }
    Ok(sets)
}

fn feed(model: &Model, fixture: &Fixture, wild: bool) -> Result<Feed, String> {
    let main = model.main();
    main.inputs()
        .iter()
        .enumerate()
        .map(|(seed, &input)| {
            let value = main.value(input);
            if value.data.is_some() {
                return Ok(None);
            }
            let tensor = value.ty.as_ref().and_then(|ty| ty.as_tensor()).ok_or("an input is no tensor")?;
            let dtype = tensor.dtype.ok_or("an input has no element type")?;
            let shape = tensor.shape.as_ref().ok_or("an input has no shape")?;
            let sizes: Vec<usize> = shape.dims.iter().map(|dim| size(dim, fixture)).collect();
            let range = fixture.ranges.iter().find(|(name, ..)| **name == **value.name());
            let range = range.map(|&(_, low, high)| (low, high));
            Ok(Some(Value::Tensor(made(dtype, &sizes, seed as u64, range, wild)?)))
        })
        .collect()
}

/// A size for a dimension: the fixture's, or one that no other dimension is likely to have.
fn size(dim: &Dim, fixture: &Fixture) -> usize {
    match dim {
        Dim::Known(size) => usize::try_from(*size).unwrap_or(0),
        Dim::Symbol(name) => {
            let given = fixture.dims.iter().find(|(known, _)| **known == **name).map(|&(_, size)| size);
            given.unwrap_or_else(|| 2 + name.bytes().map(usize::from).sum::<usize>() % 5)
        }
        Dim::Unknown => 3,
    }
}
