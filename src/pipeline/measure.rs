//! How far one model is from another on the same samples, output by output.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ir::{DType, Tensor};
use quant::measure::{Distance, Divergence, Rows, TopK};
use runtime::{Session, View};
use serde::Serialize;

use super::engine::run_all;
use crate::data::{Labels, Source};

/// The comparison of one value over all samples.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    distance: Distance,
    divergence: Divergence,
    ranking: TopK,
    reference_answers: TopK,
    answers: TopK,
    differing: u64,
    elements: u64,
}

/// The numbers of a [`Comparison`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Name of the value.
    pub name: String,
    /// The figures in dB and of distance below mean something: floats, and integers of 8 bits, which are pixels or codes.
    /// Of other types only [`Figures::differing`] does.
    pub measurable: bool,
    /// Signal to noise, in dB.
    pub sqnr_db: f64,
    /// Cosine of the angle between the two, all elements as one vector.
    pub cosine: f64,
    /// Greatest absolute difference.
    pub max_abs: f64,
    /// Mean absolute difference.
    pub mean_abs: f64,
    /// Length of the difference by length of the first.
    pub relative_l2: f64,
    /// Mean Kullback-Leibler divergence of the softmax over the last axis, in nats.
    pub kl: f64,
    /// Share of rows (last axis) whose greatest element is in the same place; none where rows have one element.
    pub top1_agreement: Option<f64>,
    /// Share of rows whose first choice is among the other's first five.
    pub top5_agreement: Option<f64>,
    /// Share of elements that differ, for integers and booleans.
    pub differing: Option<f64>,
    /// Share of samples whose label is the reference's first choice; none where no labels were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_top1: Option<f64>,
    /// The same among its first five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_top5: Option<f64>,
    /// Share of samples whose label is the other model's first choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The same among its first five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
}

impl Comparison {
    fn add(&mut self, reference: &Tensor, other: View<'_>) -> Result<()> {
        ensure!(
            reference.dims() == other.dims(),
            "shapes differ: {:?} and {:?}",
            reference.dims(),
            other.dims()
        );
        let (Some(a), Some(b)) = (View::of(reference).floats(), other.floats()) else {
            ensure!(
                reference.dtype() == other.dtype(),
                "types differ: {} and {}",
                reference.dtype(),
                other.dtype()
            );
            let size = reference.dtype().bits().div_ceil(8).max(1);
            let pairs = reference.bytes().chunks(size).zip(other.bytes().chunks(size));
            self.elements += reference.elements() as u64;
            self.differing += pairs.filter(|(a, b)| a != b).count() as u64;
            // Integers of 8 bits are pixels or codes: how far they are apart says something. Others are classes and counts.
            let own = |byte: &u8| match reference.dtype() {
                DType::I8 => f32::from(*byte as i8),
                _ => f32::from(*byte),
            };
            if matches!(reference.dtype(), DType::U8 | DType::I8) {
                let a: Vec<f32> = reference.bytes().iter().map(own).collect();
                let b: Vec<f32> = other.bytes().iter().map(own).collect();
                self.distance.add(&a, &b)?;
            }
            return Ok(());
        };
        self.distance.add(&a, &b)?;
        let row = other.dims().last().copied().unwrap_or(1);
        if row > 1 {
            self.divergence.add(&a, &b, row, rows(&a, row))?;
            self.ranking.add(&a, &b, row)?;
        }
        Ok(())
    }

    /// Counts right answers where the value holds one row of scores a label.
    fn judge(&mut self, reference: &Tensor, other: View<'_>, labels: &[usize]) {
        let (Some(a), Some(b)) = (View::of(reference).floats(), other.floats()) else { return };
        let row = a.len() / labels.len().max(1);
        if labels.is_empty() || row < 2 || row * labels.len() != a.len() || a.len() != b.len() {
            return;
        }
        for ((a, b), &label) in a.chunks_exact(row).zip(b.chunks_exact(row)).zip(labels) {
            self.reference_answers.add_labelled(a, label);
            self.answers.add_labelled(b, label);
        }
    }

    fn merge(&mut self, other: &Comparison) {
        self.reference_answers.merge(&other.reference_answers);
        self.answers.merge(&other.answers);
        self.distance.merge(&other.distance);
        self.divergence.merge(&other.divergence);
        self.ranking.merge(&other.ranking);
        self.differing += other.differing;
        self.elements += other.elements;
    }

    fn figures(&self, name: &str) -> Figures {
        Figures {
            name: name.to_string(),
            measurable: self.elements == 0 || self.distance.count() > 0,
            sqnr_db: self.distance.sqnr_db(),
            cosine: self.distance.cosine(),
            max_abs: self.distance.max_abs(),
            mean_abs: self.distance.mean_abs(),
            relative_l2: self.distance.relative_l2(),
            kl: self.divergence.mean(),
            top1_agreement: self.ranking.top1_agreement(),
            top5_agreement: self.ranking.top5_agreement(),
            reference_top1: self.reference_answers.accuracy(),
            reference_top5: self.reference_answers.accuracy5(),
            top1: self.answers.accuracy(),
            top5: self.answers.accuracy5(),
            differing: (self.elements > 0).then(|| self.differing as f64 / self.elements as f64),
        }
    }
}

/// Rows that are probabilities already are not put through a softmax again.
fn rows(values: &[f32], row: usize) -> Rows {
    let first = &values[..row.min(values.len())];
    let sum: f64 = first.iter().map(|&v| f64::from(v)).sum();
    let probabilities = first.iter().all(|&v| (0.0..=1.0).contains(&v)) && (sum - 1.0).abs() < 1e-3;
    if probabilities { Rows::Probabilities } else { Rows::Logits }
}

/// Runs both models on the samples. Every wanted value that both show is compared; returned in the order of names.
pub fn compare(
    reference: &dyn Session,
    other: &dyn Session,
    source: &dyn Source,
    samples: &[usize],
    threads: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Figures>> {
    compare_labelled(reference, other, source, samples, None, threads, done)
}

/// [`compare`], and right answers counted where labels are known.
///
/// # Errors
/// A sample that one of the models cannot run, values of other shapes, a sample without label.
pub fn compare_labelled(
    reference: &dyn Session,
    other: &dyn Session,
    source: &dyn Source,
    samples: &[usize],
    labels: Option<&Labels>,
    threads: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Figures>> {
    // Each worker needs a fork of both; the second is made by the worker itself, so it must be shareable until then.
    let others =
        std::sync::Mutex::new((0..threads.max(1)).map(|_| other.fork()).collect::<Result<Vec<_>, _>>()?);
    let make = || {
        let mut others = others.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (others.pop(), BTreeMap::<String, Comparison>::new())
    };
    let states = run_all(
        reference,
        source,
        samples,
        threads,
        make,
        |(other, found), session, sample, feed| {
            let classes = match labels {
                Some(labels) => labels.of(source, sample)?,
                None => Vec::new(),
            };
            let mut expected: BTreeMap<String, Tensor> = BTreeMap::new();
            let mut keep = |name: &str, view: View<'_>| {
                if let Some(tensor) = view.to_tensor() {
                    expected.insert(name.to_string(), tensor);
                }
            };
            session.run(&feed, &mut keep)?;
            let mut failure = None;
            let mut match_up = |name: &str, view: View<'_>| {
                let Some(tensor) = expected.get(name) else { return };
                let comparison = found.entry(name.to_string()).or_default();
                let added = comparison.add(tensor, view);
                comparison.judge(tensor, view, &classes);
                if let Err(error) = added.with_context(|| format!("value {name:?}")) {
                    failure.get_or_insert(error);
                }
            };
            let other = other.as_mut().context("no session of the second model is left")?;
            other.run(&feed, &mut match_up)?;
            failure.map_or(Ok(()), Err)
        },
        done,
    )?;
    let mut whole: BTreeMap<String, Comparison> = BTreeMap::new();
    for (_, part) in states {
        for (name, comparison) in part {
            whole.entry(name).or_default().merge(&comparison);
        }
    }
    Ok(whole.iter().map(|(name, comparison)| comparison.figures(name)).collect())
}
