//! ONNX Runtime's CPU provider, 1.20 and later.
//!
//! Which patterns become integer kernels was read off its optimized graphs (version 1.31.1): a product whose inputs come
//! from DequantizeLinear and whose output goes only into QuantizeLinear; matrix products may also write float. Uint8
//! activations are the default: on x86 its kernels for int8 activations are slower than float.

use ir::OpId;
use quant::{CodeType, Grid, Span};

use super::{Candidate, Support, Target};

/// ONNX Runtime on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct OrtCpu;

/// Operators that have a kernel on codes and write codes.
const ARITHMETIC: &[&str] =
    &["Add", "Mul", "Concat", "Where", "Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"];

/// Operators around which the rounding is dropped when input and output share a scale.
const MOVEMENT: &[&str] = &[
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Expand",
    "Tile",
    "Gather",
    "GatherElements",
    "Resize",
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Split",
    "DepthToSpace",
    "SpaceToDepth",
];

impl Target for OrtCpu {
    fn name(&self) -> &'static str {
        "ort-cpu"
    }

    fn about(&self) -> &'static str {
        "ONNX Runtime on a CPU: uint8 activations, int8 weights per channel, int32 bias"
    }

    fn activation_grid(&self) -> Grid {
        Grid::asymmetric(CodeType::U8)
    }

    fn weight_grid(&self) -> Grid {
        Grid::symmetric(CodeType::I8).with_span(Span::Narrow)
    }

    fn weight_axis(&self, candidate: Candidate<'_>, slot: usize, channel: Option<usize>) -> Option<usize> {
        // Scales along the summed axis, and a constant on the left of a matrix product, are fused and then fail or are
        // computed wrong: one scale there.
        match candidate.onnx_name()? {
            "MatMul" if slot == 0 => None,
            _ => channel,
        }
    }

    fn support(&self, candidate: Candidate<'_>) -> Support {
        let Some(name) = candidate.onnx_name() else {
            return Support::Float("no integer kernel for other domains");
        };
        match name {
            "Conv" if candidate.is_constant(1) => Support::Codes,
            "Conv" => Support::Float("the weight is not constant"),
            "MatMul" => Support::Either,
            "Gemm" if candidate.scheme.bias_factor != 1.0 => Support::Float("beta is not 1"),
            "Gemm" if !candidate.is_constant(1) => Support::Float("the weight is not constant"),
            "Gemm" => Support::Either,
            _ if ARITHMETIC.contains(&name) || MOVEMENT.contains(&name) => Support::Codes,
            _ => Support::Float("ONNX Runtime's CPU provider has no integer kernel for it"),
        }
    }

    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool {
        let name = &product.graph.op(activation).kind;
        (name.is("Relu") || name.is("Clip")) && !matches!(product.onnx_name(), Some("Sigmoid" | "Softmax"))
    }

    fn quantizes_bias(&self) -> bool {
        true
    }

    fn unifies(&self, _: Candidate<'_>) -> bool {
        false
    }
}
