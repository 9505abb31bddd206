//! Text to model: here to syntax (models, functions, graphs, operators), then names are resolved by `build.rs`.

pub(super) mod attr;
mod build;
pub(super) mod cursor;
pub(super) mod notes;
pub(super) mod syntax;

use self::cursor::{Cursor, Result};
use self::notes::{OF_FUNCTION, OF_GRAPH, OF_MODEL, OF_OP, OF_VALUE, read_notes, read_pairs};
use self::syntax::{Attr, Entry, Function, Graph, Header, Model, Name, Node, Notes};
use super::{tensor, types};
use crate::{OpKind, Type};

const MODEL_FIELDS: &[&str] = &[
    "ir_version",
    "opset_import",
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "metadata_props",
];
const FUNCTION_FIELDS: &[&str] = &["opset_import", "domain", "overload", "doc_string"];

/// The model of a whole text.
pub(super) fn model(text: &str) -> Result<crate::Model> {
    let syntax = whole(&mut Cursor::new(text))?;
    build::model(text, syntax)
}

fn whole(cursor: &mut Cursor<'_>) -> Result<Model> {
    // Without a header the first notes are the graph's.
    let mut ahead = cursor.clone();
    while ahead.note().is_some() {}
    let (notes, header) = if ahead.peek() == Some(b'<') {
        (read_notes(cursor, OF_MODEL)?, header(cursor, MODEL_FIELDS)?)
    } else {
        (Notes::default(), Header::default())
    };
    let graph = graph(cursor)?;
    let mut functions = Vec::new();
    while cursor.peek().is_some() {
        functions.push(function(cursor)?);
    }
    Ok(Model { notes, header, graph, functions })
}

fn header(cursor: &mut Cursor<'_>, fields: &[&str]) -> Result<Header> {
    let mut header = Header::default();
    if !cursor.eat(b'<') {
        return Ok(header);
    }
    cursor.list(b'>', |cursor| {
        let at = cursor.position();
        let key = cursor.ident()?;
        if !fields.contains(&key) {
            return Err(cursor.error_at(at, format!("expected one of {}", fields.join(", "))));
        }
        cursor.expect(b':')?;
        match key {
            "ir_version" => header.ir_version = cursor.int()?,
            "model_version" => header.model_version = cursor.int()?,
            "producer_name" => header.producer_name = cursor.string()?,
            "producer_version" => header.producer_version = cursor.string()?,
            "domain" => header.domain = cursor.string()?,
            "overload" => header.overload = cursor.string()?,
            "doc_string" => header.doc = cursor.string()?,
            "metadata_props" => header.metadata = read_pairs(cursor)?,
            _ => {
                cursor.expect(b'[')?;
                header.opsets = cursor.list(b']', |cursor| {
                    let domain = cursor.string()?;
                    cursor.expect(b':')?;
                    Ok((domain, cursor.int()?))
                })?;
            }
        }
        Ok(())
    })?;
    Ok(header)
}

fn function(cursor: &mut Cursor<'_>) -> Result<Function> {
    let notes = read_notes(cursor, OF_FUNCTION)?;
    let header = header(cursor, FUNCTION_FIELDS)?;
    let name = cursor.quotable()?;
    let (mut attrs, mut defaults) = (Vec::new(), Vec::new());
    if cursor.eat(b'<') {
        let items = cursor.list(b'>', function_attr)?;
        for item in items {
            match item {
                Ok(default) => defaults.push(default),
                Err(name) => attrs.push(name),
            }
        }
    }
    Ok(Function { header, attrs, defaults, graph: graph_after_name(cursor, notes, name)? })
}

/// An attribute with a default, or else the name of one without.
fn function_attr(cursor: &mut Cursor<'_>) -> Result<std::result::Result<Attr, String>> {
    let mut ahead = cursor.clone();
    while ahead.note().is_some() {}
    let name = ahead.quotable()?;
    if matches!(ahead.peek(), Some(b':' | b'=')) {
        return attr::attr(cursor).map(Ok);
    }
    *cursor = ahead;
    Ok(Err(name))
}

/// A graph, from its notes to its closing brace.
pub(super) fn graph(cursor: &mut Cursor<'_>) -> Result<Graph> {
    let notes = read_notes(cursor, OF_GRAPH)?;
    let name = cursor.quotable()?;
    graph_after_name(cursor, notes, name)
}

fn graph_after_name(cursor: &mut Cursor<'_>, notes: Notes, name: String) -> Result<Graph> {
    cursor.nested(|cursor| {
        cursor.expect(b'(')?;
        let inputs = cursor.list(b')', entry)?;
        cursor.expect_arrow()?;
        cursor.expect(b'(')?;
        let outputs = cursor.list(b')', entry)?;
        if let Some(output) = outputs.iter().find(|output| output.data.is_some()) {
            return Err(cursor.error_at(output.name.at, "an output cannot have a default"));
        }
        let infos = if cursor.eat(b'<') { cursor.list(b'>', entry)? } else { Vec::new() };
        cursor.expect(b'{')?;
        let mut nodes = Vec::new();
        while !cursor.eat(b'}') {
            nodes.push(node(cursor)?);
        }
        Ok(Graph { notes, name, inputs, outputs, infos, nodes })
    })
}

/// `type? name`, with elements `= {…}` for a constant or a default.
fn entry(cursor: &mut Cursor<'_>) -> Result<Entry> {
    let notes = read_notes(cursor, OF_VALUE)?;
    let at = cursor.position();
    let ty: Option<Type> = match cursor.peek_ident() {
        Some(word) if types::is_type_word(word) => Some(types::read(cursor)?),
        _ => None,
    };
    let name = name(cursor)?;
    let data = if cursor.eat(b'=') {
        let ty = ty.as_ref().ok_or_else(|| cursor.error_at(at, "a constant needs a type before its name"))?;
        Some(tensor::read_elements(cursor, at, ty)?)
    } else {
        None
    };
    Ok(Entry { notes, ty, name, data })
}

fn name(cursor: &mut Cursor<'_>) -> Result<Name> {
    let at = cursor.position();
    Ok(Name { text: cursor.quotable()?, at })
}

/// `[name] outputs = domain.Kind:overload <attributes> (inputs) <attributes>`.
fn node(cursor: &mut Cursor<'_>) -> Result<Node> {
    let notes = read_notes(cursor, OF_OP)?;
    let mut name = String::new();
    if cursor.eat(b'[') {
        if cursor.peek() != Some(b']') {
            name = cursor.quotable()?;
        }
        cursor.expect(b']')?;
    }
    let outputs = slots(cursor)?;
    cursor.expect(b'=')?;
    let kind = kind(cursor)?;
    let before = attrs(cursor)?;
    cursor.expect(b'(')?;
    let inputs = slots(cursor)?;
    cursor.expect(b')')?;
    let attrs = if before.is_empty() { attrs(cursor)? } else { before };
    Ok(Node { notes, name, outputs, kind, inputs, attrs })
}

/// Names of inputs or outputs. `""` and nothing before a comma are gaps; nothing behind the last comma is none.
fn slots(cursor: &mut Cursor<'_>) -> Result<Vec<Name>> {
    let mut slots = Vec::new();
    loop {
        let at = cursor.position();
        if cursor.at_string() || cursor.peek_ident().is_some() {
            slots.push(name(cursor)?);
            if !cursor.eat(b',') {
                return Ok(slots);
            }
        } else if cursor.eat(b',') {
            slots.push(Name { text: String::new(), at });
        } else {
            return Ok(slots);
        }
    }
}

fn kind(cursor: &mut Cursor<'_>) -> Result<OpKind> {
    let mut domain = String::new();
    let mut name = cursor.quotable()?;
    while cursor.eat(b'.') {
        if !domain.is_empty() {
            domain.push('.');
        }
        domain.push_str(&name);
        name = cursor.quotable()?;
    }
    let overload = if cursor.eat(b':') { cursor.quotable()? } else { String::new() };
    Ok(OpKind::overloaded(&domain, &name, &overload))
}

fn attrs(cursor: &mut Cursor<'_>) -> Result<Vec<Attr>> {
    if cursor.eat(b'<') { cursor.list(b'>', attr::attr) } else { Ok(Vec::new()) }
}
