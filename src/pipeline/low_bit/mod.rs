//! Weights of few bits: find them, choose grids, quantize one after the other, wire the model.
//!
//! Data-free methods look at one weight at a time. Every finished weight goes to the spool, a file that is mapped, so
//! the memory that a run needs is that of the largest weight, whatever the model's size; the spool is also what an
//! interrupted run resumes from.

mod assign;
mod calibrated;
mod groups;
pub mod imatrix;
mod importance;
mod layer;
mod method;
mod mixed;
pub mod options;
mod spool;
mod stream;

use anyhow::{Context, Result, bail};
use ir::{DType, Model};
use passes::quantize::low_bit::{
    Blocks, Coded, Kept, ProductForm, RowsForm, Site, already_coded, find, opsets, pack, wire,
};
use quant::weight::outliers::{choose_outliers, split};
use quant::weight::{Block, Weight};
use serde::{Deserialize, Serialize};

pub use imatrix::Imatrix;
pub use mixed::Infeasible;
pub use options::{Budget, CalibratedOptions, LowBitOptions, Targets, WeightMethod};

use self::importance::Importance;
use self::method::Choice;
use self::spool::{Finished, Spool};
use super::prepare::{converted, simplified};
use crate::data::Source;

/// Weights with fewer elements stay float: the file would not get smaller by anything that shows.
const LEAST: usize = 1024;

/// What is said about one quantized weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WeightReport {
    /// The constant's name.
    pub name: String,
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// How its codes were chosen.
    pub method: String,
    /// Width of the codes.
    pub bits: u32,
    /// Columns of a block, 0 for one scale a row.
    pub block: usize,
    /// Bits a weight with scales, zero points and offsets, as stored.
    pub bits_per_weight: f64,
    /// ‖W − Ŵ‖ / ‖W‖; none where columns were scaled first.
    pub relative_error: Option<f64>,
    /// Error of the layer's output on the calibration samples, relative to the output; calibrated methods only.
    pub output_error: Option<f64>,
    /// Of the change that would make up for the layers before, the part that rows that were held back bear out, 0 to 1;
    /// calibrated methods with --weight-targets float or residual only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_taken: Option<f64>,
    /// Why it has this width, and no column scales where they were asked for.
    #[serde(default)]
    pub why: String,
    /// What had to be done differently.
    pub notes: Vec<String>,
}

/// What was made.
pub struct LowBit {
    /// The model.
    pub model: Model,
    /// The simplified float model.
    pub float: Model,
    /// Quantized weights, in the order of the model.
    pub weights: Vec<WeightReport>,
    /// What looks like a weight and stays float.
    pub kept: Vec<Kept>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Mean squares of the inputs of weights, where they were asked for.
    pub imatrix: Option<Imatrix>,
    spool: Spool,
}

impl LowBit {
    /// Removes what was kept for resuming: the model is in its final place.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn finish(self) -> Result<()> {
        drop(self.model);
        self.spool.discard()
    }
}

/// Progress: what, done, all.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// Makes the model.
///
/// # Errors
/// The model cannot be simplified or has no such weights, a weight holds NaN, the runtime lacks the form, or a calibrated
/// method has no data; each with the weight and the next step.
pub fn low_bit(
    model: Model,
    source: Option<&dyn Source>,
    options: &LowBitOptions,
    progress: &mut Progress<'_>,
) -> Result<LowBit> {
    let needs_samples = options.method.is_calibrated() || options.method == WeightMethod::Int8Outliers;
    if needs_samples && source.is_none() {
        bail!(
            "{:?} needs calibration samples: give --data PATH, or --weight-method rtn-search",
            options.method
        );
    }
    if options.method == WeightMethod::Int8Outliers && (options.budget.is_some() || options.mix.is_some()) {
        bail!("int8-outliers has one width: leave out --mix, --target-bpw and --max-size");
    }
    if options.small_scales
        && !(options.method.has_small_scales() && options.profile.product == ProductForm::NBits)
    {
        bail!(
            "--scale-bits 8 is for rtn, rtn-search, hqq, hqq-affine and kquant in MatMulNBits, not for {:?} and {}",
            options.method,
            options.profile.name
        );
    }
    if options.small_scales && options.accuracy == Some(4) {
        bail!(
            "--scale-bits 8 and --accuracy-level 4 do not go together: ONNX Runtime reads such scales wrong there; \
             leave out one of them"
        );
    }
    let float = simplified(model)?;
    let half =
        find(&float, LEAST).0.iter().any(|s| s.tensor(&float).is_some_and(|t| t.dtype() != DType::F32));
    let float = converted(float, needed_opset(options, half))?;
    let (sites, mut kept) = find(&float, LEAST);
    let coded = already_coded(&float);
    if let (true, Some((tensor, operator))) = (sites.is_empty(), coded.first()) {
        bail!(
            "{tensor:?} is quantized already: {operator} reads it; give the float model that this one was made of"
        );
    }
    let measured = match source.filter(|_| options.observe) {
        Some(source) => {
            let all = assign::all(&float, &sites, options)?;
            let mut found = Imatrix::default();
            calibrated::observe(&float, &all, source, options, progress, &mut |members, gram, _| {
                let tokens = gram.tokens().max(1) as f64;
                let means: Vec<f32> = gram.diagonal().iter().map(|sum| (sum / tokens) as f32).collect();
                members.iter().for_each(|&at| found.insert(&all[at].0.name, means.clone()));
                Ok(())
            })?;
            Some(found)
        }
        None => None,
    };
    let importance = Importance::new(&float, &sites, measured.clone().or_else(|| options.imatrix.clone()));
    let unused: Vec<&str> = importance.unused(&sites).take(3).collect();
    let mut notes = Vec::new();
    if let Some((tensor, operator)) = coded.first() {
        notes.push(format!(
            "{} weights are quantized already and stay: {tensor:?} ({operator}), ...",
            coded.len()
        ));
    }
    if !unused.is_empty() {
        notes.push(format!("the imatrix has entries that no weight is called: {}, ...", unused.join(", ")));
    }
    let mut sites = assign::assign(&float, sites, &mut kept, options)?;
    if sites.is_empty() {
        let why = kept.first().map_or("no constant is read by a product or as a table".into(), |kept| {
            format!("{:?} stays float: {}", kept.name, kept.why)
        });
        bail!("nothing in this model can be stored in few bits; {why}");
    }
    mixed::solve(&float, &mut sites, source, options, &importance, progress)?;
    let mut spool = match &options.work {
        Some(folder) => Spool::open(folder, &fingerprint(&float, &sites, source, options)?)?,
        None => Spool::in_memory(),
    };
    if spool.forgot {
        notes.push("unfinished work of another request, which needed no data, was forgotten".into());
    }
    if spool.len() > 0 {
        notes.push(format!("resumed: {} of {} weights were finished before", spool.len(), sites.len()));
    }
    if options.method == WeightMethod::Int8Outliers {
        let source = source.context("outliers need samples")?;
        let (seen, spool) = (sites.clone(), &mut spool);
        calibrated::observe(&float, &seen, source, options, progress, &mut |members, _, largest| {
            for &at in members {
                let (site, choice) = &sites[at];
                if choice.method == WeightMethod::Int8Outliers && spool.get(&key(&float, site)).is_none() {
                    spool
                        .put(&key(&float, site), without_outliers(&float, site, choice, options, largest)?)?;
                }
            }
            Ok(())
        })?;
    }
    // Embeddings first: they are quantized without data, and the calibrated weights behind them see that.
    data_free(&float, &sites, options, &importance, &mut spool, progress, |site, choice| {
        !choice.method.is_calibrated() || !site.is_product()
    })?;
    if options.method.is_calibrated() {
        let source = source.context("calibrated methods need samples")?;
        calibrated::calibrated(&float, &sites, source, options, &mut spool, &mut notes, progress)?;
        for (site, _) in sites.iter().filter(|(site, _)| spool.get(&key(&float, site)).is_none()) {
            notes.push(format!("{:?} is read inside a body: rounded without data", site.name));
        }
    }
    data_free(&float, &sites, options, &importance, &mut spool, progress, |_, _| true)?;
    let mut model = float.clone();
    let mut wired = Vec::new();
    let mut weights = Vec::new();
    for (site, _) in &sites {
        let done =
            spool.take(&key(&float, site)).with_context(|| format!("{:?} was not quantized", site.name))?;
        weights.push(done.report);
        wired.push((site.clone(), done.packed));
    }
    let (needed, _) = opsets(wired.iter().map(|(_, packed)| packed));
    if model.opset("").is_some_and(|found| found < needed) {
        bail!("the forms of these weights need opset {needed}");
    }
    let accuracy = options.accuracy;
    wire(&mut model, &wired, |bits| accuracy.unwrap_or(if bits == 8 { 4 } else { 0 }))?;
    Ok(LowBit { model, float, weights, kept, notes, imatrix: measured, spool })
}

/// The operator set that the request will need, so that the model is converted before anything is named in it. `half`: some
/// weights, and so their scales, are float16 or bfloat16.
fn needed_opset(options: &LowBitOptions, half: bool) -> i64 {
    let mixed = options.mix == Some(quant::weight::kmix::Mix::Q2K);
    let two = options.bits == 2 || mixed || options.widths.iter().any(|(_, bits)| *bits == 2);
    match (options.profile.product, options.profile.rows) {
        (ProductForm::Blocked, _) if two => 25,
        (ProductForm::Blocked, _) | (_, RowsForm::GatherInt4) => 21,
        (ProductForm::PerChannel, _) if half => 19,
        _ => 13,
    }
}

fn data_free(
    model: &Model,
    sites: &[(Site, Choice)],
    options: &LowBitOptions,
    importance: &Importance,
    spool: &mut Spool,
    progress: &mut Progress<'_>,
    wanted: impl Fn(&Site, &Choice) -> bool,
) -> Result<()> {
    for (at, (site, choice)) in sites.iter().enumerate() {
        progress("quantizing", at, sites.len());
        let key = key(model, site);
        if spool.get(&key).is_none() && wanted(site, choice) {
            let finished = one(model, site, choice, options, importance)?;
            spool.put(&key, finished)?;
        }
    }
    progress("quantizing", sites.len(), sites.len());
    Ok(())
}

/// A name that no other weight of the model has: graphs beside each other may use one name twice.
fn key(model: &Model, site: &Site) -> String {
    match site.graph == model.main_id() {
        true => site.name.clone(),
        false => format!("{} of {:?}", site.name, site.graph),
    }
}

/// Quantizes and packs one weight without data.
fn one(
    model: &Model,
    site: &Site,
    choice: &Choice,
    options: &LowBitOptions,
    importance: &Importance,
) -> Result<Finished> {
    let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
    let weight = view(site, &stored)?;
    let coded =
        choice.data_free(&weight, importance.of(model, site)?.as_deref()).with_context(|| wrong(site))?;
    finish(model, site, choice, options, &weight, &coded, None, None)
}

/// Splits off the columns of a weight that meet outliers.
fn without_outliers(
    model: &Model,
    site: &Site,
    choice: &Choice,
    options: &LowBitOptions,
    largest: &[f32],
) -> Result<Finished> {
    let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
    let weight = view(site, &stored)?;
    let columns = choose_outliers(largest, &options.outliers).with_context(|| wrong(site))?;
    let coded = Coded::Split(split(&weight, &columns, choice.spec.scale).with_context(|| wrong(site))?);
    let mut finished = finish(model, site, choice, options, &weight, &coded, None, None)?;
    finished.report.notes.push(format!("{} of {} columns in float", columns.len(), site.cols));
    Ok(finished)
}

/// The weight as the quantizers see it.
fn view<'a>(site: &Site, stored: &'a quant::weight::Stored<'a>) -> Result<Weight<'a>> {
    let made = match site.order {
        quant::layout::blocked::Order::Kn => Weight::from_kn(stored.elements(), site.rows, site.cols),
        quant::layout::blocked::Order::Nk => Weight::from_rows(stored.elements(), site.rows, site.cols),
    };
    made.with_context(|| wrong(site))
}

fn wrong(site: &Site) -> String {
    format!("cannot quantize {:?} (--exclude {:?} keeps it in float)", site.name, site.name)
}

/// Packs a weight and says how good it is. `scales` are the factors that its columns were multiplied by.
#[allow(clippy::too_many_arguments)]
fn finish(
    model: &Model,
    site: &Site,
    choice: &Choice,
    options: &LowBitOptions,
    weight: &Weight<'_>,
    coded: &Coded,
    scales: Option<&[f32]>,
    output_error: Option<f64>,
) -> Result<Finished> {
    let dtype = site.tensor(model).map_or(DType::F32, ir::Tensor::dtype);
    let packed = pack(site, dtype, coded, &options.profile, scales).with_context(|| wrong(site))?;
    let relative_error = match scales {
        None => Some(relative_error(weight, coded)?),
        Some(_) => None,
    };
    let stored = packed.product.as_ref().or(packed.table.as_ref());
    let mut notes: Vec<String> = coded.provenance().notes.iter().map(ToString::to_string).collect();
    let moved = options.profile.fit(choice.spec.bits, Block::Columns(options.block.max(1)), site.cols);
    if options.block > 0 && options.profile.blocks != Blocks::Any && moved.1 != Block::Columns(options.block)
    {
        notes.push(format!("{} has no blocks of {} here", options.profile.name, options.block));
    }
    let report = WeightReport {
        name: site.name.clone(),
        rows: site.rows,
        cols: site.cols,
        method: told(choice),
        bits: stored.map_or(0, |stored| stored.bits),
        block: stored.map_or(0, |stored| stored.block),
        bits_per_weight: packed.bits_per_weight(),
        relative_error,
        output_error,
        drift_taken: None,
        notes,
        why: choice.why.told(options),
    };
    Ok(Finished { packed, report })
}

fn told(choice: &Choice) -> String {
    let name = serde_json::to_value(choice.method).ok();
    let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or("?").to_string();
    match choice.method {
        WeightMethod::Kquant => format!("{name} {:?}", choice.kind),
        _ => name,
    }
}

fn relative_error(weight: &Weight<'_>, coded: &Coded) -> Result<f64> {
    Ok(match coded {
        Coded::Uniform(q) => quant::weight::relative_error(weight, |n, row| q.dequantize_row(n, row)),
        Coded::Affine(q) => quant::weight::relative_error(weight, |n, row| q.dequantize_row(n, row)),
        Coded::Table(q) => quant::weight::relative_error(weight, |n, row| q.dequantize_row(n, row)),
        Coded::Double(q) => quant::weight::relative_error(weight, |n, row| q.weight.dequantize_row(n, row)),
        Coded::DoubleAffine(q) => {
            quant::weight::relative_error(weight, |n, row| q.weight.dequantize_row(n, row))
        }
        Coded::Split(q) => {
            let back = q.dequantize();
            let cols = weight.cols();
            quant::weight::relative_error(weight, |n, row| row.copy_from_slice(&back[n * cols..][..cols]))
        }
    }?)
}

/// What a folder of unfinished work belongs to: the request, the weights (sizes, and the ends of their bytes), and the samples
/// that a calibrated method sees.
fn fingerprint(
    model: &Model,
    sites: &[(Site, Choice)],
    source: Option<&dyn Source>,
    options: &LowBitOptions,
) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    let mut request = options.clone();
    request.work = None;
    request.engine.threads = 0;
    hash.update(format!("{request:?}"));
    for (site, choice) in sites {
        hash.update(format!("{} {} {} {choice:?}", site.name, site.rows, site.cols));
        if let Some(tensor) = site.tensor(model) {
            let bytes = tensor.bytes();
            let end = bytes.len().min(4096);
            hash.update(&bytes[..end]);
            hash.update(&bytes[bytes.len() - end..]);
        }
    }
    let looks =
        options.method.is_calibrated() || options.method == WeightMethod::Int8Outliers || options.observe;
    if let Some(source) = source.filter(|_| looks) {
        for at in 0..stream::enough(source, options)? {
            hash.update(super::digest::sample(&source.sample(at)?));
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(if looks { digest } else { format!("{}{digest}", spool::CHEAP) })
}
