//! Names and strings as they are written.

use super::types::is_extended_type_word;

/// A name that stands without quotes.
pub(super) fn is_ident(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Appends a name, in quotes if it is no identifier or would be taken for a type or a number.
pub(super) fn quote_if_needed(out: &mut String, name: &str) {
    let is_number = ["inf", "infinity", "nan"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if is_ident(name) && !is_extended_type_word(name) && !is_number {
        out.push_str(name);
    } else {
        quote(out, name);
    }
}

/// Appends a string in quotes.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Appends a string in quotes, on one line: for notes.
pub(super) fn quote_on_a_line(out: &mut String, text: &str) {
    let mut quoted = String::new();
    quote(&mut quoted, text);
    out.push_str(&quoted.replace('\n', "\\n"));
}

/// Appends bytes: a string in quotes if they are UTF-8, otherwise `x"00ff"`.
pub(super) fn quote_bytes(out: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => quote(out, text),
        Err(_) => hex(out, bytes),
    }
}

/// Appends bytes as `x"00ff"`.
pub(super) fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    out.push_str("x\"");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push('"');
}
