//! The JSON twin of the report. Every number of the page is here, under the names below; the page is drawn from nothing else.
//! `schema.json` beside this file says the same as JSON Schema (`tests/report.rs` makes it of these declarations).
//!
//! `schema` counts up when a key changes its meaning or goes; new keys may come at any time. Decibels are of signal to
//! noise (SQNR): 20 dB is an error of a tenth of the signal, 40 dB of a hundredth; 200 stands for no error at all and
//! -200 for a result that is not finite. Sizes are bytes. What was not measured is null or empty, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the stored form.
pub const SCHEMA: u32 = 1;

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program and its version.
    pub program: String,
    /// The model's file name.
    pub model: String,
    /// What the file was made for.
    pub target: String,
    /// What to think of the result.
    pub verdict: Verdict,
    /// The file before and after.
    pub size: Size,
    /// Share of the multiplications that run on integers, 0 to 1.
    pub integer_share: Option<f64>,
    /// Float against quantized, for each runtime and output.
    pub outputs: Vec<Output>,
    /// Task accuracy, where labels were given.
    pub metric: Option<Metric>,
    /// What was asked for.
    pub budgets: Vec<Budget>,
    /// The best plans found, smallest first.
    pub front: Vec<Point>,
    /// Operators in the order of execution.
    pub layers: Vec<Layer>,
    /// Rounded activations by name.
    pub values: Vec<Value>,
    /// Bytes of constants by element type.
    pub weights: Vec<TypeSize>,
    /// Weights that were stored in few bits by `--mode weight-only`, in the order of the model.
    #[serde(default)]
    pub stored: Vec<Stored>,
    /// What stayed in float, by reason.
    pub kept: Vec<Kept>,
    /// Whether the calibration data were enough.
    pub coverage: Option<Coverage>,
    /// How it was made: name and value, in order.
    pub settings: Vec<(String, String)>,
    /// SHA-256 fingerprints: of what, and the digits.
    pub hashes: Vec<(String, String)>,
    /// The command that makes it again.
    pub command: String,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// What to think of the result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Good, fair or poor; unknown where nothing was measured.
    pub level: Level,
    /// One sentence.
    pub headline: String,
    /// What it rests on, a sentence each.
    pub because: Vec<String>,
}

/// See [`Verdict::level`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Close to float.
    Good,
    /// Look at it before using it.
    Fair,
    /// A stated bar was missed, or the outputs are far off.
    Poor,
    /// Nothing was measured, or only on made-up data.
    #[default]
    Unknown,
}

/// The file before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Bytes of the input file.
    pub before: u64,
    /// Bytes of the written file; none if none was written.
    pub after: Option<u64>,
}

/// Float against quantized at one output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Runtime, version and level.
    pub runtime: String,
    /// Name of the output.
    pub name: String,
    /// Samples compared.
    pub samples: usize,
    /// Signal to noise in dB.
    pub sqnr_db: f64,
    /// Cosine of the angle between the two.
    pub cosine: f64,
    /// Greatest absolute difference.
    pub max_abs: f64,
    /// Mean Kullback-Leibler divergence of the softmax, in nats.
    pub kl: f64,
    /// Share of rows with the same first choice, 0 to 1.
    pub top1_agreement: Option<f64>,
}

/// Task accuracy on labelled samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What it is, for example `top-1`.
    pub name: String,
    /// Of the float model, 0 to 1.
    pub float: f64,
    /// Of the quantized model, 0 to 1.
    pub quantized: f64,
    /// Labelled samples.
    pub samples: usize,
}

/// One thing that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The flag, for example `--max-size 0.3x`.
    pub asked: String,
    /// What was reached, in words.
    pub reached: String,
    /// It holds.
    pub met: bool,
}

/// One plan of the Pareto front.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The cost whose front it is on: `size`, `bitops` or `latency`.
    pub axis: String,
    /// Predicted bytes of the file.
    pub bytes: u64,
    /// Multiplications times the bits of both operands.
    pub bitops: u64,
    /// Predicted time of one run in microseconds, where costs were measured.
    pub latency_us: Option<f64>,
    /// Predicted SQNR of the outputs in dB: the noise of the groups added up.
    pub predicted_db: f64,
    /// SQNR measured on held-back samples, where this plan was tried.
    pub measured_db: Option<f64>,
    /// Task accuracy measured on held-back samples, where this plan was tried.
    pub metric: Option<f64>,
    /// Groups by precision.
    pub counts: BTreeMap<String, usize>,
    /// Conversions between precisions.
    pub boundaries: usize,
    /// This plan was written.
    pub chosen: bool,
}

/// One operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Name of its first output, which is how plans refer to it.
    pub key: String,
    /// Name of the node; may be empty.
    pub node: String,
    /// Operator type.
    pub kind: String,
    /// Layers of one group switch precision together; the number of the group.
    pub group: usize,
    /// How it computes.
    pub precision: String,
    /// The kernel that the target is expected to run.
    pub kernel: String,
    /// Why it computes so.
    pub reason: String,
    /// Multiplications of one run.
    pub macs: u64,
    /// Bytes of its constants, before.
    pub bytes: u64,
    /// Positions of the layers whose results it reads.
    pub inputs: Vec<usize>,
    /// The layer's own result with only its group quantized, in dB (isolated).
    pub local_db: Option<f64>,
    /// The layer's own result with everything before it quantized too, in dB (accumulated).
    pub accumulated_db: Option<f64>,
    /// What each candidate precision of the group does to the model's outputs. Given at the first layer of a group only.
    pub candidates: Vec<Candidate>,
}

/// What one precision of one group does when all else is float.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The precision.
    pub precision: String,
    /// SQNR of the group's own outputs, in dB.
    pub local_db: f64,
    /// SQNR of the model's outputs, in dB.
    pub global_db: f64,
    /// Lower end of the confidence interval of `global_db`.
    pub low_db: f64,
    /// Upper end of the confidence interval of `global_db`.
    pub high_db: f64,
    /// Cosine at the model's outputs.
    pub cosine: f64,
    /// Kullback-Leibler divergence at the model's outputs, in nats.
    pub kl: f64,
    /// Task accuracy, where labels were given.
    pub metric: Option<f64>,
    /// Samples that were run.
    pub samples: usize,
}

/// One rounded activation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Element type of the codes.
    pub code: String,
    /// The real range that the codes cover.
    pub range: Option<(f32, f32)>,
    /// Least and greatest number seen.
    pub extent: Option<(f32, f32)>,
    /// Where the range comes from: a method's name, `fixed`, `constant` or `user`.
    pub source: String,
    /// Share of the elements beyond the range, 0 to 1.
    pub clipped: Option<f64>,
    /// Expected SQNR of the rounding alone, in dB.
    pub sqnr_db: Option<f64>,
    /// Elements by number, in equal steps from the least to the greatest number seen.
    pub histogram: Vec<u64>,
    /// Who asked for it.
    pub reason: String,
}

/// Bytes of constants of one element type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeSize {
    /// Element type.
    pub dtype: String,
    /// Bytes in the input.
    pub before: u64,
    /// Bytes in the written file.
    pub after: u64,
}

/// One weight matrix, rows by columns, that is stored in few bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// The constant's name.
    pub name: String,
    /// Output channels, or rows of a table.
    pub rows: usize,
    /// Inputs, or the width of a table.
    pub columns: usize,
    /// How its codes were chosen.
    pub method: String,
    /// Width of the codes.
    pub bits: u32,
    /// Columns that share a scale; 0 for one scale a row.
    pub block: usize,
    /// Bits a weight with scales and zero points, as stored.
    pub bits_per_weight: f64,
    /// Bytes in the float model.
    pub before: u64,
    /// Bytes as stored.
    pub after: u64,
    /// Norm of the weight's error by the norm of the weight; none where columns were scaled first.
    pub error: Option<f64>,
    /// Norm of the error of what the layer computes by the norm of that, on the calibration samples; none where the method
    /// looks at no data.
    pub output_error: Option<f64>,
    /// Why it has this width.
    pub reason: String,
}

/// Operators that stayed in float for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Operator type.
    pub kind: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: usize,
    /// The first few, by name.
    pub names: Vec<String>,
}

/// Whether the calibration data were enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Samples that were run.
    pub samples: usize,
    /// The data were made up.
    pub random: bool,
    /// Values that were seen.
    pub values: usize,
    /// Samples until nine of ten ranges had settled.
    pub settled_after: Option<usize>,
    /// Values whose ranges differ most between two halves of the data: name and share.
    pub drift: Vec<(String, f64)>,
    /// Values that held NaN or infinity: name and how often.
    pub not_finite: Vec<(String, u64)>,
    /// Values that were never seen.
    pub never_seen: Vec<String>,
}
