//! Notes: comments that begin with `#@` and say about the next thing what ONNX's syntax has no place for.

use bytes::Bytes;

use super::cursor::{Cursor, Result};
use super::syntax::Notes;
use crate::Annotation;
use crate::text::types;

/// What may be noted before each kind of thing.
pub(in crate::text) const OF_MODEL: &[&str] = &["opaque"];
pub(in crate::text) const OF_FUNCTION: &[&str] = &["metadata", "annotation"];
pub(in crate::text) const OF_GRAPH: &[&str] = &["doc", "metadata", "annotation"];
pub(in crate::text) const OF_VALUE: &[&str] = &["doc", "metadata", "type", "tensor_doc", "tensor_metadata"];
pub(in crate::text) const OF_OP: &[&str] = &["doc", "metadata", "opaque"];
pub(in crate::text) const OF_ATTR: &[&str] = &["doc"];
pub(in crate::text) const OF_TENSOR: &[&str] = &["tensor_doc", "tensor_metadata"];

/// All notes that stand here.
pub(in crate::text) fn read_notes(cursor: &mut Cursor<'_>, allowed: &[&str]) -> Result<Notes> {
    let mut notes = Notes::default();
    while let Some(mut note) = cursor.note() {
        let at = note.position();
        let key = note.ident()?;
        if !allowed.contains(&key) {
            return Err(note.error_at(at, format!("expected a note on {}", allowed.join(", "))));
        }
        note.expect(b':')?;
        match key {
            "doc" => notes.doc = note.string()?,
            "metadata" => notes.metadata = read_pairs(&mut note)?,
            "tensor_doc" => notes.tensor_doc = note.string()?,
            "tensor_metadata" => notes.tensor_metadata = read_pairs(&mut note)?,
            "type" => notes.ty = Some(types::read(&mut note)?),
            "annotation" => {
                let tensor = note.string()?;
                notes.annotations.push(Annotation { tensor, parameters: read_pairs(&mut note)? });
            }
            "opaque" => {
                let field = note.int()?;
                let field = u32::try_from(field).map_err(|_| note.error_at(at, "expected a field number"))?;
                notes.opaque.push((field, Bytes::from(note.bytes()?)));
            }
            // Every key of the lists above has its arm.
            _ => return Err(note.error_at(at, "unknown note")),
        }
        note.expect_end()?;
    }
    Ok(notes)
}

/// `["key": "value", …]`.
pub(in crate::text) fn read_pairs(cursor: &mut Cursor<'_>) -> Result<Vec<(String, String)>> {
    cursor.expect(b'[')?;
    cursor.list(b']', |cursor| {
        let key = cursor.string()?;
        cursor.expect(b':')?;
        Ok((key, cursor.string()?))
    })
}
