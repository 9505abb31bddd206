//! Attributes as text.

use super::Printer;
use crate::text::names::{is_ident, quote, quote_bytes};
use crate::text::{element, tensor, types};
use crate::{Attr, AttrValue};

/// Names of attribute types by their `AttributeProto.AttributeType` code.
pub(in crate::text) const KINDS: [(i32, &str); 14] = [
    (1, "float"),
    (2, "int"),
    (3, "string"),
    (4, "tensor"),
    (5, "graph"),
    (6, "floats"),
    (7, "ints"),
    (8, "strings"),
    (9, "tensors"),
    (10, "graphs"),
    (11, "sparse_tensor"),
    (12, "sparse_tensors"),
    (13, "type_proto"),
    (14, "type_protos"),
];

fn kind_code(value: &AttrValue) -> i32 {
    match value {
        AttrValue::Float(_) => 1,
        AttrValue::Int(_) => 2,
        AttrValue::String(_) => 3,
        AttrValue::Tensor(_) => 4,
        AttrValue::Graph(_) => 5,
        AttrValue::Floats(_) => 6,
        AttrValue::Ints(_) => 7,
        AttrValue::Strings(_) => 8,
        AttrValue::Tensors(_) => 9,
        AttrValue::Graphs(_) => 10,
        AttrValue::Sparse(_) => 11,
        AttrValue::Sparses(_) => 12,
        AttrValue::Type(_) => 13,
        AttrValue::Types(_) => 14,
        AttrValue::Reference { kind, .. } => *kind,
    }
}

/// Appends `name: kind = value`.
pub(in crate::text) fn write_attr(printer: &mut Printer<'_>, attr: &Attr) {
    if !attr.doc.is_empty() {
        printer.line();
        printer.note_text("doc", &attr.doc);
    }
    if is_ident(&attr.name) {
        printer.out.push_str(&attr.name);
    } else {
        quote(&mut printer.out, &attr.name);
    }
    let code = kind_code(&attr.value);
    match KINDS.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => printer.out.push_str(&format!(": {name}")),
        None if code == 0 => {}
        None => printer.out.push_str(&format!(": \"{code}\"")),
    }
    printer.out.push_str(" = ");
    write_value(printer, &attr.value);
}

fn write_value(printer: &mut Printer<'_>, value: &AttrValue) {
    match value {
        AttrValue::Float(value) => printer.out.push_str(&element::float32(*value, ".0")),
        AttrValue::Int(value) => printer.out.push_str(&value.to_string()),
        AttrValue::String(value) => quote_bytes(&mut printer.out, value),
        AttrValue::Tensor(tensor) => tensor::write_literal(printer, tensor),
        AttrValue::Graph(graph) => printer.graph(*graph),
        AttrValue::Sparse(sparse) => tensor::write_sparse(printer, sparse),
        AttrValue::Type(ty) => types::write(&mut printer.out, ty),
        AttrValue::Floats(values) => {
            list(printer, values, |p, value| p.out.push_str(&element::float32(*value, ".0")));
        }
        AttrValue::Ints(values) => list(printer, values, |p, value| p.out.push_str(&value.to_string())),
        AttrValue::Strings(values) => list(printer, values, |p, value| quote_bytes(&mut p.out, value)),
        AttrValue::Tensors(values) => list(printer, values, tensor::write_literal),
        AttrValue::Graphs(values) => list(printer, values, |p, graph| p.graph(*graph)),
        AttrValue::Sparses(values) => list(printer, values, tensor::write_sparse),
        AttrValue::Types(values) => list(printer, values, |p, ty| types::write(&mut p.out, ty)),
        AttrValue::Reference { name, .. } => {
            printer.out.push('@');
            if is_ident(name) {
                printer.out.push_str(name);
            } else {
                quote(&mut printer.out, name);
            }
        }
    }
}

fn list<T>(printer: &mut Printer<'_>, values: &[T], mut write: impl FnMut(&mut Printer<'_>, &T)) {
    printer.out.push('[');
    for (at, value) in values.iter().enumerate() {
        printer.out.push_str(if at == 0 { "" } else { ", " });
        write(printer, value);
    }
    printer.out.push(']');
}
