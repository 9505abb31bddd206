//! A compiler that quantizes ONNX models and proves what it emitted.

// First: its macros hold in everything below.
#[macro_use]
mod out;

mod api;
pub mod cli;
pub mod data;
mod ort_library;
pub mod pipeline;
pub mod recipe;
pub mod report;

pub use api::{Samples, quantize};
pub use pipeline::quantize::QuantizeOptions;
