//! Attributes of operators, in file order.

use std::sync::Arc;

use bytes::Bytes;

use crate::{GraphId, Spelling, Tensor, Type};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AttrValue {
    Float(f32),
    Int(i64),
    String(Bytes),
    Tensor(Tensor),
    Graph(GraphId),
    Sparse(Box<SparseTensor>),
    Type(Type),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Bytes>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<GraphId>),
    Sparses(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// In a function body: the value of the function's own attribute `name`; `kind` is the `AttributeType` code.
    Reference {
        name: String,
        kind: i32,
    },
}

/// A constant sparse tensor: `values[k]` stands at `indices[k]`, everything else is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    /// Sizes of the dense tensor.
    pub dims: crate::Dims,
    /// `[count]`.
    pub values: Tensor,
    /// int64, `[count]` of linear indices or `[count, rank]`.
    pub indices: Tensor,
}

/// A named attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Attr {
    /// Name.
    pub name: Arc<str>,
    /// Value.
    pub value: AttrValue,
    /// Documentation, mostly empty.
    pub doc: String,
    /// How the file wrote it.
    pub spelling: Spelling,
}

impl Attr {
    /// An attribute without documentation.
    pub fn new(name: &str, value: AttrValue) -> Attr {
        Attr { name: Arc::from(name), value, doc: String::new(), spelling: Spelling::default() }
    }
}

/// The attributes of one operator. Lists are short: look-up is a scan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(Vec<Attr>);

impl Attrs {
    /// An empty list with room for so many.
    pub fn with_capacity(count: usize) -> Attrs {
        Attrs(Vec::with_capacity(count))
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&AttrValue> {
        self.0.iter().find(|attr| &*attr.name == name).map(|attr| &attr.value)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            AttrValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name)? {
            AttrValue::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A string attribute, if it is UTF-8.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            AttrValue::String(value) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name)? {
            AttrValue::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.get(name)? {
            AttrValue::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// A tensor attribute.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.get(name)? {
            AttrValue::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A graph attribute.
    pub fn graph(&self, name: &str) -> Option<GraphId> {
        match self.get(name)? {
            AttrValue::Graph(graph) => Some(*graph),
            _ => None,
        }
    }

    /// Sets or replaces an attribute.
    pub fn set(&mut self, name: &str, value: AttrValue) {
        match self.0.iter_mut().find(|attr| &*attr.name == name) {
            Some(attr) => attr.value = value,
            None => self.0.push(Attr::new(name, value)),
        }
    }

    /// Removes an attribute and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<AttrValue> {
        let at = self.0.iter().position(|attr| &*attr.name == name)?;
        Some(self.0.remove(at).value)
    }

    /// Appends an attribute as the file has it (a duplicate name fails verification).
    pub fn push(&mut self, attr: Attr) {
        self.0.push(attr);
    }

    /// All attributes in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Attr> {
        self.0.iter()
    }

    /// All attributes, to be changed in place.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Attr> {
        self.0.iter_mut()
    }

    /// Number of attributes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The graphs that attributes hold, in file order.
    pub fn graphs(&self) -> impl Iterator<Item = GraphId> + '_ {
        self.0.iter().flat_map(|attr| match &attr.value {
            AttrValue::Graph(graph) => std::slice::from_ref(graph).iter().copied(),
            AttrValue::Graphs(graphs) => graphs.iter().copied(),
            _ => [].iter().copied(),
        })
    }
}

impl<'a> FromIterator<(&'a str, AttrValue)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (&'a str, AttrValue)>>(pairs: I) -> Attrs {
        let mut attrs = Attrs::default();
        pairs.into_iter().for_each(|(name, value)| attrs.set(name, value));
        attrs
    }
}

macro_rules! from {
    ($($native:ty => $variant:ident),*) => {$(
        impl From<$native> for AttrValue {
            fn from(value: $native) -> AttrValue {
                AttrValue::$variant(value.into())
            }
        }
    )*};
}

from!(f32 => Float, i64 => Int, Tensor => Tensor, GraphId => Graph, Vec<f32> => Floats, Vec<i64> => Ints);

impl From<&str> for AttrValue {
    fn from(value: &str) -> AttrValue {
        AttrValue::String(Bytes::copy_from_slice(value.as_bytes()))
    }
}
