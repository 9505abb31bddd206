//! OpenVINO on a CPU, 2024 and later.
//!
//! Inputs of products are rounded to uint8, weights per channel to symmetric int8 without -128; outputs only where
//! somebody reads them rounded, because the plugin fuses what stands behind a product, the sum with a float skip included.
//! Concatenated values share one scale, so that their dequantizations merge. The bias stays float: it is added behind the
//! dequantization.

use ir::{Graph, OpId};
use ops::Work;
use quant::{CodeType, Grid};

use super::{Candidate, Dynamic, Support, Target};
use crate::quantize::{Kernel, Precision};

/// OpenVINO on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct OpenVino;

/// Operators that low precision transformations carry codes through.
const MOVEMENT: &[&str] = &[
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Concat",
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "DepthToSpace",
    "SpaceToDepth",
    "Resize",
    "Pad",
    "Gather",
];

/// Operators computed on codes between codes.
const ARITHMETIC: &[&str] = &["Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean"];

/// Functions that are fused behind a product.
const FUSED: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "Gelu",
    "Swish",
    "Mish",
    "Softplus",
];

/// Quantized operators of ONNX Runtime that the importer does not know (tried with 2026.4, one operator a model).
pub(crate) const REFUSED: &[(&str, &str)] = &[
    ("com.microsoft", "QGemm"),
    ("com.microsoft", "QAttention"),
    ("com.microsoft", "QLinearConv"),
    ("com.microsoft", "QLinearGlobalAveragePool"),
    ("com.microsoft", "MatMulBnb4"),
];

impl Target for OpenVino {
    fn name(&self) -> &'static str {
        "openvino"
    }

    fn about(&self) -> &'static str {
        "OpenVINO on a CPU: uint8 inputs of products, narrow int8 weights per channel, float bias, one scale a Concat"
    }

    fn activation_grid(&self) -> Grid {
        Grid::asymmetric(CodeType::U8)
    }

    fn support(&self, candidate: Candidate<'_>) -> Support {
        let Some(name) = candidate.onnx_name() else {
            return Support::Float("no integer kernel for other domains");
        };
        match name {
            "Conv" | "ConvTranspose" if !candidate.is_constant(1) => {
                Support::Float("the weight is not constant")
            }
            "Conv" | "ConvTranspose" | "MatMul" | "Gemm" => Support::Either,
            "Resize" if candidate.scheme.work != Work::Movement => {
                Support::Float("OpenVINO interpolates codes only by picking the nearest")
            }
            _ if MOVEMENT.contains(&name) || ARITHMETIC.contains(&name) => Support::Either,
            _ => Support::Float("OpenVINO computes it in float"),
        }
    }

    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool {
        let kind = &product.graph.op(activation).kind;
        let fuses = matches!(product.onnx_name(), Some("Conv" | "ConvTranspose" | "MatMul" | "Gemm" | "Add"));
        fuses && kind.domain().is_empty() && FUSED.contains(&&*kind.name)
    }

    fn dynamic(&self, candidate: Candidate<'_>) -> Dynamic {
        match candidate.onnx_name() {
            Some("MatMul" | "Gemm") => {
                Dynamic::Weight("OpenVINO rounds the data of compressed matrix products by itself")
            }
            Some("Gather") => Dynamic::Weight("OpenVINO gathers rows of compressed tables"),
            Some("Conv" | "ConvTranspose") => {
                Dynamic::Weight("OpenVINO has no convolution that rounds at run time")
            }
            Some("LSTM" | "GRU" | "RNN") => {
                Dynamic::Float("OpenVINO wants the weights of recurrent layers in float")
            }
            _ => Dynamic::Float("OpenVINO computes it in float"),
        }
    }

    /// The importer refuses to quantize to float8; 16 bits are computed in float.
    fn kernel(&self, precision: Precision) -> Kernel {
        match precision {
            Precision::Int8 => Kernel::Integer,
            Precision::Fp8 => Kernel::Fails,
            _ => Kernel::Float,
        }
    }

    fn stores(&self) -> &'static [Precision] {
        &[Precision::Fp16, Precision::W8, Precision::W4]
    }

    fn unifies(&self, candidate: Candidate<'_>) -> bool {
        candidate.onnx_name() == Some("Concat")
    }

    fn refuses(&self, graph: &Graph, op: OpId) -> Option<&'static str> {
        REFUSED.contains(&graph.op(op).kind.key()).then_some("OpenVINO's importer does not know it")
    }
}
