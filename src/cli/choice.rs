//! What decides how each operator is quantized: arguments that `quantize` follows and `explain` shows.

use std::path::PathBuf;

use anyhow::{Context, Result};
use passes::quantize::Precision;

use super::common::target;
use crate::pipeline::quantize::{Cpu, Mode, QuantizeOptions, named_grid};
use crate::recipe::{self, Rules, named_precision};

/// See the module.
#[derive(clap::Args, Clone, Debug)]
pub struct ChoiceArgs {
    /// What is rounded ahead of time
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Take what is not given here from this recipe (TOML); its keys are the flags
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// The runtime that the file is for (`onnxq list targets`)
    #[arg(long, default_value = "ort-cpu")]
    pub target: String,
    /// Codes of activations: uint8, int8, uint16, int16, fp8; -symmetric behind it puts zero in the middle
    #[arg(long, value_name = "CODES")]
    activation: Option<String>,
    /// Codes of weights: int8, uint8, fp8; -asymmetric behind it gives a zero point
    #[arg(long, value_name = "CODES")]
    weight: Option<String>,
    /// Precision: int8, a16w8, fp8
    #[arg(long, default_value = "int8")]
    precision: String,
    /// One scale a weight instead of one a channel
    #[arg(long)]
    per_tensor: bool,
    /// The oldest x86 CPU that the model must be right on: without VNNI, 8-bit weights are kept from saturating
    #[arg(long, value_enum, default_value_t)]
    cpu: Cpu,
    /// Quantize only these operators: node names, value names or types; * and ? match
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    include: Vec<String>,
    /// Keep these operators in float: node names, value names or types; * and ? match
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub exclude: Vec<String>,
}

impl ChoiceArgs {
    /// What the arguments and the rules of the recipe ask; everything else is the default.
    ///
    /// # Errors
    /// A name that is none, or an unreadable recipe.
    pub fn options(&self) -> Result<QuantizeOptions> {
        let codes = |name: &Option<String>, flag: &str, weights| {
            let grid = name.as_deref().map(|name| named_grid(name, weights)).transpose();
            grid.with_context(|| format!("--{flag}"))
        };
        let activation = codes(&self.activation, "activation", false)?;
        let precision = match activation.map(|grid| grid.code) {
            Some(code) if code.is_float() => Precision::Fp8,
            Some(code) if code.bits() == 16 => Precision::A16w8,
            _ => named_precision(&self.precision)?,
        };
        Ok(QuantizeOptions {
            mode: self.mode,
            precision,
            activation,
            weight: codes(&self.weight, "weight", true)?,
            per_tensor: self.per_tensor,
            cpu: self.cpu,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            rules: match &self.recipe {
                Some(path) => {
                    Rules::parse(&recipe::read(path)?).with_context(|| path.display().to_string())?
                }
                None => Rules::default(),
            },
            ..QuantizeOptions::new(target(&self.target)?)
        })
    }
}
