//! Reading the text character by character: white space, comments, identifiers, literals, and errors with a place.

use crate::text::TextError;

/// Nesting of types and graphs that is still read; an inner graph counts twice.
const MAX_DEPTH: u32 = 100;

pub(in crate::text) type Result<T> = std::result::Result<T, TextError>;

/// A place in the text.
#[derive(Clone)]
pub(in crate::text) struct Cursor<'t> {
    text: &'t str,
    at: usize,
    end: usize,
    depth: u32,
    /// Inside a note strings are on one line and write a line break as `\n`.
    in_note: bool,
}

/// A number as it is written.
#[derive(Clone, Copy)]
pub(in crate::text) struct Number<'t> {
    pub text: &'t str,
    /// Without point, exponent and special value.
    pub whole: bool,
    pub at: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str) -> Cursor<'t> {
        Cursor { text, at: 0, end: text.len(), depth: 0, in_note: false }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        let at = self.at + ahead;
        if at < self.end { self.text.as_bytes().get(at).copied() } else { None }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..self.end).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        loop {
            match self.byte(0) {
                Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => self.at += 1,
                Some(b'#') if self.byte(1) != Some(b'@') => {
                    self.at += self.rest().find('\n').unwrap_or(self.end - self.at);
                }
                _ => return,
            }
        }
    }

    /// The next character that is neither white space nor comment, not consumed.
    pub fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.byte(0)
    }

    /// Where the next token starts.
    pub fn position(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// Takes the character if it is next.
    pub fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Takes the character or fails.
    pub fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.eat(wanted) { Ok(()) } else { Err(self.error(format!("expected '{}'", char::from(wanted)))) }
    }

    pub fn expect_arrow(&mut self) -> Result<()> {
        self.skip_space();
        if !self.rest().starts_with("=>") {
            return Err(self.error("expected '=>'"));
        }
        self.at += 2;
        Ok(())
    }

    /// Takes three dots if they are next.
    pub fn eat_ellipsis(&mut self) -> bool {
        self.skip_space();
        let found = self.rest().starts_with("...");
        self.at += if found { 3 } else { 0 };
        found
    }

    /// Goes one level deeper for the duration of `inner`.
    pub fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// The identifier that is next, not consumed.
    pub fn peek_ident(&mut self) -> Option<&'t str> {
        self.skip_space();
        let rest = self.rest();
        let length = rest.bytes().take_while(|&b| b.is_ascii_alphanumeric() || b == b'_').count();
        let ident = &rest[..length];
        let starts = ident.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        // `x"00ff"` is a string of bytes.
        let is_bytes = ident == "x" && rest.as_bytes().get(1) == Some(&b'"');
        (starts && !is_bytes).then_some(ident)
    }

    /// An identifier.
    pub fn ident(&mut self) -> Result<&'t str> {
        let ident = self.peek_ident().ok_or_else(|| self.error("expected an identifier"))?;
        self.at += ident.len();
        Ok(ident)
    }

    /// An identifier or a quoted name.
    pub fn quotable(&mut self) -> Result<String> {
        match self.peek() {
            Some(b'"') => self.string(),
            _ => match self.peek_ident() {
                Some(_) => self.ident().map(str::to_string),
                None => Err(self.error("expected a name")),
            },
        }
    }

    /// A string in quotes; a backslash takes the next character as it is.
    pub fn string(&mut self) -> Result<String> {
        let start = self.position();
        if self.byte(0) != Some(b'"') {
            return Err(self.error("expected a string in quotes"));
        }
        let mut value = String::new();
        let mut chars = self.rest()[1..].char_indices();
        while let Some((offset, c)) = chars.next() {
            let c = match c {
                '"' => {
                    self.at = start + 1 + offset + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) if self.in_note => '\n',
                    Some((_, escaped)) => escaped,
                    None => break,
                },
                other => other,
            };
            value.push(c);
        }
        Err(self.error_at(start, "this string does not end"))
    }

    /// A string in quotes, or `x"00ff"`, the form for bytes that are not UTF-8.
    pub fn bytes(&mut self) -> Result<Vec<u8>> {
        if self.peek() != Some(b'x') {
            return self.string().map(String::into_bytes);
        }
        let start = self.position();
        self.at += 1;
        let digits = self.string()?;
        decode_hex(&digits)
            .ok_or_else(|| self.error_at(start, "expected pairs of hexadecimal digits in x\"…\""))
    }

    /// A string or bytes are next.
    pub fn at_string(&mut self) -> bool {
        self.peek() == Some(b'"') || (self.byte(0) == Some(b'x') && self.byte(1) == Some(b'"'))
    }

    /// A number, `inf`, `nan` with an optional sign, or `nan(7fc00001)`, which gives the bits of an unusual one.
    pub fn number(&mut self) -> Result<Number<'t>> {
        let start = self.position();
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let body = &rest.as_bytes()[sign..];
        let run =
            |from: usize, accepts: fn(&u8) -> bool| body[from..].iter().take_while(|b| accepts(b)).count();
        let digits = run(0, u8::is_ascii_digit);
        let (length, whole) = if digits == 0 {
            (special(body).ok_or_else(|| self.error("expected a number"))?, false)
        } else {
            let mut length = digits;
            if body.get(length) == Some(&b'.') {
                length += 1 + run(length + 1, u8::is_ascii_digit);
            }
            if matches!(body.get(length), Some(b'e' | b'E')) {
                let signed = usize::from(matches!(body.get(length + 1), Some(b'+' | b'-')));
                length += 1 + signed + run(length + 1 + signed, u8::is_ascii_digit);
            }
            (length, length == digits)
        };
        self.at = start + sign + length;
        Ok(Number { text: &rest[..sign + length], whole, at: start })
    }

    /// A whole number.
    pub fn int(&mut self) -> Result<i64> {
        let number = self.number()?;
        number
            .text
            .parse()
            .ok()
            .filter(|_| number.whole)
            .ok_or_else(|| self.error_at(number.at, "expected a whole number that fits int64"))
    }

    /// A comma-separated list up to `close`, which is consumed; it may be empty.
    pub fn list<T>(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.eat(b',') {
                break;
            }
        }
        if self.eat(close) {
            return Ok(items);
        }
        Err(self.error(format!("expected ',' or '{}'", char::from(close))))
    }

    /// The inside of the note that is next, if one is: everything up to the end of the line.
    pub fn note(&mut self) -> Option<Cursor<'t>> {
        self.skip_space();
        if self.in_note || !self.rest().starts_with("#@") {
            return None;
        }
        let end = self.at + self.rest().find('\n').unwrap_or(self.end - self.at);
        let note = Cursor { at: self.at + 2, end, in_note: true, ..self.clone() };
        self.at = end;
        Some(note)
    }

    /// Nothing but white space and comments is left.
    pub fn expect_end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("expected the end")),
        }
    }

    /// An error at the next token.
    pub fn error(&mut self, message: impl Into<String>) -> TextError {
        let at = self.position();
        self.error_at(at, message)
    }

    /// An error at a place.
    pub fn error_at(&self, at: usize, message: impl Into<String>) -> TextError {
        TextError::new(self.text, at, message)
    }
}

/// Length of `inf`, `infinity`, `nan` or `nan(…)` at the start, in any case of letters.
fn special(body: &[u8]) -> Option<usize> {
    let letters = body.iter().take(9).take_while(|b| b.is_ascii_alphabetic()).count();
    let word = body.get(..letters)?.to_ascii_lowercase();
    let after = body.get(letters).copied();
    if after.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    match &*word {
        b"inf" | b"infinity" => Some(letters),
        b"nan" if after == Some(b'(') => {
            let inside = body.get(letters + 1..)?;
            let digits = inside.iter().take(17).take_while(|b| b.is_ascii_hexdigit()).count();
            (inside.get(digits) == Some(&b')')).then_some(letters + digits + 2)
        }
        b"nan" => Some(letters),
        _ => None,
    }
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_far_as_they_go() {
        let cases = [
            ("12,", "12", true),
            ("-0 x", "-0", true),
            ("1.5e-3]", "1.5e-3", false),
            ("2.", "2.", false),
            ("1e5", "1e5", false),
            ("-inf}", "-inf", false),
            ("NaN", "NaN", false),
            ("-nan(ffc00001),", "-nan(ffc00001)", false),
            ("Infinity", "Infinity", false),
        ];
        for (text, taken, whole) in cases {
            let number = Cursor::new(text).number().unwrap();
            assert_eq!((number.text, number.whole), (taken, whole), "{text}");
        }
        for text in ["", "-", "abc", "infx", "nan_", "nan(", "nan(xyz)", ".5", "+1", "#", "é"] {
            assert!(Cursor::new(text).number().is_err(), "{text}");
        }
    }

    #[test]
    fn strings_escape_quotes_and_backslashes_only() {
        assert_eq!(Cursor::new(r#""a\"b\\c\n" "#).string().unwrap(), r#"a"b\cn"#);
        assert_eq!(Cursor::new("\"two\nlines\"").string().unwrap(), "two\nlines");
        assert_eq!(Cursor::new("x\"00fF\"").bytes().unwrap(), [0, 255]);
        for text in ["\"open", "\"open\\", "x\"0\"", "x\"0g\"", "x\"é\""] {
            assert!(Cursor::new(text).bytes().is_err(), "{text}");
        }
    }

    #[test]
    fn comments_are_skipped_and_notes_are_not() {
        let mut cursor = Cursor::new(" # a comment\n\t# another\n #@ doc: \"one\\ntwo\"\nid");
        assert_eq!(cursor.peek(), Some(b'#'));
        let mut note = cursor.note().unwrap();
        assert_eq!((note.ident().unwrap(), note.eat(b':')), ("doc", true));
        assert_eq!(note.string().unwrap(), "one\ntwo");
        assert!(note.expect_end().is_ok());
        assert_eq!(cursor.ident().unwrap(), "id");
        assert!(cursor.expect_end().is_ok() && cursor.note().is_none());
    }
}
