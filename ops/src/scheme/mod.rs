//! How an operator may be quantized: which slots hold activations, weights or a bias, and which only move data.
//!
//! A scheme says what is *possible* whatever the target; which kernels exist where is the targets' business
//! (`passes/src/target`). One file a family; [`scheme`] looks an operator up in their tables.

mod arithmetic;
mod movement;
mod normalize;
mod pointwise;
mod product;

pub use movement::joins_along;

use std::collections::HashMap;
use std::sync::OnceLock;

use ir::{Graph, Op, OpId, ValueId};

pub use pointwise::is_pointwise;

/// What one slot of an operator holds, as far as quantization is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// Never quantized: sizes, indices, parameters that need float.
    Keep,
    /// An activation: one scale for the tensor.
    Data,
    /// A weight if it is constant, an activation if it is not.
    Weight {
        /// The axis of the output channels, along which scales may differ; none if there is no such axis.
        channel: Option<usize>,
        /// The axis that is summed over, along which low-bit blocks run.
        depth: Option<usize>,
    },
    /// Added to the accumulator of a product: int32 with the scale of data times weight.
    Bias,
    /// An output that holds elements of this input and nothing else: the same scale serves both.
    Moves(usize),
    /// An output whose range follows from the operator, whatever the data.
    Fixed(f32, f32),
}

/// What kind of work an operator does on quantized data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Sums of products of data and weights: where integers pay.
    Product,
    /// Computes new numbers from its inputs.
    Arithmetic,
    /// Only moves elements, or picks among them.
    Movement,
    /// Picks rows of a constant table: an embedding. The table is a weight that nothing is multiplied with.
    Lookup,
}

/// How one operator may be quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// The kind of work.
    pub work: Work,
    /// Role of each input slot; slots beyond the end are [`Role::Keep`].
    pub inputs: Vec<Role>,
    /// Role of each output slot; slots beyond the end are [`Role::Keep`].
    pub outputs: Vec<Role>,
    /// What the bias is divided by beside data and weight scale (`beta` of Gemm); 1 for most.
    pub bias_factor: f32,
}

impl Scheme {
    fn new(work: Work, inputs: Vec<Role>, outputs: Vec<Role>) -> Scheme {
        Scheme { work, inputs, outputs, bias_factor: 1.0 }
    }

    /// Role of an input slot.
    pub fn input(&self, slot: usize) -> Role {
        self.inputs.get(slot).copied().unwrap_or(Role::Keep)
    }

    /// Role of an output slot.
    pub fn output(&self, slot: usize) -> Role {
        self.outputs.get(slot).copied().unwrap_or(Role::Keep)
    }
}

/// What a scheme may depend on: attributes, ranks, and which inputs are constant.
#[derive(Clone, Copy)]
pub struct SchemeCx<'a> {
    graph: &'a Graph,
    id: OpId,
}

impl<'a> SchemeCx<'a> {
    fn op(&self) -> &'a Op {
        self.graph.op(self.id)
    }

    fn input(&self, slot: usize) -> Option<ValueId> {
        self.graph.input(self.id, slot)
    }

    fn is_constant(&self, slot: usize) -> bool {
        self.input(slot).is_some_and(|value| self.graph.constant(value).is_some())
    }

    fn rank(&self, slot: usize) -> Option<usize> {
        self.input(slot).and_then(|value| self.graph.value(value).shape()).map(|shape| shape.rank())
    }

    fn input_count(&self) -> usize {
        self.op().input_count()
    }

    fn output_count(&self) -> usize {
        self.op().output_count()
    }
}

/// The scheme of an operator of this kind; none if its form does not allow one.
type Make = fn(SchemeCx<'_>) -> Option<Scheme>;

/// Domain and name of an operator, and its scheme.
type Rule = (&'static str, &'static str, Make);

const TABLES: &[&[Rule]] = &[product::RULES, arithmetic::RULES, movement::RULES, normalize::RULES];

/// How the operator may be quantized; none if nothing is known or its form does not allow it.
pub fn scheme(graph: &Graph, op: OpId) -> Option<Scheme> {
    let key = graph.op(op).kind.key();
    let make = rules().get(&key)?;
    make(SchemeCx { graph, id: op })
}

/// By domain and name: plans ask for every operator many times.
fn rules() -> &'static HashMap<(&'static str, &'static str), Make> {
    static RULES: OnceLock<HashMap<(&'static str, &'static str), Make>> = OnceLock::new();
    let entries = || TABLES.iter().copied().flatten().map(|&(domain, name, make)| ((domain, name), make));
    RULES.get_or_init(|| entries().collect())
}

/// Operators with a scheme, for lists and documentation.
pub fn schemed() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES.iter().copied().flatten().map(|&(domain, name, _)| (domain, name))
}
