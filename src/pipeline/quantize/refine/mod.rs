//! Accuracy passes of static quantization. Each proposes a change of the draft, is judged on samples that are held back from
//! calibration, and is kept only if it helps; what each did is in the report.

mod bias;
mod draft;
mod guilty;
mod judge;
mod meeting;

use std::collections::BTreeSet;

use anyhow::Result;
use passes::correct_bias::correct;
use passes::equalize_channels::equalize;
use passes::quantize::fit::Sketches;
use passes::quantize::{Precision, QuantPlan};
use serde::Serialize;

pub(super) use draft::Draft;
use judge::{Judge, Score};

use super::super::calibrate::{CalibrateOptions, calibrate};
use super::Job;
use judge::Held;

/// A pass is kept if it leaves at most this share of the noise: 0.1 dB less. Smaller gains are chance on a dozen samples.
const WORTHWHILE: f64 = 0.977;

/// How many of the guiltiest values are tried in float: each some more than the one before, up to all.
const TRIED: [usize; 14] = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, usize::MAX];

/// Balances between activations and weights with which channels are equalized.
const BALANCES: [f64; 2] = [0.5, 0.75];

/// Samples on which the ranges of equalized values are measured.
const RESKETCHED: usize = 32;

/// Weights of fewer elements are not worth 8 bits if their operator computes in float.
const WORTH_STORING: usize = 1024;

/// No pass is tried on a draft this close to the float model: more is not to be seen in any output.
const ENOUGH_DB: f64 = 45.0;

/// What one accuracy pass did.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The pass.
    pub pass: &'static str,
    /// What it changed or would have changed.
    pub what: String,
    /// Signal to noise of the outputs before, in dB, on samples that are held back.
    pub before_db: f64,
    /// The same after.
    pub after_db: f64,
    /// The change was kept.
    pub kept: bool,
}

/// Takes a draft through all passes.
///
/// # Errors
/// A runtime fails on a sample.
pub(super) fn refine(job: &mut Job<'_>, draft: Draft, sketches: &Sketches) -> Result<(Draft, Vec<Step>)> {
    let judge = Judge::new(job)?;
    let score = judge.score(&draft.emit(job.options)?)?;
    let mut refiner = Refiner { job, judge, draft, score, steps: Vec::new() };
    // A given plan says how channels, ranges and weights are: it was made so already.
    if refiner.job.options.plan.is_none() {
        refiner.equalize_channels(sketches)?;
        refiner.fit_behind(sketches)?;
        refiner.search_weights(sketches)?;
    }
    let plain = (refiner.draft.clone(), refiner.score.clone());
    refiner.correct_bias()?;
    // A given plan says what stays float: it was made so already.
    if !refiner.score.passes() && refiner.job.options.plan.is_none() {
        // What was measured around values that lose too much says little: first those, then the biases.
        (refiner.draft, refiner.score) = plain;
        refiner.restore_guilty(sketches)?;
        refiner.store_weights(sketches)?;
        refiner.correct_bias()?;
    }
    Ok((refiner.draft, refiner.steps))
}

/// The best draft so far and its score.
struct Refiner<'a, 'b> {
    job: &'a mut Job<'b>,
    judge: Judge,
    draft: Draft,
    score: Score,
    steps: Vec<Step>,
}

impl Refiner<'_, '_> {
    /// Judges a candidate and takes it over if it is better.
    fn propose(&mut self, pass: &'static str, what: String, candidate: Draft) -> Result<bool> {
        let score = self.judge.score(&candidate.emit(self.job.options)?)?;
        let kept = score.noise() < self.score.noise() * WORTHWHILE;
        self.steps.push(Step { pass, what, before_db: self.score.db(), after_db: score.db(), kept });
        if kept {
            (self.draft, self.score) = (candidate, score);
        }
        Ok(kept)
    }

    fn enough(&self) -> bool {
        self.score.db() >= ENOUGH_DB
    }

    /// Moves range between channels, with each balance from the original model.
    fn equalize_channels(&mut self, sketches: &Sketches) -> Result<()> {
        if self.enough() {
            return Ok(());
        }
        let options = self.job.options;
        let original = self.draft.clone();
        for alpha in BALANCES {
            let mut candidate = original.clone();
            let done = equalize(&mut candidate.model, sketches, alpha);
            let rounded: BTreeSet<String> =
                done.values.into_iter().filter(|name| original.plan.values.contains_key(name)).collect();
            if rounded.is_empty() {
                return Ok(());
            }
            let what = format!(
                "{} channels, of {} rounded values and others (balance {alpha})",
                done.channels,
                rounded.len()
            );
            let how = CalibrateOptions {
                engine: options.engine.clone(),
                values: Some(rounded.into_iter().collect()),
                ..CalibrateOptions::default()
            };
            let samples = Held::read(self.job.source, &self.job.seen, RESKETCHED)?;
            let table = calibrate(&candidate.model, self.judge.executor(), &samples, &how, &mut |_, _| {})?;
            candidate.sketches = table.values;
            candidate.replan(sketches, options)?;
            candidate.plan.equalized = Some(alpha);
            if !self.propose("equalize_channels", what, candidate)? {
                break;
            }
        }
        Ok(())
    }

    /// Ranges with the least error behind the functions that alone read some values.
    fn fit_behind(&mut self, sketches: &Sketches) -> Result<()> {
        let mut candidate = Draft { behind: true, ..self.draft.clone() };
        candidate.replan(sketches, self.job.options)?;
        let (old, new) = (&self.draft.plan.values, &candidate.plan.values);
        let changed =
            new.iter().filter(|(name, value)| old.get(*name).is_none_or(|old| old.params != value.params));
        let count = changed.count();
        if count > 0 && !self.enough() {
            self.propose("fit_behind_functions", format!("ranges of {count} values"), candidate)?;
        }
        Ok(())
    }

    /// Scales of weight channels with the least expected error.
    fn search_weights(&mut self, sketches: &Sketches) -> Result<()> {
        if self.enough() {
            return Ok(());
        }
        let mut candidate = Draft { weights: true, ..self.draft.clone() };
        candidate.replan(sketches, self.job.options)?;
        let factors = candidate.plan.weights.values().flatten().flat_map(|weight| &weight.scale_factors);
        let count = factors.filter(|&&factor| factor != 1.0).count();
        if count > 0 {
            self.propose("search_weight_scales", format!("{count} channels"), candidate)?;
        }
        Ok(())
    }

    /// Takes the fewest of the guiltiest values back to float until the quality bar is met. What reads or writes them
    /// computes in float then; weights worth it stay in 8 bits.
    fn restore_guilty(&mut self, sketches: &Sketches) -> Result<()> {
        let options = self.job.options;
        let Some((feed, expected)) = self.judge.example() else { return Ok(()) };
        let draft = &self.draft;
        let emitted = draft.emit(options)?;
        let suspects =
            guilty::suspects(&draft.model, &emitted, &draft.plan, self.judge.executor(), feed, expected)?;
        let original = self.draft.clone();
        for count in TRIED {
            let taken: Vec<_> = suspects.iter().take(count).collect();
            let mut candidate = original.clone();
            for op in taken.iter().flat_map(|suspect| &suspect.ops) {
                candidate.overrides.insert(op.clone(), without_rounding(&original, op));
            }
            if candidate.overrides.len() == self.draft.overrides.len() {
                continue;
            }
            candidate.replan(sketches, options)?;
            let share = |plan: &QuantPlan| plan.integer_share().unwrap_or(0.0) * 100.0;
            let names: Vec<&str> = taken.iter().take(3).map(|suspect| suspect.value.as_str()).collect();
            let what = format!(
                "{} values to float ({}{}); {:.1} % of the multiplications stay integer",
                taken.len(),
                names.join(", "),
                if taken.len() > 3 { ", ..." } else { "" },
                share(&candidate.plan)
            );
            self.propose("restore_guilty", what, candidate)?;
            if self.score.passes() || count >= suspects.len() {
                break;
            }
        }
        Ok(())
    }

    /// Stores the weights of what went back to float in 8 bits where that keeps the quality bar: most often the activations
    /// were guilty, and the size of the file is half of what was asked for.
    fn store_weights(&mut self, sketches: &Sketches) -> Result<()> {
        let mut candidate = self.draft.clone();
        let back = candidate.overrides.values_mut().filter(|precision| **precision == Precision::Float);
        back.for_each(|precision| *precision = Precision::W8);
        candidate.replan(sketches, self.job.options)?;
        let stored = |plan: &QuantPlan| plan.ops.values().filter(|op| op.precision == Precision::W8).count();
        let count = stored(&candidate.plan).saturating_sub(stored(&self.draft.plan));
        if count == 0 || !self.score.passes() {
            return Ok(());
        }
        let score = self.judge.score(&candidate.emit(self.job.options)?)?;
        let (kept, before_db, after_db) = (score.passes(), self.score.db(), score.db());
        let what = format!("weights of {count} operators in float to 8 bits");
        self.steps.push(Step { pass: "store_weights", what, before_db, after_db, kept });
        if kept {
            (self.draft, self.score) = (candidate, score);
        }
        Ok(())
    }

    fn correct_bias(&mut self) -> Result<()> {
        let options = self.job.options;
        let samples = Held::read(self.job.source, &self.job.seen, bias::SAMPLES)?;
        let draft = &self.draft;
        let emit = |model: &ir::Model| draft.with_model(model.clone(), options)?.emit(options);
        let shifts = bias::shifts(&draft.model, &emit, self.judge.executor(), &samples)?;
        if shifts.is_empty() {
            return Ok(());
        }
        let mut model = draft.model.clone();
        let declined = correct(&mut model, &shifts);
        let candidate = draft.with_model(model, options)?;
        let what = format!("biases of {} products", shifts.len() - declined.len());
        self.propose("correct_bias", what, candidate)?;
        Ok(())
    }
}

/// How an operator computes when its data are no longer rounded: with its weights in 8 bits if they are large.
fn without_rounding(draft: &Draft, key: &str) -> Precision {
    let graph = draft.model.main();
    let weights = draft.plan.weights.get(key).into_iter().flatten();
    let sizes = weights.filter_map(|weight| Some(graph.constant(graph.find(&weight.value)?)?.elements()));
    if sizes.sum::<usize>() >= WORTH_STORING { Precision::W8 } else { Precision::Float }
}
