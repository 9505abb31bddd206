//! How users write a list of passes: `normalize,fold_constants(max_bytes=1000000),eliminate_dead`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::pass::PassError;

/// A pass by name, with options.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name.
    pub name: String,
    /// Options by name, as JSON values.
    pub options: Map<String, Value>,
}

impl Spec {
    /// A pass with its default options.
    pub fn new(name: &str) -> Spec {
        Spec { name: name.to_string(), options: Map::new() }
    }

    /// The same with one more option.
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Spec {
        self.options.insert(option.to_string(), value.into());
        self
    }

    /// Reads a list: names with options in parentheses, separated by commas. A value that is not JSON is a string.
    pub fn list(text: &str) -> Result<Vec<Spec>, PassError> {
        let mut specs = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = item_end(rest).map_err(|why| syntax(text, why))?;
            let (item, tail) = rest.split_at(end);
            specs.push(item.trim().parse().map_err(|why: String| syntax(text, why))?);
            rest = tail.strip_prefix(',').unwrap_or(tail).trim();
        }
        Ok(specs)
    }
}

fn syntax(text: &str, why: impl Into<String>) -> PassError {
    PassError::Syntax { text: text.to_string(), why: why.into() }
}

/// Where the first comma outside of brackets and quotes stands.
fn item_end(text: &str) -> Result<usize, &'static str> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            // In a JSON string a backslash takes the meaning from what follows, a quote too.
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1).ok_or("a bracket is closed that was not opened")?
            }
            ',' if depth == 0 => return Ok(at),
            _ => {}
        }
    }
    match depth == 0 && !quoted {
        true => Ok(text.len()),
        false => Err("a bracket or quote is not closed"),
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Spec, String> {
        let (name, inner) = match text.split_once('(') {
            None => (text, ""),
            Some((name, rest)) => {
                let inner = rest.trim_end().strip_suffix(')').ok_or("text after the closing parenthesis")?;
                (name.trim(), inner)
            }
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(valid) {
            return Err(format!("{name:?} is not a pass name"));
        }
        let mut spec = Spec::new(name);
        let mut rest = inner.trim();
        while !rest.is_empty() {
            let (item, tail) = rest.split_at(item_end(rest)?);
            let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?} is not option=value"))?;
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || !key.chars().all(valid) {
                return Err(format!("{key:?} is not the name of an option"));
            }
            let json = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_string()));
            spec.options.insert(key.to_string(), json);
            rest = tail.strip_prefix(',').unwrap_or(tail).trim();
        }
        Ok(spec)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.options.is_empty() {
            return Ok(());
        }
        let options: Vec<String> = self.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        write!(f, "({})", options.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let text = r#"normalize,fold_constants(cap=5,kinds=["a","b"]),fix_shapes(dims={"a":1,"b":2})"#;
        let specs = Spec::list(text).unwrap();
        assert_eq!(specs.iter().map(Spec::to_string).collect::<Vec<_>>().join(","), text);
        assert_eq!(Spec::list("a( x = word )").unwrap(), [Spec::new("a").with("x", "word")]);
        assert_eq!(Spec::list("").unwrap(), []);
        let quoted = Spec::new("a").with("x", r#"{"b\"#).with("y", "),");
        assert_eq!(Spec::list(&quoted.to_string()).unwrap(), [quoted]);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for text in ["a(", "a)", "a(b)", "a b", "a(x=1)y", "a(x=\")", ",a", "a(=1)", "a(\"x\"=1)"] {
            assert!(matches!(Spec::list(text), Err(PassError::Syntax { .. })), "{text}");
        }
    }
}
