//! A compiler that quantizes ONNX models and proves what it emitted.
//!
//! This package is the program, `onnxq`, and what a build step needs of it: [`quantize()`] does what `onnxq quantize` does.
//! The work is done by the crates below it, which know no file system, no terminal and no clock: `ir` (the model in memory),
//! `proto` (ONNX files), `ops` (what operators mean), `quant` (numbers), `passes` (model in, model out; the plan; targets)
//! and `runtime` (tract, ONNX Runtime, the reference evaluator). `ARCHITECTURE.md` draws the house.
//!
//! - [`cli`]: the commands, one file each; they parse, call and print.
//! - [`data`]: samples from files, as tensors by input name.
//! - [`pipeline`]: calibration, quantization, validation, sensitivity, low-bit weights: what the commands do.
//! - [`recipe`]: options as a TOML file.
//! - [`report`]: the page and its JSON twin.

// First: its macros hold in everything below.
#[macro_use]
mod out;

mod api;
pub mod cli;
pub mod data;
#[doc(hidden)]
pub mod memory;
mod ort_library;
pub mod pipeline;
pub mod recipe;
pub mod report;

pub use api::{Samples, quantize};
pub use passes::quantize::Precision;
pub use pipeline::quantize::{Format, Mode, QuantizeOptions, Quantized, Validation};
pub use quant::range::Method;
