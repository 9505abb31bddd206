//! The plan: for every operator whether it computes on integers, for every value and weight to which grid it is rounded,
//! in which group, and why. A plan is data: it prints, it is saved and given back, mixed precision edits it, every
//! emitter reads it.
//!
//! Everything is keyed by value name. An operator goes by the name of its first output, which is unique where node names
//! need not be.

use std::collections::BTreeMap;
use std::fmt;

use quant::{Grid, Params};
use serde::{Deserialize, Serialize};

/// How an operator computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As in the original model.
    Float,
    /// 8-bit activations and 8-bit weights.
    Int8,
    /// 16-bit activations and 8-bit weights.
    A16w8,
    /// Float activations and 8-bit weights.
    W8,
    /// Float activations and 4-bit weights, a scale for every block of a sum.
    W4,
    /// Weights stored in half precision, computed in float32.
    Fp16,
    /// Float8 activations and weights.
    Fp8,
    /// 8-bit weights, and activations that are rounded to 8 bits when the model runs, each to its own range.
    Dynamic,
}

impl Precision {
    /// Activations are rounded to ranges known ahead of time.
    pub fn is_static(self) -> bool {
        matches!(self, Precision::Int8 | Precision::A16w8 | Precision::Fp8)
    }

    /// Every precision with the name that users type.
    pub const ALL: &'static [(Precision, &'static str)] = &[
        (Precision::Float, "float"),
        (Precision::Int8, "int8"),
        (Precision::A16w8, "a16w8"),
        (Precision::W8, "w8"),
        (Precision::W4, "w4"),
        (Precision::Fp16, "fp16"),
        (Precision::Fp8, "fp8"),
        (Precision::Dynamic, "dynamic"),
    ];

    /// Only the weights are stored otherwise: computed in float.
    pub fn is_storage(self) -> bool {
        matches!(self, Precision::W8 | Precision::W4 | Precision::Fp16)
    }

    /// The name that users type.
    pub fn name(self) -> &'static str {
        Precision::ALL.iter().find(|(precision, _)| *precision == self).map_or("float", |(_, name)| name)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of kernel a target is expected to run for an operator of the emitted model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Computes on the codes.
    Integer,
    /// Only moves codes: no work at all beside the copy.
    Moves,
    /// Computes in float.
    Float,
    /// The target cannot load the operator in this form.
    Fails,
}

/// The decision about one operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpPlan {
    /// Name of the node; may be empty.
    pub node: String,
    /// The operator's type.
    pub kind: String,
    /// How it computes.
    pub precision: Precision,
    /// What the target is expected to run.
    pub kernel: Kernel,
    /// Operators of one group change precision together.
    pub group: usize,
    /// Why.
    pub reason: String,
    /// Multiplications of one run, where the shapes are known; dimensions that the data decide count as 1.
    pub macs: u64,
}

/// The decision about one activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValuePlan {
    /// The codes.
    pub grid: Grid,
    /// Values of one class share scale and zero point.
    pub class: usize,
    /// The real range that the codes cover, before zero was included; filled by calibration.
    pub range: Option<(f32, f32)>,
    /// Scale and zero point; filled by calibration.
    pub params: Option<Params>,
    /// Where the range comes from: a method's name, `fixed`, `constant`, or `user`.
    pub source: String,
    /// Expected signal to quantization noise, in dB; filled by calibration.
    pub sqnr_db: Option<f64>,
    /// Share of the calibration elements beyond the range; filled by calibration.
    pub clipped: Option<f64>,
    /// Which operator asked for it.
    pub reason: String,
}

/// A value on a second grid, for readers of another precision than what the value is rounded to first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    /// The operators that read it so.
    pub readers: Vec<String>,
    /// The second grid; its class is of its own.
    pub to: ValuePlan,
}

/// The decision about one use of a constant as a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightPlan {
    /// The constant.
    pub value: String,
    /// Input slot of the operator.
    pub slot: usize,
    /// The codes.
    pub grid: Grid,
    /// The axis along which scales differ; none for one scale.
    pub axis: Option<usize>,
    /// Elements a scale along `axis`; none for one scale an index.
    pub block: Option<usize>,
    /// Scale of each channel or block times the one that the range of the weight alone would give; empty means 1. Set by
    /// accuracy passes and by the bias.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scale_factors: Vec<f32>,
}

/// How a bias is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiasPlan {
    /// The constant.
    pub value: String,
    /// Input slot of the operator.
    pub slot: usize,
    /// The slots whose scales multiply to the bias's.
    pub data_slot: usize,
    /// See `data_slot`.
    pub weight_slot: usize,
}

/// The whole plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantPlan {
    /// The target's name.
    pub target: String,
    /// Operators by the name of their first output, in the order of the model.
    pub ops: BTreeMap<String, OpPlan>,
    /// Quantized activations by name.
    pub values: BTreeMap<String, ValuePlan>,
    /// Activations that readers of several precisions share: from the grid in `values` to further ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conversions: BTreeMap<String, Vec<Conversion>>,
    /// Quantized weights by the operator that reads them.
    pub weights: BTreeMap<String, Vec<WeightPlan>>,
    /// Quantized biases by the operator that adds them.
    pub biases: BTreeMap<String, BiasPlan>,
    /// The balance with which channels were equalized before the plan was made, if they were: it says how
    /// [`crate::equalize_channels`] makes the model that the ranges are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equalized: Option<f64>,
}

impl QuantPlan {
    /// Share of the multiplications that run on integers; none if nothing multiplies.
    pub fn integer_share(&self) -> Option<f64> {
        let total: u64 = self.ops.values().map(|op| op.macs).sum();
        let integer: u64 =
            self.ops.values().filter(|op| op.kernel == Kernel::Integer).map(|op| op.macs).sum();
        (total > 0).then(|| integer as f64 / total as f64)
    }

    /// The members of each class of values that share their parameters.
    pub fn classes(&self) -> BTreeMap<usize, Vec<&str>> {
        let mut classes: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (name, value) in self.rounded() {
            classes.entry(value.class).or_default().push(name);
        }
        classes
    }

    /// Every grid of every activation; a value has one for each precision of its readers.
    pub fn rounded(&self) -> impl Iterator<Item = (&str, &ValuePlan)> {
        let converted = self
            .conversions
            .iter()
            .flat_map(|(name, list)| list.iter().map(move |conversion| (name.as_str(), &conversion.to)));
        self.values.iter().map(|(name, value)| (name.as_str(), value)).chain(converted)
    }

    /// See [`QuantPlan::rounded`].
    pub fn rounded_mut(&mut self) -> impl Iterator<Item = (&str, &mut ValuePlan)> {
        let converted = self.conversions.iter_mut().flat_map(|(name, list)| {
            list.iter_mut().map(move |conversion| (name.as_str(), &mut conversion.to))
        });
        self.values.iter_mut().map(|(name, value)| (name.as_str(), value)).chain(converted)
    }

    /// How an operator reads a value; none if it reads it in float.
    pub fn read_as(&self, value: &str, reader: &str) -> Option<&ValuePlan> {
        let conversions = self.conversions.get(value).into_iter().flatten();
        let own = conversions.filter(|conversion| conversion.readers.iter().any(|key| key == reader));
        own.map(|conversion| &conversion.to).next().or_else(|| self.values.get(value))
    }
}
