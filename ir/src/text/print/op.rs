//! Operators as text.

use super::Printer;
use super::attr::write_attr;
use crate::text::names::{is_ident, quote, quote_if_needed};
use crate::{Attrs, GraphId, OpId, OpKind, ValueId};

impl Printer<'_> {
    /// One operator, notes and inner graphs included.
    pub fn op(&mut self, id: GraphId, op: OpId) {
        let graph = self.model.graph(id);
        let found = graph.op(op);
        self.note_text("doc", &found.notes.doc);
        self.note_pairs("metadata", &found.notes.metadata);
        if let Some(bytes) = &found.notes.opaque {
            self.note_opaque(0, bytes);
        }
        if !found.name.is_empty() {
            self.out.push('[');
            quote_if_needed(&mut self.out, &found.name);
            self.out.push_str("] ");
        }
        self.slots(id, &graph.op_outputs(op));
        self.out.push_str(" = ");
        self.kind(&found.kind);
        let holds_graphs = found.attrs.graphs().next().is_some();
        if !holds_graphs {
            self.attrs(&found.attrs);
        }
        self.out.push_str(" (");
        self.slots(id, &graph.op_inputs(op));
        self.out.push(')');
        if holds_graphs {
            self.attrs(&found.attrs);
        }
    }

    fn slots(&mut self, id: GraphId, slots: &[Option<ValueId>]) {
        for (at, slot) in slots.iter().enumerate() {
            self.out.push_str(if at == 0 { "" } else { ", " });
            match slot {
                Some(value) => self.name(id, *value),
                None => self.out.push_str("\"\""),
            }
        }
    }

    fn kind(&mut self, kind: &OpKind) {
        if kind.domain.split('.').all(is_ident) {
            self.out.push_str(&kind.domain);
            self.out.push('.');
        } else if !kind.domain.is_empty() {
            quote(&mut self.out, &kind.domain);
            self.out.push('.');
        }
        let ident =
            |out: &mut String, name: &str| if is_ident(name) { out.push_str(name) } else { quote(out, name) };
        ident(&mut self.out, &kind.name);
        if !kind.overload.is_empty() {
            self.out.push(':');
            ident(&mut self.out, &kind.overload);
        }
    }

    fn attrs(&mut self, attrs: &Attrs) {
        if attrs.is_empty() {
            return;
        }
        self.out.push_str(" <");
        for (at, attr) in attrs.iter().enumerate() {
            self.out.push_str(if at == 0 { "" } else { ", " });
            write_attr(self, attr);
        }
        self.out.push('>');
    }
}
