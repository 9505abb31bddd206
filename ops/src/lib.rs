//! What each operator means: shapes, values, and how it may be quantized

mod fake_quant;

pub use fake_quant::{FakeQuant, FakeQuantError};
