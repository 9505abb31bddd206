//! Numeric kernels: slices in, vectors out. They know sizes that a rule has checked, and neither operators nor tensors.

pub mod attend;
pub mod blocks;
pub mod broadcast;
pub mod conv;
pub mod fourier;
pub mod interpolate;
pub mod movement;
pub mod pool;
pub mod quantize;
pub mod real;
pub mod recurrent;
pub mod sample;
pub mod window;
