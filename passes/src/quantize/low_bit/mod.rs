//! Weights of few bits: where they are ([`find`]), how a runtime stores them ([`Profile`], [`pack`]), and the operators
//! that read them ([`wire`]).
//!
//! ```text
//! y = MatMul(x, W)     =>  y = com.microsoft.MatMulNBits(x, codes, scales, zeros)         onnxruntime
//!                          y = MatMul(x, DequantizeLinear(codes [K, N], scales, zeros))   everybody else
//! y = Gather(E, ids)   =>  y = com.microsoft.GatherBlockQuantized(codes, ids, scales, zeros)
//! ```
//!
//! The numbers come from `quant::weight` as [`Coded`]; what is packed is data ([`Packed`]: tensors and a few sizes), so that a
//! caller can keep it in a file and wire the model much later. `lower_for_execution` is the way back: the float model that the codes
//! stand for.

mod build;
mod coded;
mod find;
mod pack;
mod prior;
mod profile;
mod roles;
mod scale;
mod wire;

pub use coded::Coded;
pub use find::{Kept, Reader, Reads, Site, already_coded, find};
pub use pack::{Form, Packed, Part, Stored, adapt, pack};
pub use prior::Prior;
pub use profile::{Blocks, PROFILES, ProductForm, Profile, RowsForm, profile};
pub use roles::roles;
pub use wire::{opsets, wire};

use thiserror::Error;

/// Why a weight cannot be stored as asked.
#[derive(Debug, Error)]
pub enum LowBitError {
    /// The runtime has no such form.
    #[error("{profile} has no {what}; {remedy}")]
    Form {
        /// The profile's name.
        profile: &'static str,
        /// What was asked for.
        what: String,
        /// What to do instead.
        remedy: String,
    },
    /// The quantizer refused the weight.
    #[error(transparent)]
    Weight(#[from] quant::weight::WeightError),
    /// The codes do not fit the layout.
    #[error(transparent)]
    Layout(#[from] quant::Error),
    /// Sizes and bytes do not fit together.
    #[error(transparent)]
    Tensor(#[from] ir::TensorError),
    /// What was packed is not what the form needs.
    #[error("the packed weight has no {0}")]
    Incomplete(&'static str),
}
