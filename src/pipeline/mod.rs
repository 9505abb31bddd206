//! What the commands do, apart from arguments and printing: models, data and runtimes brought together.

pub mod calibrate;
mod coverage;
pub mod digest;
pub mod engine;
pub mod guilty;
pub mod low_bit;
pub mod measure;
pub mod observed;
pub mod perplexity;
pub mod prepare;
pub mod quantize;
mod rounding;
pub mod sensitivity;
pub mod specialize;
pub mod table;
pub mod tensorrt_cache;
pub mod values;
