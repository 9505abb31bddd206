//! A message without its long lists, and these undecoded.
//!
//! A decoded message takes many times its size in the file: an attribute of ten bytes takes 400. So the lists that make up
//! most of a model are not decoded with the message around them, but part by part while the model is built.

use bytes::Bytes;
use prost::Message;

use crate::error::ProtoError;

/// Numbers of the fields that hold long lists, or what holds them.
pub(crate) mod fields {
    pub const MODEL_GRAPH: u32 = 7;
    pub const MODEL_FUNCTION: u32 = 25;
    pub const FUNCTION_NODE: u32 = 7;
    pub const FUNCTION_DEFAULT: u32 = 11;
    pub const FUNCTION_INFO: u32 = 12;
    pub const GRAPH_NODE: u32 = 1;
    pub const GRAPH_INITIALIZER: u32 = 5;
    pub const GRAPH_INFO: u32 = 13;
    pub const GRAPH_SPARSE: u32 = 15;
    pub const NODE_ATTRIBUTE: u32 = 5;
    pub const ATTRIBUTE_GRAPH: u32 = 6;
    pub const ATTRIBUTE_GRAPHS: u32 = 11;
}

/// Decodes a message.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, ProtoError> {
    M::decode(bytes).map_err(|error| ProtoError::Decode(error.to_string()))
}

/// The message without `fields`, which hold messages, and the bytes of these, field by field in the order of the file.
pub(crate) fn split<M: Message + Default, const N: usize>(
    bytes: &Bytes,
    fields: [u32; N],
) -> Result<(M, [Vec<Bytes>; N]), ProtoError> {
    let mut message = M::default();
    let mut parts = [const { Vec::new() }; N];
    // Where the fields start that are not decoded yet.
    let mut rest = 0;
    let mut at = 0;
    while at < bytes.len() {
        // What cannot be walked is left to the decoder, which says what is wrong with it.
        let Some(field) = next(bytes, at) else { break };
        if let Some(list) = fields.iter().position(|&number| number == field.number)
            && let Some(start) = field.payload
        {
            merge(&mut message, bytes.slice(rest..at))?;
            parts[list].push(bytes.slice(start..field.end));
            rest = field.end;
        }
        at = field.end;
    }
    merge(&mut message, bytes.slice(rest..))?;
    Ok((message, parts))
}

/// The parts of a field that is not a list: written several times, they are one message.
pub(crate) fn single(mut parts: Vec<Bytes>) -> Option<Bytes> {
    if parts.len() > 1 { Some(parts.concat().into()) } else { parts.pop() }
}

fn merge<M: Message>(message: &mut M, bytes: Bytes) -> Result<(), ProtoError> {
    if bytes.is_empty() {
        return Ok(());
    }
    message.merge(bytes).map_err(|error| ProtoError::Decode(error.to_string()))
}

struct Field {
    number: u32,
    /// Where the payload starts, if it has a length.
    payload: Option<usize>,
    end: usize,
}

/// The field at `at`; none unless it is whole.
fn next(bytes: &[u8], at: usize) -> Option<Field> {
    let (key, at) = varint(bytes, at)?;
    let (payload, end) = match key & 7 {
        0 => (None, varint(bytes, at)?.1),
        1 => (None, at.checked_add(8)?),
        5 => (None, at.checked_add(4)?),
        2 => {
            let (length, start) = varint(bytes, at)?;
            (Some(start), start.checked_add(usize::try_from(length).ok()?)?)
        }
        _ => return None,
    };
    let number = u32::try_from(key >> 3).ok()?;
    (end <= bytes.len()).then_some(Field { number, payload, end })
}

/// The number at `at`, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (count, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * count);
        if byte < 0x80 {
            return Some((value, at + count + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated as pb;

    #[test]
    fn parts_and_rest_are_the_message() {
        let node = |name: &str| pb::NodeProto { op_type: Some(name.into()), ..Default::default() };
        let whole = pb::GraphProto {
            node: vec![node("Relu"), node(""), node("Neg")],
            name: Some("g".into()),
            initializer: vec![pb::TensorProto { dims: vec![1, 2], ..Default::default() }],
            ..Default::default()
        };
        let bytes: Bytes = whole.encode_to_vec().into();
        let (mut rest, [nodes, tensors]) = split::<pb::GraphProto, 2>(&bytes, [1, 5]).expect("split");
        assert!(rest.node.is_empty() && rest.initializer.is_empty() && rest.name() == "g");
        rest.node = nodes.into_iter().map(|bytes| decode(bytes).expect("node")).collect();
        rest.initializer = tensors.into_iter().map(|bytes| decode(bytes).expect("tensor")).collect();
        assert_eq!(rest, whole);
    }

    #[test]
    fn broken_bytes_are_an_error() {
        for bytes in [&[0x0A, 5, 1][..], &[0x0A], &[0x0B], &[0x80; 12], &[0x08, 1], &[0x12, 1, 0xFF]] {
            let found = split::<pb::GraphProto, 1>(&Bytes::copy_from_slice(bytes), [1]);
            assert!(matches!(found, Err(ProtoError::Decode(_))), "{bytes:?}: {found:?}");
        }
    }
}
