//! ONNX Runtime's CPU provider, 1.20 and later.
//!
//! Which patterns become integer kernels was read off its optimized graphs (version 1.31.1): a product whose inputs come
//! from DequantizeLinear and whose output goes only into QuantizeLinear; matrix products may also write float. Uint8
//! activations are the default: on x86 its kernels for int8 activations are slower than float.

mod forms;

use ir::{Graph, OpId, ValueId};
use ops::Work;
use quant::{CodeType, Grid};

use super::{Candidate, Dynamic, Support, Target};
use crate::quantize::Precision;

/// ONNX Runtime on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct OrtCpu;

/// Operators that have a kernel on codes and write codes.
pub(crate) const ARITHMETIC: &[&str] =
    &["Add", "Mul", "Concat", "Where", "Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"];

/// Operators around which the rounding is dropped when input and output share a scale.
pub(crate) const MOVEMENT: &[&str] = &[
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

fn has_computed_bias(candidate: Candidate<'_>) -> bool {
    candidate.graph.input(candidate.op, 2).is_some() && !candidate.is_constant(2)
}

/// Rows of data from which on a product in float is slower if its weight is stored in 8 bits.
const MANY_ROWS: u64 = 8;
/// Elements of a weight from which on reading 8 bits instead of 32 pays where there are few rows.
const LARGE_WEIGHT: usize = 1 << 16;

/// Weights of a convolution with a window of one element, from which on a matrix product on integers and two transpositions
/// are faster than the float convolution.
const WORTH_TRANSPOSING: usize = 1 << 14;

/// Number of weights of a convolution that is a matrix product over the channels; none if it is none.
fn pointwise_weights(candidate: Candidate<'_>) -> Option<usize> {
    let Candidate { graph, op, .. } = candidate;
    let weight = graph.constant(graph.input(op, 1)?)?;
    let attrs = &graph.op(op).attrs;
    let all = |name, value| attrs.ints(name).is_none_or(|list: &[i64]| list.iter().all(|&x| x == value));
    let plain = attrs.int("group").unwrap_or(1) == 1 && all("strides", 1) && all("pads", 0);
    (plain && weight.dims().len() > 2 && weight.dims()[2..].iter().all(|&size| size == 1))
        .then_some(weight.elements())
}

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
            "Gemm" if has_computed_bias(candidate) => Support::Float("its bias is computed"),
            "Gemm" => Support::Either,
            "Resize" if candidate.scheme.work != Work::Movement => {
                Support::Float("ONNX Runtime's CPU provider interpolates in float")
            }
            _ if ARITHMETIC.contains(&name) || MOVEMENT.contains(&name) => Support::Codes,
            _ => Support::Float("ONNX Runtime's CPU provider has no integer kernel for it"),
        }
    }

    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool {
        let name = &product.graph.op(activation).kind;
        (name.is("Relu") || name.is("Clip")) && !matches!(product.onnx_name(), Some("Sigmoid" | "Softmax"))
    }

    fn dynamic(&self, candidate: Candidate<'_>) -> Dynamic {
        match candidate.onnx_name() {
            Some("MatMul") if !candidate.is_constant(1) => {
                Dynamic::Weight("only a constant on the right has a kernel that rounds at run time")
            }
            Some("MatMul" | "Gemm") => Dynamic::Integer,
            Some("LSTM") if candidate.graph.op(candidate.op).attrs.int("layout").unwrap_or(0) != 0 => {
                Dynamic::Weight("its kernel wants the time axis first")
            }
            // A speech enhancer lost 2 dB of 13 so, and nothing with its weights alone in 8 bits.
            Some("LSTM") => Dynamic::OnRequest("its states add up what rounding its data loses"),
            Some("Conv") if pointwise_weights(candidate).is_some_and(|count| count >= WORTH_TRANSPOSING) => {
                Dynamic::Integer
            }
            // Measured: 0.15 of the float kernel's speed for 3 x 3 x 64 x 64, less for most.
            Some("Conv") => {
                Dynamic::Weight("its kernel that rounds at run time is slower than the float one")
            }
            Some("ConvTranspose" | "GRU" | "RNN" | "Gather" | "Einsum") => {
                Dynamic::Weight("has no kernel that rounds at run time")
            }
            _ => Dynamic::Float("has no kernel that rounds at run time"),
        }
    }

    fn keep_form(&self, graph: &mut Graph, op: OpId, quantized: bool) {
        forms::keep(graph, op, quantized);
    }

    /// A vector that is added to a product of matrices is the bias of the kernel that rounds at run time.
    fn absorbs_dynamic(&self, product: Candidate<'_>, next: OpId) -> bool {
        let Candidate { graph, op, .. } = product;
        let vector = |value: ValueId| graph.constant(value).is_some_and(|tensor| tensor.rank() == 1);
        product.onnx_name() == Some("MatMul")
            && graph.op(next).kind.is("Add")
            && graph.op_inputs(next).into_iter().flatten().any(vector)
            && graph.output(op, 0).is_some_and(|value| graph.use_count(value) == 1 && !graph.is_output(value))
    }

    fn gathers_codes(&self) -> bool {
        true
    }

    fn reads_qoperators(&self) -> bool {
        true
    }

    fn stores(&self) -> &'static [Precision] {
        &[Precision::Fp16, Precision::W8, Precision::W4]
    }

    fn quantizes_bias(&self) -> bool {
        true
    }

    /// The weight is dequantized on every run. Measured on matrix products, one thread: 0.55 to 0.9 of the float speed from
    /// eight rows on; with fewer, large weights gain (1.4 times at 512 x 512, 5 times at 1024 x 1024), small ones lose.
    fn slowed_by_storage(&self, elements: usize, rows: u64) -> bool {
        rows >= MANY_ROWS || elements < LARGE_WEIGHT
    }
}
