//! Graphs as text: their lists of values.

use super::Printer;
use crate::text::names::{quote_if_needed, quote_on_a_line};
use crate::text::tensor::{write_elements, write_sparse_elements, write_sparse_type, write_tensor_type};
use crate::text::types;
use crate::{
    Graph, GraphId, Role, Shape, Stray, StrayList, Tensor, TensorType, Type, TypeKind, Value, ValueId,
};

/// A list of inputs or outputs longer than this is broken into one entry a line.
const LONG: usize = 100;

impl Printer<'_> {
    pub(super) fn annotations(&mut self, graph: &Graph) {
        for annotation in &graph.annotations {
            self.note("annotation");
            quote_on_a_line(&mut self.out, &annotation.tensor);
            self.out.push(' ');
            self.pairs(&annotation.parameters, quote_on_a_line);
            self.line();
        }
    }

    fn has_graph_notes(graph: &Graph) -> bool {
        !(graph.doc.is_empty() && graph.metadata.is_empty() && graph.annotations.is_empty())
    }

    /// A graph, from its notes to its last brace.
    pub fn graph(&mut self, id: GraphId) {
        let graph = self.model.graph(id);
        if Self::has_graph_notes(graph) && !self.out.is_empty() && !self.out.ends_with('\n') {
            self.line();
        }
        self.note_text("doc", &graph.doc);
        self.note_pairs("metadata", &graph.metadata);
        self.annotations(graph);
        quote_if_needed(&mut self.out, &graph.name);
        self.out.push(' ');
        self.signature_and_body(id);
    }

    pub(super) fn signature_and_body(&mut self, id: GraphId) {
        let graph = self.model.graph(id);
        self.values(id, graph.inputs(), |p, value| p.input(id, value));
        self.out.push_str(" => ");
        self.values(id, graph.outputs(), |p, value| p.info(id, value));
        if self.infos(id) {
            self.line();
        } else {
            self.out.push(' ');
        }
        self.out.push('{');
        self.indent += 1;
        for op in graph.ops() {
            self.line();
            self.op(id, op);
        }
        self.indent -= 1;
        self.line();
        self.out.push('}');
    }

    /// A list in parentheses: on one line if that is short and no value has notes.
    fn values(&mut self, id: GraphId, values: &[ValueId], mut write: impl FnMut(&mut Self, ValueId)) {
        let start = self.out.len();
        let graph = self.model.graph(id);
        self.out.push('(');
        let noted = values.iter().any(|&value| has_notes(graph.value(value)));
        if !noted {
            for (at, &value) in values.iter().enumerate() {
                self.out.push_str(if at == 0 { "" } else { ", " });
                write(self, value);
            }
        }
        if noted || (self.out.len() - start > LONG && values.len() > 1) {
            self.out.truncate(start + 1);
            self.indent += 1;
            for (at, &value) in values.iter().enumerate() {
                self.out.push_str(if at == 0 { "" } else { "," });
                self.line();
                self.value_notes(graph.value(value));
                write(self, value);
            }
            self.indent -= 1;
            self.line();
        }
        self.out.push(')');
    }

    fn value_notes(&mut self, value: &Value) {
        self.note_text("doc", &value.notes.doc);
        self.note_pairs("metadata", &value.notes.metadata);
        if let Some(notes) = value.data.as_ref().and_then(|data| data.notes.as_deref()) {
            self.note_text("tensor_doc", &notes.doc);
            self.note_pairs("tensor_metadata", &notes.metadata);
        }
        self.note_type(value.ty.as_ref());
    }

    fn note_type(&mut self, ty: Option<&Type>) {
        if let Some(ty) = ty.filter(|ty| !types::is_plain(ty)) {
            self.note("type");
            let mut text = String::new();
            types::write(&mut text, ty);
            self.out.push_str(&text.replace('\n', "\\n"));
            self.line();
        }
    }

    fn stray(&mut self, stray: &Stray) {
        self.note_text("doc", &stray.doc);
        self.note_pairs("metadata", &stray.metadata);
        self.note_type(stray.ty.as_ref());
        self.plain_type(stray.ty.as_ref());
        quote_if_needed(&mut self.out, &stray.name);
    }

    fn plain_type(&mut self, ty: Option<&Type>) {
        if let Some(ty) = ty.and_then(types::plain) {
            types::write(&mut self.out, &ty);
            self.out.push(' ');
        }
    }

    /// `type name`, or the name alone.
    fn info(&mut self, id: GraphId, value: ValueId) {
        self.plain_type(self.model.graph(id).value(value).ty.as_ref());
        self.name(id, value);
    }

    fn input(&mut self, id: GraphId, value: ValueId) {
        self.info(id, value);
        let value = self.model.graph(id).value(value);
        if let Some(data) = value.data.as_ref().filter(|data| is_declared(value.ty.as_ref(), data)) {
            self.out.push_str(" = ");
            write_elements(&mut self.out, data, &self.style);
        }
    }

    /// The name that an operator reads; a captured value's is the outer one's.
    pub fn name(&mut self, id: GraphId, value: ValueId) {
        let (mut id, mut value) = (id, value);
        while self.model.graph(id).value(value).role() == Role::Captured {
            let Some(outer) = self.model.outer(id, value) else { break };
            (id, value) = outer;
        }
        quote_if_needed(&mut self.out, self.model.graph(id).value(value).name());
    }

    /// The list in angle brackets: constants, then the types of computed values. Nothing if there are none.
    fn infos(&mut self, id: GraphId) -> bool {
        let graph = self.model.graph(id);
        let holds_data = |value: &Value| match value.role() {
            Role::Input => {
                value.sparse.is_some()
                    || value.data.as_ref().is_some_and(|data| !is_declared(value.ty.as_ref(), data))
            }
            _ => value.has_data(),
        };
        let described = |id: &ValueId| {
            let value = graph.value(*id);
            let listed = graph.is_output(*id) || value.role() == Role::Input;
            !listed && (value.ty.is_some() || (has_notes(value) && !holds_data(value)))
        };
        let constants: Vec<ValueId> =
            graph.values().filter(|&value| holds_data(graph.value(value))).collect();
        let infos: Vec<ValueId> = graph.values().filter(described).collect();
        let unknown = |stray: &&Stray| stray.list == StrayList::Info && graph.find(&stray.name).is_none();
        let strays: Vec<&Stray> = graph.strays.iter().filter(unknown).collect();
        if constants.is_empty() && infos.is_empty() && strays.is_empty() {
            return false;
        }
        self.indent += 1;
        self.line();
        self.out.push('<');
        self.indent += 1;
        let mut separator = "";
        for value in constants {
            self.out.push_str(separator);
            separator = ",";
            self.line();
            let found = graph.value(value);
            // What is listed elsewhere has its notes there.
            let described_elsewhere =
                graph.is_output(value) || found.role() == Role::Input || found.ty.is_some();
            if !described_elsewhere {
                self.value_notes(found);
            }
            self.constant(id, value);
        }
        for value in infos {
            self.out.push_str(separator);
            separator = ",";
            self.line();
            self.value_notes(graph.value(value));
            self.info(id, value);
        }
        for stray in strays {
            self.out.push_str(separator);
            separator = ",";
            self.line();
            self.stray(stray);
        }
        self.indent -= 1;
        self.line();
        self.out.push('>');
        self.indent -= 1;
        true
    }

    fn constant(&mut self, id: GraphId, value: ValueId) {
        let found = self.model.graph(id).value(value);
        match (&found.data, &found.sparse) {
            (Some(data), _) => {
                write_tensor_type(&mut self.out, data);
                self.out.push(' ');
                self.name(id, value);
                self.out.push_str(" = ");
                write_elements(&mut self.out, data, &self.style);
            }
            (None, Some(sparse)) => {
                write_sparse_type(&mut self.out, sparse);
                self.out.push(' ');
                self.name(id, value);
                self.out.push_str(" = ");
                write_sparse_elements(self, sparse);
            }
            (None, None) => {}
        }
    }
}

/// The declared type is exactly that of the data, so that the data can stand right behind it.
fn is_declared(ty: Option<&Type>, data: &Tensor) -> bool {
    let Some(TypeKind::Tensor(TensorType { dtype, shape: Some(shape) })) = ty.map(|ty| &ty.kind) else {
        return false;
    };
    *dtype == Some(data.dtype()) && shape.dims == Shape::fixed(data.dims()).dims
}

fn has_notes(value: &Value) -> bool {
    let of_tensor = value.data.as_ref().and_then(|data| data.notes.as_deref());
    !value.notes.is_blank()
        || value.ty.as_ref().is_some_and(|ty| !types::is_plain(ty))
        || of_tensor.is_some_and(|notes| !notes.doc.is_empty() || !notes.metadata.is_empty())
}
