//! A quantized weight of any kind.

use quant::weight::double::{DoubleAffine, DoubleScaled};
use quant::weight::nf4::Codebook;
use quant::weight::outliers::Split;
use quant::weight::{Affine, Provenance, Quantized};

/// What a quantizer made of a weight `[N, K]`.
#[derive(Clone, Debug)]
pub enum Coded {
    /// Integer zero points, or none.
    Uniform(Quantized),
    /// Float offsets: stored in the two-term form.
    Affine(Affine),
    /// A table of values.
    Table(Codebook),
    /// Eight bits for most columns, and those that meet outliers as they are.
    Split(Split),
    /// Integer zero points, and scales that are integers themselves.
    Double(DoubleScaled),
    /// Float offsets, and both scales and offsets are integers themselves.
    DoubleAffine(DoubleAffine),
}

impl Coded {
    /// The weights that the codes stand for, `[N, K]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Coded::Uniform(q) => q.dequantize(),
            Coded::Affine(q) => q.dequantize(),
            Coded::Table(q) => q.dequantize(),
            Coded::Double(q) => q.weight.dequantize(),
            Coded::DoubleAffine(q) => q.weight.dequantize(),
            Coded::Split(q) => q.dequantize(),
        }
    }

    /// How it came about.
    pub fn provenance(&self) -> &Provenance {
        match self {
            Coded::Uniform(q) => &q.provenance,
            Coded::Affine(q) => &q.provenance,
            Coded::Table(q) => &q.provenance,
            Coded::Double(q) => &q.weight.provenance,
            Coded::DoubleAffine(q) => &q.weight.provenance,
            Coded::Split(q) => &q.rest.provenance,
        }
    }
}
