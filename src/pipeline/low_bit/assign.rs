//! Which weight gets which grid: the request, patterns, and what the runtime has.

use anyhow::{Context, Result, bail};
use globset::{Glob, GlobMatcher};
use ir::{DType, Model};
use passes::quantize::low_bit::{Kept, ProductForm, RowsForm, Site, adapt, roles};
use quant::weight::kmix::{Facts, Mix, Role, Stored};
use quant::weight::{Block, Spec, Zero};

use super::method::{Choice, Why, kind, width};
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
    let mixed = options.mix.map(|mix| Mixture::new(model, &sites, mix));
    let mut assigned = Vec::new();
    for (at, mut site) in sites.into_iter().enumerate() {
        let mut keep = |site: &Site, why: &str| {
            kept.push(Kept { name: site.name.clone(), elements: site.elements(), why: why.into() });
        };
        if exclude.iter_mut().fold(false, |any, pattern| pattern.fits(model, &site) | any) {
            keep(&site, "excluded");
            continue;
        }
        let dtype = site.tensor(model).map_or(DType::F32, ir::Tensor::dtype);
        let mut asked = None;
        for (index, (pattern, bits)) in widths.iter_mut().enumerate() {
            if pattern.fits(model, &site) {
                asked = Some((*bits, Why::Pattern(index)));
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
        if let (None, Some(mixed)) = (asked, &mixed) {
            assigned.push((mixed.choice(at, &site, dtype, options)?, site));
            continue;
        }
        let (bits, why) = match (asked, site.is_table(), site.is_product()) {
            (Some(asked), ..) => asked,
            (None, true, true) => (table_bits.unwrap_or(options.bits).max(options.bits), Why::Asked),
            (None, true, false) => (table_bits.unwrap_or(options.bits), Why::Asked),
            (None, false, _) => (options.bits, Why::Asked),
        };
        assigned.push((Choice { why, ..choice(&site, dtype, bits, options)? }, site));
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

/// Every product, before anything is chosen: for looking at what it reads.
pub fn all(model: &Model, sites: &[Site], options: &LowBitOptions) -> Result<Vec<(Site, Choice)>> {
    let products = sites.iter().filter(|site| site.is_product());
    products
        .map(|site| {
            let dtype = site.tensor(model).map_or(DType::F32, ir::Tensor::dtype);
            let mut site = site.clone();
            site.readers.retain(|reader| reader.is_product());
            let widest = options.profile.widths.last().map_or(8, |bits| bits.width() as u8);
            let plain = LowBitOptions { method: WeightMethod::RtnSearch, ..options.clone() };
            Ok((site.clone(), choice(&site, dtype, widest, &plain)?))
        })
        .collect()
}

/// The grid of one weight at a width.
pub fn choice(site: &Site, dtype: DType, bits: u8, options: &LowBitOptions) -> Result<Choice> {
    let profile = &options.profile;
    // Tables of values and offsets are for products; what also serves as an embedding has integer zero points.
    let method = match options.method {
        WeightMethod::Kquant
        | WeightMethod::Nf4
        | WeightMethod::Fp4
        | WeightMethod::HqqAffine
        | WeightMethod::Int8Outliers
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
    // ONNX Runtime 1.31 computes nonsense from computed scales where it rounds activations (accuracy_level 4), which is how
    // 8-bit codes are run; beside 8 bits small scales save little.
    let exact = options.accuracy != Some(4) && spec.bits != quant::weight::Bits::Eight;
    let double = options.small_scales && !site.is_table() && exact;
    Ok(Choice { method, spec, kind: k, double, why: Why::Asked })
}

/// A mixture's rules, and what each weight is to them.
struct Mixture {
    mix: Mix,
    facts: Facts,
    /// Role, place among those of the role, and their number.
    places: Vec<(Role, usize, usize)>,
}

impl Mixture {
    fn new(model: &Model, sites: &[Site], mix: Mix) -> Mixture {
        let (roles, heads_per_kv) = roles(model, sites);
        let count = |role: Role, sites: &[Role]| sites.iter().filter(|&&r| r == role).count();
        let places =
            (0..roles.len()).map(|at| (roles[at], count(roles[at], &roles[..at]), count(roles[at], &roles)));
        Mixture { mix, facts: Facts { heads_per_kv, experts: 0 }, places: places.collect() }
    }

    /// The rule's width; of those that the method and the runtime have, the next that is no smaller.
    fn choice(&self, at: usize, site: &Site, dtype: DType, options: &LowBitOptions) -> Result<Choice> {
        let (role, index, count) = self.places[at];
        let why = Why::Mix { mix: self.mix, role, index, count };
        let wanted = match self.mix.kind(role, index, count, self.facts) {
            Stored::EightBits => 8,
            Stored::K(kind) => kind.bits() as u8,
        };
        let kquant = options.method == WeightMethod::Kquant && !site.is_table();
        if kquant && wanted < 8 {
            return Ok(Choice { why, ..choice(site, dtype, wanted, options)? });
        }
        let options = match options.method {
            WeightMethod::Kquant => &LowBitOptions { method: WeightMethod::RtnSearch, ..options.clone() },
            _ => options,
        };
        let has = |bits: &u8| width(*bits).is_ok_and(|bits| options.profile.stores(bits).is_some());
        let bits = [2, 3, 4, 8].into_iter().filter(|&bits| bits >= wanted).find(has);
        let Some(bits) = bits else {
            bail!("{} has no weights of {wanted} bits or more for {:?}", options.profile.name, site.name)
        };
        Ok(Choice { why, ..choice(site, dtype, bits, options)? })
    }
}
