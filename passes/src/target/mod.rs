//! What the runtimes are that models are emitted for: which grids they accept where, and which patterns become integer
//! kernels. One file a target.

pub(crate) mod openvino;
pub(crate) mod ort_cpu;
pub(crate) mod qnn;
mod residual;
pub(crate) mod tensorrt;
mod tract;

use ir::{Graph, OpId, ValueId};
use ops::{Role, Scheme};
use quant::{CodeType, Grid, Span};

use crate::quantize::{Kernel, Precision};

pub use openvino::OpenVino;
pub use ort_cpu::OrtCpu;
pub use qnn::Qnn;
pub use residual::skip_slot;
pub use tensorrt::TensorRt;
pub use tract::Tract;

/// An operator whose quantization is asked about.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The operator.
    pub op: OpId,
    /// How it may be quantized.
    pub scheme: &'a Scheme,
}

impl Candidate<'_> {
    /// The operator's name in its own domain; none for other domains.
    pub fn onnx_name(&self) -> Option<&str> {
        let (domain, name) = self.graph.op(self.op).kind.key();
        domain.is_empty().then_some(name)
    }

    /// Input `slot` is a constant.
    pub fn is_constant(&self, slot: usize) -> bool {
        self.graph.input(self.op, slot).is_some_and(|value| self.graph.constant(value).is_some())
    }

    /// The slots that hold a weight: the role allows it and the input is constant.
    pub fn weight_slots(&self) -> Vec<usize> {
        let slots = 0..self.graph.op(self.op).input_count();
        slots
            .filter(|&slot| matches!(self.scheme.input(slot), Role::Weight { .. }) && self.is_constant(slot))
            .collect()
    }
}

/// What a target makes of an operator between quantized values.
#[derive(Clone, Debug, PartialEq)]
pub enum Support {
    /// An integer kernel that writes codes: the output must be quantized, or the kernel is not used.
    Codes,
    /// An integer kernel that can write codes or float.
    Either,
    /// Computes in float; quantizing around it only costs.
    Float(&'static str),
}

/// What a target makes of an operator with constant weights whose data have no range known ahead of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// Rounds the data when it runs and computes on codes.
    Integer,
    /// Has such kernels, but what they lose is not worth what they gain: used on request. Why.
    OnRequest(&'static str),
    /// Computes in float with weights that are stored in 8 bits: a smaller file, at most as fast. Why not on integers.
    Weight(&'static str),
    /// Nothing is gained. Why.
    Float(&'static str),
}

/// A runtime that models are emitted for.
pub trait Target: Sync {
    /// The name that users type.
    fn name(&self) -> &'static str;

    /// One line for lists.
    fn about(&self) -> &'static str;

    /// The grid of 8-bit activations.
    fn activation_grid(&self) -> Grid;

    /// The grid of 8-bit weights.
    fn weight_grid(&self) -> Grid {
        Grid::symmetric(CodeType::I8).with_span(Span::Narrow)
    }

    /// The axis along which the weight in this slot may have a scale an index, given the axis of its output channels. A
    /// constant on the left of a matrix product has one scale: kernels scale the columns of their result, and importers that
    /// fuse its scales all the same fail or compute something else.
    fn weight_axis(&self, candidate: Candidate<'_>, slot: usize, channel: Option<usize>) -> Option<usize> {
        match candidate.onnx_name()? {
            "MatMul" if slot == 0 => None,
            _ => channel,
        }
    }

    /// What the target makes of the operator between quantized values.
    fn support(&self, candidate: Candidate<'_>) -> Support;

    /// The activation function may stand between a product and the rounding of the product's output.
    fn absorbs(&self, _product: Candidate<'_>, _activation: OpId) -> bool {
        false
    }

    /// The bias is stored as int32 with the product of the scales; otherwise it stays float.
    fn quantizes_bias(&self) -> bool {
        false
    }

    /// All inputs and outputs of such an operator must share one scale.
    fn unifies(&self, _candidate: Candidate<'_>) -> bool {
        false
    }

    /// Input `slot` of a quantized operator is rounded. Where the target fuses the producer of an input into the
    /// operator, rounding that input would break the fusion.
    fn rounds(&self, _candidate: Candidate<'_>, _slot: usize) -> bool {
        true
    }

    /// The value may be rounded. A target may be unable to load roundings beside certain operators.
    fn rounds_value(&self, _graph: &Graph, _value: ValueId) -> bool {
        true
    }

    /// The operator is quantized whatever its neighbours do, and not only between quantized values.
    fn insists(&self, _candidate: Candidate<'_>) -> bool {
        false
    }

    /// Products of two activations are quantized too.
    fn multiplies_activations(&self) -> bool {
        false
    }

    /// The target moves roundings across the operator by itself: none are placed around it, and it moves codes where its
    /// input or output is rounded.
    fn commutes(&self, _candidate: Candidate<'_>) -> bool {
        false
    }

    /// Why the target cannot load the operator in this form, quantized or not.
    fn refuses(&self, _graph: &Graph, _op: OpId) -> Option<&'static str> {
        None
    }

    /// What runs for an operator of this precision that the target quantizes: a kernel on codes, one on floats (quantization
    /// only makes the file smaller), or nothing at all.
    fn kernel(&self, precision: Precision) -> Kernel {
        if precision == Precision::Int8 { Kernel::Integer } else { Kernel::Float }
    }

    /// What the target makes of an operator with constant weights whose data are rounded, if at all, when it runs. Also
    /// asked about operators that have no form with ranges known ahead of time: recurrent layers, bodies of loops.
    fn dynamic(&self, _candidate: Candidate<'_>) -> Dynamic {
        Dynamic::Weight("has no kernels that round at run time")
    }

    /// Forms in which the target reads weights of layers that compute in float.
    fn stores(&self) -> &'static [Precision] {
        &[Precision::W8]
    }

    /// The operator that alone reads a product whose data are rounded when it runs is computed by the same kernel.
    fn absorbs_dynamic(&self, _product: Candidate<'_>, _next: OpId) -> bool {
        false
    }

    /// A layer whose weight of so many `elements` is stored in 8 bits and multiplied in float, with so many rows of data a
    /// run, is slower than with a float weight: what reading fewer bytes saves is less than what making floats of them costs.
    fn slowed_by_storage(&self, _elements: usize, _rows: u64) -> bool {
        false
    }

    /// Rows of a constant table may be gathered as codes and scaled behind; otherwise the table is dequantized before.
    fn gathers_codes(&self) -> bool {
        false
    }

    /// Sizes that depend on the data are refused: shapes are fixed before quantization.
    fn fixed_shapes(&self) -> bool {
        false
    }

    /// The operators of ONNX Runtime that compute on codes without Q/DQ around (`--format qoperator`) are understood.
    fn reads_qoperators(&self) -> bool {
        false
    }

    /// Last changes around an operator that the plan quantizes statically, or (`quantized` false) keeps in float between
    /// rounded values: what keeps the target's optimizer from making something else of it. They change no number.
    fn keep_form(&self, _graph: &mut Graph, _op: OpId, _quantized: bool) {}

    /// The range to give an output whose range follows from the operator, on this grid.
    fn fixed_range(&self, _candidate: Candidate<'_>, _grid: Grid, range: (f32, f32)) -> (f32, f32) {
        range
    }

    /// The least width of a range of activations that the target takes; none for any.
    fn min_real_range(&self) -> Option<f32> {
        None
    }

    /// The operator set that the target's reader of quantized models needs at least.
    fn min_opset(&self) -> i64 {
        13
    }
}

/// Every target, in the order of `onnxq list targets`.
pub const TARGETS: &[&dyn Target] = &[&OrtCpu, &TensorRt, &OpenVino, &Qnn, &Tract];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static dyn Target> {
    TARGETS.iter().copied().find(|target| target.name() == name)
}
