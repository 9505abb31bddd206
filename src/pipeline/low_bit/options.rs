//! What to make of the weights, by the names that users type.

use std::path::PathBuf;

use passes::quantize::low_bit::Profile;
use quant::weight::gptq::GptqOptions;
use quant::weight::kmix::Mix;
use quant::weight::outliers::OutlierOptions;

use super::super::engine::EngineOptions;
use super::imatrix::Imatrix;

/// How the codes of a weight are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightMethod {
    /// Minimum and maximum of each block.
    Rtn,
    /// The scale and zero point of each block that lose least.
    #[default]
    RtnSearch,
    /// Half-quadratic zero points, rounded to integers.
    Hqq,
    /// Half-quadratic zero points as they are, in the two-term form.
    HqqAffine,
    /// The 16 values of a normal distribution's quantiles.
    Nf4,
    /// The 16 values of a 4-bit float.
    Fp4,
    /// Blocks in super-blocks with small scales (llama.cpp's K-quants), in the two-term form.
    Kquant,
    /// LLM.int8: int8 weights and activations, columns that meet outliers in float; needs data.
    Int8Outliers,
    /// Error feedback along the columns; needs data.
    Gptq,
    /// Columns scaled by how strong their inputs are, then rtn-search; needs data.
    Awq,
    /// Both; needs data.
    #[value(name = "awq+gptq")]
    #[serde(rename = "awq+gptq")]
    AwqGptq,
}

impl WeightMethod {
    /// Its scales may be integers times a step (`--scale-bits 8`).
    pub fn has_small_scales(self) -> bool {
        matches!(
            self,
            WeightMethod::Rtn
                | WeightMethod::RtnSearch
                | WeightMethod::Hqq
                | WeightMethod::HqqAffine
                | WeightMethod::Kquant
        )
    }

    /// Works from what the layers read on calibration samples.
    pub fn is_calibrated(self) -> bool {
        matches!(self, WeightMethod::Gptq | WeightMethod::Awq | WeightMethod::AwqGptq)
    }
}

/// What a calibrated weight is to reproduce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Its own product with what the quantized layers before give it.
    Own,
    /// What the float model computes there.
    Float,
    /// The same, and what the stream that its output is added to has lost so far.
    #[default]
    Residual,
}

/// Where calibrated methods differ.
#[derive(Clone, Debug)]
pub struct CalibratedOptions {
    /// What each weight is to reproduce.
    pub targets: Targets,
    /// Rows of activations that are looked at, at most.
    pub tokens: usize,
    /// Damping, order, sweeps.
    pub gptq: GptqOptions,
}

/// How big the weights may become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits a weight on average, everything that a weight needs counted.
    Bits(f64),
    /// Bytes of the model and its data.
    Bytes(u64),
}

/// What to make.
#[derive(Clone, Debug)]
pub struct LowBitOptions {
    /// How codes are chosen.
    pub method: WeightMethod,
    /// Width of the codes of products: 2, 3, 4, 8, and 5, 6 for K-quants.
    pub bits: u8,
    /// Columns of a block; 0 for one scale a row.
    pub block: usize,
    /// Under a budget the solver may choose among block sizes.
    pub any_block: bool,
    /// No zero points.
    pub symmetric: bool,
    /// Width of embedding tables; none leaves them float.
    pub table_bits: Option<u8>,
    /// The runtime.
    pub profile: Profile,
    /// `accuracy_level` of MatMulNBits; none for 4 (int8 activations) at 8 bits and the runtime's default otherwise.
    pub accuracy: Option<i64>,
    /// Weights that stay float: names of weights or operators, `*` and `?` allowed.
    pub exclude: Vec<String>,
    /// Widths of weights by pattern, the last that fits.
    pub widths: Vec<(String, u8)>,
    /// Which columns are outliers.
    pub outliers: OutlierOptions,
    /// Scales of eight bits, where data-free methods with integer zero points make them.
    pub small_scales: bool,
    /// llama.cpp's mixture of widths by role and depth.
    pub mix: Option<Mix>,
    /// Widths are chosen for this size.
    pub budget: Option<Budget>,
    /// Mean squares of the inputs of weights, by the weight's name.
    pub imatrix: Option<Imatrix>,
    /// Measure them on the calibration samples instead.
    pub observe: bool,
    /// For calibrated methods.
    pub calibrated: CalibratedOptions,
    /// Runtime for calibration.
    pub engine: EngineOptions,
    /// Where unfinished work is kept, for resuming; none keeps it in memory.
    pub work: Option<PathBuf>,
}
