//! What is known about one value.

use std::borrow::Cow;

use ir::{Blank, DType, Dim, Rare, Shape, Tensor, Type};

use crate::array;

/// Tensors with more elements carry no contents.
pub const CONTENTS_LIMIT: usize = 1024;

/// What is known about a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The type. Sizes are numbers or canonical expressions of [`crate::sym`].
    pub ty: Option<Type>,
    /// The value itself, where it is the same in every run.
    pub constant: Option<Tensor>,
    /// What is inside, for the few values that sizes are computed with.
    pub inside: Rare<Inside>,
}

/// What is known about parts of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inside {
    /// The elements, row-major, of a small tensor of integers (or of floats that hold integers) whose shape is fully
    /// known; an element may be an expression. Unset where [`Known::constant`] is set.
    pub elements: Option<Vec<Dim>>,
    /// The types of the items of a sequence, one by one, where their number is the same in every run.
    pub items: Option<Vec<Option<Type>>>,
}

impl Blank for Inside {
    fn blank() -> &'static Inside {
        static BLANK: Inside = Inside { elements: None, items: None };
        &BLANK
    }
}

impl Known {
    /// Nothing but a type.
    pub fn of_type(ty: Type) -> Known {
        Known { ty: Some(ty), ..Known::default() }
    }

    /// A tensor of which the element type and the shape may be known.
    pub fn tensor(dtype: Option<DType>, dims: Option<Vec<Dim>>) -> Known {
        let shape = dims.map(Shape::new);
        Known::of_type(Type::new(ir::TypeKind::Tensor(ir::TensorType { dtype, shape })))
    }

    /// A constant.
    pub fn of_constant(tensor: Tensor) -> Known {
        let ty = Type::tensor(tensor.dtype(), Some(Shape::fixed(tensor.dims())));
        Known { ty: Some(ty), constant: Some(tensor), ..Known::default() }
    }

    /// Element type of a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.ty.as_ref()?.dtype()
    }

    /// Sizes of a dense tensor whose rank is known.
    pub fn dims(&self) -> Option<&[Dim]> {
        Some(&self.ty.as_ref()?.shape()?.dims)
    }

    /// The elements, row-major, of a small integer tensor, each as far as it is known. Floats count where every one of
    /// them holds an integer.
    pub fn contents(&self) -> Option<Cow<'_, [Dim]>> {
        if let Some(elements) = &self.inside.elements {
            return Some(Cow::Borrowed(elements));
        }
        let tensor = self.constant.as_ref().filter(|tensor| tensor.elements() <= CONTENTS_LIMIT)?;
        if tensor.dtype().is_compute_float() {
            let numbers = array::to_f64s(tensor)?;
            let whole = numbers.iter().all(|v| v.fract() == 0.0 && v.abs() < 9e15);
            return whole.then(|| Cow::Owned(numbers.iter().map(|&v| Dim::Known(v as i64)).collect()));
        }
        // u64 beyond i64 has no place in a shape.
        let numbers = array::to_i64s(tensor)
            .filter(|all| tensor.dtype() != DType::U64 || all.iter().all(|&v| v >= 0))?;
        Some(Cow::Owned(numbers.into_iter().map(Dim::Known).collect()))
    }

    /// The contents, if every one is a number.
    pub fn ints(&self) -> Option<Vec<i64>> {
        let contents = self.contents()?;
        contents.iter().map(|dim| if let Dim::Known(value) = dim { Some(*value) } else { None }).collect()
    }
}
