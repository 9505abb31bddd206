//! Types, shapes, pairs.

use ir::{DType, Dim, Shape, Spelling, TensorType, Type, TypeKind};
use pb::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use pb::type_proto::{self, Value as TypeValue};

use crate::generated as pb;
use crate::spelling::{self, has, text};

/// String pairs.
pub(crate) fn pairs(pairs: &[(String, String)]) -> Vec<pb::StringStringEntryProto> {
    let entry = |(key, value): &(String, String)| pb::StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    pairs.iter().map(entry).collect()
}

/// A type.
pub(super) fn ty(ty: &Type) -> pb::TypeProto {
    let spelling = ty.spelling;
    let value = match &ty.kind {
        TypeKind::None => None,
        TypeKind::Tensor(tensor) => {
            let TensorType { dtype, shape } = tensor;
            let (elem_type, shape) = (code(*dtype, spelling), shape.as_ref().map(self::shape));
            Some(TypeValue::TensorType(type_proto::Tensor { elem_type, shape }))
        }
        TypeKind::Sparse(tensor) => {
            let TensorType { dtype, shape } = tensor;
            let (elem_type, shape) = (code(*dtype, spelling), shape.as_ref().map(self::shape));
            Some(TypeValue::SparseTensorType(type_proto::SparseTensor { elem_type, shape }))
        }
        TypeKind::Sequence(of) => {
            Some(TypeValue::SequenceType(Box::new(type_proto::Sequence { elem_type: inner(of, spelling) })))
        }
        TypeKind::Optional(of) => {
            Some(TypeValue::OptionalType(Box::new(type_proto::Optional { elem_type: inner(of, spelling) })))
        }
        TypeKind::Map { key, value } => Some(TypeValue::MapType(Box::new(type_proto::Map {
            key_type: code(*key, spelling),
            value_type: inner(value, spelling),
        }))),
        TypeKind::Opaque { domain, name } => Some(TypeValue::OpaqueType(type_proto::Opaque {
            domain: text(spelling, spelling::DOMAIN, domain),
            name: text(spelling, spelling::NAME, name),
        })),
    };
    pb::TypeProto { denotation: text(spelling, spelling::DENOTATION, &ty.denotation), value }
}

fn inner(of: &Type, spelling: Spelling) -> Option<Box<pb::TypeProto>> {
    let left_out = has(spelling, spelling::NO_TYPE) && of.kind == TypeKind::None;
    (!left_out).then(|| Box::new(ty(of)))
}

fn code(dtype: Option<DType>, spelling: Spelling) -> Option<i32> {
    dtype.map(DType::code).or_else(|| has(spelling, spelling::ELEM_TYPE).then_some(0))
}

fn shape(shape: &Shape) -> pb::TensorShapeProto {
    let dimension = |(at, dim): (usize, &Dim)| Dimension {
        value: match dim {
            Dim::Known(size) => Some(DimValue::DimValue(*size)),
            Dim::Symbol(name) => Some(DimValue::DimParam(name.to_string())),
            Dim::Unknown => None,
        },
        denotation: shape.denotations.get(at).filter(|denotation| !denotation.is_empty()).cloned(),
    };
    pb::TensorShapeProto { dim: shape.dims.iter().enumerate().map(dimension).collect() }
}
