//! One group of weights: what it reads, what its weights should be, and their codes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ir::{Model, ValueId};
use passes::quantize::low_bit::{Coded, Reads, Site};
use quant::weight::awq::{Trial, apply, awq_scales};
use quant::weight::awq_gptq::{choose_scales, unscale};
use quant::weight::cross::{Cross, borne_out, retarget};
use quant::weight::gptq::GptqPlan;
use quant::weight::gram::Gram;
use quant::weight::loss::Loss;
use quant::weight::rtn_search::rtn_search;
use quant::weight::{Quantized, Spec, Weight};
use runtime::View;

use super::groups::Group;
use super::method::Choice;
use super::options::{CalibratedOptions, LowBitOptions, WeightMethod};
use super::spool::Spool;
use super::stream::Stream;
use super::{finish, key, view, wrong};

/// Of so many samples, or of so many rows where there are fewer samples, one is held back to judge by.
const HELD: usize = 8;

/// A group and what it reads.
pub struct Seen<'a> {
    /// The float model.
    pub model: &'a Model,
    /// All weights.
    pub sites: &'a [(Site, Choice)],
    /// Those that are looked at.
    pub group: &'a Group,
    /// Values behind quantized weights.
    pub quantized: &'a Stream,
    /// Values of the float model, where they are wanted.
    pub float: Option<&'a Stream>,
}

/// What a group reads, in sums over all rows.
struct Moments {
    /// Of most rows.
    gram: Gram,
    /// Of the rows that are held back, where a method judges by them.
    held: Option<Gram>,
    /// Σ (x − x̂)x̂ᵀ
    drift: Option<Cross>,
    /// By member: Σ r·x̂ᵀ
    wishes: BTreeMap<usize, Cross>,
}

impl Seen<'_> {
    /// A value's rows of `columns` numbers, of one sample.
    ///
    /// # Errors
    /// The value was not computed, or has no such rows.
    pub fn rows(&self, stream: &Stream, sample: usize, value: ValueId, columns: usize) -> Result<Vec<f32>> {
        let name = || self.model.main().value(value).name().to_string();
        let tensor = stream[sample].get(&value).with_context(|| format!("{:?} was not computed", name()))?;
        let view = View::of(tensor);
        let floats = view.floats().with_context(|| format!("{:?} is {}", name(), tensor.dtype()))?;
        let pointwise = self.group.members.iter().any(|&m| {
            let readers = &self.sites[m].0.readers;
            readers.iter().any(|r| r.reads == Reads::Conv && r.data(self.model) == Some(value))
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

    /// Quantizes what is missing of the group, and keeps it.
    ///
    /// # Errors
    /// A value or a weight holds NaN, or sizes do not fit.
    pub fn quantize(&self, options: &LowBitOptions, spool: &mut Spool) -> Result<()> {
        let (Some(&first), model) = (self.group.members.first(), self.model) else { return Ok(()) };
        let (columns, how) = (self.sites[first].0.cols, &options.calibrated);
        let what = || format!("the input of {:?}", self.sites[first].0.name);
        let Moments { mut gram, held, drift, wishes } = self.moments(columns).with_context(what)?;
        let whole = held.as_ref().map(|held| with(&gram, held)).transpose()?;
        // What each weight should be.
        let targets = self.targets(&gram, drift.as_ref(), &wishes, how)?;
        let members: Vec<&(Site, Choice)> = self.group.members.iter().map(|&m| &self.sites[m]).collect();
        let views: Vec<(Weight<'_>, Spec)> = members
            .iter()
            .zip(&targets)
            .map(|((site, choice), (t, _))| Ok((Weight::from_rows(&t[..], site.rows, columns)?, choice.spec)))
            .collect::<Result<_>>()?;
        // Column scales are shared by all that read the value: they are divided out of it once.
        let (mut scales, mut refused) = (None, None);
        let table = members.iter().any(|(site, _)| site.is_table());
        match (self.sites[first].1.method, &held) {
            (WeightMethod::Awq | WeightMethod::AwqGptq, _) if table => {
                refused = Some("no column scales, as an embedding reads it too");
            }
            (WeightMethod::AwqGptq, Some(held)) => {
                let found = choose_scales(&views, &gram, held, &how.gptq).with_context(what)?;
                if found.scales.is_none() {
                    refused = Some("no column scales, which would not lower the error");
                }
                scales = found.scales;
            }
            (WeightMethod::Awq, _) => {
                let weights: Vec<Weight<'_>> = views.iter().map(|(weight, _)| *weight).collect();
                let spec = &self.sites[first].1.spec;
                let found = awq_scales(&weights, spec, &gram, None, Trial::RtnSearch).with_context(what)?;
                scales = found.ratio.is_some().then_some(found.scales);
            }
            _ => {}
        }
        gram = whole.unwrap_or(gram);
        let scaled = scales.as_ref().map(|scales| gram.scaled(scales)).transpose()?;
        let loss = Loss::new(&gram);
        let rows = views.iter().map(|(weight, _)| weight.rows()).sum();
        let gram = scaled.as_ref().unwrap_or(&gram);
        let mut quantizer = Quantizer { gram, how, plans: Vec::new(), rows };
        for (((site, choice), (target, _)), (_, taken)) in members.iter().zip(&views).zip(&targets) {
            let key = key(model, site);
            if spool.get(&key).is_some() {
                continue;
            }
            let moved = scales.as_ref().map(|scales| apply(target, scales)).transpose()?;
            let target = match &moved {
                Some(moved) => Weight::from_rows(&moved[..], site.rows, columns)?,
                None => *target,
            };
            let coded = Coded::Uniform(quantizer.quantize(&target, choice).with_context(|| wrong(site))?);
            let stored = site.stored(model).with_context(|| format!("{:?} is no constant", site.name))?;
            let weight = view(site, &stored)?;
            let mut effective = coded.dequantize();
            if let Some(scales) = &scales {
                unscale(&mut effective, scales);
            }
            let (lost, energy) = (loss.of(&weight, &effective)?, loss.energy(&weight)?);
            let output_error = (energy > 0.0).then(|| (lost.max(0.0) / energy).sqrt());
            let mut done =
                finish(model, site, choice, options, &weight, &coded, scales.as_deref(), output_error)?;
            done.report.drift_taken = *taken;
            if let Some(refused) = refused {
                done.report.why = format!("{}; {refused}", done.report.why);
            }
            spool.put(&key, done)?;
        }
        Ok(())
    }

    /// Sums up what the group reads. Rows are held back wherever something is judged by them.
    fn moments(&self, columns: usize) -> Result<Moments> {
        let awq = self.group.members.iter().any(|&m| self.sites[m].1.method == WeightMethod::AwqGptq);
        let mut all = Moments {
            gram: Gram::new(columns),
            held: (awq || self.float.is_some()).then(|| Gram::new(columns)),
            drift: self.float.map(|_| Cross::new(columns, columns)).transpose()?,
            wishes: BTreeMap::new(),
        };
        for &member in self.group.residuals.keys() {
            all.wishes.insert(member, Cross::new(self.sites[member].0.rows, columns)?);
        }
        for sample in 0..self.quantized.len() {
            for &input in &self.group.inputs {
                let now = self.rows(self.quantized, sample, input, columns)?;
                let rows = now.len() / columns.max(1);
                let fitted = if all.held.is_some() { most(sample, self.quantized.len(), rows) } else { rows };
                let (now, held) = now.split_at(fitted * columns);
                all.gram.add(now)?;
                if let Some(gram) = &mut all.held {
                    gram.add(held)?;
                }
                let Some(float) = self.float else { continue };
                let gap = self.gap(float, sample, input, columns)?;
                if let Some(drift) = &mut all.drift {
                    drift.add(&gap[..fitted * columns], now)?;
                }
                for (&member, &other) in &self.group.residuals {
                    let width = self.sites[member].0.rows;
                    let wish = self.gap(float, sample, other, width)?;
                    if let Some(cross) = all.wishes.get_mut(&member) {
                        cross.add(&wish[..fitted * width], now)?;
                    }
                }
            }
        }
        Ok(all)
    }

    /// How far a value is from the float model's: float minus quantized.
    fn gap(&self, float: &Stream, sample: usize, value: ValueId, columns: usize) -> Result<Vec<f32>> {
        let mut gap = self.rows(float, sample, value, columns)?;
        let now = self.rows(self.quantized, sample, value, columns)?;
        gap.iter_mut().zip(&now).for_each(|(a, b)| *a -= b);
        Ok(gap)
    }

    /// The part of a change of a weight that the rows that were held back bear out, 0 to 1.
    fn borne_out(&self, member: usize, weight: &[f32], change: &[f32], float: &Stream) -> Result<f64> {
        let (site, _) = &self.sites[member];
        let (columns, samples) = (site.cols, self.quantized.len());
        let (mut fits, mut size) = (0.0, 0.0);
        for sample in 0..samples {
            for &input in &self.group.inputs {
                let now = self.rows(self.quantized, sample, input, columns)?;
                let from = most(sample, samples, now.len() / columns.max(1));
                let held = &now[from * columns..];
                if held.is_empty() {
                    continue;
                }
                let gap = self.gap(float, sample, input, columns)?;
                let other = self.group.residuals.get(&member);
                let wish = other.map(|&other| self.gap(float, sample, other, site.rows)).transpose()?;
                let wish = wish.as_deref().map(|wish| &wish[from * site.rows..]);
                let found = borne_out(weight, change, columns, held, &gap[from * columns..], wish)?;
                (fits, size) = (fits + found.0, size + found.1);
            }
        }
        Ok(if size > 0.0 { (fits / size).clamp(0.0, 1.0) } else { 0.0 })
    }

    /// What each weight of the group should be, `[N, K]` row-major, and the part of the change that was taken where one was
    /// asked for. The moments are those of the rows that are fitted to.
    fn targets(
        &self,
        gram: &Gram,
        drift: Option<&Cross>,
        wishes: &BTreeMap<usize, Cross>,
        how: &CalibratedOptions,
    ) -> Result<Vec<(Vec<f32>, Option<f64>)>> {
        let one = |&member: &usize| {
            let (site, choice) = &self.sites[member];
            let stored =
                site.stored(self.model).with_context(|| format!("{:?} is no constant", site.name))?;
            let weight = view(site, &stored)?;
            let residual = wishes.get(&member);
            let exact = weight.to_f32().with_context(|| wrong(site))?;
            // What suits a head does not suit the embedding that it shares its numbers with.
            let own = choice.method == WeightMethod::Awq || site.is_table();
            let Some(float) = self.float.filter(|_| !own) else {
                return Ok((exact, None));
            };
            let moved = retarget(&weight, gram, drift, residual, how.gptq.damping);
            let mut change = moved.with_context(|| wrong(site))?.weight;
            change.iter_mut().zip(&exact).for_each(|(moved, w)| *moved -= w);
            let part = self.borne_out(member, &exact, &change, float)?;
            let target = exact.iter().zip(&change).map(|(w, d)| w + part as f32 * d).collect();
            Ok((target, Some(part)))
        };
        self.group.members.iter().map(one).collect()
    }
}

/// How many of a sample's rows may be fitted to: every eighth sample is held back, or the end of each where samples are few.
fn most(sample: usize, samples: usize, rows: usize) -> usize {
    match samples >= HELD {
        true if sample % HELD == HELD - 1 => 0,
        true => rows,
        false => rows - rows / HELD,
    }
}

/// The sum of two Gram matrices.
fn with(gram: &Gram, other: &Gram) -> Result<Gram> {
    let mut sum = gram.clone();
    sum.merge(other)?;
    Ok(sum)
}

/// Quantizes the weights of a group, each grid's factorization made once.
struct Quantizer<'a> {
    gram: &'a Gram,
    how: &'a CalibratedOptions,
    plans: Vec<(Spec, GptqPlan)>,
    /// Of all weights.
    rows: usize,
}

impl Quantizer<'_> {
    fn quantize(&mut self, target: &Weight<'_>, choice: &Choice) -> Result<Quantized> {
        if choice.method == WeightMethod::Awq {
            return Ok(rtn_search(target, &choice.spec, Some(&self.gram.importance()))?);
        }
        if !self.plans.iter().any(|(spec, _)| *spec == choice.spec) {
            let plan = GptqPlan::new(self.gram, &choice.spec, &self.how.gptq, self.rows)?;
            self.plans.push((choice.spec, plan));
        }
        let plan = self.plans.iter().find(|(spec, _)| *spec == choice.spec).context("a plan")?;
        Ok(plan.1.quantize(target, &choice.spec)?)
    }
}
