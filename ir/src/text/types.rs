//! Types, both ways.
//!
//! ONNX's syntax has no denotations and no undefined types. The extended form has: `untyped`, `undefined[2]`,
//! `float[N @"BATCH"] @"IMAGE"`, `opaque("any domain", "any name")`. It stands in `type_proto` attributes and, so that
//! other readers can skip it, in notes on values.

use std::sync::Arc;

use super::names::{is_ident, quote, quote_if_needed};
use super::parse::cursor::{Cursor, Result};
use crate::{DType, Dim, Shape, Spelling, TensorType, Type, TypeKind, TypeParts};

/// The words that start a type.
pub(super) fn is_type_word(word: &str) -> bool {
    DType::from_name(word).is_some()
        || matches!(word, "seq" | "map" | "optional" | "sparse_tensor" | "opaque")
}

/// The words that start a type of the extended form.
pub(super) fn is_extended_type_word(word: &str) -> bool {
    is_type_word(word) || matches!(word, "undefined" | "untyped")
}

// ---- writing ---------------------------------------------------------------------------------------------------

/// ONNX's syntax can write all of the type.
pub(super) fn is_plain(ty: &Type) -> bool {
    let tensor_is_plain = |tensor: &TensorType| {
        tensor.dtype.is_some() && tensor.shape.as_ref().is_none_or(|shape| shape.denotations.is_empty())
    };
    let kind_is_plain = match &ty.kind {
        TypeKind::Tensor(tensor) | TypeKind::Sparse(tensor) => tensor_is_plain(tensor),
        TypeKind::Sequence(inner) | TypeKind::Optional(inner) => is_plain(inner),
        TypeKind::Map { key, value } => key.is_some() && is_plain(value),
        TypeKind::Opaque { domain, name } => is_plain_opaque(domain, name),
        TypeKind::None => false,
    };
    kind_is_plain && ty.denotation.is_empty()
}

fn is_plain_opaque(domain: &str, name: &str) -> bool {
    let dotted = |text: &str| text.split('.').all(is_ident);
    match (domain.is_empty(), name.is_empty()) {
        (true, true) => true,
        (true, false) => dotted(name),
        (false, _) => dotted(domain) && is_ident(name),
    }
}

/// Appends a type in the extended form, which is ONNX's where that can write all of it.
pub(super) fn write(out: &mut String, ty: &Type) {
    match &ty.kind {
        TypeKind::Tensor(tensor) => write_tensor(out, tensor),
        TypeKind::Sparse(tensor) => wrap(out, "sparse_tensor", |out| write_tensor(out, tensor)),
        TypeKind::Sequence(inner) => wrap(out, "seq", |out| write(out, inner)),
        TypeKind::Optional(inner) => wrap(out, "optional", |out| write(out, inner)),
        TypeKind::Map { key, value } => wrap(out, "map", |out| {
            out.push_str(dtype_name(*key));
            out.push_str(", ");
            write(out, value);
        }),
        TypeKind::Opaque { domain, name } => wrap(out, "opaque", |out| write_opaque(out, domain, name)),
        TypeKind::None => out.push_str("untyped"),
    }
    if !ty.denotation.is_empty() {
        out.push_str(" @");
        quote(out, &ty.denotation);
    }
}

/// Appends a type without what the extended form adds; for a type that is none without it, nothing.
pub(super) fn plain(ty: &Type) -> Option<Type> {
    let strip = |tensor: &TensorType| {
        let shape = tensor.shape.as_ref().map(|shape| Shape::new(shape.dims.iter().cloned()));
        tensor.dtype.map(|dtype| TensorType::new(dtype, shape))
    };
    Some(Type::new(match &ty.kind {
        TypeKind::Tensor(tensor) => TypeKind::Tensor(strip(tensor)?),
        TypeKind::Sparse(tensor) => TypeKind::Sparse(strip(tensor)?),
        TypeKind::Sequence(inner) => TypeKind::Sequence(Box::new(plain(inner)?)),
        TypeKind::Optional(inner) => TypeKind::Optional(Box::new(plain(inner)?)),
        TypeKind::Map { key, value } => TypeKind::Map { key: Some((*key)?), value: Box::new(plain(value)?) },
        TypeKind::Opaque { domain, name } if is_plain_opaque(domain, name) => ty.kind.clone(),
        TypeKind::Opaque { .. } | TypeKind::None => return None,
    }))
}

fn wrap(out: &mut String, word: &str, inside: impl FnOnce(&mut String)) {
    out.push_str(word);
    out.push('(');
    inside(out);
    out.push(')');
}

fn write_tensor(out: &mut String, tensor: &TensorType) {
    out.push_str(dtype_name(tensor.dtype));
    match &tensor.shape {
        None => out.push_str("[]"),
        Some(shape) if shape.dims.is_empty() => {}
        Some(shape) => {
            out.push('[');
            for (at, dim) in shape.dims.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write_dim(out, dim);
                if let Some(denotation) = shape.denotations.get(at).filter(|text| !text.is_empty()) {
                    out.push_str(" @");
                    quote(out, denotation);
                }
            }
            out.push(']');
        }
    }
}

fn dtype_name(dtype: Option<DType>) -> &'static str {
    dtype.map_or("undefined", DType::name)
}

fn write_dim(out: &mut String, dim: &Dim) {
    match dim {
        Dim::Known(size) => out.push_str(&size.to_string()),
        Dim::Symbol(name) if is_ident(name) => out.push_str(name),
        Dim::Symbol(name) => quote(out, name),
        Dim::Unknown => out.push('?'),
    }
}

fn write_opaque(out: &mut String, domain: &str, name: &str) {
    if is_plain_opaque(domain, name) {
        out.push_str(domain);
        out.push_str(if domain.is_empty() { "" } else { "," });
        out.push_str(name);
    } else {
        quote(out, domain);
        out.push_str(", ");
        quote_if_needed(out, name);
    }
}

// ---- reading ---------------------------------------------------------------------------------------------------

/// A type of either form.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Type> {
    cursor.nested(|cursor| {
        let kind = read_kind(cursor)?;
        let denotation = read_denotation(cursor)?.unwrap_or_default();
        Ok(TypeParts { kind, denotation, spelling: Spelling::default() }.into())
    })
}

fn read_denotation(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    if cursor.eat(b'@') { cursor.string().map(Some) } else { Ok(None) }
}

fn read_kind(cursor: &mut Cursor<'_>) -> Result<TypeKind> {
    let word = cursor.peek_ident().filter(|word| is_extended_type_word(word));
    let Some(word) = word else { return Err(cursor.error("expected a type")) };
    match word {
        "untyped" => {
            cursor.ident()?;
            Ok(TypeKind::None)
        }
        "seq" => wrapped(cursor, |cursor| Ok(TypeKind::Sequence(Box::new(read(cursor)?)))),
        "optional" => wrapped(cursor, |cursor| Ok(TypeKind::Optional(Box::new(read(cursor)?)))),
        "sparse_tensor" => wrapped(cursor, |cursor| Ok(TypeKind::Sparse(read_tensor(cursor)?))),
        "map" => wrapped(cursor, |cursor| {
            let key = read_dtype(cursor)?;
            cursor.expect(b',')?;
            Ok(TypeKind::Map { key, value: Box::new(read(cursor)?) })
        }),
        "opaque" => wrapped(cursor, read_opaque),
        _ => read_tensor(cursor).map(TypeKind::Tensor),
    }
}

fn wrapped(
    cursor: &mut Cursor<'_>,
    inside: impl FnOnce(&mut Cursor<'_>) -> Result<TypeKind>,
) -> Result<TypeKind> {
    cursor.ident()?;
    cursor.expect(b'(')?;
    let kind = inside(cursor)?;
    cursor.expect(b')')?;
    Ok(kind)
}

fn read_dtype(cursor: &mut Cursor<'_>) -> Result<Option<DType>> {
    let found = match cursor.peek_ident() {
        Some("undefined") => None,
        Some(word) if DType::from_name(word).is_some() => DType::from_name(word),
        _ => return Err(cursor.error("expected an element type")),
    };
    cursor.ident()?;
    Ok(found)
}

/// No brackets: rank 0. Empty brackets: unknown rank.
fn read_tensor(cursor: &mut Cursor<'_>) -> Result<TensorType> {
    let dtype = read_dtype(cursor)?;
    if !cursor.eat(b'[') {
        return Ok(TensorType { dtype, shape: Some(Shape::default()) });
    }
    let dims = cursor.list(b']', |cursor| Ok((read_dim(cursor)?, read_denotation(cursor)?)))?;
    if dims.is_empty() {
        return Ok(TensorType { dtype, shape: None });
    }
    let (dims, denotations): (Vec<Dim>, Vec<Option<String>>) = dims.into_iter().unzip();
    let mut shape = Shape::new(dims);
    if denotations.iter().any(Option::is_some) {
        shape.denotations = denotations.into_iter().map(Option::unwrap_or_default).collect();
    }
    Ok(TensorType { dtype, shape: Some(shape) })
}

fn read_dim(cursor: &mut Cursor<'_>) -> Result<Dim> {
    if cursor.eat(b'?') {
        return Ok(Dim::Unknown);
    }
    match cursor.peek() {
        Some(b'-' | b'0'..=b'9') => cursor.int().map(Dim::Known),
        Some(b'"') => Ok(Dim::Symbol(Arc::from(cursor.string()?))),
        _ if cursor.peek_ident().is_some() => Ok(Dim::Symbol(Arc::from(cursor.ident()?))),
        _ => Err(cursor.error("expected a size, a name or '?'")),
    }
}

fn read_opaque(cursor: &mut Cursor<'_>) -> Result<TypeKind> {
    if cursor.peek() == Some(b')') {
        return Ok(TypeKind::Opaque { domain: String::new(), name: String::new() });
    }
    let mut first = cursor.quotable()?;
    while cursor.eat(b'.') {
        first.push('.');
        first.push_str(cursor.ident()?);
    }
    if cursor.eat(b',') {
        return Ok(TypeKind::Opaque { domain: first, name: cursor.quotable()? });
    }
    Ok(TypeKind::Opaque { domain: String::new(), name: first })
}
