//! Weights chosen by what their layers read: the model runs stage by stage, each stage behind weights that are quantized
//! already, and never as a whole.
//!
//! Weights that read the same value are a group. A stage of the graph ends where a group's input is computed
//! ([`passes::stages`]); it is run on all samples, the group's Gram matrix is summed up, its weights are quantized and go to the
//! spool, and the next stage reads them from there. Each operator runs once a sample (twice where the float model's values are
//! wanted too), so the whole costs one pass over the data and the Gram matrices. In memory are one stage, one Gram matrix and
//! the values that are alive at the cut. An interrupted run goes through the stages again, but only computes what is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ir::{Model, Tensor, ValueId};
use passes::quantize::low_bit::{Coded, Reads, Site, wire};
use passes::stages::{Positions, Stage, cut, extract};
use quant::weight::Weight;
use quant::weight::awq::{Trial, apply, awq_scales};
use quant::weight::cross::{Cross, retarget};
use quant::weight::gptq::GptqPlan;
use quant::weight::gram::Gram;
use quant::weight::loss::Loss;
use quant::weight::rtn_search::rtn_search;
use runtime::{Executor, Feed, Level, Reference, View};

use super::super::engine::{Engine, prepare, run_all};
use super::super::prepare::lowered;
use super::method::Choice;
use super::options::{LowBitOptions, Targets, WeightMethod};
use super::spool::Spool;
use super::{Progress, finish, key, view, wrong};
use crate::data::Source;

/// Weights that are quantized together.
struct Group {
    /// What they read; more than one value where a weight has several readers.
    inputs: Vec<ValueId>,
    /// Indices of their sites.
    members: Vec<usize>,
    /// By site: the value that its product is added to.
    residuals: BTreeMap<usize, ValueId>,
}

/// Values alive, by sample.
type Stream = Vec<HashMap<ValueId, Tensor>>;

/// Quantizes every weight that a calibrated method was chosen for and whose input can be seen. Returns what it left out.
pub fn calibrated(
    model: &Model,
    sites: &[(Site, Choice)],
    source: &dyn Source,
    options: &LowBitOptions,
    spool: &mut Spool,
    notes: &mut Vec<String>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let positions = Positions::new(model)?;
    let groups = groups(model, sites, &positions, options, |choice| choice.method.is_calibrated());
    if groups.is_empty() {
        notes.push("no weight is read in the main graph: nothing was calibrated".into());
        return Ok(());
    }
    let stops: Vec<Vec<ValueId>> = groups
        .iter()
        .map(|group| group.inputs.iter().chain(group.residuals.values()).copied().collect())
        .collect();
    let stages = cut(model, &positions, &stops);
    let (mut quantized, tokens) = feeds(model, source, options)?;
    let mut float = (options.calibrated.targets != Targets::Own).then(|| quantized.clone());
    let estimate = estimate(sites, &groups, tokens, options)?;
    for (at, (group, stage)) in groups.iter().zip(&stages).enumerate() {
        progress(&format!("calibrating (about {estimate:.0} s in all)"), at, groups.len());
        let wired = wired(model, stage, sites, spool);
        run(model, stage, &wired, &mut quantized, options)?;
        if let Some(float) = &mut float {
            run(model, stage, &[], float, options)?;
        }
        let missing: Vec<usize> = group
            .members
            .iter()
            .copied()
            .filter(|&m| spool.get(&key(model, &sites[m].0)).is_none())
            .collect();
        if !missing.is_empty() {
            let seen = Seen { model, sites, group, quantized: &quantized, float: float.as_ref() };
            seen.quantize(options, spool)?;
        }
        for stream in [Some(&mut quantized), float.as_mut()].into_iter().flatten() {
            for values in stream {
                stage.last_use.iter().for_each(|value| {
                    values.remove(value);
                });
            }
        }
    }
    progress("calibrating", groups.len(), groups.len());
    Ok(())
}

/// Takes the members of a group, their Gram matrix and the largest magnitude of each column.
pub type Look<'a> = dyn FnMut(&[usize], &Gram, &[f32]) -> Result<()> + 'a;

/// Runs the float model stage by stage and shows, one group of weights after the other, the Gram matrix and the largest
/// magnitudes of the columns that it reads.
pub fn observe(
    model: &Model,
    sites: &[(Site, Choice)],
    source: &dyn Source,
    options: &LowBitOptions,
    progress: &mut Progress<'_>,
    seen: &mut Look<'_>,
) -> Result<()> {
    let positions = Positions::new(model)?;
    let groups = groups(model, sites, &positions, options, |_| true);
    let stops: Vec<Vec<ValueId>> = groups.iter().map(|group| group.inputs.clone()).collect();
    let stages = cut(model, &positions, &stops);
    let (mut stream, _) = feeds(model, source, options)?;
    for (at, (group, stage)) in groups.iter().zip(&stages).enumerate() {
        progress("observing", at, groups.len());
        run(model, stage, &[], &mut stream, options)?;
        if let Some(&first) = group.members.first() {
            let rows = Seen { model, sites, group, quantized: &stream, float: None };
            let cols = sites[first].0.cols;
            let (mut gram, mut largest) = (Gram::new(cols), vec![0.0f32; cols]);
            for sample in 0..stream.len() {
                for &input in &group.inputs {
                    let found = rows.rows(&stream, sample, input, cols)?;
                    gram.add(&found).with_context(|| format!("the input of {:?}", sites[first].0.name))?;
                    for row in found.chunks(cols) {
                        largest.iter_mut().zip(row).for_each(|(l, v)| *l = l.max(v.abs()));
                    }
                }
            }
            seen(&group.members, &gram, &largest)?;
        }
        for values in &mut stream {
            stage.last_use.iter().for_each(|value| {
                values.remove(value);
            });
        }
    }
    progress("observing", groups.len(), groups.len());
    Ok(())
}

/// Groups in the order in which their inputs are computed.
fn groups(
    model: &Model,
    sites: &[(Site, Choice)],
    positions: &Positions,
    options: &LowBitOptions,
    wanted: impl Fn(&Choice) -> bool,
) -> Vec<Group> {
    let mut members: BTreeMap<Vec<ValueId>, Vec<usize>> = BTreeMap::new();
    for (at, (site, choice)) in sites.iter().enumerate() {
        let outside = site.readers.iter().any(|r| r.is_product() && r.graph != model.main_id());
        if !wanted(choice) || !site.is_product() || outside {
            continue;
        }
        let inputs: BTreeSet<ValueId> = site.readers.iter().filter_map(|reader| reader.data(model)).collect();
        members.entry(inputs.into_iter().collect()).or_default().push(at);
    }
    let position = |values: &[ValueId]| values.iter().map(|&v| positions.of(v)).max().unwrap_or(0);
    let mut groups: Vec<Group> = members
        .into_iter()
        .map(|(inputs, members)| {
            let residual = |&at: &usize| {
                let other = residual(model, &sites[at].0)?;
                // One that is computed later could itself depend on this group.
                (positions.of(other) <= position(&inputs)).then_some((at, other))
            };
            let wanted = options.calibrated.targets == Targets::Residual;
            let residuals = members.iter().filter(|_| wanted).filter_map(residual).collect();
            Group { inputs, members, residuals }
        })
        .collect();
    groups.sort_by_key(|group| (position(&group.inputs), group.members[0]));
    groups
}

/// What the only product of a weight is added to: a value of the same shape that is not constant, behind a bias at most.
fn residual(model: &Model, site: &Site) -> Option<ValueId> {
    let [reader] = site.readers.iter().filter(|reader| reader.is_product()).collect::<Vec<_>>()[..] else {
        return None;
    };
    if reader.reads == Reads::Conv {
        return None;
    }
    let graph = model.main();
    let mut value = graph.output(reader.op, 0)?;
    loop {
        let found = graph.sole_use(value)?;
        if !graph.op(found.op).kind.is("Add") {
            return None;
        }
        let inputs = graph.op_inputs(found.op);
        let other = inputs.iter().flatten().copied().find(|&other| other != value)?;
        let sum = graph.output(found.op, 0)?;
        if graph.value(other).role() != ir::Role::Initializer {
            let same = graph.value(other).shape().is_some()
                && graph.value(other).shape() == graph.value(sum).shape();
            return same.then_some(other);
        }
        value = sum;
    }
}

/// Tokens of a sample; 1 where it has none.
fn tokens_of(feed: &Feed) -> usize {
    let ids = feed.iter().filter(|(_, tensor)| tensor.dtype().is_int());
    ids.map(|(_, tensor)| tensor.elements()).max().unwrap_or(1)
}

/// How many samples the token budget allows.
pub fn enough(source: &dyn Source, options: &LowBitOptions) -> Result<usize> {
    let mut tokens = 0;
    for at in 0..source.len() {
        if tokens >= options.calibrated.tokens.max(1) {
            return Ok(at);
        }
        tokens += tokens_of(&source.sample(at)?);
    }
    Ok(source.len())
}

/// The inputs of the model for as many samples as the token budget allows, and the tokens.
fn feeds(model: &Model, source: &dyn Source, options: &LowBitOptions) -> Result<(Stream, usize)> {
    let (mut stream, mut tokens) = (Stream::new(), 0);
    for at in 0..enough(source, options)? {
        let feed = source.sample(at)?;
        tokens += tokens_of(&feed);
        let known = feed.into_iter().filter_map(|(name, tensor)| Some((model.main().find(&name)?, tensor)));
        stream.push(known.collect());
    }
    ensure!(!stream.is_empty(), "there are no calibration samples");
    Ok((stream, tokens))
}

/// Seconds that Gram matrices and quantizers will take, from the speed of a small matrix product here and now.
fn estimate(
    sites: &[(Site, Choice)],
    groups: &[Group],
    tokens: usize,
    options: &LowBitOptions,
) -> Result<f64> {
    const SIZE: usize = 512;
    let started = Instant::now();
    Gram::new(SIZE).add(&vec![0.5; SIZE * SIZE])?;
    let rate = (SIZE as f64).powi(3) / started.elapsed().as_secs_f64().max(1e-6);
    let group = |group: &Group| {
        let k = group.members.first().map_or(0, |&m| sites[m].0.cols) as f64;
        let rows: f64 = group.members.iter().map(|&m| sites[m].0.rows as f64).sum();
        let sweeps = options.calibrated.gptq.sweeps_for(rows as usize, tokens as u64) as f64;
        let moments = if options.calibrated.targets == Targets::Own { 1.0 } else { 3.0 };
        moments * tokens as f64 * k * k + 1.5 * k.powi(3) + rows * k * k * (1.0 + 2.0 * sweeps)
    };
    Ok(groups.iter().map(group).sum::<f64>() / rate)
}

/// The finished weights that operators of a stage read.
fn wired(
    model: &Model,
    stage: &Stage,
    sites: &[(Site, Choice)],
    spool: &Spool,
) -> Vec<(Site, passes::quantize::low_bit::Packed)> {
    let ops: BTreeSet<_> = stage.ops.iter().copied().collect();
    let mut found = Vec::new();
    for (site, _) in sites {
        let mut site = site.clone();
        // Bodies of control flow go with their operator: they keep float weights here.
        site.readers.retain(|reader| reader.graph == model.main_id() && ops.contains(&reader.op));
        if let Some(done) = spool.get(&key(model, &site)).filter(|_| !site.readers.is_empty()) {
            found.push((site, done.packed.clone()));
        }
    }
    found
}

/// Values of one stream, as samples for a runtime.
struct Samples<'a> {
    stream: &'a Stream,
    inputs: Vec<(ValueId, String)>,
}

impl Source for Samples<'_> {
    fn len(&self) -> usize {
        self.stream.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let values = &self.stream[at];
        let one = |(id, name): &(ValueId, String)| {
            let tensor = values.get(id).with_context(|| format!("{name:?} is not there"))?;
            Ok((name.clone(), tensor.clone()))
        };
        self.inputs.iter().map(one).collect()
    }
}

/// Runs a stage on every sample and adds its outputs to the stream.
fn run(
    model: &Model,
    stage: &Stage,
    weights: &[(Site, passes::quantize::low_bit::Packed)],
    stream: &mut Stream,
    options: &LowBitOptions,
) -> Result<()> {
    if stage.ops.is_empty() {
        return Ok(());
    }
    let mut part = extract(model, stage);
    wire(&mut part, weights, |_| 0)?;
    let part = lowered(&part)?;
    let (executor, _) = options.engine.choose(&part)?;
    let first = run_in(executor.as_ref(), model, stage, &part, stream, options);
    let made = match (first, options.engine.engine) {
        (Err(error), Engine::Auto) => match options.engine.ort(Level::Basic) {
            // A stage that the first choice fails on is run by the next one.
            Ok(ort) => run_in(&ort, model, stage, &part, stream, options)?,
            Err(_) => run_in(&Reference, model, stage, &part, stream, options).map_err(|_| error)?,
        },
        (first, _) => first?,
    };
    for (sample, id, tensor) in made {
        stream[sample].insert(id, tensor);
    }
    Ok(())
}

/// The outputs of a stage: sample, value, tensor.
fn run_in(
    executor: &dyn Executor,
    model: &Model,
    stage: &Stage,
    part: &Model,
    stream: &Stream,
    options: &LowBitOptions,
) -> Result<Vec<(usize, ValueId, Tensor)>> {
    let session = prepare(executor, part, vec![])?;
    let main = model.main();
    let name = |value: &ValueId| main.value(*value).name().to_string();
    let inputs = part.main().inputs();
    let wanted: BTreeSet<String> = inputs.iter().map(|&v| part.main().value(v).name().to_string()).collect();
    let inputs: Vec<(ValueId, String)> = stage.inputs.iter().map(|v| (*v, name(v))).collect();
    let inputs: Vec<_> = inputs.into_iter().filter(|(_, name)| wanted.contains(name)).collect();
    let outputs: HashMap<String, ValueId> = stage.outputs.iter().map(|v| (name(v), *v)).collect();
    let made = {
        let samples = Samples { stream, inputs };
        let all: Vec<usize> = (0..samples.len()).collect();
        run_all(
            session.as_ref(),
            &samples,
            &all,
            options.engine.threads(),
            Vec::new,
            |made: &mut Vec<(usize, ValueId, Tensor)>, session, sample, feed| {
                let mut keep = |name: &str, value: View<'_>| {
                    if let (Some(&id), Some(tensor)) = (outputs.get(name), value.to_tensor()) {
                        made.push((sample, id, tensor));
                    }
                };
                Ok(session.run(&feed, &mut keep)?)
            },
            |_| (),
        )?
    };
    let made: Vec<_> = made.into_iter().flatten().collect();
    // tract does not show sizes that it computes with as symbols.
    ensure!(
        made.len() == stream.len() * stage.outputs.len(),
        "{} does not show every value that goes from stage to stage",
        executor.name()
    );
    Ok(made)
}

/// A group and what it reads.
struct Seen<'a> {
    model: &'a Model,
    sites: &'a [(Site, Choice)],
    group: &'a Group,
    quantized: &'a Stream,
    float: Option<&'a Stream>,
}

impl Seen<'_> {
    /// A value's rows of `columns` numbers, of one sample.
    fn rows(&self, stream: &Stream, sample: usize, value: ValueId, columns: usize) -> Result<Vec<f32>> {
        let name = || self.model.main().value(value).name().to_string();
        let tensor = stream[sample].get(&value).with_context(|| format!("{:?} was not computed", name()))?;
        let view = View::of(tensor);
        let floats = view.floats().with_context(|| format!("{:?} is {}", name(), tensor.dtype()))?;
        let pointwise = self.group.members.iter().any(|&m| {
            self.sites[m]
                .0
                .readers
                .iter()
                .any(|r| r.reads == Reads::Conv && r.data(self.model) == Some(value))
        });
        match *tensor.dims() {
            [batch, channels, ..] if pointwise && channels == columns => {
                let points = floats.len() / (batch * channels).max(1);
                let mut rows = vec![0.0; floats.len()];
                for (at, &v) in floats.iter().enumerate() {
                    let (image, rest) = (at / (channels * points), at % (channels * points));
                    rows[(image * points + rest % points) * channels + rest / points] = v;
                }
                Ok(rows)
            }
            [.., last] if last == columns => Ok(floats.into_owned()),
            _ => bail!("{:?} has sizes {:?}, not rows of {columns}", name(), tensor.dims()),
        }
    }

    fn quantize(&self, options: &LowBitOptions, spool: &mut Spool) -> Result<()> {
        let (Some(&first), model) = (self.group.members.first(), self.model) else { return Ok(()) };
        let columns = self.sites[first].0.cols;
        let how = &options.calibrated;
        let mut gram = Gram::new(columns);
        let mut drift = self.float.map(|_| Cross::new(columns, columns)).transpose()?;
        let mut wishes: BTreeMap<usize, Cross> = BTreeMap::new();
        for &member in self.group.residuals.keys() {
            wishes.insert(member, Cross::new(self.sites[member].0.rows, columns)?);
        }
        let what = || format!("the input of {:?}", self.sites[first].0.name);
        for sample in 0..self.quantized.len() {
            for &input in &self.group.inputs {
                let now = self.rows(self.quantized, sample, input, columns)?;
                gram.add(&now).with_context(what)?;
                let Some(float) = self.float else { continue };
                let mut gap = self.rows(float, sample, input, columns)?;
                gap.iter_mut().zip(&now).for_each(|(a, b)| *a -= b);
                if let Some(drift) = &mut drift {
                    drift.add(&gap, &now).with_context(what)?;
                }
                for (&member, &other) in &self.group.residuals {
                    let rows = self.sites[member].0.rows;
                    let mut wish = self.rows(float, sample, other, rows)?;
                    let have = self.rows(self.quantized, sample, other, rows)?;
                    wish.iter_mut().zip(&have).for_each(|(a, b)| *a -= b);
                    if let Some(cross) = wishes.get_mut(&member) {
                        cross.add(&wish, &now).with_context(what)?;
                    }
                }
            }
        }
        // What each weight should be.
        let mut wanted = Vec::new();
        for &member in &self.group.members {
            let (site, choice) = &self.sites[member];
            let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
            let weight = view(site, &stored)?;
            let residual = wishes.get(&member);
            let target = match choice.method {
                WeightMethod::Awq => weight.to_f32(),
                _ if drift.is_none() && residual.is_none() => weight.to_f32(),
                _ => retarget(&weight, &gram, drift.as_ref(), residual, how.gptq.damping).map(|r| r.weight),
            };
            wanted.push(target.with_context(|| wrong(site))?);
        }
        let views: Vec<Weight<'_>> = self
            .group
            .members
            .iter()
            .zip(&wanted)
            .map(|(&m, w)| Weight::from_rows(&w[..], self.sites[m].0.rows, columns))
            .collect::<Result<_, _>>()?;
        // Column scales are shared by all that read the value: they are divided out of it once.
        let scales = match self.sites[first].1.method {
            WeightMethod::Awq | WeightMethod::AwqGptq => {
                let spec = &self.sites[first].1.spec;
                let found = awq_scales(&views, spec, &gram, None, Trial::RtnSearch).with_context(what)?;
                found.ratio.is_some().then_some(found.scales)
            }
            _ => None,
        };
        let scaled = scales.as_ref().map(|scales| gram.scaled(scales)).transpose()?;
        let gram_used = scaled.as_ref().unwrap_or(&gram);
        let loss = Loss::new(&gram);
        let rows = self.group.members.iter().map(|&m| self.sites[m].0.rows).sum();
        let mut plans: Vec<(quant::weight::Spec, GptqPlan)> = Vec::new();
        for (&member, target) in self.group.members.iter().zip(&views) {
            let (site, choice) = &self.sites[member];
            let key = key(model, site);
            if spool.get(&key).is_some() {
                continue;
            }
            let moved = scales.as_ref().map(|scales| apply(target, scales)).transpose()?;
            let target = match &moved {
                Some(moved) => Weight::from_rows(&moved[..], site.rows, columns)?,
                None => *target,
            };
            let q = match choice.method {
                WeightMethod::Awq => rtn_search(&target, &choice.spec, Some(&gram_used.importance())),
                _ => {
                    if !plans.iter().any(|(spec, _)| *spec == choice.spec) {
                        let plan = GptqPlan::new(gram_used, &choice.spec, &how.gptq, rows)?;
                        plans.push((choice.spec, plan));
                    }
                    let plan = plans.iter().find(|(spec, _)| *spec == choice.spec).context("a plan")?;
                    plan.1.quantize(&target, &choice.spec)
                }
            };
            let coded = Coded::Uniform(q.with_context(|| wrong(site))?);
            let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
            let weight = view(site, &stored)?;
            let mut effective = coded.dequantize();
            if let Some(scales) = &scales {
                effective
                    .chunks_mut(columns)
                    .for_each(|row| row.iter_mut().zip(scales).for_each(|(w, s)| *w /= s));
            }
            let (lost, energy) = (loss.of(&weight, &effective)?, loss.energy(&weight)?);
            let output_error = (energy > 0.0).then(|| (lost.max(0.0) / energy).sqrt());
            let done =
                finish(model, site, choice, options, &weight, &coded, scales.as_deref(), output_error)?;
            spool.put(&key, done)?;
        }
        Ok(())
    }
}
