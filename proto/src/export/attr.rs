//! Attributes.

use ir::{Attr, AttrValue, Attrs};
use pb::attribute_proto::AttributeType as Kind;

use super::{Exporter, types};
use crate::error::ProtoError;
use crate::generated as pb;
use crate::spelling::{self, has, text};

impl Exporter<'_> {
    pub(super) fn attributes(&mut self, attrs: &Attrs) -> Result<Vec<pb::AttributeProto>, ProtoError> {
        attrs.iter().map(|attr| self.attribute(attr)).collect()
    }

    fn attribute(&mut self, attr: &Attr) -> Result<pb::AttributeProto, ProtoError> {
        let spelling = attr.spelling;
        let mut proto = pb::AttributeProto {
            name: text(spelling, spelling::NAME, &attr.name),
            doc_string: text(spelling, spelling::DOC, &attr.doc),
            ref_attr_name: has(spelling, spelling::REFERENCE).then(String::new),
            ..Default::default()
        };
        let kind = match &attr.value {
            AttrValue::Float(value) => {
                proto.f = (*value != 0.0 || !has(spelling, spelling::NO_VALUE)).then_some(*value);
                Kind::Float
            }
            AttrValue::Int(value) => {
                proto.i = (*value != 0 || !has(spelling, spelling::NO_VALUE)).then_some(*value);
                Kind::Int
            }
            AttrValue::String(value) => {
                proto.s = (!value.is_empty() || !has(spelling, spelling::NO_VALUE)).then(|| value.clone());
                Kind::String
            }
            AttrValue::Floats(values) => {
                proto.floats = values.clone();
                Kind::Floats
            }
            AttrValue::Ints(values) => {
                proto.ints = values.clone();
                Kind::Ints
            }
            AttrValue::Strings(values) => {
                proto.strings = values.clone();
                Kind::Strings
            }
            AttrValue::Tensor(tensor) => {
                proto.t = Some(Box::new(self.tensor(tensor, None)));
                Kind::Tensor
            }
            AttrValue::Tensors(tensors) => {
                proto.tensors = tensors.iter().map(|tensor| self.tensor(tensor, None)).collect();
                Kind::Tensors
            }
            AttrValue::Sparse(sparse) => {
                proto.sparse_tensor = Some(Box::new(self.sparse(sparse, None)));
                Kind::SparseTensor
            }
            AttrValue::Sparses(sparses) => {
                proto.sparse_tensors = sparses.iter().map(|sparse| self.sparse(sparse, None)).collect();
                Kind::SparseTensors
            }
            AttrValue::Type(ty) => {
                proto.tp = Some(Box::new(types::ty(ty)));
                Kind::TypeProto
            }
            AttrValue::Types(list) => {
                proto.type_protos = list.iter().map(types::ty).collect();
                Kind::TypeProtos
            }
            AttrValue::Graph(graph) => {
                proto.g = Some(Box::new(self.graph(*graph)?));
                Kind::Graph
            }
            AttrValue::Graphs(graphs) => {
                let graphs: Result<_, ProtoError> = graphs.iter().map(|&graph| self.graph(graph)).collect();
                proto.graphs = graphs?;
                Kind::Graphs
            }
            AttrValue::Reference { name, kind } => {
                proto.ref_attr_name = Some(name.clone());
                proto.r#type = (*kind != 0 || !has(spelling, spelling::NO_TYPE)).then_some(*kind);
                return Ok(proto);
            }
        };
        proto.r#type = (!has(spelling, spelling::NO_TYPE)).then_some(kind as i32);
        Ok(proto)
    }
}
