//! Model to text: the printer, notes, model and functions.

pub(super) mod attr;
mod graph;
mod op;

use self::attr::write_attr;
use super::names::{hex, quote, quote_if_needed, quote_on_a_line};
use super::style::Style;
use crate::{Function, Model};

/// Appends to a text, knows the model and the indentation.
pub(super) struct Printer<'m> {
    pub model: &'m Model,
    pub style: Style,
    pub out: String,
    pub indent: usize,
}

impl<'m> Printer<'m> {
    pub fn new(model: &'m Model, style: Style) -> Printer<'m> {
        Printer { model, style, out: String::new(), indent: 0 }
    }

    pub fn line(&mut self) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', 3 * self.indent));
    }

    // ---- notes -------------------------------------------------------------------------------------------------

    /// Begins a note; the caller writes the rest and breaks the line.
    fn note(&mut self, key: &str) {
        self.out.push_str("#@ ");
        self.out.push_str(key);
        self.out.push_str(": ");
    }

    pub fn note_text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.note(key);
            quote_on_a_line(&mut self.out, text);
            self.line();
        }
    }

    pub fn note_pairs(&mut self, key: &str, pairs: &[(String, String)]) {
        if !pairs.is_empty() {
            self.note(key);
            self.pairs(pairs, quote_on_a_line);
            self.line();
        }
    }

    fn note_opaque(&mut self, field: u32, bytes: &[u8]) {
        self.note("opaque");
        self.out.push_str(&format!("{field} "));
        hex(&mut self.out, bytes);
        self.line();
    }

    fn pairs(&mut self, pairs: &[(String, String)], string: fn(&mut String, &str)) {
        self.out.push('[');
        for (at, (key, value)) in pairs.iter().enumerate() {
            self.out.push_str(if at == 0 { "" } else { ", " });
            string(&mut self.out, key);
            self.out.push_str(": ");
            string(&mut self.out, value);
        }
        self.out.push(']');
    }

    // ---- model and functions -----------------------------------------------------------------------------------

    pub fn model(&mut self) {
        let model = self.model;
        for (field, bytes) in &model.opaque {
            self.note_opaque(*field, bytes);
        }
        self.header(|printer| {
            printer.field("ir_version", |p| p.out.push_str(&model.ir_version.to_string()));
            printer.opsets(&model.opsets);
            printer.text_field("producer_name", &model.producer_name);
            printer.text_field("producer_version", &model.producer_version);
            printer.text_field("domain", &model.domain);
            if model.model_version != 0 {
                printer.field("model_version", |p| p.out.push_str(&model.model_version.to_string()));
            }
            printer.text_field("doc_string", &model.doc);
            if !model.metadata.is_empty() {
                printer.field("metadata_props", |p| p.pairs(&model.metadata, quote));
            }
        });
        self.graph(model.main_id());
        for function in &model.functions {
            self.line();
            self.function(function);
        }
        self.out.push('\n');
    }

    /// `<`, one field a line, `>`.
    fn header(&mut self, fields: impl FnOnce(&mut Self)) {
        self.out.push('<');
        self.indent += 1;
        fields(self);
        self.indent -= 1;
        // The last field ends without a comma.
        if self.out.ends_with(',') {
            self.out.pop();
        }
        self.line();
        self.out.push('>');
        self.line();
    }

    fn field(&mut self, key: &str, value: impl FnOnce(&mut Self)) {
        self.line();
        self.out.push_str(key);
        self.out.push_str(": ");
        value(self);
        self.out.push(',');
    }

    fn text_field(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.field(key, |p| quote(&mut p.out, text));
        }
    }

    fn opsets(&mut self, opsets: &[(String, i64)]) {
        self.field("opset_import", |p| {
            p.out.push('[');
            for (at, (domain, version)) in opsets.iter().enumerate() {
                p.out.push_str(if at == 0 { "" } else { ", " });
                quote(&mut p.out, domain);
                p.out.push_str(&format!(" : {version}"));
            }
            p.out.push(']');
        });
    }

    fn function(&mut self, function: &Function) {
        self.note_pairs("metadata", &function.metadata);
        self.annotations(self.model.graph(function.graph));
        self.header(|printer| {
            // Also an empty domain: a header says what kind of thing follows.
            printer.field("domain", |p| quote(&mut p.out, &function.domain));
            printer.text_field("overload", &function.overload);
            printer.opsets(&function.opsets);
            printer.text_field("doc_string", &function.doc);
        });
        quote_if_needed(&mut self.out, &function.name);
        self.out.push(' ');
        if !function.attrs.is_empty() || !function.defaults.is_empty() {
            self.out.push('<');
            let mut first = true;
            for name in &function.attrs {
                self.out.push_str(if std::mem::take(&mut first) { "" } else { ", " });
                quote_if_needed(&mut self.out, name);
            }
            for attr in function.defaults.iter() {
                self.out.push_str(if std::mem::take(&mut first) { "" } else { ", " });
                write_attr(self, attr);
            }
            self.out.push_str("> ");
        }
        self.signature_and_body(function.graph);
    }
}
