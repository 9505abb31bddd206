//! TensorRT, 10 and later, with explicit quantization.
//!
//! Rounding is placed the way TensorRT fuses: the *inputs* of convolutions and matrix products are rounded and never their
//! outputs, so that everything pointwise behind a product joins its kernel's epilogue; of a residual addition only the
//! skip is rounded, because the other branch is fused ([`super::skip_slot`]); data movement gets no rounding of its own,
//! because TensorRT moves roundings across it; concatenated values that are all rounded share one scale, so that no
//! requantization stands between. Everything is symmetric int8 with an explicit zero point of 0; the bias stays float.
//! Convolutions and products too small for the tensor cores stay float. The rules are those of NVIDIA's own quantizer.

use ir::{Graph, OpId};
use quant::{CodeType, Grid};

use super::residual::{backbone, skip_slot};
use super::{Candidate, Dynamic, Support, Target};
use crate::quantize::{Kernel, Precision};

/// TensorRT.
#[derive(Clone, Copy, Debug)]
pub struct TensorRt;

/// Operators that only move data: roundings are moved across them.
pub(crate) const COPIES: &[&str] = &[
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
    "GatherND",
    "Split",
    "Concat",
    "Pad",
    "DepthToSpace",
    "SpaceToDepth",
    "Identity",
];

/// Pointwise operators of one input that a product's kernel computes before it writes.
pub(crate) const POINTWISE: &[&str] = &[
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
    "Erf",
    "Softplus",
    "Swish",
];

/// Operators that TensorRT's importer does not know: it takes quantized models only as Q/DQ with constant parameters.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    ("", "QLinearConv"),
    ("", "QLinearMatMul"),
    ("", "ConvInteger"),
    ("", "MatMulInteger"),
    ("", "DynamicQuantizeLinear"),
    ("com.microsoft", "QGemm"),
    ("com.microsoft", "QLinearAdd"),
    ("com.microsoft", "QLinearMul"),
    ("com.microsoft", "QLinearConcat"),
    ("com.microsoft", "QLinearSigmoid"),
    ("com.microsoft", "QLinearLeakyRelu"),
    ("com.microsoft", "QLinearSoftmax"),
    ("com.microsoft", "QLinearAveragePool"),
    ("com.microsoft", "QLinearGlobalAveragePool"),
    ("com.microsoft", "QLinearWhere"),
    ("com.microsoft", "QLinearReduceMean"),
    ("com.microsoft", "QAttention"),
    ("com.microsoft", "DynamicQuantizeMatMul"),
    ("com.microsoft", "DynamicQuantizeLSTM"),
    ("com.microsoft", "MatMulIntegerToFloat"),
    ("com.microsoft", "MatMulNBits"),
    ("com.microsoft", "MatMulBnb4"),
    ("com.microsoft", "GatherBlockQuantized"),
    ("com.microsoft", "QuantizeLinear"),
    ("com.microsoft", "DequantizeLinear"),
];

/// Fewer channels, rows or columns than this do not fill a tile of the tensor cores.
pub(crate) const TILE: usize = 16;

/// Why an integer convolution with a weight of these sizes is slower than a float16 one; none if it is not.
pub(crate) fn small_conv(dims: &[usize], group: i64) -> Option<&'static str> {
    let [out, in_group, kernel @ ..] = dims else { return None };
    let (out, in_group) = (*out, *in_group);
    if out >= TILE && in_group >= TILE {
        return None;
    }
    let square = kernel.windows(2).all(|pair| pair[0] == pair[1]);
    let dense = group == 1 && out % 8 == 0 && in_group % 8 == 0 && out.max(in_group) >= TILE && square;
    let grouped = group > 1 && out % 8 == 0 && kernel.iter().all(|&size| size >= 3);
    match dense || grouped {
        true => None,
        false => Some("fewer than 16 channels: TensorRT is faster in float16"),
    }
}

/// Why an integer product `[m, k] x [k, n]` is slower than a float16 one; none if it is not. Unknown sizes fill a tile.
pub(crate) fn small_product(m: Option<usize>, k: Option<usize>, n: Option<usize>) -> Option<&'static str> {
    if m == Some(1) || n == Some(1) {
        return Some("a matrix times a vector: TensorRT is faster in float16");
    }
    let small = |size: Option<usize>| size.is_some_and(|size| size < TILE);
    (small(k) || small(n)).then_some("fewer than 16 rows or columns: TensorRT is faster in float16")
}

/// Rows, depth and columns of a matrix product, where they are known.
pub(crate) fn product_sizes(graph: &Graph, op: OpId) -> (Option<usize>, Option<usize>, Option<usize>) {
    let dims =
        |slot: usize| graph.input(op, slot).and_then(|value| graph.value(value).shape()).map(|s| s.dims);
    let attrs = &graph.op(op).attrs;
    let flag = |name| graph.op(op).kind.is("Gemm") && attrs.int(name).unwrap_or(0) != 0;
    let m = dims(0).and_then(|dims| match (flag("transA"), &dims[..]) {
        (true, [_, m]) => m.known(),
        (true, _) => None,
        // A stack of matrices times one matrix is computed as one tall matrix.
        (false, [lead @ .., _]) => lead.iter().try_fold(1usize, |rows, dim| rows.checked_mul(dim.known()?)),
        (false, []) => None,
    });
    let (k, n) = match (dims(1).as_deref(), flag("transB")) {
        (Some([.., n, k]), true) | (Some([.., k, n]), false) => (k.known(), n.known()),
        (Some([k]), _) => (k.known(), Some(1)),
        _ => (None, None),
    };
    (m, k, n)
}

fn float_product(candidate: Candidate<'_>) -> Option<&'static str> {
    let Candidate { graph, op, .. } = candidate;
    let (m, k, n) = product_sizes(graph, op);
    small_product(m, k, n)
}

impl Target for TensorRt {
    fn name(&self) -> &'static str {
        "tensorrt"
    }

    fn about(&self) -> &'static str {
        "TensorRT: symmetric int8 inputs of products, weights per channel, float bias, skips of residual blocks"
    }

    fn activation_grid(&self) -> Grid {
        Grid::symmetric(CodeType::I8)
    }

    fn support(&self, candidate: Candidate<'_>) -> Support {
        let Candidate { graph, op, .. } = candidate;
        let Some(name) = candidate.onnx_name() else {
            return Support::Float("no integer kernel for other domains");
        };
        match name {
            "Conv" | "ConvTranspose" => {
                let weight = graph.input(op, 1).and_then(|value| graph.constant(value));
                let Some(weight) = weight else { return Support::Float("the weight is not constant") };
                let group = graph.op(op).attrs.int("group").unwrap_or(1);
                small_conv(weight.dims(), group).map_or(Support::Either, Support::Float)
            }
            "MatMul" | "Gemm" => float_product(candidate).map_or(Support::Either, Support::Float),
            "Add" if residual(candidate).is_some() => Support::Either,
            "Add" => Support::Float("no residual addition: joins the kernel around it"),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" => Support::Either,
            "LayerNormalization" if after_conv(candidate) => Support::Either,
            _ if COPIES.contains(&name) => Support::Float("TensorRT moves the rounding across it"),
            _ if POINTWISE.contains(&name) => Support::Float("joins the kernel before it"),
            _ => Support::Float("computed in float"),
        }
    }

    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool {
        let kind = &product.graph.op(activation).kind;
        let fuses = matches!(product.onnx_name(), Some("Conv" | "ConvTranspose" | "MatMul" | "Gemm" | "Add"));
        fuses && kind.domain().is_empty() && POINTWISE.contains(&&*kind.name)
    }

    fn dynamic(&self, candidate: Candidate<'_>) -> Dynamic {
        match candidate.onnx_name() {
            Some("MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "Gather") => {
                Dynamic::Weight("TensorRT rounds only to ranges known ahead of time")
            }
            _ => Dynamic::Float("TensorRT wants the weights of recurrent layers in float"),
        }
    }

    /// Codes of 16 bits are refused when the network is read.
    fn kernel(&self, precision: Precision) -> Kernel {
        match precision {
            Precision::Int8 | Precision::Fp8 => Kernel::Integer,
            Precision::A16w8 => Kernel::Fails,
            _ => Kernel::Float,
        }
    }

    fn unifies(&self, candidate: Candidate<'_>) -> bool {
        candidate.onnx_name() == Some("Concat")
    }

    fn rounds(&self, candidate: Candidate<'_>, slot: usize) -> bool {
        match candidate.onnx_name() {
            Some("Add") => residual(candidate).is_none_or(|skip| skip == slot),
            _ => true,
        }
    }

    fn insists(&self, candidate: Candidate<'_>) -> bool {
        match candidate.onnx_name() {
            Some("Add") => residual(candidate).is_some(),
            Some("LayerNormalization") => after_conv(candidate),
            _ => false,
        }
    }

    fn commutes(&self, candidate: Candidate<'_>) -> bool {
        candidate.onnx_name().is_some_and(|name| COPIES.contains(&name))
    }

    fn refuses(&self, graph: &Graph, op: OpId) -> Option<&'static str> {
        REFUSED.contains(&graph.op(op).kind.key()).then_some("TensorRT imports quantization only as Q/DQ")
    }
}

/// The skip's slot, unless the sum is an output of the graph: then it is written in float anyway.
fn residual(candidate: Candidate<'_>) -> Option<usize> {
    let Candidate { graph, op, .. } = candidate;
    let written = graph.output(op, 0)?;
    if graph.is_output(written) { None } else { skip_slot(graph, op) }
}

/// A normalization of a convolution's result: without rounding between them TensorRT picks a slower kernel that reads int8
/// and writes float16.
fn after_conv(candidate: Candidate<'_>) -> bool {
    let Candidate { graph, op, .. } = candidate;
    graph.input(op, 0).is_some_and(|value| backbone(graph, value).is_some())
}
