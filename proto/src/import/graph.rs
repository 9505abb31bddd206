//! Graphs: names become values, and what an inner graph reads from outside becomes explicit.

use bytes::Bytes;
use ir::{
    Annotation, Graph, GraphId, Op, OpNotes, Place, Rare, Role, Slots, Stray, StrayList, Type, ValueId,
    ValueNotes,
};
use prost::Message;

use super::{Importer, pairs};
use crate::error::ProtoError;
use crate::generated as pb;
use crate::parts::{decode, fields, split};
use crate::spelling::{self, Marks};

/// Decoded part by part.
const LISTS: [u32; 4] =
    [fields::GRAPH_NODE, fields::GRAPH_INITIALIZER, fields::GRAPH_SPARSE, fields::GRAPH_INFO];

/// A graph under construction.
pub(super) struct Scope {
    pub graph: Graph,
    pub id: GraphId,
    /// What it reads from the surrounding graph: its own value, the outer one.
    pub captures: Vec<(ValueId, ValueId)>,
}

impl Scope {
    pub fn new(graph: Graph, id: GraphId) -> Scope {
        Scope { graph, id, captures: Vec::new() }
    }
}

/// A `ValueInfoProto` in parts.
struct Info {
    name: String,
    ty: Option<Type>,
    notes: Rare<ValueNotes>,
    spelling: ir::Spelling,
}

impl Importer {
    fn scope(&mut self) -> &mut Graph {
        // Every caller runs between the push and the pop of a scope.
        &mut self.scopes.last_mut().expect("a graph is under construction").graph
    }

    /// Imports a graph. `id` is its place in the model's table.
    pub(super) fn graph(&mut self, bytes: &Bytes, id: GraphId) -> Result<Scope, ProtoError> {
        let (proto, [nodes, initializers, sparse, infos]) = split::<pb::GraphProto, 4>(bytes, LISTS)?;
        let mut marks = Marks::default();
        let mut graph = Graph::new(&marks.text(spelling::NAME, proto.name));
        graph.doc = marks.text(spelling::DOC, proto.doc_string);
        graph.metadata = pairs(proto.metadata_props);
        graph.annotations = proto.quantization_annotation.into_iter().map(annotation).collect();
        graph.spelling = marks.done();
        self.place.push(format!("graph {:?}", graph.name));
        self.scopes.push(Scope::new(graph, id));

        for input in proto.input {
            let info = self.info(input);
            let id = self.scope().add_input(&info.name, info.ty).map_err(|e| self.graph_error(e))?;
            let value = self.scope().value_mut(id);
            (value.notes, value.spelling) = (info.notes, info.spelling);
        }
        for (at, tensor) in (1..).zip(initializers) {
            let (tensor, name) = self.initializer(decode(tensor)?)?;
            let id = match self.default_of(&name) {
                Some(input) => {
                    self.scope().value_mut(input).data = Some(tensor);
                    input
                }
                None => self.scope().add_initializer(&name, tensor).map_err(|e| self.graph_error(e))?,
            };
            self.scope().value_mut(id).listing.initializer = at;
        }
        for (at, sparse) in (1..).zip(sparse) {
            let (sparse, name) = self.sparse(decode(sparse)?)?;
            let id = match self.default_of(&name) {
                Some(input) => {
                    self.scope().value_mut(input).sparse = Some(Box::new(sparse));
                    input
                }
                None => self.scope().add_sparse(&name, sparse).map_err(|e| self.graph_error(e))?,
            };
            self.scope().value_mut(id).listing.initializer = at;
        }
        self.nodes(nodes)?;
        for (at, output) in (1..).zip(proto.output) {
            let info = self.info(output);
            let id = self.output(&info.name)?;
            self.describe(id, info, StrayList::Output, at);
        }
        self.value_infos(infos)?;
        let scope = self.close_scope()?;
        self.place.pop();
        Ok(scope)
    }

    /// The input that an initializer of this name gives a default to.
    fn default_of(&mut self, name: &str) -> Option<ValueId> {
        let graph = self.scope();
        let id = graph.find(name)?;
        let value = graph.value(id);
        (value.role() == Role::Input && value.data.is_none() && value.sparse.is_none()).then_some(id)
    }

    pub(super) fn close_scope(&mut self) -> Result<Scope, ProtoError> {
        self.scope().schedule().map_err(|e| self.graph_error(e))?;
        Ok(self.scopes.pop().expect("a graph is under construction"))
    }

    /// Adds nodes in file order. All outputs are declared first: the file's order need not be topological.
    pub(super) fn nodes(&mut self, nodes: Vec<Bytes>) -> Result<(), ProtoError> {
        for bytes in &nodes {
            let (node, _) = split::<pb::NodeProto, 1>(bytes, [fields::NODE_ATTRIBUTE])?;
            let graph = self.scope();
            let mut named = node.output.iter().filter(|name| !name.is_empty());
            let declared = named.try_for_each(|name| graph.add_computed(name, None).map(drop));
            declared.map_err(|source| ProtoError::Graph {
                place: format!("{}, node {}", self.place(), title(&node)),
                source,
            })?;
        }
        for bytes in nodes {
            let (node, [attributes]) = split::<pb::NodeProto, 1>(&bytes, [fields::NODE_ATTRIBUTE])?;
            self.place.push(format!("node {}", title(&node)));
            self.node(node, attributes)?;
            self.place.pop();
        }
        Ok(())
    }

    fn node(&mut self, proto: pb::NodeProto, attributes: Vec<Bytes>) -> Result<(), ProtoError> {
        let mut marks = Marks::default();
        let domain = marks.text(spelling::DOMAIN, proto.domain);
        let overload = marks.text(spelling::OVERLOAD, proto.overload);
        let name = proto.op_type.unwrap_or_default();
        if name.is_empty() {
            return Err(self.invalid("the node has no op_type"));
        }
        let mut op = Op::of(self.kind(domain, name, overload));
        op.name = marks.text(spelling::NAME, proto.name);
        let opaque = (!proto.device_configurations.is_empty()).then(|| {
            let rest =
                pb::NodeProto { device_configurations: proto.device_configurations, ..Default::default() };
            rest.encode_to_vec().into()
        });
        op.notes = Rare::new(OpNotes {
            doc: marks.text(spelling::DOC, proto.doc_string),
            metadata: pairs(proto.metadata_props),
            opaque,
            origin: Vec::new(),
        });
        op.spelling = marks.done();
        let mut inputs = Slots::new();
        for (at, input) in proto.input.iter().enumerate() {
            let id = if input.is_empty() { None } else { Some(self.resolve(input)) };
            match id {
                Some(None) => {
                    return Err(self.invalid(format!("input {at} reads {input:?}, which nothing defines")));
                }
                id => inputs.push(id.flatten()),
            }
        }
        let mut inner = Vec::new();
        op.attrs = self.attributes(attributes, &mut inner)?;
        let graph = self.scope();
        // Declared before; an empty name is no value.
        let outputs: Slots = proto.output.iter().map(|name| graph.find(name)).collect();
        let added = graph.add_op(op, &inputs, &outputs, Place::End);
        let id = added.map_err(|e| self.graph_error(e))?;
        let parent = self.scopes.last().map(|scope| (scope.id, id));
        for scope in inner {
            for (inner, outer) in scope.captures {
                self.scope().add_capture(id, scope.id, inner, outer);
            }
            self.model.put_graph(scope.id, scope.graph, parent);
        }
        Ok(())
    }

    /// The value of a name, in this graph or, through captures, in a surrounding one.
    fn resolve(&mut self, name: &str) -> Option<ValueId> {
        let (level, mut id) = (self.scopes.iter().enumerate().rev())
            .find_map(|(level, scope)| scope.graph.find(name).map(|id| (level, id)))?;
        for scope in self.scopes.iter_mut().skip(level + 1) {
            // The name is free here, or the search would have ended here; and it is not empty.
            let inner = scope.graph.add_captured(name).ok()?;
            scope.captures.push((inner, id));
            id = inner;
        }
        Some(id)
    }

    /// Appends an output.
    pub(super) fn output(&mut self, name: &str) -> Result<ValueId, ProtoError> {
        let id = if name.is_empty() { None } else { self.resolve(name) };
        let id = id.ok_or_else(|| self.invalid(format!("nothing defines the output {name:?}")))?;
        self.scope().add_output(id);
        Ok(id)
    }

    pub(super) fn value_infos(&mut self, infos: Vec<Bytes>) -> Result<(), ProtoError> {
        for (at, info) in (1..).zip(infos) {
            let info = self.info(decode(info)?);
            match self.scope().find(&info.name) {
                Some(id) => {
                    if self.scope().value(id).listing.info > 0 {
                        self.scope().strays.push(info.stray(StrayList::Info, at));
                    } else if self.describe(id, info, StrayList::Info, at) {
                        self.scope().value_mut(id).listing.info = at;
                    }
                }
                None => self.scope().strays.push(info.stray(StrayList::Info, at)),
            }
        }
        Ok(())
    }

    /// Gives the value what an entry of a list says. What contradicts an earlier entry is kept as a stray instead, and the
    /// answer is false.
    fn describe(&mut self, id: ValueId, info: Info, list: StrayList, at: u32) -> bool {
        let graph = self.scope();
        // Inputs have their entry, if only a name; so have outputs when `value_info` comes.
        let described = match list {
            StrayList::Output => graph.value(id).role() == Role::Input,
            StrayList::Info => graph.value(id).role() == Role::Input || graph.is_output(id),
        };
        let value = graph.value_mut(id);
        let bare = value.ty.is_none() && value.notes.is_blank();
        if bare && !described {
            (value.ty, value.notes, value.spelling) = (info.ty, info.notes, info.spelling);
            return true;
        }
        let same = value.ty == info.ty && value.notes == info.notes && value.spelling.0 == info.spelling.0;
        if !same {
            graph.strays.push(info.stray(list, at));
        }
        same
    }

    fn info(&mut self, proto: pb::ValueInfoProto) -> Info {
        let mut marks = Marks::default();
        Info {
            name: proto.name.unwrap_or_default(),
            ty: proto.r#type.map(|ty| self.ty(ty)),
            notes: Rare::new(ValueNotes {
                doc: marks.text(spelling::DOC, proto.doc_string),
                metadata: pairs(proto.metadata_props),
            }),
            spelling: marks.done(),
        }
    }
}

impl Info {
    fn stray(self, list: StrayList, at: u32) -> Stray {
        let Info { name, ty, notes, spelling } = self;
        let ValueNotes { doc, metadata } = (*notes).clone();
        Stray { list, at, name, ty, doc, metadata, spelling }
    }
}

fn annotation(proto: pb::TensorAnnotation) -> Annotation {
    Annotation {
        tensor: proto.tensor_name.unwrap_or_default(),
        parameters: pairs(proto.quant_parameter_tensor_names),
    }
}

/// How errors cite a node: by name, else by what it writes.
fn title(node: &pb::NodeProto) -> String {
    let kind = node.op_type.as_deref().unwrap_or_default();
    match (node.name.as_deref(), node.output.first()) {
        (Some(name), _) if !name.is_empty() => format!("{name:?} ({kind})"),
        (_, Some(output)) => format!("({kind}) that writes {output:?}"),
        _ => format!("({kind})"),
    }
}
