//! A value as a running session shows it: borrowed, for the time of one call.

use std::borrow::Cow;

use ir::{DType, Tensor};

/// A borrowed dense tensor: row-major, native byte order, sub-byte types packed.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    dtype: DType,
    dims: &'a [usize],
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// A view over row-major bytes.
    pub fn new(dtype: DType, dims: &'a [usize], bytes: &'a [u8]) -> View<'a> {
        View { dtype, dims, bytes }
    }

    /// A view of a constant tensor; strings have no bytes to show.
    pub fn of(tensor: &'a Tensor) -> View<'a> {
        View::new(tensor.dtype(), tensor.dims(), tensor.bytes())
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements of a floating-point tensor as f32 (f64 rounds); none for other types. Borrowed if they are aligned
    /// f32 already.
    pub fn floats(&self) -> Option<Cow<'a, [f32]>> {
        Some(match self.dtype {
            DType::F32 => match bytemuck::try_cast_slice(self.bytes) {
                Ok(slice) => Cow::Borrowed(slice),
                Err(_) => Cow::Owned(self.decode::<4>(f32::from_ne_bytes)),
            },
            DType::F16 => Cow::Owned(self.decode::<2>(|b| half::f16::from_ne_bytes(b).to_f32())),
            DType::BF16 => Cow::Owned(self.decode::<2>(|b| half::bf16::from_ne_bytes(b).to_f32())),
            DType::F64 => Cow::Owned(self.decode::<8>(|b| f64::from_ne_bytes(b) as f32)),
            _ => return None,
        })
    }

    fn decode<const N: usize>(&self, read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = self.bytes.as_chunks::<N>();
        chunks.iter().map(|&chunk| read(chunk)).collect()
    }

    /// A copy that outlives the call; none if the bytes do not fill the sizes (strings).
    pub fn to_tensor(&self) -> Option<Tensor> {
        Tensor::new(self.dtype, self.dims, self.bytes.to_vec()).ok()
    }
}
