//! Models as text, both ways: ONNX's own syntax (`docs/Syntax.md` of onnx/onnx), read and written completely.
//!
//! ```text
//! <
//!    ir_version: 10,
//!    opset_import: ["" : 21]
//! >
//! main (float[N,2] x) => (float[N,2] y)
//!    <
//!       float[2] bias = {0.5,1}
//!    >
//! {
//!    [shift] t = Add (x, bias)
//!    y = LeakyRelu <alpha: float = 0.1> (t)
//! }
//! ```
//!
//! What is printed reads as an equal model ([`Model::same`]). ONNX's syntax lacks some of what files hold; two means
//! fill the gaps, and a file that needs neither prints as a text that ONNX's own parser reads:
//!
//! **Notes** are comments for everybody else: `#@ key: value`, on lines before what they describe.
//!
//! | key                              | before                     | says                                         |
//! |----------------------------------|----------------------------|----------------------------------------------|
//! | `doc`, `metadata`                | graph, value, operator     | documentation, `metadata_props`              |
//! | `doc`                            | attribute                  | documentation                                |
//! | `metadata`                       | function                   | `metadata_props`                             |
//! | `type`                           | value                      | the type with denotations, or an undefined one |
//! | `tensor_doc`, `tensor_metadata`  | value, tensor              | notes of the tensor itself                   |
//! | `annotation`                     | graph, function            | `quantization_annotation`                    |
//! | `opaque`                         | model, operator            | encoded fields that are passed through       |
//!
//! **Extensions** are refused by ONNX's parser rather than misread: sparse constants
//! (`sparse_tensor(float[9]) w = {float[2] {1,2}, int64[2] {3,5}}`), bytes that are not UTF-8 (`x"00ff"`), unusual
//! not-a-numbers (`nan(7f800001)`), domains, operators, overloads and attributes whose names are no identifiers (in
//! quotes), types with denotations or undefined parts in attributes, and 6-bit floats.
//!
//! Names that are no identifiers stand in quotes. In strings a backslash takes the next character as it is. Numbers of
//! small types: see [`Numbers`]. Not part of the text: how a file spelled it ([`crate::Spelling`], [`crate::Encoding`],
//! [`crate::Listing`]), [`crate::Stray`]s, [`crate::OpNotes::origin`] and the table's graph ids.
//!
//! The parser never panics, reads in time linear in the text, and limits nesting.

mod element;
mod error;
mod names;
mod parse;
mod print;
mod small_float;
mod style;
mod tensor;
mod types;

pub use error::TextError;
pub use style::{Numbers, Style};

use crate::{GraphId, Model, OpId, Type};
use print::Printer;

/// The whole model, nothing left out.
pub fn print(model: &Model) -> String {
    print_with(model, &Style::full())
}

/// The whole model in a style.
pub fn print_with(model: &Model, style: &Style) -> String {
    let mut printer = Printer::new(model, style.clone());
    printer.model();
    printer.out
}

/// One graph of the model, the graphs inside it included.
pub fn print_graph(model: &Model, graph: GraphId, style: &Style) -> String {
    let mut printer = Printer::new(model, style.clone());
    printer.graph(graph);
    printer.out
}

/// One operator of a graph, the graphs inside it included.
pub fn print_op(model: &Model, graph: GraphId, op: OpId, style: &Style) -> String {
    let mut printer = Printer::new(model, style.clone());
    printer.op(graph, op);
    printer.out
}

/// A type, as it stands before a value's name; in the extended form where ONNX's syntax cannot write all of it.
pub fn print_type(ty: &Type) -> String {
    let mut out = String::new();
    types::write(&mut out, ty);
    out
}

/// The model of a text. Names that are read and never defined are left for the verifier to report.
pub fn parse(text: &str) -> Result<Model, TextError> {
    parse::model(text)
}

/// The type of a text, for example `float[N,3]`.
pub fn parse_type(text: &str) -> Result<Type, TextError> {
    let mut cursor = parse::cursor::Cursor::new(text);
    let ty = types::read(&mut cursor)?;
    cursor.expect_end()?;
    Ok(ty)
}
