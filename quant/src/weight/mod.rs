//! Weight quantizers: float matrices in, codes and scales out. One quantizer a file, named as users type it.
//!
//! Rows are output channels (N), columns inputs (K); blocks of columns share a scale. Every quantizer gives positive
//! finite scales, rounds half to even, keeps zero exact where the format can, accepts blocks that do not divide K and
//! blocks longer than K, and refuses NaN and infinities by place. The result does not depend on the thread count: rows
//! are independent or chunked in a fixed way. What a quantizer had to do differently from what was asked is a [`Note`]
//! in the result, never a log line.
//!
//! - [`Weight`] the input view, [`Spec`] what is asked for, [`Quantized`] the result with integer zero points
//! - Data-free: [`rtn`] min/max; [`rtn_search`] the default; [`hqq`]; [`nf4`] tables of values; [`kquant`] super-blocks
//! - Calibrated, from a [`gram`] matrix of the layer's inputs: [`gptq`]; [`awq`]; [`awq_gptq`] one before the other where
//!   that helps; [`cross`] new targets where the layers before are quantized already; [`outliers`] the LLM.int8 split
//! - [`double`]: scales of eight bits for any of them
//! - Choosing widths: [`loss`] what a choice costs, [`budget`] the best choices for a size, [`kmix`] llama.cpp's presets

pub mod affine;
pub mod awq;
pub mod awq_gptq;
pub mod budget;
pub mod cross;
pub mod double;
mod gemm;
pub mod gptq;
pub mod gram;
pub mod hqq;
mod isa;
pub mod kmix;
pub mod kquant;
pub mod loss;
pub mod matrix;
pub mod nf4;
pub mod outliers;
pub mod quantized;
pub mod rtn;
pub mod rtn_search;
pub mod spec;
#[cfg(test)]
pub(crate) mod testing;
mod tiles;

pub use affine::{Affine, TwoTerm};
pub use matrix::{Elements, Stored, Weight};
pub use quantized::{Method, Note, Provenance, Quantized, relative_error};
pub use spec::{Bits, Block, Spec, Zero};

/// What a weight quantizer refuses. Callers add the tensor's name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The slice does not hold the matrix, or the matrix is empty.
    #[error("a weight of {rows} × {cols} does not fit a slice of {found} elements")]
    Shape {
        /// N
        rows: usize,
        /// K
        cols: usize,
        /// Elements given.
        found: usize,
    },
    /// A companion slice (importance, Gram matrix, bias, codes, ...) has the wrong length.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Elements it must have.
        expected: usize,
        /// Elements it has.
        found: usize,
    },
    /// The weight holds a NaN or an infinity.
    #[error("weight is {value} at output channel {row}, input {col}")]
    NotFinite {
        /// Output channel.
        row: usize,
        /// Input.
        col: usize,
        /// The value.
        value: f32,
    },
    /// A companion slice holds a value it must not hold.
    #[error("{what} is {value} at index {index}")]
    Value {
        /// Which slice.
        what: &'static str,
        /// Where.
        index: usize,
        /// The value.
        value: f64,
    },
    /// An option outside its domain.
    #[error("{what} must be {must}, found {found}")]
    Option {
        /// Which option.
        what: &'static str,
        /// Its domain in words.
        must: &'static str,
        /// The value given.
        found: String,
    },
}

/// Checks the length of a companion slice.
pub(crate) fn check_len(what: &'static str, expected: usize, found: usize) -> Result<(), WeightError> {
    if expected == found { Ok(()) } else { Err(WeightError::Length { what, expected, found }) }
}

/// Checks an importance vector: one finite number ≥ 0 per column.
pub(crate) fn check_importance(importance: Option<&[f32]>, cols: usize) -> Result<(), WeightError> {
    let Some(importance) = importance else { return Ok(()) };
    check_len("importance", cols, importance.len())?;
    match importance.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        Some(index) => {
            Err(WeightError::Value { what: "importance", index, value: f64::from(importance[index]) })
        }
        None => Ok(()),
    }
}

/// Bits that a scale of this type takes in a file.
pub(crate) fn scale_bits(scale: crate::round::ScaleType) -> u32 {
    use crate::round::ScaleType;
    match scale {
        ScaleType::F32 => 32,
        ScaleType::F16 | ScaleType::Bf16 => 16,
        ScaleType::PowerOfTwo => 8,
    }
}
