//! What each operator means: shapes, values, and how it may be quantized.
//!
//! An operator is one [`OpRule`]: which operator sets its author has read, how types and shapes follow from the inputs
//! ([`InferCx`]) and, where it has a meaning that can be computed, what its outputs are ([`EvalCx`]). Rules live in
//! `family/`, one file a family; [`family::RULES`] is the whole list. The rest of the crate is the framework around
//! them, and it names no operator:
//!
//! - [`mod@rule`] the trait and the look-up; [`error`] what a rule may answer instead; [`attrs`] typed attributes
//! - [`value`] run-time values; [`mod@array`] tensors as `ndarray`s of native types; [`number`] the small float types
//! - [`kernel`] the larger numeric kernels: slices in, vectors out
//! - [`scheme()`] which slots of an operator may be quantized, and how
//! - [`sym`] sizes as canonical expressions over named sizes
//! - [`infer`] types, shapes and small integer contents through a whole model
//! - [`eval`] running a graph by its rules: for constant folding and as the reference runtime
//! - [`FakeQuant`] the rounding that float runtimes run in the place of a quantize and dequantize pair
//!
//! What is absent on purpose: nothing here rewrites a model, reads a file or knows a runtime.

pub mod array;
pub mod attrs;
pub mod error;
pub mod eval;
mod fake_quant;
pub mod family;
pub mod infer;
pub mod kernel;
pub mod number;
pub mod rule;
pub mod scheme;
pub mod sym;
pub mod value;

/// Equations of Einsum, for passes that rewrite it.
pub mod einsum {
    pub use crate::family::einsum::{Axis, Equation};
}

pub use error::{OpError, Result};
pub use eval::EvalCx;
pub use fake_quant::{FakeQuant, FakeQuantError};
pub use infer::{InferCx, Known};
pub use rule::{NoRule, OpName, OpRule, Table, rule, rules};
pub use scheme::{Role, Scheme, Work, is_pointwise, scheme};
pub use value::Value;
