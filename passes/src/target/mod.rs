//! What the runtimes are that models are emitted for: which grids they accept where, and which patterns become integer
//! kernels. One file a target.

mod ort_cpu;

use ir::{Graph, OpId};
use ops::{Role, Scheme};
use quant::Grid;

pub use ort_cpu::OrtCpu;

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

/// A runtime that models are emitted for.
pub trait Target: Sync {
    /// The name that users type.
    fn name(&self) -> &'static str;

    /// One line for lists.
    fn about(&self) -> &'static str;

    /// The grid of 8-bit activations.
    fn activation_grid(&self) -> Grid;

    /// The grid of 8-bit weights.
    fn weight_grid(&self) -> Grid;

    /// The axis along which the weight in this slot may have a scale an index, given the axis of its output channels.
    fn weight_axis(&self, candidate: Candidate<'_>, slot: usize, channel: Option<usize>) -> Option<usize>;

    /// What the target makes of the operator between quantized values.
    fn support(&self, candidate: Candidate<'_>) -> Support;

    /// The activation function may stand between a product and the rounding of the product's output.
    fn absorbs(&self, product: Candidate<'_>, activation: OpId) -> bool;

    /// The bias is stored as int32 with the product of the scales; otherwise it stays float.
    fn quantizes_bias(&self) -> bool;

    /// All inputs and outputs of such an operator must share one scale.
    fn unifies(&self, candidate: Candidate<'_>) -> bool;
}

/// Every target, in the order of `onnxq list targets`.
pub const TARGETS: &[&dyn Target] = &[&OrtCpu];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static dyn Target> {
    TARGETS.iter().copied().find(|target| target.name() == name)
}
