//! Decides which operators compute on integers and which values are rounded, before anything is measured.
//!
//! 1. *Products* (convolutions, matrix products with a constant weight) that the target runs on integers are chosen: that
//!    is where integers pay. Their inputs are rounded, and their outputs where the kernel can only write codes.
//! 2. *Arithmetic* between them (a residual add, a pool, a sigmoid) is chosen if every input comes rounded anyway and some
//!    reader takes the output rounded. Around anything else a pair of roundings costs time and accuracy for nothing.
//! 3. *Movement* is chosen where codes arrive and codes are wanted; input and output then share one scale, so the rounding
//!    after it disappears.
//!
//! An activation function that the target absorbs into the product before it stands between the product and the rounding.
//! Everything else stays float, each with its reason.

mod classify;
mod settle;
mod write;

use std::collections::BTreeMap;

use ir::{DType, Graph, Model, OpId, Role as Origin, ValueId};
use ops::{Role, Scheme, Work};
use quant::{CodeType, Grid};

pub use super::keys::key_of;
pub(in crate::quantize) use classify::finite;
pub(in crate::quantize) use write::quantize_weights;

use super::plan::{Precision, QuantPlan};
use crate::target::{Support, Target};

/// What the user asks for.
pub struct Choices<'a> {
    /// The target.
    pub target: &'a dyn Target,
    /// The precision of operators that are quantized at all.
    pub precision: Precision,
    /// Precisions of single operators, by the name of the first output: these win. Where operators of two precisions meet,
    /// the value between them is converted.
    pub overrides: BTreeMap<String, Precision>,
    /// One scale a weight instead of one a channel.
    pub per_tensor: bool,
    /// Products of two activations too.
    pub computed_products: bool,
    /// Weights are not searched for NaN and infinity, which takes time where they are large: what has such weights is chosen,
    /// too.
    pub any_weights: bool,
    /// No range is known ahead of time: data are rounded when the model runs, or not at all.
    pub dynamic: bool,
    /// The grid of activations instead of the target's own.
    pub activation: Option<Grid>,
    /// The grid of weights instead of the target's own.
    pub weight: Option<Grid>,
}

impl<'a> Choices<'a> {
    /// The target's own choices, with ranges known ahead of time.
    pub fn new(target: &'a dyn Target) -> Choices<'a> {
        Choices {
            target,
            precision: Precision::Int8,
            overrides: BTreeMap::new(),
            per_tensor: false,
            computed_products: false,
            any_weights: false,
            dynamic: false,
            activation: None,
            weight: None,
        }
    }

    /// The precision that an operator has if it is quantized with ranges known ahead of time.
    fn precision_of(&self, key: &str) -> Precision {
        self.overrides.get(key).copied().filter(|asked| asked.is_static()).unwrap_or(self.precision)
    }

    /// The grid of the activations of a precision.
    fn activation_grid(&self, precision: Precision) -> Grid {
        if let Some(grid) = self.activation.filter(|_| precision == self.precision) {
            return grid;
        }
        let grid = self.target.activation_grid();
        match precision {
            Precision::A16w8 if grid.code.is_signed() => Grid { code: CodeType::I16, ..grid },
            Precision::A16w8 => Grid { code: CodeType::U16, ..grid },
            Precision::Fp8 => Grid::symmetric(CodeType::F8E4M3FN),
            _ => grid,
        }
    }

    /// The grid of the weights of a precision. 8-bit weights are the same beside activations of 8 and of 16 bits.
    fn weight_grid(&self, precision: Precision) -> Grid {
        let alike = (precision == Precision::Fp8) == (self.precision == Precision::Fp8);
        match self.weight.filter(|_| alike) {
            Some(grid) => grid,
            None if precision == Precision::Fp8 => Grid::symmetric(CodeType::F8E4M3FN),
            None => self.target.weight_grid(),
        }
    }
}

/// What is known of one operator while choosing.
struct Node<'a> {
    id: OpId,
    key: String,
    /// What it has if it is chosen.
    precision: Precision,
    scheme: Option<Scheme>,
    support: Support,
    /// Input slots that are rounded if the operator is chosen.
    slots: Vec<usize>,
    /// Chosen whatever its neighbours do.
    insists: bool,
    chosen: bool,
    reason: String,
    graph: &'a Graph,
}

impl Node<'_> {
    fn rounded(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.slots.iter().filter_map(|&slot| self.graph.input(self.id, slot))
    }

    fn data_inputs(&self) -> Vec<ValueId> {
        self.rounded().filter(|&value| self.graph.constant(value).is_none()).collect()
    }

    /// Constants that stand where activations may: rounded like these. Weights have a plan of their own.
    fn constant_operands(&self) -> Vec<ValueId> {
        match &self.scheme {
            Some(scheme) if !matches!(scheme.work, Work::Product | Work::Lookup) => self
                .rounded()
                .filter(|&value| self.graph.constant(value).is_some_and(|t| t.dtype() == DType::F32))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn outputs(&self) -> Vec<(usize, ValueId)> {
        let Some(scheme) = &self.scheme else { return Vec::new() };
        let outputs = self.graph.op_outputs(self.id).into_iter().enumerate();
        outputs
            .filter(|(slot, _)| scheme.output(*slot) != Role::Keep)
            .filter_map(|(slot, v)| Some((slot, v?)))
            .collect()
    }
}

/// Makes the plan. Ranges, scales and zero points are empty: see [`super::fit`].
pub fn choose(model: &Model, choices: &Choices<'_>) -> QuantPlan {
    let graph = model.main();
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let mut nodes: BTreeMap<OpId, Node<'_>> =
        schedule.iter().map(|&id| (id, classify::classify(graph, id, choices))).collect();
    let absorbed = settle::absorb(graph, &schedule, &nodes, choices.target);
    // A function within another operator's kernel takes and gives no codes of its own.
    for function in absorbed.values() {
        if let Some(node) = nodes.get_mut(function) {
            node.chosen = false;
        }
    }
    let needs = settle::settle(graph, &schedule, &mut nodes, &absorbed);
    let (mut plan, mut groups) = write::write(graph, &schedule, &nodes, &absorbed, &needs, choices);
    super::dynamic::choose(&mut plan, model, choices, &mut groups);
    plan
}

/// The value is a graph input or computed: something calibration can see.
pub fn is_observable(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.value(value).role(), Origin::Input | Origin::Computed)
}
