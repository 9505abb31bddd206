//! One weight through a data-free quantizer.

use anyhow::{Result, bail};
use passes::quantize::low_bit::Coded;
use quant::weight::double::{double_affine, double_scaled};
use quant::weight::hqq::{hqq, hqq_rounded};
use quant::weight::kmix::{Mix, Role};
use quant::weight::kquant::{Kind, kquant};
use quant::weight::nf4::{Scale, Table, nf4};
use quant::weight::outliers::split;
use quant::weight::rtn::rtn;
use quant::weight::rtn_search::rtn_search;
use quant::weight::{Bits, Spec, Weight};

use super::options::{LowBitOptions, WeightMethod};

/// How one weight is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How its codes are chosen.
    pub method: WeightMethod,
    /// Its grid, for methods with integer zero points.
    pub spec: Spec,
    /// Which K-quant, for K-quants.
    pub kind: Kind,
    /// Scales of eight bits.
    pub double: bool,
    /// Why this width.
    pub why: Why,
}

/// Why a weight got its width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// What was asked for all.
    Asked,
    /// The pattern of this index.
    Pattern(usize),
    /// A mixture's rule for the `index`-th of `count` weights of this role.
    Mix {
        /// The mixture.
        mix: Mix,
        /// What the weight does.
        role: Role,
        /// Its place among those of its role.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The budget: of `choices`, this one; its share of the whole loss.
    Budget {
        /// What the weight does.
        role: Role,
        /// Relative error of its output, squared.
        loss: f64,
        /// How many ways to store it there were.
        choices: usize,
    },
}

impl Why {
    /// In words.
    pub fn told(self, options: &LowBitOptions) -> String {
        let role = |role: Role| match role {
            Role::Head => "head",
            Role::Embedding => "embedding",
            Role::Value => "value projection",
            Role::Down => "down projection",
            Role::AttentionOutput => "attention output",
            Role::Other => "other",
        };
        match self {
            Why::Asked => "asked".into(),
            Why::Pattern(at) => {
                format!("--widths {}", options.widths.get(at).map_or("", |(pattern, _)| pattern))
            }
            Why::Mix { mix, role: what, index, count } => {
                format!("{mix}: {} {} of {count}", role(what), index + 1)
            }
            Why::Budget { role: what, loss, choices } => {
                format!("budget: {}, relative error {:.4}, best of {choices}", role(what), loss.sqrt())
            }
        }
    }
}

/// The K-quant of a width.
pub fn kind(bits: u8) -> Result<Kind> {
    Ok(match bits {
        2 => Kind::Q2K,
        3 => Kind::Q3K,
        4 => Kind::Q4K,
        5 => Kind::Q5K,
        6 => Kind::Q6K,
        _ => bail!("K-quants have 2 to 6 bits, not {bits}"),
    })
}

/// The width of codes.
pub fn width(bits: u8) -> Result<Bits> {
    Ok(Bits::try_from(bits)?)
}

impl Choice {
    /// Quantizes without data. Calibrated methods round to the best grid of each block; `importance` weighs columns.
    pub fn data_free(&self, weight: &Weight<'_>, importance: Option<&[f32]>) -> Result<Coded> {
        let block = self.spec.block.columns(weight.cols())?;
        let table = |table| nf4(weight, table, block, Scale::Searched, false).map(Coded::Table);
        let coded = match self.method {
            WeightMethod::Rtn => Coded::Uniform(rtn(weight, &self.spec)?),
            WeightMethod::RtnSearch | WeightMethod::Gptq | WeightMethod::Awq | WeightMethod::AwqGptq => {
                Coded::Uniform(rtn_search(weight, &self.spec, importance)?)
            }
            WeightMethod::Int8Outliers => Coded::Split(split(weight, &[], self.spec.scale)?),
            WeightMethod::Hqq => Coded::Uniform(hqq_rounded(weight, &self.spec)?),
            WeightMethod::HqqAffine => Coded::Affine(hqq(weight, &self.spec)?),
            WeightMethod::Nf4 => table(Table::Nf4)?,
            WeightMethod::Fp4 => table(Table::Fp4)?,
            WeightMethod::Kquant => Coded::Affine(kquant(weight, self.kind, importance)?),
        };
        Ok(match coded {
            Coded::Uniform(q) if self.double => Coded::Double(double_scaled(weight, &q, importance)?),
            Coded::Affine(q) if self.double => Coded::DoubleAffine(double_affine(weight, &q, importance)?),
            coded => coded,
        })
    }
}
