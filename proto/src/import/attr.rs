//! Attributes.

use bytes::Bytes;
use ir::{Attr, AttrValue, Attrs, GraphId, Tensor};
use pb::attribute_proto::AttributeType as Kind;

use super::Importer;
use super::graph::Scope;
use crate::error::ProtoError;
use crate::generated as pb;
use crate::parts::{fields, single, split};
use crate::spelling::{self, Marks};

/// The graphs of an attribute, not decoded yet.
struct Graphs {
    one: Option<Bytes>,
    list: Vec<Bytes>,
}

impl Importer {
    /// Attributes in file order. Graphs among them are appended to `inner`, to be put into the model once the operator
    /// that holds them has an id.
    pub(super) fn attributes(
        &mut self,
        parts: Vec<Bytes>,
        inner: &mut Vec<Scope>,
    ) -> Result<Attrs, ProtoError> {
        let mut attrs = Attrs::with_capacity(parts.len());
        for bytes in parts {
            let (proto, [graph, graphs]) =
                split::<pb::AttributeProto, 2>(&bytes, [fields::ATTRIBUTE_GRAPH, fields::ATTRIBUTE_GRAPHS])?;
            attrs.push(self.attribute(proto, Graphs { one: single(graph), list: graphs }, inner)?);
        }
        Ok(attrs)
    }

    fn attribute(
        &mut self,
        mut proto: pb::AttributeProto,
        mut graphs: Graphs,
        inner: &mut Vec<Scope>,
    ) -> Result<Attr, ProtoError> {
        let mut marks = Marks::default();
        let name = marks.text(spelling::NAME, proto.name.take());
        let doc = marks.text(spelling::DOC, proto.doc_string.take());
        let reference = marks.text(spelling::REFERENCE, proto.ref_attr_name.take());
        let code = proto.r#type.take();
        marks.note(spelling::NO_TYPE, code.is_none());
        let value = if reference.is_empty() {
            self.value(&name, code, &mut proto, &mut graphs, &mut marks, inner)?
        } else {
            AttrValue::Reference { name: reference, kind: code.unwrap_or_default() }
        };
        // Graphs that are left do not belong to it any more than other fields.
        proto.g = graphs.one.map(|_| Box::default());
        proto.graphs.resize(graphs.list.len(), pb::GraphProto::default());
        self.check_rest(&proto, &format!("attribute {name:?}"));
        Ok(Attr { name: self.shared(&name), value, doc, spelling: marks.done() })
    }

    fn value(
        &mut self,
        name: &str,
        code: Option<i32>,
        proto: &mut pb::AttributeProto,
        graphs: &mut Graphs,
        marks: &mut Marks,
        inner: &mut Vec<Scope>,
    ) -> Result<AttrValue, ProtoError> {
        let code = match code {
            Some(code) if code != Kind::Undefined as i32 => code,
            _ => implied(proto, graphs) as i32,
        };
        let kind = Kind::try_from(code).unwrap_or(Kind::Undefined);
        let missing = |what: &str| format!("attribute {name:?} holds no {what}");
        Ok(match kind {
            Kind::Undefined => {
                return Err(self.invalid(format!("attribute {name:?} has the unknown type {code}")));
            }
            Kind::Float => AttrValue::Float(or_default(proto.f.take(), marks)),
            Kind::Int => AttrValue::Int(or_default(proto.i.take(), marks)),
            Kind::String => AttrValue::String(or_default(proto.s.take(), marks)),
            Kind::Floats => AttrValue::Floats(std::mem::take(&mut proto.floats)),
            Kind::Ints => AttrValue::Ints(std::mem::take(&mut proto.ints)),
            Kind::Strings => AttrValue::Strings(std::mem::take(&mut proto.strings)),
            Kind::Tensor => {
                let tensor = proto.t.take().ok_or_else(|| self.invalid(missing("tensor")))?;
                AttrValue::Tensor(self.tensor(*tensor)?)
            }
            Kind::Tensors => {
                let tensors = std::mem::take(&mut proto.tensors).into_iter();
                let tensors: Result<Vec<Tensor>, _> = tensors.map(|tensor| self.tensor(tensor)).collect();
                AttrValue::Tensors(tensors?)
            }
            Kind::SparseTensor => {
                let sparse = proto.sparse_tensor.take();
                let sparse = sparse.ok_or_else(|| self.invalid(missing("sparse tensor")))?;
                AttrValue::Sparse(Box::new(self.sparse(*sparse)?.0))
            }
            Kind::SparseTensors => {
                let sparses = std::mem::take(&mut proto.sparse_tensors).into_iter();
                let sparses: Result<_, ProtoError> = sparses.map(|s| Ok(self.sparse(s)?.0)).collect();
                AttrValue::Sparses(sparses?)
            }
            Kind::TypeProto => {
                let ty = proto.tp.take().ok_or_else(|| self.invalid(missing("type")))?;
                AttrValue::Type(self.ty(*ty))
            }
            Kind::TypeProtos => {
                let types = std::mem::take(&mut proto.type_protos).into_iter();
                AttrValue::Types(types.map(|ty| self.ty(ty)).collect())
            }
            Kind::Graph => {
                let graph = graphs.one.take().ok_or_else(|| self.invalid(missing("graph")))?;
                AttrValue::Graph(self.inner_graph(&graph, inner)?)
            }
            Kind::Graphs => {
                let list = std::mem::take(&mut graphs.list).into_iter();
                let ids: Result<Vec<GraphId>, _> =
                    list.map(|graph| self.inner_graph(&graph, inner)).collect();
                AttrValue::Graphs(ids?)
            }
        })
    }

    fn inner_graph(&mut self, bytes: &Bytes, inner: &mut Vec<Scope>) -> Result<GraphId, ProtoError> {
        let id = self.model.reserve_graph();
        inner.push(self.graph(bytes, id)?);
        Ok(id)
    }
}

/// A single value; a missing one means 0 or empty (writers of proto3 habits leave those out).
fn or_default<T: Default>(field: Option<T>, marks: &mut Marks) -> T {
    marks.note(spelling::NO_VALUE, field.is_none());
    field.unwrap_or_default()
}

/// The type of an attribute that does not say it, as before IR version 2: the field that holds something.
fn implied(proto: &pb::AttributeProto, graphs: &Graphs) -> Kind {
    let fields = [
        (proto.f.is_some(), Kind::Float),
        (proto.i.is_some(), Kind::Int),
        (proto.s.is_some(), Kind::String),
        (proto.t.is_some(), Kind::Tensor),
        (graphs.one.is_some(), Kind::Graph),
        (proto.sparse_tensor.is_some(), Kind::SparseTensor),
        (proto.tp.is_some(), Kind::TypeProto),
        (!proto.floats.is_empty(), Kind::Floats),
        (!proto.ints.is_empty(), Kind::Ints),
        (!proto.strings.is_empty(), Kind::Strings),
        (!proto.tensors.is_empty(), Kind::Tensors),
        (!graphs.list.is_empty(), Kind::Graphs),
        (!proto.sparse_tensors.is_empty(), Kind::SparseTensors),
        (!proto.type_protos.is_empty(), Kind::TypeProtos),
    ];
    fields.into_iter().find(|(filled, _)| *filled).map_or(Kind::Undefined, |(_, kind)| kind)
}
