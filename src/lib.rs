//! A compiler that quantizes ONNX models and proves what it emitted.

pub mod cli;
pub mod data;
mod ort_library;
pub mod pipeline;
