//! What the parser reads, before names are resolved.

use bytes::Bytes;

use crate::{Annotation, AttrValue, OpKind, SparseTensor, Tensor, Type};

/// A name and where it stands in the text.
#[derive(Clone)]
pub(in crate::text) struct Name {
    pub text: String,
    pub at: usize,
}

/// What the notes before something say.
#[derive(Default)]
pub(in crate::text) struct Notes {
    pub doc: String,
    pub metadata: Vec<(String, String)>,
    /// The type, where ONNX's syntax cannot write all of it.
    pub ty: Option<Type>,
    pub tensor_doc: String,
    pub tensor_metadata: Vec<(String, String)>,
    pub annotations: Vec<Annotation>,
    /// Field number (0 where there is only one field) and encoded content.
    pub opaque: Vec<(u32, Bytes)>,
}

pub(in crate::text) struct Model {
    pub notes: Notes,
    pub header: Header,
    pub graph: Graph,
    pub functions: Vec<Function>,
}

/// The fields between angle brackets before a graph or function.
#[derive(Default)]
pub(in crate::text) struct Header {
    pub ir_version: i64,
    pub opsets: Vec<(String, i64)>,
    pub producer_name: String,
    pub producer_version: String,
    pub domain: String,
    pub overload: String,
    pub model_version: i64,
    pub doc: String,
    pub metadata: Vec<(String, String)>,
}

pub(in crate::text) struct Graph {
    pub notes: Notes,
    pub name: String,
    pub inputs: Vec<Entry>,
    pub outputs: Vec<Entry>,
    pub infos: Vec<Entry>,
    pub nodes: Vec<Node>,
}

/// A value in one of a graph's lists.
pub(in crate::text) struct Entry {
    pub notes: Notes,
    pub ty: Option<Type>,
    pub name: Name,
    pub data: Option<Elements>,
}

pub(in crate::text) enum Elements {
    Dense(Tensor),
    Sparse(SparseTensor),
}

pub(in crate::text) struct Node {
    pub notes: Notes,
    pub name: String,
    pub outputs: Vec<Name>,
    pub kind: OpKind,
    pub inputs: Vec<Name>,
    pub attrs: Vec<Attr>,
}

pub(in crate::text) struct Attr {
    pub name: String,
    pub doc: String,
    pub value: AttrItem,
}

pub(in crate::text) enum AttrItem {
    Plain(AttrValue),
    Graph(Box<Graph>),
    Graphs(Vec<Graph>),
}

pub(in crate::text) struct Function {
    pub header: Header,
    pub attrs: Vec<String>,
    pub defaults: Vec<Attr>,
    /// The body; its name is the function's, its notes too.
    pub graph: Graph,
}
