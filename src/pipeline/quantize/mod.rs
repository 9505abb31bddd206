//! The main job: simplify, calibrate, plan, fit, emit, prove. One file a mode; what they share is here.

mod dynamic_mode;
pub(crate) mod mixed;
pub mod refine;
mod select;
mod static_mode;
mod validate;
pub mod weight_only;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ir::{DType, Model};
use passes::quantize::cost::slowed;
use passes::quantize::integer_io::integer_io;
use passes::quantize::{Precision, QuantPlan, emit_qdq, emit_qoperator};
use passes::target::Target;
use quant::Grid;
use quant::range::Method;

pub use select::{adjust, choices, named_grid};
pub(crate) use static_mode::{as_planned, base_plan};
pub use validate::Validation;

use super::engine::EngineOptions;
use super::prepare::{converted, fixed, quantizable};
use super::table::CalibrationTable;
use crate::data::{Labels, Source};
use crate::recipe::Rules;

/// Every fifth sample is kept back from calibration and used for validation only.
const HELD_BACK: usize = 5;

/// What is rounded when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Weights and activations, with ranges from calibration.
    #[default]
    Static,
    /// Weights ahead of time; activations when the model runs, where the target does that fast. Needs no data.
    Dynamic,
    /// Weights only, to few bits.
    WeightOnly,
}

/// How quantization is written into the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// QuantizeLinear and DequantizeLinear around float operators: every runtime fuses what it can.
    #[default]
    Qdq,
    /// Operators on codes (QLinearConv, QLinearAdd, ...), for ONNX Runtime.
    Qoperator,
}

/// Which x86 CPUs the model must be right on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cpu {
    /// With 8-bit dot products (VNNI), or not x86: weights use all of 8 bits.
    #[default]
    Vnni,
    /// Without: pairs of products are added in 16 bits there, so weights that could overflow them get larger scales.
    Avx2,
}

/// What to make.
#[derive(Clone)]
pub struct QuantizeOptions {
    /// What is rounded when.
    pub mode: Mode,
    /// The runtime that the file is for.
    pub target: &'static dyn Target,
    /// How it is written.
    pub format: Format,
    /// Precision of what is quantized.
    pub precision: Precision,
    /// The grid of activations instead of the target's own.
    pub activation: Option<Grid>,
    /// The grid of weights instead of the target's own.
    pub weight: Option<Grid>,
    /// One scale a weight instead of one a channel.
    pub per_tensor: bool,
    /// Range method of activations.
    pub method: Method,
    /// If any: only these operators are quantized. Patterns as in `exclude`.
    pub include: Vec<String>,
    /// Operators that stay float: node names, value names or operator types, `*` and `?` allowed.
    pub exclude: Vec<String>,
    /// Rules for single operators and tensors.
    pub rules: Rules,
    /// Integer inputs and outputs of the model: codes instead of floats where they are quantized anyway.
    pub integer_io: bool,
    /// Runtime for calibration and validation.
    pub engine: EngineOptions,
    /// A plan to follow instead of making one.
    pub plan: Option<QuantPlan>,
    /// Statistics to use instead of running the data.
    pub table: Option<CalibrationTable>,
    /// Let accuracy passes change the draft, each if it helps.
    pub refine: bool,
    /// Which CPUs the model must be right on.
    pub cpu: Cpu,
    /// Right classes of the samples: validation counts right answers.
    pub labels: Option<Labels>,
}

impl QuantizeOptions {
    /// The defaults for a target.
    pub fn new(target: &'static dyn Target) -> QuantizeOptions {
        QuantizeOptions {
            mode: Mode::default(),
            target,
            format: Format::default(),
            precision: Precision::Int8,
            activation: None,
            weight: None,
            per_tensor: false,
            method: Method::Auto,
            include: Vec::new(),
            exclude: Vec::new(),
            rules: Rules::default(),
            integer_io: false,
            engine: EngineOptions::default(),
            plan: None,
            table: None,
            refine: true,
            cpu: Cpu::default(),
            labels: None,
        }
    }

    /// The defaults for the target of this name.
    ///
    /// # Errors
    /// No target has that name; the message lists them.
    pub fn for_target(name: &str) -> Result<QuantizeOptions> {
        let known =
            || passes::target::TARGETS.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
        let target = passes::target::target(name);
        let target =
            target.with_context(|| format!("no target is called {name:?}; there are: {}", known()))?;
        Ok(QuantizeOptions::new(target))
    }
}

/// What was made.
pub struct Quantized {
    /// The model.
    pub model: Model,
    /// The plan that it was made by.
    pub plan: QuantPlan,
    /// What the accuracy passes did.
    pub accuracy: Vec<refine::Step>,
    /// What was measured on samples that calibration did not see.
    pub validation: Vec<Validation>,
    /// The statistics that its ranges are from.
    pub table: Option<CalibrationTable>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Progress of the two long steps: what, done, all.
pub type Progress<'a> = dyn FnMut(&'static str, usize, usize) + 'a;

/// What a mode works on.
struct Job<'a> {
    /// The simplified float model.
    float: &'a Model,
    /// Every sample.
    source: &'a dyn Source,
    /// Samples for calibration.
    seen: Vec<usize>,
    /// Samples for accepting changes and for validation; the same as `seen` where there are too few.
    judged: Vec<usize>,
    options: &'a QuantizeOptions,
    progress: &'a mut Progress<'a>,
    /// What calibration saw.
    table: Option<CalibrationTable>,
    /// What the accuracy passes did.
    steps: Vec<refine::Step>,
    /// What the user should know.
    notes: Vec<String>,
}

impl Job<'_> {
    /// Writes the plan in the form that was asked for.
    fn emit(&self, plan: &QuantPlan) -> Result<Model> {
        emit(self.float, plan, self.options)
    }

    /// A model of which nothing was quantized is written all the same: the rest of a tool chain goes on, told so.
    fn note_if_nothing(&mut self, plan: &QuantPlan) {
        if plan.values.is_empty() && plan.weights.is_empty() {
            let target = self.options.target.name();
            self.notes.push(format!(
                "NOTHING was quantized: no operator of this model can be for {target}; see the reasons"
            ));
        }
    }
}

/// Writes a plan of this float model in the form that was asked for.
fn emit(float: &Model, plan: &QuantPlan, options: &QuantizeOptions) -> Result<Model> {
    let opset = emit_qdq::needed_opset(plan).max(options.target.min_opset());
    let mut model = converted(float.clone(), opset)?;
    match options.format {
        Format::Qdq => emit_qdq::emit_qdq(&mut model, plan)?,
        Format::Qoperator if !options.target.reads_qoperators() => {
            bail!("{} does not read operators on codes: leave out --format qoperator", options.target.name())
        }
        Format::Qoperator => emit_qoperator::emit_qoperator(&mut model, plan)?,
    }
    model.settle();
    Ok(model)
}

/// No samples at all.
struct NoData;

impl Source for NoData {
    fn len(&self) -> usize {
        0
    }

    fn sample(&self, _: usize) -> Result<runtime::Feed> {
        bail!("there is no data")
    }
}

/// Makes the quantized model. Without data there is no static mode, and nothing is measured.
///
/// # Errors
/// The model cannot be simplified, run or quantized, each with the operator and the next step.
pub fn quantize<'a>(
    model: Model,
    source: Option<&'a dyn Source>,
    options: &'a QuantizeOptions,
    progress: &'a mut Progress<'a>,
) -> Result<Quantized> {
    let source = source.unwrap_or(&NoData);
    let mut notes = Vec::new();
    let had_narrow = holds_narrow(&model);
    let (model, same_sizes) = fix_sizes(model, source, options, &mut notes)?;
    let source = same_sizes.as_ref().map_or(source, |samples| samples as &dyn Source);
    let float = quantizable(model)?;
    if had_narrow {
        notes.push(
            "16-bit floats inside became float32, which integer kernels take; inputs and outputs did not"
                .into(),
        );
    }
    let (seen, held_back) = split(source.len());
    let judged = if source.is_empty() {
        if options.mode == Mode::Static && options.table.is_none() && options.plan.is_none() {
            bail!(
                "static quantization measures ranges on data: give --data PATH, or --mode dynamic, which needs none"
            );
        }
        notes.push("no data: nothing was measured; give --data PATH to see what quantization did".into());
        Vec::new()
    } else if held_back.is_empty() {
        notes.push(
            "too few samples to keep some back: the figures below are of the calibration samples".into(),
        );
        seen.clone()
    } else {
        held_back
    };
    let mut job =
        Job { float: &float, source, seen, judged, options, progress, table: None, steps: Vec::new(), notes };
    let (mut model, plan) = match options.mode {
        Mode::Static => static_mode::make(&mut job)?,
        Mode::Dynamic => dynamic_mode::make(&mut job)?,
        Mode::WeightOnly => anyhow::bail!("weights alone are quantized without a plan"),
    };
    model.settle();
    note_if_slower(&mut job, &plan);
    let validation = match job.judged.is_empty() {
        true => Vec::new(),
        // What needs no data to be made is made, whatever the runtimes at hand can run.
        false => match (validate::validate(&mut job, &model), options.mode) {
            (Err(error), Mode::Dynamic) => {
                job.notes.push(format!("NOT MEASURED: {error:#}"));
                Vec::new()
            }
            (measured, _) => measured?,
        },
    };
    let table = job.table;
    let mut notes = job.notes;
    if options.integer_io {
        let told = integer_io(&mut model);
        if told.is_empty() {
            notes.push("no input or output is quantized: all stay float".into());
        }
        notes.extend(told.into_iter().map(|io| {
            format!("{:?} holds {} codes: (code - {}) * {}", io.name, io.codes, io.zero_point, io.scale)
        }));
    }
    Ok(Quantized { model, plan, accuracy: job.steps, validation, table, notes })
}

/// Warns of layers that are slower than before.
fn note_if_slower(job: &mut Job<'_>, plan: &QuantPlan) {
    let target = job.options.target;
    let slow = slowed(job.float, plan, target);
    if let Some(first) = slow.first() {
        let (count, plural) =
            (slow.len(), if slow.len() == 1 { "layer has its" } else { "layers have their" });
        job.notes.push(format!(
            "{count} {plural} weights in 8 bits and compute in float ({first:?} for one): a smaller file, but slower than \
             float on {}; --exclude keeps them as they are",
            target.name()
        ));
    }
}

/// A target that takes only fixed sizes gets those of the first sample.
fn fix_sizes<'a>(
    model: Model,
    source: &'a dyn Source,
    options: &QuantizeOptions,
    notes: &mut Vec<String>,
) -> Result<(Model, Option<Chosen<'a>>)> {
    let main = model.main();
    let open = |value: &ir::ValueId| {
        let value = main.value(*value);
        value.data.is_none() && value.shape().is_none_or(|shape| shape.known().is_none())
    };
    if !options.target.fixed_shapes() || !main.inputs().iter().any(open) {
        return Ok((model, None));
    }
    if source.is_empty() {
        // Nothing says how many at a time; one is what most run, and the only size that every model takes.
        let Some(sizes) = single(main) else { return Ok((model, None)) };
        let name = options.target.name();
        notes.push(format!("{name} takes fixed sizes, and no data say which: a batch of one, {sizes:?}"));
        return Ok((fixed(model, &sizes)?.0, None));
    }
    let sizes_of = |at: usize| -> Result<Vec<(String, Vec<usize>)>> {
        Ok(source.sample(at)?.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect())
    };
    let sample = source.sample(0)?;
    let names: Vec<String> = main
        .inputs()
        .iter()
        .filter(|value| open(value))
        .map(|&value| main.value(value).name().to_string())
        .collect();
    let mut sizes = BTreeMap::new();
    for (name, tensor) in sample.iter().filter(|(name, _)| names.contains(name)) {
        let dims = tensor.dims().iter().map(|&size| i64::try_from(size)).collect::<Result<Vec<i64>, _>>();
        sizes.insert(name.clone(), dims.context("a sample's size")?);
    }
    notes.push(format!("{} takes fixed sizes: those of the first sample, {sizes:?}", options.target.name()));
    let first = sizes_of(0)?;
    let mut same = Vec::new();
    for at in 0..source.len() {
        if sizes_of(at)? == first {
            same.push(at);
        }
    }
    if same.len() < source.len() && options.labels.is_some() {
        bail!(
            "labels of samples of several sizes: {} takes one size, give samples of it",
            options.target.name()
        );
    }
    if same.len() < source.len() {
        notes.push(format!(
            "{} of {} samples have other sizes and were left out",
            source.len() - same.len(),
            source.len()
        ));
    }
    let (model, left_out) = fixed(model, &sizes)?;
    if left_out {
        notes.push("a branch that cannot run with these sizes was left out".into());
    }
    Ok((model, Some(Chosen { source, samples: same })))
}

/// The sizes of all inputs with a first dimension of 1 where it is open; none if another one is.
fn single(graph: &ir::Graph) -> Option<BTreeMap<String, Vec<i64>>> {
    let fed = graph.inputs().iter().filter(|&&value| graph.value(value).data.is_none());
    let sizes = fed.map(|&value| {
        let shape = graph.value(value).shape()?;
        let one = |(axis, dim): (usize, &ir::Dim)| match dim.known() {
            Some(size) => i64::try_from(size).ok(),
            None => (axis == 0).then_some(1),
        };
        Some((
            graph.value(value).name().to_string(),
            shape.dims.iter().enumerate().map(one).collect::<Option<Vec<i64>>>()?,
        ))
    });
    sizes.collect()
}

/// Some samples of a source.
struct Chosen<'a> {
    source: &'a dyn Source,
    samples: Vec<usize>,
}

impl Source for Chosen<'_> {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, at: usize) -> Result<runtime::Feed> {
        self.source.sample(self.samples[at])
    }

    fn label(&self, at: usize) -> String {
        self.source.label(self.samples[at])
    }

    fn is_random(&self) -> bool {
        self.source.is_random()
    }
}

fn holds_narrow(model: &Model) -> bool {
    let narrow = |dtype: Option<DType>| matches!(dtype, Some(DType::F16 | DType::BF16));
    let graph = model.main();
    graph.values().any(|value| narrow(graph.value(value).dtype()))
}

/// Samples for calibration and for validation.
pub(in crate::pipeline) fn split(count: usize) -> (Vec<usize>, Vec<usize>) {
    (0..count).partition(|sample| count < HELD_BACK || sample % HELD_BACK != HELD_BACK - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_dimension_is_taken_to_be_one() {
        let sizes = |dims: &str| {
            let text = format!(
                "<ir_version: 10, opset_import: [\"\": 17]> g (float[{dims}] x) => (float[{dims}] y) {{ y = Relu(x) }}"
            );
            single(ir::text::parse(&text).unwrap().main())
        };
        assert_eq!(sizes("n,3"), Some(BTreeMap::from([("x".to_string(), vec![1, 3])])));
        assert_eq!(sizes("1,n"), None);
    }

    #[test]
    fn every_fifth_sample_is_held_back() {
        assert_eq!(split(10).1, [4, 9]);
        assert_eq!(split(3), (vec![0, 1, 2], vec![]));
    }
}
