//! A value: what operators read and write.

use std::sync::Arc;

use crate::attr::SparseTensor;
use crate::{Blank, DType, Listing, Rare, Shape, Spelling, Tensor, Type};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An input of the graph; with data, an input with a default.
    Input,
    /// A constant of the model.
    Initializer,
    /// Written by an operator.
    Computed,
    /// Stands for a value of the surrounding graph; the edge [`crate::Slot::Capture`] there says which.
    Captured,
}

/// A value of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    /// How often it stands among the graph's outputs.
    pub(crate) listed: u32,
    /// The declared or inferred type; none if unknown. An initializer's own data win over it.
    pub ty: Option<Type>,
    /// The elements of an initializer or the default of an input.
    pub data: Option<Tensor>,
    /// The elements of a sparse initializer.
    pub sparse: Option<Box<SparseTensor>>,
    /// Documentation and the like.
    pub notes: Rare<ValueNotes>,
    /// Where the file lists it.
    pub listing: Listing,
    /// How the file wrote it.
    pub spelling: Spelling,
}

/// What few values have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueNotes {
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

impl Blank for ValueNotes {
    fn blank() -> &'static ValueNotes {
        static BLANK: ValueNotes = ValueNotes { doc: String::new(), metadata: Vec::new() };
        &BLANK
    }
}

impl Value {
    pub(crate) fn new(name: Arc<str>, role: Role) -> Value {
        Value {
            name,
            role,
            listed: 0,
            ty: None,
            data: None,
            sparse: None,
            notes: Rare::default(),
            listing: Listing::default(),
            spelling: Spelling::default(),
        }
    }

    /// The name, unique in its graph.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it comes from.
    pub fn role(&self) -> Role {
        self.role
    }

    /// It holds elements, dense or sparse: an initializer, or an input with a default.
    pub fn has_data(&self) -> bool {
        self.data.is_some() || self.sparse.is_some()
    }

    /// Element type, if it is a dense tensor and known.
    pub fn dtype(&self) -> Option<DType> {
        self.data.as_ref().map(Tensor::dtype).or_else(|| self.ty.as_ref()?.dtype())
    }

    /// Shape, if it is a dense tensor and at least its rank is known.
    pub fn shape(&self) -> Option<Shape> {
        match &self.data {
            Some(data) => Some(Shape::fixed(data.dims())),
            None => self.ty.as_ref()?.shape().cloned(),
        }
    }
}
