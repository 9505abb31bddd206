//! Quantization: decide ([`choose()`]), measure ([`fit`]), write ([`emit_qdq`], [`emit_qoperator`]).
//!
//! [`plan::QuantPlan`] stands between the steps. Nothing here runs a model: what calibration saw comes in as a table of
//! sketches by value name.

mod behind;
pub mod choose;
mod classes;
pub mod cost;
mod dynamic;
mod emit_dynamic;
mod emit_lookup;
pub mod emit_qdq;
pub mod emit_qoperator;
pub mod fit;
pub mod integer_io;
mod join;
pub mod keys;
pub mod low_bit;
pub mod memo;
pub mod plan;
pub mod storage;
mod weights;

pub use choose::{Choices, choose};
pub use dynamic::rounded_at_run_time;
pub use plan::{Conversion, Kernel, OpPlan, Precision, QuantPlan, ValuePlan, WeightPlan};
