//! Text to syntax: attributes.

use bytes::Bytes;

use super::cursor::{Cursor, Result};
use super::notes::{OF_ATTR, read_notes};
use super::syntax::{Attr, AttrItem};
use crate::AttrValue;
use crate::text::print::attr::KINDS;
use crate::text::{tensor, types};

/// `name: kind = value`; the kind may be left out where the value tells it.
pub(super) fn attr(cursor: &mut Cursor<'_>) -> Result<Attr> {
    let notes = read_notes(cursor, OF_ATTR)?;
    let name = cursor.quotable()?;
    let kind = if cursor.eat(b':') { Some(kind(cursor)?) } else { None };
    cursor.expect(b'=')?;
    let value = cursor.nested(|cursor| value(cursor, kind))?;
    Ok(Attr { name, doc: notes.doc, value })
}

fn kind(cursor: &mut Cursor<'_>) -> Result<i32> {
    let at = cursor.position();
    let word = cursor.quotable()?;
    let known = KINDS.iter().find(|(_, name)| *name == word).map(|(code, _)| *code);
    let code = known.or_else(|| word.parse().ok());
    code.ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(_, name)| *name).collect();
        cursor.error_at(at, format!("expected an attribute type ({})", names.join(", ")))
    })
}

fn value(cursor: &mut Cursor<'_>, kind: Option<i32>) -> Result<AttrItem> {
    if cursor.eat(b'@') {
        return Ok(AttrItem::Plain(AttrValue::Reference {
            name: cursor.quotable()?,
            kind: kind.unwrap_or(0),
        }));
    }
    let kind = match kind {
        Some(kind) => kind,
        None => guess(cursor)?,
    };
    let at = cursor.position();
    let plain = match kind {
        1 => AttrValue::Float(float(cursor)?),
        2 => AttrValue::Int(cursor.int()?),
        3 => AttrValue::String(cursor.bytes()?.into()),
        4 => AttrValue::Tensor(tensor::read_literal(cursor)?),
        5 => return super::graph(cursor).map(|graph| AttrItem::Graph(Box::new(graph))),
        6 => AttrValue::Floats(list(cursor, float)?),
        7 => AttrValue::Ints(list(cursor, |cursor| cursor.int())?),
        8 => AttrValue::Strings(list(cursor, |cursor| cursor.bytes().map(Bytes::from))?),
        9 => AttrValue::Tensors(list(cursor, tensor::read_literal)?),
        10 => return list(cursor, super::graph).map(AttrItem::Graphs),
        11 => AttrValue::Sparse(Box::new(tensor::read_sparse(cursor)?)),
        12 => AttrValue::Sparses(list(cursor, tensor::read_sparse)?),
        13 => AttrValue::Type(types::read(cursor)?),
        14 => AttrValue::Types(list(cursor, types::read)?),
        _ => return Err(cursor.error_at(at, "only a reference can have an attribute type without a name")),
    };
    Ok(AttrItem::Plain(plain))
}

fn list<T>(cursor: &mut Cursor<'_>, item: impl FnMut(&mut Cursor<'_>) -> Result<T>) -> Result<Vec<T>> {
    cursor.expect(b'[')?;
    cursor.list(b']', item)
}

fn float(cursor: &mut Cursor<'_>) -> Result<f32> {
    let number = cursor.number()?;
    number.as_f32().ok_or_else(|| cursor.error_at(number.at, "this number is no float"))
}

/// The kind of a value that does not say it: what its first token starts. Lists are told by their first item.
fn guess(cursor: &mut Cursor<'_>) -> Result<i32> {
    let mut ahead = cursor.clone();
    let is_list = ahead.eat(b'[');
    let (one, many) = match ahead.peek() {
        Some(b']') if is_list => return Err(ahead.error("an empty list needs an attribute type")),
        // A graph's name may be quoted; the parenthesis of its inputs tells it from a string.
        Some(b'"' | b'x') if ahead.at_string() => {
            ahead.bytes()?;
            if ahead.peek() == Some(b'(') { (5, 10) } else { (3, 8) }
        }
        _ => match ahead.peek_ident() {
            Some(word) if types::is_extended_type_word(word) && word != "untyped" => guess_typed(&mut ahead)?,
            Some("untyped") => (13, 14),
            Some(_) if ahead.number().is_ok() => (1, 6),
            Some(_) => (5, 10),
            None => {
                let number = ahead.number()?;
                let mut numbers = vec![number];
                while is_list && ahead.eat(b',') {
                    numbers.push(ahead.number()?);
                }
                if numbers.iter().all(|number| number.whole) { (2, 7) } else { (1, 6) }
            }
        },
    };
    Ok(if is_list { many } else { one })
}

/// A type, or a constant of that type.
fn guess_typed(ahead: &mut Cursor<'_>) -> Result<(i32, i32)> {
    let sparse = ahead.peek_ident() == Some("sparse_tensor");
    types::read(ahead)?;
    let is_constant =
        matches!(ahead.peek(), Some(b'{' | b'=')) || ahead.at_string() || ahead.peek_ident().is_some();
    Ok(match (is_constant, sparse) {
        (false, _) => (13, 14),
        (true, false) => (4, 9),
        (true, true) => (11, 12),
    })
}
