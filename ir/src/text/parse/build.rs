//! Syntax to model: names are resolved, in the graph itself first, then in the surrounding ones.
//!
//! A name that is read and never defined becomes a value without a producer, which the verifier reports: the text of a
//! broken model can be read. A name defined twice has no place in a [`Graph`] and is an error here.

use super::cursor::Result;
use super::syntax::{self, AttrItem, Elements, Entry, Name, Notes};
use crate::text::TextError;
use crate::{
    Attr, AttrValue, Attrs, Function, Graph, GraphError, GraphId, Model, Op, OpId, OpNotes, Place, Rare,
    Role, Stray, StrayList, TensorNotes, ValueId,
};

struct Builder<'t> {
    text: &'t str,
    model: Model,
}

/// Graphs of one operator that are still to be filled.
type Pending = Vec<(GraphId, syntax::Graph)>;

pub(super) fn model(text: &str, syntax: syntax::Model) -> Result<Model> {
    let syntax::Model { notes, header, graph, functions } = syntax;
    let mut builder = Builder { text, model: Model::new(header.ir_version, 0, Graph::default()) };
    let main = builder.model.main_id();
    builder.fill(main, graph)?;
    for function in functions {
        builder.function(function)?;
    }
    let mut model = builder.model;
    model.opsets = header.opsets;
    model.producer_name = header.producer_name;
    model.producer_version = header.producer_version;
    model.domain = header.domain;
    model.model_version = header.model_version;
    model.doc = header.doc;
    model.metadata = header.metadata;
    model.opaque = notes.opaque;
    Ok(model)
}

impl Builder<'_> {
    fn graph(&mut self, id: GraphId) -> &mut Graph {
        self.model.graph_mut(id)
    }

    fn error(&self, name: &Name, message: impl Into<String>) -> TextError {
        TextError::new(self.text, name.at, message)
    }

    /// A value was added, or its name is taken.
    fn defined<T>(&self, name: &Name, added: std::result::Result<T, GraphError>) -> Result<T> {
        added.map_err(|error| match error {
            GraphError::DuplicateName(_) => self.error(name, "this name is defined twice"),
            other => self.error(name, other.to_string()),
        })
    }

    fn function(&mut self, syntax: syntax::Function) -> Result<()> {
        let syntax::Function { header, attrs, defaults, mut graph } = syntax;
        let id = self.model.reserve_graph();
        let (defaults, pending) = self.attrs(defaults);
        for (graph, _) in &pending {
            // No operator holds the graph of a default.
            self.model.set_parent(*graph, None);
        }
        let (name, metadata) = (graph.name.clone(), std::mem::take(&mut graph.notes.metadata));
        self.fill(id, graph)?;
        for (id, graph) in pending {
            self.fill(id, graph)?;
        }
        self.model.functions.push(Function {
            domain: header.domain,
            name,
            overload: header.overload,
            graph: id,
            attrs,
            defaults,
            opsets: header.opsets,
            doc: header.doc,
            metadata,
            ..Function::default()
        });
        Ok(())
    }

    /// Fills a graph of the table, and the graphs inside it.
    fn fill(&mut self, id: GraphId, syntax: syntax::Graph) -> Result<()> {
        let syntax::Graph { notes, name, inputs, outputs, infos, nodes } = syntax;
        let graph = self.graph(id);
        graph.name = name;
        graph.doc = notes.doc;
        graph.metadata = notes.metadata;
        graph.annotations = notes.annotations;

        for input in inputs {
            let added = self.graph(id).add_input(&input.name.text, None);
            let value = self.defined(&input.name, added)?;
            self.describe(id, value, input)?;
        }
        // Constants first: operators read them, and types of other values stand among them.
        let (constants, infos): (Vec<Entry>, Vec<Entry>) =
            infos.into_iter().partition(|entry| entry.data.is_some());
        for constant in constants {
            self.constant(id, constant)?;
        }
        for node in &nodes {
            for output in node.outputs.iter().filter(|output| !output.text.is_empty()) {
                let added = self.graph(id).add_computed(&output.text, None);
                self.defined(output, added)?;
            }
        }
        // Every name this graph reads has its value before the inner graphs look outwards.
        let reads: Vec<Vec<Option<ValueId>>> =
            nodes.iter().map(|node| self.slots(id, &node.inputs)).collect::<Result<_>>()?;
        for output in outputs {
            let value = self.resolve(id, &output.name)?;
            self.graph(id).add_output(value);
            self.describe(id, value, output)?;
        }
        let mut inner = Vec::new();
        for (node, inputs) in nodes.into_iter().zip(reads) {
            let (op, pending) = self.node(id, node, &inputs)?;
            inner.extend(pending.into_iter().map(|(graph, syntax)| (op, graph, syntax)));
        }
        for (op, graph, syntax) in inner {
            self.model.set_parent(graph, Some((id, op)));
            self.fill(graph, syntax)?;
        }
        for (at, info) in infos.into_iter().enumerate() {
            self.info(id, at, info)?;
        }
        Ok(())
    }

    fn constant(&mut self, id: GraphId, mut entry: Entry) -> Result<()> {
        let data = entry.data.take();
        // The type before a constant's name is that of its elements, not a declaration.
        entry.ty = None;
        let graph = self.graph(id);
        let default = graph.find(&entry.name.text).filter(|&value| graph.value(value).role() == Role::Input);
        let value = match (default, data) {
            (Some(input), data) if !graph.value(input).has_data() => {
                self.hold(id, input, data);
                input
            }
            (_, Some(Elements::Dense(tensor))) => {
                let added = graph.add_initializer(&entry.name.text, tensor);
                self.defined(&entry.name, added)?
            }
            (_, Some(Elements::Sparse(sparse))) => {
                let added = graph.add_sparse(&entry.name.text, sparse);
                self.defined(&entry.name, added)?
            }
            (_, None) => return Ok(()),
        };
        self.describe(id, value, entry)
    }

    fn hold(&mut self, id: GraphId, value: ValueId, data: Option<Elements>) {
        let value = self.graph(id).value_mut(value);
        match data {
            Some(Elements::Dense(tensor)) => value.data = Some(tensor),
            Some(Elements::Sparse(sparse)) => value.sparse = Some(Box::new(sparse)),
            None => {}
        }
    }

    /// Type, default and notes of a listed value.
    fn describe(&mut self, id: GraphId, value: ValueId, entry: Entry) -> Result<()> {
        let Entry { notes, ty, name, data } = entry;
        self.hold(id, value, data);
        let Notes { doc, metadata, ty: noted, tensor_doc, tensor_metadata, .. } = notes;
        if let Some(ty) = noted.or(ty) {
            let known = &mut self.graph(id).value_mut(value).ty;
            if known.as_ref().is_some_and(|known| *known != ty) {
                return Err(self.error(&name, "this value is declared twice with different types"));
            }
            *known = Some(ty);
        }
        let value = self.graph(id).value_mut(value);
        if !doc.is_empty() {
            value.notes.doc = doc;
        }
        if !metadata.is_empty() {
            value.notes.metadata = metadata;
        }
        if let Some(data) =
            value.data.as_mut().filter(|_| !tensor_doc.is_empty() || !tensor_metadata.is_empty())
        {
            let notes = TensorNotes { name: String::new(), doc: tensor_doc, metadata: tensor_metadata };
            data.notes = Some(Box::new(notes));
        }
        Ok(())
    }

    /// The type of a value. One that the graph does not have is kept as the file says it.
    fn info(&mut self, id: GraphId, at: usize, entry: Entry) -> Result<()> {
        if let Some(value) = self.graph(id).find(&entry.name.text) {
            return self.describe(id, value, entry);
        }
        let Entry { notes, ty, name, .. } = entry;
        self.graph(id).strays.push(Stray {
            list: StrayList::Info,
            at: u32::try_from(at + 1).unwrap_or(u32::MAX),
            name: name.text,
            ty: notes.ty.or(ty),
            doc: notes.doc,
            metadata: notes.metadata,
            spelling: Default::default(),
        });
        Ok(())
    }

    fn slots(&mut self, id: GraphId, names: &[Name]) -> Result<Vec<Option<ValueId>>> {
        let mut slots = Vec::with_capacity(names.len());
        for name in names {
            slots.push(if name.text.is_empty() { None } else { Some(self.resolve(id, name)?) });
        }
        Ok(slots)
    }

    /// The value that a name means in a graph: its own, a captured one, or a new one that nothing writes.
    fn resolve(&mut self, id: GraphId, name: &Name) -> Result<ValueId> {
        if let Some(value) = self.look_up(id, &name.text) {
            return Ok(value);
        }
        let added = self.graph(id).add_computed(&name.text, None);
        self.defined(name, added)
    }

    fn look_up(&mut self, id: GraphId, name: &str) -> Option<ValueId> {
        if let Some(value) = self.graph(id).find(name) {
            return Some(value);
        }
        let (parent, op) = self.graph(id).parent()?;
        // As deep as graphs are nested, which the parser limits.
        let outer = self.look_up(parent, name)?;
        let inner = self.graph(id).add_captured(name).ok()?;
        self.graph(parent).add_capture(op, id, inner, outer);
        Some(inner)
    }

    fn node(
        &mut self,
        id: GraphId,
        syntax: syntax::Node,
        inputs: &[Option<ValueId>],
    ) -> Result<(OpId, Pending)> {
        let syntax::Node { notes, name, outputs, kind, attrs, .. } = syntax;
        let (attrs, pending) = self.attrs(attrs);
        let opaque = notes.opaque.into_iter().next().map(|(_, bytes)| bytes);
        let notes = OpNotes { doc: notes.doc, metadata: notes.metadata, opaque, origin: Vec::new() };
        let op = Op { name, attrs, notes: Rare::new(notes), ..Op::of(kind) };
        let written: Vec<Option<ValueId>> =
            outputs.iter().map(|output| self.model.graph(id).find(&output.text)).collect();
        let added = self.graph(id).add_op(op, inputs, &written, Place::End);
        let at = Name { text: String::new(), at: outputs.first().map_or(0, |output| output.at) };
        Ok((self.defined(&at, added)?, pending))
    }

    fn attrs(&mut self, syntax: Vec<syntax::Attr>) -> (Attrs, Pending) {
        let (mut attrs, mut pending) = (Attrs::default(), Pending::new());
        for syntax::Attr { name, doc, value } in syntax {
            let mut reserve = |graph: syntax::Graph| {
                let id = self.model.reserve_graph();
                pending.push((id, graph));
                id
            };
            let value = match value {
                AttrItem::Plain(value) => value,
                AttrItem::Graph(graph) => AttrValue::Graph(reserve(*graph)),
                AttrItem::Graphs(graphs) => AttrValue::Graphs(graphs.into_iter().map(reserve).collect()),
            };
            attrs.push(Attr { doc, ..Attr::new(&name, value) });
        }
        (attrs, pending)
    }
}
