//! Types of values: tensors with (partly) known shapes, sequences, maps, optionals.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::{DType, Spelling};

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A fixed size. Files may hold any integer; a negative one fails verification.
    Known(i64),
    /// A named size (`dim_param`). Equal names are equal sizes within one model run. Computed sizes are canonical
    /// expressions over such names, for example `2*seq + 1`.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// A named dimension.
    pub fn symbol(name: &str) -> Dim {
        Dim::Symbol(Arc::from(name))
    }

    /// The fixed size, if it is known and not negative.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(size) => usize::try_from(*size).ok(),
            _ => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Dim {
        i64::try_from(size).map_or(Dim::Unknown, Dim::Known)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// The dimensions of a tensor type, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The dimensions.
    pub dims: SmallVec<[Dim; 4]>,
    /// `Dimension.denotation` of each dimension; empty if no dimension has one.
    pub denotations: Vec<String>,
}

impl Shape {
    /// A shape of these dimensions.
    pub fn new(dims: impl IntoIterator<Item = Dim>) -> Shape {
        Shape { dims: dims.into_iter().collect(), denotations: Vec::new() }
    }

    /// A shape of fixed sizes.
    pub fn fixed(sizes: &[usize]) -> Shape {
        Shape::new(sizes.iter().map(|&size| Dim::from(size)))
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// All sizes, if every one is known.
    pub fn known(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(Dim::known).collect()
    }

    /// Number of elements, if every size is known and the product does not overflow.
    pub fn elements(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |product, dim| product.checked_mul(dim.known()?))
    }
}

/// Element type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type; none where the file leaves it undefined.
    pub dtype: Option<DType>,
    /// Shape; none where not even the rank is known.
    pub shape: Option<Shape>,
}

impl TensorType {
    /// A tensor type with a known element type.
    pub fn new(dtype: DType, shape: Option<Shape>) -> TensorType {
        TensorType { dtype: Some(dtype), shape }
    }
}

/// The type of a value. Copies share it until one of them is changed: a model has far more values than types.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type(Arc<TypeParts>);

/// What a [`Type`] consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TypeParts {
    /// What the value is.
    pub kind: TypeKind,
    /// `TypeProto.denotation`, mostly empty.
    pub denotation: String,
    /// How the file wrote it.
    pub spelling: Spelling,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TypeKind {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    Sparse(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A map from an integer or string key to values.
    Map {
        /// The key's type.
        key: Option<DType>,
        /// The values' type.
        value: Box<Type>,
    },
    /// A value or nothing.
    Optional(Box<Type>),
    /// A type of another domain.
    Opaque {
        /// The domain.
        domain: String,
        /// The type's name in the domain.
        name: String,
    },
    /// Declared without a type.
    None,
}

impl From<TypeParts> for Type {
    fn from(parts: TypeParts) -> Type {
        Type(Arc::new(parts))
    }
}

impl Deref for Type {
    type Target = TypeParts;

    fn deref(&self) -> &TypeParts {
        &self.0
    }
}

impl DerefMut for Type {
    fn deref_mut(&mut self) -> &mut TypeParts {
        Arc::make_mut(&mut self.0)
    }
}

impl Type {
    /// A type without denotation.
    pub fn new(kind: TypeKind) -> Type {
        TypeParts { kind, denotation: String::new(), spelling: Spelling::default() }.into()
    }

    /// A dense tensor type.
    pub fn tensor(dtype: DType, shape: Option<Shape>) -> Type {
        Type::new(TypeKind::Tensor(TensorType::new(dtype, shape)))
    }

    /// The tensor type, if the value is a dense tensor.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match &self.kind {
            TypeKind::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Element type of a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor()?.dtype
    }

    /// Shape of a dense tensor.
    pub fn shape(&self) -> Option<&Shape> {
        self.as_tensor()?.shape.as_ref()
    }
}
