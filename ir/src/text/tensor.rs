//! Constant tensors, both ways: `float[2] name {1,2}`, sparse ones as
//! `sparse_tensor(float[9]) {float[2] {1,2}, int64[2] {3,5}}` (values, then indices; ONNX's syntax has none).

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::names::{quote_bytes, quote_if_needed};
use super::parse::cursor::{Cursor, Result};
use super::parse::notes::{OF_TENSOR, read_notes};
use super::parse::syntax::Elements;
use super::print::Printer;
use super::style::Style;
use super::{element, types};
use crate::{DType, Data, Dims, SparseTensor, Tensor, TensorNotes, Type, TypeKind};

// ---- writing ---------------------------------------------------------------------------------------------------

/// Appends `float[2,3]`.
pub(super) fn write_tensor_type(out: &mut String, tensor: &Tensor) {
    write_dims(out, tensor.dtype(), tensor.dims());
}

fn write_dims(out: &mut String, dtype: DType, dims: &[usize]) {
    out.push_str(dtype.name());
    if !dims.is_empty() {
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        out.push_str(&format!("[{}]", dims.join(",")));
    }
}

/// Appends the elements in braces, or what stands for them where there are too many.
pub(super) fn write_elements(out: &mut String, tensor: &Tensor, style: &Style) {
    out.push('{');
    if style.largest.is_some_and(|largest| tensor.elements() > largest) {
        write_digest(out, tensor);
    } else if let Data::Strings(strings) = tensor.data() {
        for (at, string) in strings.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { "," });
            quote_bytes(out, string);
        }
    } else {
        element::write(out, tensor, style.numbers);
    }
    out.push('}');
}

/// Size and the first 64 bits of SHA-256 of the elements; strings each with their length before them.
fn write_digest(out: &mut String, tensor: &Tensor) {
    let mut hash = Sha256::new();
    let size = match tensor.data() {
        Data::Bytes(bytes) => {
            hash.update(bytes);
            bytes.len()
        }
        Data::Strings(strings) => {
            for string in strings.iter() {
                hash.update((string.len() as u64).to_le_bytes());
                hash.update(string);
            }
            strings.iter().map(Bytes::len).sum()
        }
    };
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    out.push_str(&format!("... {size} bytes, sha256 {digest}"));
}

/// Appends a tensor of an attribute: notes, type, name, elements.
pub(super) fn write_literal(printer: &mut Printer<'_>, tensor: &Tensor) {
    let notes = tensor.notes.as_deref();
    if let Some(notes) = notes.filter(|notes| !notes.doc.is_empty() || !notes.metadata.is_empty()) {
        printer.line();
        printer.note_text("tensor_doc", &notes.doc);
        printer.note_pairs("tensor_metadata", &notes.metadata);
    }
    write_tensor_type(&mut printer.out, tensor);
    printer.out.push(' ');
    if let Some(notes) = notes.filter(|notes| !notes.name.is_empty()) {
        quote_if_needed(&mut printer.out, &notes.name);
        printer.out.push(' ');
    }
    write_elements(&mut printer.out, tensor, &printer.style);
}

/// Appends `sparse_tensor(float[9])`.
pub(super) fn write_sparse_type(out: &mut String, sparse: &SparseTensor) {
    out.push_str("sparse_tensor(");
    write_dims(out, sparse.values.dtype(), &sparse.dims);
    out.push(')');
}

/// Appends values and indices in braces.
pub(super) fn write_sparse_elements(printer: &mut Printer<'_>, sparse: &SparseTensor) {
    printer.out.push('{');
    write_literal(printer, &sparse.values);
    printer.out.push_str(", ");
    write_literal(printer, &sparse.indices);
    printer.out.push('}');
}

/// Appends a sparse tensor of an attribute.
pub(super) fn write_sparse(printer: &mut Printer<'_>, sparse: &SparseTensor) {
    write_sparse_type(&mut printer.out, sparse);
    printer.out.push(' ');
    write_sparse_elements(printer, sparse);
}

// ---- reading ---------------------------------------------------------------------------------------------------

/// The element type and fixed sizes that a type declares, if it is what a constant can have.
fn constant_type(cursor: &mut Cursor<'_>, at: usize, ty: &Type) -> Result<(DType, Dims)> {
    let (TypeKind::Tensor(tensor) | TypeKind::Sparse(tensor)) = &ty.kind else {
        return Err(cursor.error_at(at, "a constant needs a tensor type"));
    };
    let dims = tensor.shape.as_ref().and_then(crate::Shape::known);
    match (tensor.dtype, dims) {
        (Some(dtype), Some(dims)) => Ok((dtype, dims.into())),
        (None, _) => Err(cursor.error_at(at, "a constant needs an element type")),
        (_, None) => Err(cursor.error_at(at, "a constant needs fixed sizes")),
    }
}

/// What stands behind the type (and name) of a constant: the elements in braces. `at` is where the type stands.
pub(super) fn read_elements(cursor: &mut Cursor<'_>, at: usize, ty: &Type) -> Result<Elements> {
    let (dtype, dims) = constant_type(cursor, at, ty)?;
    if cursor.peek() == Some(b'[') {
        return Err(cursor.error("external data cannot be read here: read the ONNX file"));
    }
    cursor.expect(b'{')?;
    if let TypeKind::Sparse(_) = ty.kind {
        return read_sparse_elements(cursor, dtype, dims).map(Elements::Sparse);
    }
    let start = cursor.position();
    if cursor.eat_ellipsis() {
        return Err(cursor.error_at(start, "the elements were left out when this text was printed"));
    }
    if dtype != DType::String {
        return element::read(cursor, dtype, &dims).map(Elements::Dense);
    }
    let strings = cursor.list(b'}', |cursor| cursor.bytes().map(Bytes::from))?;
    let tensor = Tensor::strings(dims, strings);
    tensor.map(Elements::Dense).map_err(|error| cursor.error_at(start, error.to_string()))
}

fn read_sparse_elements(cursor: &mut Cursor<'_>, dtype: DType, dims: Dims) -> Result<SparseTensor> {
    let start = cursor.position();
    let values = read_literal(cursor)?;
    cursor.expect(b',')?;
    let indices = read_literal(cursor)?;
    cursor.expect(b'}')?;
    if values.dtype() != dtype {
        return Err(cursor.error_at(start, format!("the values of this sparse tensor must be {dtype}")));
    }
    Ok(SparseTensor { dims, values, indices })
}

/// A tensor of an attribute: notes, type, optional name, optional `=`, elements.
pub(super) fn read_literal(cursor: &mut Cursor<'_>) -> Result<Tensor> {
    let notes = read_notes(cursor, OF_TENSOR)?;
    let at = cursor.position();
    let ty = types::read(cursor)?;
    match read_rest(cursor, at, &ty)? {
        (Elements::Dense(mut tensor), name) => {
            let found = TensorNotes { name, doc: notes.tensor_doc, metadata: notes.tensor_metadata };
            tensor.notes = (found != TensorNotes::default()).then(|| Box::new(found));
            Ok(tensor)
        }
        (Elements::Sparse(_), _) => Err(cursor.error_at(at, "expected a dense tensor")),
    }
}

/// A sparse tensor of an attribute.
pub(super) fn read_sparse(cursor: &mut Cursor<'_>) -> Result<SparseTensor> {
    let at = cursor.position();
    let ty = types::read(cursor)?;
    match read_rest(cursor, at, &ty)? {
        (Elements::Sparse(sparse), _) => Ok(sparse),
        (Elements::Dense(_), _) => Err(cursor.error_at(at, "expected a sparse tensor")),
    }
}

/// What stands behind the type of a tensor in an attribute.
fn read_rest(cursor: &mut Cursor<'_>, at: usize, ty: &Type) -> Result<(Elements, String)> {
    let named = cursor.at_string() || cursor.peek_ident().is_some();
    let name = if named { cursor.quotable()? } else { String::new() };
    cursor.eat(b'=');
    Ok((read_elements(cursor, at, ty)?, name))
}
