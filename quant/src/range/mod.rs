//! Ranges: what was seen of a value ([`Sketch`]) and which part of the real line its grid should cover.

pub mod channels;
pub mod exact_sum;
pub mod extrema;
pub mod histogram;
mod observe;
pub mod sketch;

pub use sketch::Sketch;
