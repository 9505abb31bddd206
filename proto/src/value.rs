//! Values in files: what a `test_data_set` folder holds, one `.pb` file an input or output.
//!
//! Such a file does not say which message it holds, so the caller passes the type that the model declares. Without one the
//! file is taken for a tensor.

use std::path::Path;

use bytes::Bytes;
use ir::{DType, Model, SparseTensor, Tensor, Type, TypeKind};
use prost::Message;

use crate::error::ProtoError;
use crate::export::{Exporter, Placement, Placer};
use crate::import::Importer;
use crate::{generated as pb, mapped, scan, schema};

/// A value of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum TestValue {
    /// A dense tensor.
    Tensor(Tensor),
    /// A sparse tensor.
    Sparse(SparseTensor),
    /// A list of values of one type. `elem_type` is the code of `SequenceProto.DataType`, 0 where the file has none.
    Sequence {
        /// What the elements are.
        elem_type: i32,
        /// The elements.
        values: Vec<TestValue>,
    },
    /// Keys and as many values.
    Map {
        /// Element type of the keys.
        key_type: Option<DType>,
        /// The keys.
        keys: Keys,
        /// The values.
        values: Vec<TestValue>,
    },
    /// A value or none.
    Optional(Option<Box<TestValue>>),
}

/// Keys of a map.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// Integers of any width.
    Ints(Vec<i64>),
    /// Strings.
    Strings(Vec<Bytes>),
}

const TENSOR: i32 = pb::sequence_proto::DataType::Tensor as i32;
const SPARSE: i32 = pb::sequence_proto::DataType::SparseTensor as i32;
const SEQUENCE: i32 = pb::sequence_proto::DataType::Sequence as i32;
const MAP: i32 = pb::sequence_proto::DataType::Map as i32;
const OPTIONAL: i32 = pb::sequence_proto::DataType::Optional as i32;

/// Reads a value of the type that the model declares; a tensor if none is given.
pub fn read_value(path: &Path, ty: Option<&Type>) -> Result<TestValue, ProtoError> {
    let io = |source| ProtoError::Io { path: path.to_path_buf(), source };
    let bytes = std::fs::File::open(path).and_then(mapped::map).map_err(io)?;
    value_from_bytes(bytes, ty)
}

/// The same from memory.
pub fn value_from_bytes(bytes: Bytes, ty: Option<&Type>) -> Result<TestValue, ProtoError> {
    let mut importer = Importer::of_tensors("value");
    match ty.map(|ty| &ty.kind) {
        None | Some(TypeKind::Tensor(_) | TypeKind::None) => {
            importer.tensor(decode(bytes, &schema::TENSOR_PROTO)?).map(TestValue::Tensor)
        }
        Some(TypeKind::Sparse(_)) => {
            Ok(TestValue::Sparse(importer.sparse(decode(bytes, &schema::SPARSE_TENSOR_PROTO)?)?.0))
        }
        Some(TypeKind::Sequence(_)) => sequence(&mut importer, decode(bytes, &schema::SEQUENCE_PROTO)?),
        Some(TypeKind::Map { .. }) => map(&mut importer, decode(bytes, &schema::MAP_PROTO)?),
        Some(TypeKind::Optional(_)) => optional(&mut importer, decode(bytes, &schema::OPTIONAL_PROTO)?),
        Some(TypeKind::Opaque { .. }) => {
            Err(ProtoError::Value { what: "an opaque type".into(), expected: "a value" })
        }
    }
}

fn decode<M: Message + Default>(bytes: Bytes, schema: &'static scan::Message) -> Result<M, ProtoError> {
    let found = scan::scan(&bytes, scan::limit(&bytes), schema, &[])?;
    if let Some(((message, number), _)) = found.unknown.first_key_value() {
        let what = format!("field {number} of {message}");
        return Err(ProtoError::Value { what, expected: schema.name });
    }
    M::decode(bytes).map_err(|e| ProtoError::Decode(e.to_string()))
}

/// One of several lists must hold everything: that of the element type.
fn sequence(importer: &mut Importer, proto: pb::SequenceProto) -> Result<TestValue, ProtoError> {
    let elem_type = proto.elem_type.unwrap_or_default();
    let filled = [
        !proto.tensor_values.is_empty(),
        !proto.sparse_tensor_values.is_empty(),
        !proto.sequence_values.is_empty(),
        !proto.map_values.is_empty(),
        !proto.optional_values.is_empty(),
    ];
    if filled.iter().filter(|&&filled| filled).count() > 1 {
        return Err(ProtoError::Value { what: "elements of several types".into(), expected: "a sequence" });
    }
    let mut values = Vec::new();
    for tensor in proto.tensor_values {
        values.push(TestValue::Tensor(importer.tensor(tensor)?));
    }
    for sparse in proto.sparse_tensor_values {
        values.push(TestValue::Sparse(importer.sparse(sparse)?.0));
    }
    for inner in proto.sequence_values {
        values.push(sequence(importer, inner)?);
    }
    for inner in proto.map_values {
        values.push(map(importer, inner)?);
    }
    for inner in proto.optional_values {
        values.push(optional(importer, inner)?);
    }
    Ok(TestValue::Sequence { elem_type, values })
}

fn map(importer: &mut Importer, proto: pb::MapProto) -> Result<TestValue, ProtoError> {
    let keys =
        if proto.string_keys.is_empty() { Keys::Ints(proto.keys) } else { Keys::Strings(proto.string_keys) };
    let values = match proto.values {
        Some(values) => sequence(importer, values)?,
        None => TestValue::Sequence { elem_type: 0, values: Vec::new() },
    };
    let TestValue::Sequence { values, .. } = values else {
        return Err(ProtoError::Value { what: "no sequence".into(), expected: "a map" });
    };
    let count = match &keys {
        Keys::Ints(keys) => keys.len(),
        Keys::Strings(keys) => keys.len(),
    };
    if count != values.len() {
        let what = format!("{count} keys and {} values", values.len());
        return Err(ProtoError::Value { what, expected: "a map" });
    }
    Ok(TestValue::Map { key_type: proto.key_type.and_then(DType::from_code), keys, values })
}

fn optional(importer: &mut Importer, proto: pb::OptionalProto) -> Result<TestValue, ProtoError> {
    let inner = if let Some(tensor) = proto.tensor_value {
        TestValue::Tensor(importer.tensor(tensor)?)
    } else if let Some(sparse) = proto.sparse_tensor_value {
        TestValue::Sparse(importer.sparse(sparse)?.0)
    } else if let Some(inner) = proto.sequence_value {
        sequence(importer, inner)?
    } else if let Some(inner) = proto.map_value {
        map(importer, inner)?
    } else if let Some(inner) = proto.optional_value {
        optional(importer, *inner)?
    } else {
        return Ok(TestValue::Optional(None));
    };
    Ok(TestValue::Optional(Some(Box::new(inner))))
}

/// Writes a value under a name (that of the model's input or output).
pub fn write_value(path: &Path, name: &str, value: &TestValue) -> Result<(), ProtoError> {
    crate::write_file(path, &value_to_bytes(name, value))
}

/// The bytes of a value file.
pub fn value_to_bytes(name: &str, value: &TestValue) -> Vec<u8> {
    let model = Model::default();
    let mut exporter = Exporter::new(&model, Placer::new(Placement::Inline, String::new(), 1));
    let out = &mut exporter;
    match value {
        TestValue::Tensor(tensor) => out.tensor(tensor, Some(name)).encode_to_vec(),
        TestValue::Sparse(sparse) => out.sparse(sparse, Some(name)).encode_to_vec(),
        TestValue::Sequence { elem_type, values } => {
            sequence_proto(out, name, *elem_type, values).encode_to_vec()
        }
        TestValue::Map { key_type, keys, values } => {
            map_proto(out, name, *key_type, keys, values).encode_to_vec()
        }
        TestValue::Optional(inner) => optional_proto(out, name, inner.as_deref()).encode_to_vec(),
    }
}

fn own_name(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_string())
}

fn sequence_proto(out: &mut Exporter, name: &str, elem_type: i32, values: &[TestValue]) -> pb::SequenceProto {
    let mut proto = pb::SequenceProto { name: own_name(name), ..Default::default() };
    let implied = values.first().map_or(elem_type, code);
    proto.elem_type = Some(if elem_type == 0 { implied } else { elem_type });
    for value in values {
        match value {
            TestValue::Tensor(tensor) => proto.tensor_values.push(out.tensor(tensor, None)),
            TestValue::Sparse(sparse) => proto.sparse_tensor_values.push(out.sparse(sparse, None)),
            TestValue::Sequence { elem_type, values } => {
                proto.sequence_values.push(sequence_proto(out, "", *elem_type, values));
            }
            TestValue::Map { key_type, keys, values } => {
                proto.map_values.push(map_proto(out, "", *key_type, keys, values));
            }
            TestValue::Optional(inner) => {
                proto.optional_values.push(optional_proto(out, "", inner.as_deref()))
            }
        }
    }
    proto
}

fn map_proto(
    out: &mut Exporter,
    name: &str,
    key_type: Option<DType>,
    keys: &Keys,
    values: &[TestValue],
) -> pb::MapProto {
    let (ints, strings) = match keys {
        Keys::Ints(keys) => (keys.clone(), Vec::new()),
        Keys::Strings(keys) => (Vec::new(), keys.clone()),
    };
    pb::MapProto {
        name: own_name(name),
        key_type: key_type.map(DType::code),
        keys: ints,
        string_keys: strings,
        values: Some(sequence_proto(out, "", 0, values)),
    }
}

fn optional_proto(out: &mut Exporter, name: &str, inner: Option<&TestValue>) -> pb::OptionalProto {
    let mut proto = pb::OptionalProto { name: own_name(name), ..Default::default() };
    proto.elem_type = Some(inner.map_or(0, code));
    match inner {
        None => {}
        Some(TestValue::Tensor(tensor)) => proto.tensor_value = Some(out.tensor(tensor, None)),
        Some(TestValue::Sparse(sparse)) => proto.sparse_tensor_value = Some(out.sparse(sparse, None)),
        Some(TestValue::Sequence { elem_type, values }) => {
            proto.sequence_value = Some(sequence_proto(out, "", *elem_type, values));
        }
        Some(TestValue::Map { key_type, keys, values }) => {
            proto.map_value = Some(map_proto(out, "", *key_type, keys, values));
        }
        Some(TestValue::Optional(inner)) => {
            proto.optional_value = Some(Box::new(optional_proto(out, "", inner.as_deref())));
        }
    }
    proto
}

/// The element code of a value; sequences and optionals count alike.
fn code(value: &TestValue) -> i32 {
    match value {
        TestValue::Tensor(_) => TENSOR,
        TestValue::Sparse(_) => SPARSE,
        TestValue::Sequence { .. } => SEQUENCE,
        TestValue::Map { .. } => MAP,
        TestValue::Optional(_) => OPTIONAL,
    }
}
