//! What held-back samples say of a candidate: the one number by which every accuracy pass is accepted or reverted.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};
use ir::{DType, Model, Tensor};
use passes::quantize::cost::macs;
use quant::measure::{Distance, TopK};
use runtime::{Executor, Feed, Session, View};
use serde::Serialize;

use super::super::super::engine::{form_for, prepare, run_all};
use super::super::super::prepare::lowered;
use super::super::Job;
use crate::data::Source;

/// The default quality bar of outputs that choose, signal to noise in dB: detectors keep their precision down to here, and
/// classifiers change one first choice in ten.
pub const QUALITY_DB: f64 = 12.0;
/// The share of rows that must keep their greatest element for [`QUALITY_DB`] to be enough.
const SAME_CHOICES: f64 = 0.9;
/// The default quality bar of all other float outputs (waveforms, embeddings, positions): 1 % of the power is noise.
pub const EXACT_DB: f64 = 20.0;
/// The default quality bar of integer outputs (pixels): root mean square of the error, in codes.
pub const QUALITY_RMS: f64 = 1.0;

/// Fewest and most samples that a candidate is judged by; between them as many as [`WORK`] multiplications allow.
const SAMPLES: (usize, usize) = (12, 64);
/// Multiplications of a judgement, all samples together: a second or so.
const WORK: u64 = 4_000_000_000;
/// Bytes of inputs and outputs that are kept of them.
const BYTES: usize = 256 << 20;

/// The share of the samples, and how many at least, after which a trial may end.
const FIRST: (usize, usize) = (4, 4);
/// Noise on the first samples by that of the best draft, from which on a trial ends: half a decibel, where what is worth
/// keeping takes off a tenth.
const CLEARLY: f64 = 1.122;

/// One output against the float model's.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct OutputScore {
    /// The output's name.
    pub name: String,
    /// Power of the error by power of the signal.
    pub noise: f64,
    /// Root of the mean squared error.
    pub rms: f64,
    /// Integers: pixels, classes.
    pub integer: bool,
    /// Share of rows whose greatest element is in the same place; none where rows have one element.
    pub agreement: Option<f64>,
}

impl OutputScore {
    /// Power of the error by what the bar allows: at most 1 where the bar is met.
    fn beyond(&self) -> f64 {
        match self.integer {
            true => (self.rms / QUALITY_RMS).powi(2),
            false if self.agreement.is_some_and(|share| share >= SAME_CHOICES) => {
                self.noise * 10f64.powf(QUALITY_DB / 10.0)
            }
            false => self.noise * 10f64.powf(EXACT_DB / 10.0),
        }
    }
}

/// All outputs. Less noise is better.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Score {
    /// In the order of names.
    pub outputs: Vec<OutputScore>,
    /// The same on the first samples alone, by which a trial may end early; none where it did.
    #[serde(skip)]
    pub first: Option<Box<Score>>,
}

impl Score {
    /// A trial with this score on the first samples will not be better than this: its noise there is [`CLEARLY`] more.
    pub fn is_clearly_better_than(&self, first: &Score) -> bool {
        self.first.as_ref().is_some_and(|own| first.noise() > own.noise() * CLEARLY)
    }

    /// What a trial that ended after the first samples would have been on all of them, going by what this one was.
    pub fn extrapolate(&self, first: Score) -> Score {
        let known = self.first.as_ref().map_or(0.0, |own| own.noise());
        let ratio = if known > 0.0 { self.noise() / known } else { 1.0 };
        let scaled = |output: OutputScore| OutputScore { noise: output.noise * ratio, ..output };
        Score { outputs: first.outputs.into_iter().map(scaled).collect(), first: None }
    }

    /// Power of the error by power of the signal, mean over the outputs: the worst output counts most.
    pub fn noise(&self) -> f64 {
        self.outputs.iter().map(|output| output.noise).sum::<f64>() / self.outputs.len().max(1) as f64
    }

    /// Every output is good enough: see [`QUALITY_DB`], [`EXACT_DB`] and [`QUALITY_RMS`].
    pub fn passes(&self) -> bool {
        self.outputs.iter().all(|output| output.beyond() <= 1.0)
    }

    /// An output is worse than noisy: below [`QUALITY_DB`], or pixels beyond [`QUALITY_RMS`].
    pub fn damaged(&self) -> bool {
        self.outputs.iter().any(|output| match output.integer {
            true => output.beyond() > 1.0,
            false => decibels(output.noise) < QUALITY_DB,
        })
    }

    /// Noise beyond the bars, in units of what they allow, mean over the outputs; 0 where all are met. It falls by what each
    /// change takes off, in whatever order changes are made, as decibels do not.
    pub fn excess(&self) -> f64 {
        let each = self.outputs.iter().map(|output| (output.beyond() - 1.0).max(0.0));
        each.sum::<f64>() / self.outputs.len().max(1) as f64
    }

    /// How far the worst output is from its bar, in dB; 0 where all are met.
    pub fn missing_db(&self) -> f64 {
        self.outputs.iter().map(|output| -decibels(output.beyond())).fold(0.0, f64::max)
    }

    /// [`Self::noise`] as a signal to noise ratio, in dB; at most 200.
    pub fn db(&self) -> f64 {
        decibels(self.noise())
    }
}

/// A ratio of powers as dB of its inverse.
pub fn decibels(noise: f64) -> f64 {
    (-10.0 * noise.max(1e-20).log10()).clamp(-200.0, 200.0)
}

/// Samples that are held in memory.
pub struct Held {
    feeds: Vec<Feed>,
}

impl Held {
    /// Reads samples, evenly spaced over `from`, at most `count` and as many as fit into the memory set aside.
    pub fn read(source: &dyn Source, from: &[usize], count: usize) -> Result<Held> {
        let (mut feeds, mut bytes): (Vec<Feed>, usize) = (Vec::new(), 0);
        let taken = count.min(from.len());
        for at in 0..taken {
            let feed = source.sample(from[at * from.len() / taken])?;
            bytes += feed.iter().map(|(_, tensor)| tensor.bytes().len()).sum::<usize>();
            if bytes > BYTES && !feeds.is_empty() {
                break;
            }
            feeds.push(feed);
        }
        Ok(Held { feeds })
    }

    /// These samples.
    pub fn of(feeds: Vec<Feed>) -> Held {
        Held { feeds }
    }

    /// The samples.
    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }
}

impl Source for Held {
    fn len(&self) -> usize {
        self.feeds.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        self.feeds.get(at).cloned().context("no such sample")
    }
}

/// The float model's outputs on some samples.
pub struct Judge {
    samples: Held,
    expected: Vec<BTreeMap<String, Tensor>>,
    executor: Box<dyn Executor>,
    /// What candidates run in, if not in the same.
    deployed: Option<Box<dyn Executor>>,
    threads: usize,
}

impl Judge {
    /// Runs the float model on some of the samples that are held back.
    pub(in super::super) fn new(job: &Job<'_>) -> Result<Judge> {
        let float = lowered(job.float)?;
        let engine = &job.options.engine;
        let (executor, _) = engine.choose(&float)?;
        let deployed = engine.deployed(executor.as_ref(), job.options.target);
        let threads = engine.threads();
        let mut samples = Held::read(job.source, &job.judged, samples_of(job.float))?;
        let session = prepare(executor.as_ref(), &float, vec![])?;
        let mut expected = outputs(session.as_ref(), &samples, 0..samples.len(), threads)?;
        let size = |kept: &BTreeMap<String, Tensor>| kept.values().map(|t| t.bytes().len()).sum::<usize>();
        let each = expected.iter().map(size).max().unwrap_or(0).max(1);
        expected.truncate((BYTES / each).max(1));
        samples.feeds.truncate(expected.len());
        Ok(Judge { samples, expected, executor, deployed, threads })
    }

    /// The runtime.
    pub fn executor(&self) -> &dyn Executor {
        self.executor.as_ref()
    }

    /// Samples that run at the same time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many samples it judges by.
    pub fn samples(&self) -> usize {
        self.expected.len()
    }

    /// One sample and what the float model makes of it.
    pub fn example(&self) -> Option<(&Feed, &BTreeMap<String, Tensor>)> {
        Some((self.samples.feeds.first()?, self.expected.first()?))
    }

    /// How far an emitted model is from the float one.
    pub fn score(&self, emitted: &Model) -> Result<Score> {
        self.score_unless(emitted, |_| false)
    }

    /// [`Judge::score`] that ends after the first samples where `hopeless` says so of their score: then that is the answer.
    pub fn score_unless(&self, emitted: &Model, hopeless: impl Fn(&Score) -> bool) -> Result<Score> {
        if let Some(deployed) = &self.deployed {
            // What a deployed file's runtime refuses is judged by its plain operators, and told by the validation.
            match self.score_in(deployed.as_ref(), emitted, &hopeless) {
                Ok(score) => return Ok(score),
                Err(_) => return self.score_in(self.executor.as_ref(), emitted, &hopeless),
            }
        }
        self.score_in(self.executor.as_ref(), emitted, &hopeless)
    }

    fn score_in(
        &self,
        executor: &dyn Executor,
        emitted: &Model,
        hopeless: &dyn Fn(&Score) -> bool,
    ) -> Result<Score> {
        let session = prepare(executor, form_for(executor, emitted)?.as_ref(), vec![])?;
        let (share, least) = FIRST;
        let (all, early) = (self.samples(), (self.samples() / share).max(least));
        let mut sums = Sums::default();
        if early >= all {
            sums.add(&self.expected, &outputs(session.as_ref(), &self.samples, 0..all, self.threads)?)?;
            let score = sums.score();
            return Ok(Score { first: Some(Box::new(score.clone())), ..score });
        }
        let found = outputs(session.as_ref(), &self.samples, 0..early, self.threads)?;
        sums.add(&self.expected, &found)?;
        let first = sums.score();
        if hopeless(&first) {
            return Ok(first);
        }
        let found = outputs(session.as_ref(), &self.samples, early..all, self.threads)?;
        sums.add(&self.expected[early..], &found)?;
        Ok(Score { first: Some(Box::new(first)), ..sums.score() })
    }
}

/// What samples add up to, by output.
#[derive(Default)]
struct Sums<'a>(BTreeMap<&'a str, (Distance, TopK, bool)>);

impl<'a> Sums<'a> {
    fn add(
        &mut self,
        expected: &'a [BTreeMap<String, Tensor>],
        found: &[BTreeMap<String, Tensor>],
    ) -> Result<()> {
        for (expected, found) in expected.iter().zip(found) {
            for (name, reference) in expected {
                let Some(other) = found.get(name).filter(|other| other.dims() == reference.dims()) else {
                    continue;
                };
                let (Some(a), Some(b)) = (numbers(reference), numbers(other)) else { continue };
                let (distance, ranking, integer) = self.0.entry(name).or_default();
                distance.add(&a, &b)?;
                *integer = !reference.dtype().is_float();
                if let Some(&row) = reference.dims().last().filter(|&&row| row > 1) {
                    ranking.add(&a, &b, row)?;
                }
            }
        }
        Ok(())
    }

    fn score(&self) -> Score {
        let outputs = self.0.iter().map(|(name, (distance, ranking, integer))| OutputScore {
            name: name.to_string(),
            noise: 10f64.powf(-distance.sqnr_db() / 10.0).min(1e9),
            rms: distance.mean_square().sqrt(),
            integer: *integer,
            agreement: ranking.top1_agreement(),
        });
        Score { outputs: outputs.collect(), first: None }
    }
}

/// How many samples tell candidates apart: many of a small model, which costs little, a dozen of a large one.
fn samples_of(model: &Model) -> usize {
    let graph = model.main();
    let work: u64 = graph.ops().into_iter().map(|op| macs(graph, op)).fold(0, u64::saturating_add);
    let (least, most) = SAMPLES;
    usize::try_from(WORK / work.max(1)).unwrap_or(most).clamp(least, most)
}

/// Numbers of any type that has an order: floats, integers, truth values.
pub fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    if let Some(floats) = View::of(tensor).floats() {
        return Some(floats.into_owned());
    }
    Some(match tensor.dtype() {
        DType::U8 | DType::Bool => tensor.bytes().iter().map(|&v| f32::from(v)).collect(),
        DType::I8 => tensor.bytes().iter().map(|&v| f32::from(v as i8)).collect(),
        DType::I32 => tensor.to_vec::<i32>().ok()?.into_iter().map(|v| v as f32).collect(),
        DType::I64 => tensor.to_vec::<i64>().ok()?.into_iter().map(|v| v as f32).collect(),
        _ => return None,
    })
}

/// The outputs of some of the samples, in order.
fn outputs(
    session: &dyn Session,
    samples: &Held,
    which: Range<usize>,
    threads: usize,
) -> Result<Vec<BTreeMap<String, Tensor>>> {
    let all: Vec<usize> = which.collect();
    let parts = run_all(
        session,
        samples,
        &all,
        threads,
        Vec::new,
        |done: &mut Vec<(usize, BTreeMap<String, Tensor>)>, session, sample, feed| {
            let mut kept = BTreeMap::new();
            let mut keep = |name: &str, view: View<'_>| {
                if let Some(tensor) = view.to_tensor() {
                    kept.insert(name.to_string(), tensor);
                }
            };
            session.run(&feed, &mut keep)?;
            done.push((sample, kept));
            Ok(())
        },
        |_| {},
    )?;
    let mut parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.sort_by_key(|(sample, _)| *sample);
    Ok(parts.into_iter().map(|(_, kept)| kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_output_counts_most() {
        let output =
            |noise| OutputScore { name: "y".into(), noise, rms: 0.0, integer: false, agreement: None };
        let score = Score { outputs: vec![output(0.1), output(0.0)], first: None };
        // (0.1 + 0) / 2 is 13.01 dB below the signal.
        assert!((score.db() - 13.01).abs() < 0.01, "{}", score.db());
        assert_eq!(decibels(0.0), 200.0);
    }

    #[test]
    fn choices_that_hold_allow_more_noise() {
        let with = |noise, agreement| Score {
            outputs: vec![OutputScore { name: "y".into(), noise, rms: 0.0, integer: false, agreement }],
            first: None,
        };
        // 0.05 is 13.0 dB, 0.01 is 20 dB.
        assert!((with(0.1, None).missing_db() - 10.0).abs() < 1e-9);
        assert!((with(0.1, None).excess() - 9.0).abs() < 1e-9);
        assert_eq!((with(0.001, None).missing_db(), with(0.001, None).excess()), (0.0, 0.0));
        assert!(with(0.05, Some(0.95)).passes());
        assert!(!with(0.05, Some(0.5)).passes());
        assert!(!with(0.05, None).passes());
        assert!(with(0.0099, None).passes());
        assert!(!with(0.1, Some(1.0)).passes());
    }

    #[test]
    fn a_trial_that_ends_early_is_extrapolated() {
        let of = |noise| Score {
            outputs: vec![OutputScore { name: "y".into(), noise, rms: 0.0, integer: false, agreement: None }],
            first: None,
        };
        let best = Score { first: Some(Box::new(of(0.02))), ..of(0.01) };
        assert!(best.is_clearly_better_than(&of(0.03)) && !best.is_clearly_better_than(&of(0.021)));
        // Half as noisy on all samples as on the first ones.
        assert!((best.extrapolate(of(0.03)).noise() - 0.015).abs() < 1e-12);
        assert!(!of(0.01).is_clearly_better_than(&of(1.0)), "nothing is known of its first samples");
    }

    #[test]
    fn integers_are_numbers_too() {
        let pixels = Tensor::new(DType::U8, &[3usize][..], vec![0u8, 128, 255]).unwrap();
        assert_eq!(numbers(&pixels).unwrap(), [0.0, 128.0, 255.0]);
        let classes = Tensor::from_slice(&[2], &[-1i64, 7]).unwrap();
        assert_eq!(numbers(&classes).unwrap(), [-1.0, 7.0]);
    }
}
