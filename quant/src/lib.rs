//! Numbers only: grids, rounding, packing, range estimators, histograms, weight quantizers.
//!
//! Slices in, slices out. What is absent on purpose: this crate knows no graph, no tensor type, no file, no clock,
//! no thread count. Every function gives the same bits on every machine and for every number of threads.
//!
//! Where speed matters there are two functions: a plain reference (`*_ref`) and the fast one beside it, with a test
//! that they agree to the bit.
//!
//! - [`code`] the quantized element types, [`minifloat`] the float8/6/4 ones among them
//! - [`grid`] scales and zero points: `Grid`, `Params`, and the one place where degenerate ranges are decided
//! - [`weight`] weight quantizers: rtn, rtn_search, ...
//! - [`range`] mergeable sketches of activations
//! - [`quantize`] real slices to codes and back; [`round`] rounding; [`pack`] sub-byte storage; [`bias`] int32 biases
//! - [`equalize`], [`smooth`] moving range between layers; [`saturation`] what CPUs without VNNI do to 8-bit products
//! - [`scale_search`] weight scales with the least error behind the product
//! - [`measure`] how far one result is from another

pub mod bias;
pub mod code;
mod dispatch;
pub mod equalize;
pub mod error;
pub mod grid;
pub mod layout;
pub mod measure;
pub mod minifloat;
pub mod pack;
pub mod parallel;
pub mod quantize;
pub mod range;
pub mod round;
pub mod saturation;
pub mod scale_search;
pub mod smooth;
pub mod weight;

pub use code::CodeType;
pub(crate) use dispatch::dispatch;
pub use error::Error;
pub use grid::{Grid, Params, Policy, RangeNote, Span};
pub use quantize::{Code, Layout};
