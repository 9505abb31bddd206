//! Which weight gets which grid: the request, patterns, and what the runtime has.

use anyhow::{Context, Result, bail};
use globset::{Glob, GlobMatcher};
use ir::{DType, Model};
use passes::quantize::low_bit::{Kept, ProductForm, RowsForm, Site, adapt};
use quant::weight::{Block, Spec, Zero};

use super::method::{Choice, kind, width};
use super::options::{LowBitOptions, WeightMethod};

/// A pattern over names of weights and operators.
struct Pattern<'a> {
    text: &'a str,
    glob: GlobMatcher,
    used: bool,
}

impl<'a> Pattern<'a> {
    fn new(text: &'a str) -> Result<Pattern<'a>> {
        let glob = Glob::new(text).with_context(|| format!("pattern {text:?}"))?.compile_matcher();
        Ok(Pattern { text, glob, used: false })
    }

    fn fits(&mut self, model: &Model, site: &Site) -> bool {
        let copies =
            site.copies.iter().map(|&(graph, value)| model.graph(graph).value(value).name().to_string());
        let readers = site.readers.iter().flat_map(|reader| {
            let graph = model.graph(reader.graph);
            let output = graph.output(reader.op, 0).map(|value| graph.value(value).name().to_string());
            output.into_iter().chain([graph.op(reader.op).name.clone()])
        });
        let fits =
            [site.name.clone()].into_iter().chain(copies).chain(readers).any(|name| self.glob.is_match(name));
        self.used |= fits;
        fits
    }
}

/// The weights to quantize, each with its grid; what stays float goes to `kept`.
pub fn assign(
    model: &Model,
    sites: Vec<Site>,
    kept: &mut Vec<Kept>,
    options: &LowBitOptions,
) -> Result<Vec<(Site, Choice)>> {
    let mut exclude = options.exclude.iter().map(|p| Pattern::new(p)).collect::<Result<Vec<_>>>()?;
    let mut widths = options
        .widths
        .iter()
        .map(|(pattern, bits)| Ok((Pattern::new(pattern)?, *bits)))
        .collect::<Result<Vec<_>>>()?;
    let mut assigned = Vec::new();
    for mut site in sites {
        let mut keep = |site: &Site, why: &str| {
            kept.push(Kept { name: site.name.clone(), elements: site.elements(), why: why.into() });
        };
        if exclude.iter_mut().fold(false, |any, pattern| pattern.fits(model, &site) | any) {
            keep(&site, "excluded");
            continue;
        }
        let dtype = site.tensor(model).map_or(DType::F32, ir::Tensor::dtype);
        let mut asked = None;
        for (pattern, bits) in &mut widths {
            if pattern.fits(model, &site) {
                asked = Some(*bits);
            }
        }
        let floats = options.profile.rows == RowsForm::Float;
        let table_bits = options.table_bits.filter(|_| !floats);
        if site.is_table() && table_bits.is_none() {
            let why =
                if floats { "the runtime has no quantized embeddings" } else { "embeddings stay float" };
            keep(&site, why);
            // A head that is tied to it gets codes of its own.
            site.readers.retain(|reader| reader.is_product());
            if site.readers.is_empty() {
                continue;
            }
        }
        let bits = match (asked, site.is_table(), site.is_product()) {
            (Some(bits), ..) => bits,
            (None, true, true) => table_bits.unwrap_or(options.bits).max(options.bits),
            (None, true, false) => table_bits.unwrap_or(options.bits),
            (None, false, _) => options.bits,
        };
        assigned.push((choice(&site, dtype, bits, options)?, site));
    }
    for pattern in exclude.iter().chain(widths.iter().map(|(pattern, _)| pattern)) {
        if !pattern.used {
            bail!(
                "{:?} matches no weight that can be quantized; names are listed by `onnxq inspect`",
                pattern.text
            );
        }
    }
    Ok(assigned.into_iter().map(|(choice, site)| (site, choice)).collect())
}

/// The grid of one weight at a width.
pub fn choice(site: &Site, dtype: DType, bits: u8, options: &LowBitOptions) -> Result<Choice> {
    let profile = &options.profile;
    // Tables of values and offsets are for products; what also serves as an embedding has integer zero points.
    let method = match options.method {
        WeightMethod::Kquant | WeightMethod::Nf4 | WeightMethod::Fp4 | WeightMethod::HqqAffine
            if site.is_table() =>
        {
            WeightMethod::RtnSearch
        }
        method => method,
    };
    let k = if method == WeightMethod::Kquant { kind(bits)? } else { quant::weight::kquant::Kind::Q4K };
    let codes = match method {
        WeightMethod::Kquant => match k.bits() {
            2 => 2,
            3 | 4 => 4,
            _ => 8,
        },
        _ => bits,
    };
    let bits = width(codes)?;
    if profile.stores(bits).is_none() {
        bail!(
            "{} has no weights of {} bits for {:?}; it has {}",
            profile.name,
            bits.width(),
            site.name,
            profile.widths_told()
        );
    }
    let block = if options.block == 0 { Block::Row } else { Block::Columns(options.block) };
    let zero = if options.symmetric { Zero::Center } else { Zero::PerBlock };
    let spec = Spec { bits, block, zero, scale: quant::round::ScaleType::F32 };
    let spec = adapt(profile, spec, site.cols, dtype);
    let blocks = matches!(profile.product, ProductForm::NBits) && options.block != 0;
    if blocks && !(options.block.is_multiple_of(16)) {
        bail!("--block must be a multiple of 16, or 0 for one scale a row; found {}", options.block);
    }
    Ok(Choice { method, spec, kind: k })
}
