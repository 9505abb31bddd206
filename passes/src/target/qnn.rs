//! Qualcomm's QNN through ONNX Runtime's provider (HTP backend).
//!
//! A node runs on integers only as a complete unit: every float input comes from DequantizeLinear and every output goes into
//! QuantizeLinear. So everything is quantized, data movement and products of two activations included. Scales per channel
//! only for convolutions; all shapes static; ranges no narrower than 1e-4.

use ir::{DType, Graph, OpId, ValueId};
use quant::{CodeType, Grid};

use super::{Candidate, Dynamic, Support, Target};
use crate::quantize::{Kernel, Precision};

/// QNN on Qualcomm's HTP.
#[derive(Clone, Copy, Debug)]
pub struct Qnn;

/// Operators whose parameters besides the data would have to be codes too; they run as float16 islands.
const ISLANDS: &[&str] = &[
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "BatchNormalization",
    "LSTM",
    "GRU",
    "RNN",
    "Einsum",
];

/// The node reads or writes a float tensor whose sizes are not all known.
pub(crate) fn is_dynamic(graph: &Graph, op: OpId) -> bool {
    let open = |value: ValueId| {
        let value = graph.value(value);
        value.dtype().is_none_or(DType::is_float) && value.shape().and_then(|shape| shape.known()).is_none()
    };
    graph.op_inputs(op).into_iter().chain(graph.op_outputs(op)).flatten().any(open)
}

impl Target for Qnn {
    fn name(&self) -> &'static str {
        "qnn"
    }

    fn about(&self) -> &'static str {
        "Qualcomm QNN (HTP): everything quantized, uint8 activations, int8 weights per channel for convolutions"
    }

    fn activation_grid(&self) -> Grid {
        Grid::asymmetric(CodeType::U8)
    }

    fn weight_axis(&self, candidate: Candidate<'_>, _: usize, channel: Option<usize>) -> Option<usize> {
        match candidate.onnx_name()? {
            "Conv" | "ConvTranspose" => channel,
            _ => None,
        }
    }

    fn support(&self, candidate: Candidate<'_>) -> Support {
        match candidate.onnx_name() {
            None => Support::Float("no QNN operator of other domains"),
            Some(name) if ISLANDS.contains(&name) => {
                Support::Float("its parameters stay float: runs in float16")
            }
            Some("Conv" | "ConvTranspose") if !candidate.is_constant(1) => {
                Support::Float("the weight is not constant")
            }
            Some("Gemm") if candidate.scheme.bias_factor != 1.0 => Support::Float("beta is not 1"),
            Some(_) => Support::Codes,
        }
    }

    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool {
        let kind = &product.graph.op(activation).kind;
        let fuses = matches!(product.onnx_name(), Some("Conv" | "ConvTranspose" | "Gemm" | "MatMul" | "Add"));
        fuses && (kind.is("Relu") || kind.is("Clip"))
    }

    fn dynamic(&self, candidate: Candidate<'_>) -> Dynamic {
        match candidate.onnx_name() {
            Some("MatMul" | "Gemm" | "Conv" | "ConvTranspose") => {
                Dynamic::Weight("QNN rounds only to ranges known ahead of time: runs in float16")
            }
            _ => Dynamic::Float("QNN takes its constants in float"),
        }
    }

    fn fixed_shapes(&self) -> bool {
        true
    }

    fn kernel(&self, precision: Precision) -> Kernel {
        match precision {
            Precision::Int8 | Precision::A16w8 => Kernel::Integer,
            Precision::Fp8 => Kernel::Fails,
            _ => Kernel::Float,
        }
    }

    fn quantizes_bias(&self) -> bool {
        true
    }

    /// Nothing is rounded beside a cast: it takes and gives the floats of its neighbours.
    fn rounds_value(&self, graph: &Graph, value: ValueId) -> bool {
        let cast = |op: OpId| graph.op(op).kind.is("Cast");
        !graph.producer(value).is_some_and(|(op, _)| cast(op))
            && !graph.uses(value).iter().any(|reader| cast(reader.op))
    }

    fn insists(&self, _: Candidate<'_>) -> bool {
        true
    }

    fn multiplies_activations(&self) -> bool {
        true
    }

    fn refuses(&self, graph: &Graph, op: OpId) -> Option<&'static str> {
        is_dynamic(graph, op).then_some("QNN takes only fixed shapes: fix them with fix_shapes")
    }

    /// 16-bit kernels have these scales built in: 1/65536 for a sigmoid, 1/32768 around the middle for tanh.
    fn fixed_range(&self, candidate: Candidate<'_>, grid: Grid, range: (f32, f32)) -> (f32, f32) {
        match (candidate.onnx_name(), grid.code) {
            (Some("Sigmoid"), CodeType::U16) => (0.0, 65535.0 / 65536.0),
            (Some("Sigmoid"), CodeType::I16) => (-1.0, 32767.0 / 32768.0),
            (Some("Tanh"), CodeType::U16 | CodeType::I16) => (-1.0, 32767.0 / 32768.0),
            _ => range,
        }
    }

    fn min_real_range(&self) -> Option<f32> {
        Some(1e-4)
    }
}
