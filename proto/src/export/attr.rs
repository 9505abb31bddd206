//! Attributes.

use std::slice;

use bytes::BufMut;
use ir::{Attr, AttrValue, Attrs, GraphId};
use pb::attribute_proto::AttributeType as Kind;

use super::{Exporter, Wire, types};
use crate::error::ProtoError;
use crate::generated as pb;
use crate::parts::fields;
use crate::spelling::{self, has, text};

impl Exporter<'_> {
    pub(super) fn attributes<B: BufMut>(
        &mut self,
        field: u32,
        attrs: &Attrs,
        wire: &mut Wire<'_, B>,
    ) -> Result<(), ProtoError> {
        attrs.iter().try_for_each(|attr| match &attr.value {
            AttrValue::Graph(graph) => self.with_graphs(field, attr, slice::from_ref(graph), wire),
            AttrValue::Graphs(graphs) => self.with_graphs(field, attr, graphs, wire),
            _ => {
                wire.message(field, &self.attribute(attr));
                Ok(())
            }
        })
    }

    /// An attribute that holds graphs.
    fn with_graphs<B: BufMut>(
        &mut self,
        field: u32,
        attr: &Attr,
        graphs: &[GraphId],
        wire: &mut Wire<'_, B>,
    ) -> Result<(), ProtoError> {
        let one = matches!(attr.value, AttrValue::Graph(_));
        let number = if one { fields::ATTRIBUTE_GRAPH } else { fields::ATTRIBUTE_GRAPHS };
        let mut rest = self.attribute(attr);
        wire.open(field, |wire| {
            wire.fields(&pb::AttributeProto { name: rest.name.take(), ..Default::default() });
            graphs.iter().try_for_each(|&graph| wire.open(number, |wire| self.graph(graph, wire)))?;
            wire.fields(&rest);
            Ok(())
        })
    }

    /// An attribute without the graphs that it holds.
    fn attribute(&mut self, attr: &Attr) -> pb::AttributeProto {
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
            AttrValue::Graph(_) => Kind::Graph,
            AttrValue::Graphs(_) => Kind::Graphs,
            AttrValue::Reference { name, kind } => {
                proto.ref_attr_name = Some(name.clone());
                proto.r#type = (*kind != 0 || !has(spelling, spelling::NO_TYPE)).then_some(*kind);
                return proto;
            }
        };
        proto.r#type = (!has(spelling, spelling::NO_TYPE)).then_some(kind as i32);
        proto
    }
}
