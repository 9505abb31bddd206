//! One weight through a data-free quantizer.

use anyhow::{Result, bail};
use passes::quantize::low_bit::Coded;
use quant::weight::hqq::{hqq, hqq_rounded};
use quant::weight::kquant::{Kind, kquant};
use quant::weight::nf4::{Scale, Table, nf4};
use quant::weight::rtn::rtn;
use quant::weight::rtn_search::rtn_search;
use quant::weight::{Bits, Spec, Weight};

use super::options::WeightMethod;

/// How one weight is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How its codes are chosen.
    pub method: WeightMethod,
    /// Its grid, for methods with integer zero points.
    pub spec: Spec,
    /// Which K-quant, for K-quants.
    pub kind: Kind,
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
        Ok(match self.method {
            WeightMethod::Rtn => Coded::Uniform(rtn(weight, &self.spec)?),
            WeightMethod::RtnSearch | WeightMethod::Gptq | WeightMethod::Awq | WeightMethod::AwqGptq => {
                Coded::Uniform(rtn_search(weight, &self.spec, importance)?)
            }
            WeightMethod::Hqq => Coded::Uniform(hqq_rounded(weight, &self.spec)?),
            WeightMethod::HqqAffine => Coded::Affine(hqq(weight, &self.spec)?),
            WeightMethod::Nf4 => table(Table::Nf4)?,
            WeightMethod::Fp4 => table(Table::Fp4)?,
            WeightMethod::Kquant => Coded::Affine(kquant(weight, self.kind, importance)?),
        })
    }
}
