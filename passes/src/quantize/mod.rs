//! Quantization: decide ([`choose()`]), measure ([`fit`]), write ([`emit_qdq`]).
//!
//! [`plan::QuantPlan`] stands between the steps. Nothing here runs a model: what calibration saw comes in as a table of
//! sketches by value name.

pub mod choose;
mod classes;
pub mod cost;
pub mod emit_qdq;
pub mod fit;
pub mod plan;
mod weights;

pub use choose::{Choices, choose};
pub use plan::{Kernel, OpPlan, Precision, QuantPlan, ValuePlan, WeightPlan};
