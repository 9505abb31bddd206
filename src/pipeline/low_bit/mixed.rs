//! Widths for a size: how every weight could be stored, what each way loses, and the choice that loses least within the budget.
//!
//! What a way loses is the relative error of the layer's output, tr(ΔW·H·ΔWᵀ) / tr(W·H·Wᵀ); without data the columns' known
//! powers stand for H. Relative errors of layers that add to one stream count alike; the head stands behind all of them alone,
//! so its error counts as many times as there are layers that write to the stream. Sizes are those of the packed tensors. Under
//! a budget the blocks of integer grids are free too (unless --block is given): 4 bits in blocks of 128 lose less than 3 bits.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use ir::{DType, Model};
use passes::quantize::low_bit::{Packed, ProductForm, Site, find, pack, roles};
use quant::weight::Weight;
use quant::weight::budget::{BudgetError, Choice as Way, exact, greedy};
use quant::weight::gram::Gram;
use quant::weight::kmix::Role;
use quant::weight::loss::Loss;

use super::calibrated::observe;
use super::importance::Importance;
use super::method::{Choice, Why};
use super::options::{Budget, LowBitOptions, WeightMethod};
use super::{LEAST, Progress, view, wrong};
use crate::data::Source;

/// Rows of a weight that are tried: the error of a weight is a mean over its rows.
const ROWS: usize = 512;
/// Up to so many weights the integer program is solved exactly.
const EXACT: usize = 24;

/// No choice of widths is small enough.
#[derive(Debug)]
pub struct Infeasible {
    /// The request, in words.
    pub asked: String,
    /// What the smallest would take.
    pub least: String,
    /// What to ask for instead.
    pub hint: String,
}

impl std::fmt::Display for Infeasible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is too small: the smallest choice of widths {}; {}", self.asked, self.least, self.hint)
    }
}

impl std::error::Error for Infeasible {}

/// A way to store a weight.
struct Candidate {
    choice: Choice,
    way: Way,
    /// Relative error of the output, squared.
    loss: f64,
}

/// Gives every weight that no pattern fixes the width that the budget allows it.
pub fn solve(
    model: &Model,
    sites: &mut [(Site, Choice)],
    source: Option<&dyn Source>,
    options: &LowBitOptions,
    importance: &Importance,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let Some(budget) = options.budget else { return Ok(()) };
    let (roles, _) = roles(model, &sites.iter().map(|(site, _)| site.clone()).collect::<Vec<_>>());
    let writers = roles.iter().filter(|r| matches!(r, Role::AttentionOutput | Role::Down)).count();
    let weight = |role: Role| if role == Role::Head { 1.0 + writers as f64 } else { 1.0 };
    let mut all: Vec<Vec<Candidate>> = sites.iter().map(|_| Vec::new()).collect();
    if let Some(source) = source {
        let seen_sites: Vec<_> = sites.to_vec();
        observe(model, &seen_sites, source, options, progress, &mut |members, gram, _| {
            for &at in members {
                all[at] = candidates(model, &sites[at], options, Measure::Gram(gram), weight(roles[at]))?;
            }
            Ok(())
        })?;
    }
    for at in 0..sites.len() {
        progress("trying widths", at, sites.len());
        if all[at].is_empty() {
            let columns = importance.of(model, &sites[at].0)?;
            let measure = Measure::Columns(columns.as_deref());
            all[at] = candidates(model, &sites[at], options, measure, weight(roles[at]))?;
        }
    }
    progress("trying widths", sites.len(), sites.len());
    let elements: u64 = sites.iter().map(|(site, _)| site.elements() as u64).sum();
    let rest = rest_of_the_file(model, sites, &all)?;
    let allowed = match budget {
        Budget::Bits(bits) => quant::weight::budget::bytes_at(elements, bits)?,
        Budget::Bytes(bytes) => bytes.saturating_sub(rest),
    };
    let ways: Vec<Vec<Way>> = all.iter().map(|c| c.iter().map(|c| c.way).collect()).collect();
    let solved = if sites.len() <= EXACT { exact(&ways, allowed) } else { greedy(&ways, allowed) };
    let picks = match solved {
        Ok(found) => found.picks,
        Err(BudgetError::TooSmall { least, .. }) => {
            return Err(infeasible(budget, least, rest, elements).into());
        }
        Err(other) => return Err(other.into()),
    };
    for (at, pick) in picks.into_iter().enumerate() {
        let (choices, found) = (all[at].len(), &all[at][pick]);
        let fixed = matches!(sites[at].1.why, Why::Pattern(_));
        let why =
            if fixed { sites[at].1.why } else { Why::Budget { role: roles[at], loss: found.loss, choices } };
        sites[at].1 = Choice { why, ..found.choice };
    }
    Ok(())
}

fn infeasible(budget: Budget, least: u64, rest: u64, elements: u64) -> Infeasible {
    let bits = least as f64 * 8.0 / elements.max(1) as f64;
    // Rounded up, so that what is named works.
    let bits = (bits * 1000.0).ceil() / 1000.0;
    match budget {
        Budget::Bits(asked) => Infeasible {
            asked: format!("--target-bpw {asked}"),
            least: format!("takes {bits:.3} bits a weight"),
            hint: format!("the nearest that works is --target-bpw {bits:.3}"),
        },
        Budget::Bytes(asked) => Infeasible {
            asked: format!("--max-size {asked} bytes"),
            least: format!("takes {} bytes, {rest} of them for what is no weight", least + rest),
            hint: format!("the nearest that works is --max-size {}", least + rest),
        },
    }
}

/// Bytes of everything but the weights: nodes, names, what stays float, and the names and sizes of the new tensors.
fn rest_of_the_file(model: &Model, sites: &[(Site, Choice)], all: &[Vec<Candidate>]) -> Result<u64> {
    let mut stripped = model.clone();
    // A float embedding stays beside the codes of the head that is tied to it.
    let tables: BTreeSet<_> =
        find(model, LEAST).0.iter().filter(|s| s.is_table()).map(|s| (s.graph, s.value)).collect();
    for (site, _) in sites {
        let own =
            [(site.graph, site.value)].into_iter().filter(|own| site.is_table() || !tables.contains(own));
        for (graph, value) in own.chain(site.copies.iter().copied()) {
            let dtype = model.graph(graph).constant(value).map_or(DType::F32, ir::Tensor::dtype);
            let empty = ir::Tensor::new(dtype, &[0][..], Vec::new())?;
            stripped.graph_mut(graph).make_constant(value, empty);
        }
    }
    let made = proto::to_bytes_external(&stripped, "weights.data", &proto::External::default())?;
    let data = made.data.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
    // A weight becomes up to three tensors of its name, type and sizes, and each reader an operator that names them.
    let new =
        |site: &Site| (3 * (site.name.len() + 64) + site.readers.len() * (3 * site.name.len() + 256)) as u64;
    let beside: u64 = sites.iter().map(|(site, _)| new(site)).sum();
    // Offsets of a two-term form are tensors and operators of their own.
    let two = all
        .iter()
        .flatten()
        .any(|c| matches!(c.choice.method, WeightMethod::Kquant | WeightMethod::HqqAffine));
    // Scales of integers are two tensors and two operators instead of one tensor.
    let double = all.iter().flatten().any(|c| c.choice.double);
    let kinds = 1 + u64::from(two) + u64::from(double) * (1 + u64::from(two));
    Ok(made.model.len() as u64 + data + kinds * beside)
}

/// How errors are weighed.
#[derive(Clone, Copy)]
enum Measure<'a> {
    Gram(&'a Gram),
    Columns(Option<&'a [f32]>),
}

/// Every way that the method and the runtime have for a weight.
fn candidates(
    model: &Model,
    (site, now): &(Site, Choice),
    options: &LowBitOptions,
    measure: Measure<'_>,
    counts: f64,
) -> Result<Vec<Candidate>> {
    let dtype = site.tensor(model).map_or(DType::F32, ir::Tensor::dtype);
    let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
    let whole = view(site, &stored)?;
    let step = site.rows.div_ceil(ROWS).max(1);
    let rows = site.rows.div_ceil(step);
    let sampled = whole.sampled_rows(step).with_context(|| wrong(site))?;
    let weight = Weight::from_rows(&sampled[..], rows, site.cols)?;
    let part = Site { rows, ..site.clone() };
    let loss = match measure {
        Measure::Gram(gram) => Some(Loss::new(gram)),
        Measure::Columns(_) => None,
    };
    let importance = match measure {
        Measure::Gram(gram) => Some(gram.importance()),
        Measure::Columns(columns) => columns.map(<[f32]>::to_vec),
    };
    let energy = match (&loss, &importance) {
        (Some(loss), _) => loss.energy(&weight)?,
        (None, Some(columns)) => {
            let zero = vec![0.0; sampled.len()];
            weighted(&sampled, &zero, columns)
        }
        (None, None) => sampled.iter().map(|w| f64::from(*w).powi(2)).sum(),
    };
    let mut found = Vec::new();
    for choice in choices(site, dtype, now, options)? {
        let coded = choice.data_free(&weight, importance.as_deref()).with_context(|| wrong(site))?;
        let packed: Packed =
            pack(&part, dtype, &coded, &options.profile, None).with_context(|| wrong(site))?;
        // Rows are packed alike: in proportion, and exact where all were tried.
        let bytes = (packed.bytes() as u64 * site.rows as u64).div_ceil(rows as u64);
        let back = coded.dequantize();
        let lost = match (&loss, &importance) {
            (Some(loss), _) => loss.of(&weight, &back)?,
            (None, Some(columns)) => weighted(&sampled, &back, columns),
            (None, None) => sampled.iter().zip(&back).map(|(w, q)| f64::from(w - q).powi(2)).sum(),
        };
        let relative = if energy > 0.0 { lost / energy } else { 0.0 };
        ensure!(relative.is_finite(), "{:?}: the error of {choice:?} is no number", site.name);
        found.push(Candidate { choice, way: Way { bytes, loss: relative * counts }, loss: relative });
    }
    Ok(found)
}

fn weighted(weight: &[f32], back: &[f32], columns: &[f32]) -> f64 {
    let row = |(w, q): (&[f32], &[f32])| -> f64 {
        let terms = w.iter().zip(q).zip(columns);
        terms.map(|((w, q), c)| f64::from(w - q).powi(2) * f64::from(*c)).sum()
    };
    weight.chunks(columns.len().max(1)).zip(back.chunks(columns.len().max(1))).map(row).sum()
}

/// The widths and blocks that may be chosen for a weight; what a pattern fixed stays.
fn choices(site: &Site, dtype: DType, now: &Choice, options: &LowBitOptions) -> Result<Vec<Choice>> {
    if let Why::Pattern(_) = now.why {
        return Ok(vec![*now]);
    }
    let kquant = now.method == WeightMethod::Kquant;
    let table = matches!(now.method, WeightMethod::Nf4 | WeightMethod::Fp4);
    let nbits = options.profile.product == ProductForm::NBits;
    let widths: Vec<u8> = match () {
        () if kquant => vec![2, 3, 4, 5, 6],
        () if table => vec![4],
        () => {
            let widths = options.profile.widths.iter().map(|bits| bits.width() as u8);
            // Two bits raise the operator set of standard ONNX to 25, which few runtimes read: only on request.
            widths.filter(|&bits| bits > 2 || options.bits == 2 || nbits).collect()
        }
    };
    let blocks = match () {
        () if options.any_block && !kquant && options.profile.product != ProductForm::PerChannel => {
            vec![16, 32, 64, 128]
        }
        () => vec![options.block],
    };
    // Scales of 8 bits cost nothing when the model runs.
    let small = options.any_block && nbits && dtype == DType::F32 && now.method.has_small_scales();
    let scales = if small { &[true, false][..] } else { &[options.small_scales][..] };
    let mut found: Vec<Choice> = Vec::new();
    for bits in widths {
        for &block in &blocks {
            for &small_scales in scales {
                let asked = LowBitOptions { block, small_scales, ..options.clone() };
                // A width that this runtime lacks for this reader is no choice.
                let Ok(choice) = super::assign::choice(site, dtype, bits, &asked) else { continue };
                if !found.contains(&choice) {
                    found.push(choice);
                }
            }
        }
    }
    ensure!(!found.is_empty(), "{} has no width for {:?}", options.profile.name, site.name);
    Ok(found)
}
