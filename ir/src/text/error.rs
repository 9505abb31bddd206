//! Errors of the text form.

use thiserror::Error;

/// The text is not a model: where, what stands there, and what was expected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}, column {column}: {message}, found {found}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The offending token, in quotes; `the end` at the end of the text.
    pub found: String,
}

impl TextError {
    pub(super) fn new(text: &str, at: usize, message: impl Into<String>) -> TextError {
        let before = text.get(..at).unwrap_or(text);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        TextError { line, column, message: message.into(), found: token(text.get(at..).unwrap_or_default()) }
    }
}

/// The token at the start, shortened, as an error cites it.
fn token(rest: &str) -> String {
    const LONGEST: usize = 24;
    let is_word = |c: char| c.is_alphanumeric() || "_.-+".contains(c);
    let Some(first) = rest.chars().next() else { return "the end".to_string() };
    let length = match first {
        '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
        c if is_word(c) => rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()),
        c => c.len_utf8(),
    };
    let token = &rest[..length];
    let short: String = token.chars().take(LONGEST).collect();
    let more = if short.len() < token.len() { "…" } else { "" };
    format!("`{short}{more}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_and_token_are_named() {
        let text = "ab\nä =é\n\"a long string that goes on\"";
        let at = |at| TextError::new(text, at, "wrong").to_string();
        assert_eq!(at(0), "line 1, column 1: wrong, found `ab`");
        assert_eq!(at(3), "line 2, column 1: wrong, found `ä`");
        assert_eq!(at(6), "line 2, column 3: wrong, found `=`");
        assert_eq!(at(7), "line 2, column 4: wrong, found `é`");
        assert_eq!(at(10), "line 3, column 1: wrong, found `\"a long string that goes…`");
        assert_eq!(at(text.len()), "line 3, column 29: wrong, found the end");
        assert_eq!(at(999), "line 3, column 29: wrong, found the end");
    }
}
