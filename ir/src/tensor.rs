//! Constant tensors: element type, sizes, and bytes that may be a slice of a mapped file.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::{DType, Spelling};

/// Sizes of a constant tensor, outermost first.
pub type Dims = SmallVec<[usize; 4]>;

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Little-endian, row-major, sub-byte types packed with the low bits first: exactly ONNX `raw_data`.
    /// The slice may be unaligned.
    Bytes(Bytes),
    /// Strings (any bytes; ONNX says UTF-8).
    Strings(Arc<[Bytes]>),
}

/// How the file held the elements; export writes them the same way. No pass looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `raw_data`.
    #[default]
    Raw,
    /// `float_data`, `int32_data`, …
    Typed,
    /// A slice of another file.
    External,
}

/// A constant tensor. Copies share it, and its bytes even when their notes are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor(Arc<TensorParts>);

/// What a [`Tensor`] consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorParts {
    dtype: DType,
    dims: Dims,
    data: Data,
    /// How the file held the elements.
    pub encoding: Encoding,
    /// Names and notes of the file, kept for a lossless round trip.
    pub notes: Option<Box<TensorNotes>>,
    /// How the file wrote it.
    pub spelling: Spelling,
}

/// What a `TensorProto` says beside its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorNotes {
    /// `name` of a tensor in an attribute (an initializer's is its value's name).
    pub name: String,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

/// Why a tensor cannot be built or read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TensorError {
    /// The product of the sizes does not fit.
    #[error("the sizes {0:?} overflow")]
    Overflow(Vec<usize>),
    /// Sizes and bytes do not agree.
    #[error("{dtype} tensor of sizes {dims:?} needs {needed} bytes, found {found}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Sizes.
        dims: Vec<usize>,
        /// Bytes that the sizes ask for.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// Strings where numbers are needed, or the other way round.
    #[error("the elements are {0}")]
    Kind(DType),
}

impl Deref for Tensor {
    type Target = TensorParts;

    fn deref(&self) -> &TensorParts {
        &self.0
    }
}

impl DerefMut for Tensor {
    fn deref_mut(&mut self) -> &mut TensorParts {
        Arc::make_mut(&mut self.0)
    }
}

impl Tensor {
    fn of(dtype: DType, dims: Dims, data: Data, encoding: Encoding) -> Tensor {
        let (notes, spelling) = (None, Spelling::default());
        Tensor(Arc::new(TensorParts { dtype, dims, data, encoding, notes, spelling }))
    }

    /// A tensor over packed little-endian bytes.
    pub fn new(dtype: DType, dims: impl Into<Dims>, bytes: impl Into<Bytes>) -> Result<Tensor, TensorError> {
        let (dims, bytes) = (dims.into(), bytes.into());
        let elements = checked_elements(&dims)?;
        if dtype == DType::String {
            return Err(TensorError::Kind(dtype));
        }
        let needed = dtype.storage_bytes(elements).ok_or_else(|| TensorError::Overflow(dims.to_vec()))?;
        if needed != bytes.len() {
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), needed, found: bytes.len() });
        }
        Ok(Tensor::of(dtype, dims, Data::Bytes(bytes), Encoding::Raw))
    }

    /// A tensor of strings.
    pub fn strings(dims: impl Into<Dims>, strings: impl Into<Arc<[Bytes]>>) -> Result<Tensor, TensorError> {
        let (dims, strings) = (dims.into(), strings.into());
        let (dtype, needed, found) = (DType::String, checked_elements(&dims)?, strings.len());
        if needed != found {
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), needed, found });
        }
        Ok(Tensor::of(dtype, dims, Data::Strings(strings), Encoding::Typed))
    }

    /// A tensor of numbers of a native type.
    pub fn from_slice<T: Element>(dims: &[usize], elements: &[T]) -> Result<Tensor, TensorError> {
        let mut bytes = Vec::with_capacity(size_of_val(elements));
        elements.iter().for_each(|&element| element.write(&mut bytes));
        Tensor::new(T::DTYPE, dims, bytes)
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(element: T) -> Tensor {
        let mut bytes = Vec::new();
        element.write(&mut bytes);
        Tensor::of(T::DTYPE, Dims::new(), Data::Bytes(bytes.into()), Encoding::Raw)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Construction checked that the product fits; only a zero among huge sizes could overflow on the way.
        checked_elements(&self.dims).unwrap_or(0)
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The packed bytes; empty for strings.
    pub fn bytes(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Strings(_) => &EMPTY,
        }
    }

    /// The elements as a native type; an error if the tensor holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::Kind(self.dtype));
        }
        Ok(self.bytes().chunks_exact(size_of::<T>()).map(T::read).collect())
    }

    /// The same elements under other sizes of the same product.
    pub fn reshaped(&self, dims: impl Into<Dims>) -> Result<Tensor, TensorError> {
        let dims = dims.into();
        let found = self.elements();
        let needed = checked_elements(&dims)?;
        if needed != found {
            return Err(TensorError::Length { dtype: self.dtype, dims: dims.to_vec(), needed, found });
        }
        Ok(Tensor(Arc::new(TensorParts { dims, ..(*self.0).clone() })))
    }
}

/// Product of sizes, checked. What multiplies to more than `isize::MAX` without its zeros is refused although a zero makes
/// the tensor empty: so no product of some of a tensor's sizes ever overflows.
pub fn checked_elements(dims: &[usize]) -> Result<usize, TensorError> {
    let product = dims.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
    match product.filter(|&product| isize::try_from(product).is_ok()) {
        Some(product) => Ok(if dims.contains(&0) { 0 } else { product }),
        None => Err(TensorError::Overflow(dims.to_vec())),
    }
}

/// A native number that a tensor can hold.
pub trait Element: Copy {
    /// The tensor's element type.
    const DTYPE: DType;
    /// Appends the little-endian bytes.
    fn write(self, out: &mut Vec<u8>);
    /// Reads from exactly as many bytes as the type has.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($native:ty => $dtype:ident),*) => {$(
        impl Element for $native {
            const DTYPE: DType = DType::$dtype;
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$native>()];
                array.copy_from_slice(bytes);
                <$native>::from_le_bytes(array)
            }
        }
    )*};
}

elements!(f32 => F32, f64 => F64, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32,
    u64 => U64, half::f16 => F16, half::bf16 => BF16);

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
    fn read(bytes: &[u8]) -> bool {
        bytes.iter().any(|&byte| byte != 0)
    }
}
