//! tract, 0.23.9 and later, reading the quantized file itself.
//!
//! tract computes quantized models in float, so quantization makes the file smaller and nothing faster. Only inputs and
//! weights of products are rounded: its optimizer rewrites Q/DQ around a softmax into something else, and every rounding
//! costs time. Scales are float32 constants, codes int8.

use quant::{CodeType, Grid};

use super::{Candidate, Dynamic, Support, Target};
use crate::quantize::{Kernel, Precision};

/// tract.
#[derive(Clone, Copy, Debug)]
pub struct Tract;

impl Target for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn about(&self) -> &'static str {
        "tract: int8 inputs and weights of products, computed in float; smaller, not faster"
    }

    fn activation_grid(&self) -> Grid {
        Grid::asymmetric(CodeType::I8)
    }

    fn weight_axis(&self, _: Candidate<'_>, _: usize, channel: Option<usize>) -> Option<usize> {
        channel
    }

    fn support(&self, candidate: Candidate<'_>) -> Support {
        match candidate.onnx_name() {
            Some("Conv" | "ConvTranspose") if !candidate.is_constant(1) => {
                Support::Float("the weight is not constant")
            }
            Some("Conv" | "ConvTranspose" | "MatMul" | "Gemm") => Support::Either,
            _ => Support::Float("tract computes in float: rounding around it only costs"),
        }
    }

    fn dynamic(&self, candidate: Candidate<'_>) -> Dynamic {
        match candidate.onnx_name() {
            Some("MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "Gather") => {
                Dynamic::Weight("tract computes in float")
            }
            _ => Dynamic::Float("tract wants the weights of recurrent layers in float"),
        }
    }

    /// Its reader has codes of 8 bits only.
    fn kernel(&self, precision: Precision) -> Kernel {
        match precision {
            Precision::A16w8 | Precision::Fp8 => Kernel::Fails,
            _ => Kernel::Float,
        }
    }
}
