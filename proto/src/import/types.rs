//! Types, shapes, pairs.

use ir::{DType, Dim, Shape, TensorType, Type, TypeKind, TypeParts};
use pb::tensor_shape_proto::dimension::Value as DimValue;
use pb::type_proto::Value as TypeValue;

use super::Importer;
use crate::generated as pb;
use crate::spelling::{self, Marks};

/// String pairs; a missing key or value is an empty one.
pub(crate) fn pairs(entries: Vec<pb::StringStringEntryProto>) -> Vec<(String, String)> {
    entries.into_iter().map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default())).collect()
}

impl Importer {
    pub(crate) fn ty(&mut self, proto: pb::TypeProto) -> Type {
        let mut marks = Marks::default();
        let denotation = marks.text(spelling::DENOTATION, proto.denotation);
        let kind = match proto.value {
            None => TypeKind::None,
            Some(TypeValue::TensorType(tensor)) => {
                TypeKind::Tensor(self.tensor_type(tensor.elem_type, tensor.shape, &mut marks))
            }
            Some(TypeValue::SparseTensorType(tensor)) => {
                TypeKind::Sparse(self.tensor_type(tensor.elem_type, tensor.shape, &mut marks))
            }
            Some(TypeValue::SequenceType(sequence)) => {
                TypeKind::Sequence(self.inner(sequence.elem_type, &mut marks))
            }
            Some(TypeValue::OptionalType(optional)) => {
                TypeKind::Optional(self.inner(optional.elem_type, &mut marks))
            }
            Some(TypeValue::MapType(map)) => {
                let key = self.dtype(map.key_type, &mut marks);
                TypeKind::Map { key, value: self.inner(map.value_type, &mut marks) }
            }
            Some(TypeValue::OpaqueType(opaque)) => TypeKind::Opaque {
                domain: marks.text(spelling::DOMAIN, opaque.domain),
                name: marks.text(spelling::NAME, opaque.name),
            },
        };
        TypeParts { kind, denotation, spelling: marks.done() }.into()
    }

    fn inner(&mut self, ty: Option<Box<pb::TypeProto>>, marks: &mut Marks) -> Box<Type> {
        marks.note(spelling::NO_TYPE, ty.is_none());
        Box::new(ty.map_or_else(|| Type::new(TypeKind::None), |ty| self.ty(*ty)))
    }

    fn dtype(&mut self, code: Option<i32>, marks: &mut Marks) -> Option<DType> {
        marks.note(spelling::ELEM_TYPE, code == Some(0));
        let dtype = DType::from_code(code?);
        if dtype.is_none() && code != Some(0) {
            self.drop_note(&format!("element type {} is unknown", code.unwrap_or_default()));
        }
        dtype
    }

    fn tensor_type(
        &mut self,
        code: Option<i32>,
        shape: Option<pb::TensorShapeProto>,
        marks: &mut Marks,
    ) -> TensorType {
        TensorType { dtype: self.dtype(code, marks), shape: shape.map(self::shape) }
    }
}

fn shape(proto: pb::TensorShapeProto) -> Shape {
    let has =
        |dim: &pb::tensor_shape_proto::Dimension| dim.denotation.as_deref().is_some_and(|d| !d.is_empty());
    let named = proto.dim.iter().any(has);
    let mut shape = Shape::default();
    for dim in proto.dim {
        shape.dims.push(match dim.value {
            Some(DimValue::DimValue(size)) => Dim::Known(size),
            Some(DimValue::DimParam(name)) if !name.is_empty() => Dim::symbol(&name),
            _ => Dim::Unknown,
        });
        if named {
            shape.denotations.push(dim.denotation.unwrap_or_default());
        }
    }
    shape
}
