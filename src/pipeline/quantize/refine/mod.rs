//! Accuracy passes of static quantization. Each proposes a change of the draft, is judged on samples that are held back from
//! calibration, and is kept only if it helps; what each did is in the report.

mod bias;
mod draft;
mod guilty;
mod judge;
mod meeting;
mod restore;

use std::collections::BTreeSet;

use anyhow::Result;
use passes::correct_bias::correct;
use passes::equalize_channels::equalize;
use passes::quantize::fit::Sketches;
use passes::quantize::{OpPlan, Precision, QuantPlan, rounded_at_run_time};
use passes::target::Support;
use serde::Serialize;

pub(super) use draft::Draft;
use judge::{Judge, Score};

use super::super::calibrate::{CalibrateOptions, calibrate};
use super::Job;
use judge::Held;

/// A pass is kept if it leaves at most this share of the noise: 0.1 dB less. Smaller gains are chance on a dozen samples.
const WORTHWHILE: f64 = 0.977;

/// Balances between activations and weights with which channels are equalized.
const BALANCES: [f64; 2] = [0.5, 0.75];

/// The second balance is tried if the first left at most this share of the noise: half a dB less.
const PROMISING: f64 = 0.89;

/// Samples on which the ranges of equalized values are measured.
const RESKETCHED: usize = 12;

/// Fewer samples cannot tell whether a pass that gains little gains anything.
const FEWEST: usize = 8;

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
    /// The same after; of a trial that was clearly worse on the first samples, as extrapolated from those.
    pub after_db: f64,
    /// The change was kept.
    pub kept: bool,
}

/// Takes a draft through all passes.
///
/// # Errors
/// A runtime fails on a sample.
pub(super) fn refine(job: &mut Job<'_>, draft: Draft, sketches: &Sketches) -> Result<(Draft, Vec<Step>)> {
    let mut refiner = Refiner::new(job, draft)?;
    // A given plan says how channels, ranges and weights are: it was made so already.
    if refiner.job.options.plan.is_none() {
        refiner.keep_precisions(sketches)?;
    }
    let plain = (refiner.draft.clone(), refiner.score.clone());
    refiner.correct_bias()?;
    // A given plan says what stays float: it was made so already.
    if !refiner.score.passes() && refiner.job.options.plan.is_none() {
        // What was measured around values that lose too much says little: first those, then the biases.
        (refiner.draft, refiner.score) = plain.clone();
        refiner.round_at_run_time(sketches)?;
        refiner.restore_guilty(sketches)?;
        refiner.store_weights(sketches)?;
        // What gained nothing beside the guilty ones may gain something now.
        if refiner.draft.overrides != plain.0.overrides && !refiner.draft.weights {
            refiner.search_weights(sketches)?;
        }
        refiner.tell(&plain);
        refiner.correct_bias()?;
    }
    Ok((refiner.draft, refiner.steps))
}

/// Takes a draft through the passes that leave every operator its precision and every bias as it is: what mixed precision
/// starts from.
///
/// # Errors
/// A runtime fails on a sample.
pub(super) fn improve(job: &mut Job<'_>, draft: Draft, sketches: &Sketches) -> Result<(Draft, Vec<Step>)> {
    let mut refiner = Refiner::new(job, draft)?;
    refiner.keep_precisions(sketches)?;
    Ok((refiner.draft, refiner.steps))
}

/// Takes the mean errors off the biases of a draft, if that helps: what follows every plan.
///
/// # Errors
/// A runtime fails on a sample.
pub(super) fn finish(job: &mut Job<'_>, draft: Draft) -> Result<Draft> {
    let mut refiner = Refiner::new(job, draft)?;
    refiner.correct_bias()?;
    Ok(refiner.draft)
}

/// The best draft so far and its score.
struct Refiner<'a, 'b> {
    job: &'a mut Job<'b>,
    judge: Judge,
    draft: Draft,
    score: Score,
    steps: Vec<Step>,
}

impl<'a, 'b> Refiner<'a, 'b> {
    fn new(job: &'a mut Job<'b>, draft: Draft) -> Result<Refiner<'a, 'b>> {
        let judge = Judge::new(job)?;
        let score = judge.score(&draft.emit(job.options)?)?;
        Ok(Refiner { job, judge, draft, score, steps: Vec::new() })
    }

    /// The passes that change channels, ranges and weight scales, and no precision.
    fn keep_precisions(&mut self, sketches: &Sketches) -> Result<()> {
        if self.judge.samples() < FEWEST {
            return Ok(());
        }
        self.equalize_channels(sketches)?;
        self.fit_behind(sketches)?;
        self.search_weights(sketches)
    }

    /// Judges a candidate and takes it over if it is better.
    fn propose(&mut self, pass: &'static str, what: String, candidate: Draft) -> Result<bool> {
        let emitted = candidate.emit(self.job.options)?;
        let score = self.judge.score_unless(&emitted, |first| self.score.is_clearly_better_than(first))?;
        let score = if score.first.is_none() { self.score.extrapolate(score) } else { score };
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
            let changed: BTreeSet<String> = done.values.into_iter().collect();
            let rounded: Vec<String> =
                changed.iter().filter(|name| original.plan.values.contains_key(*name)).cloned().collect();
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
                values: Some(rounded),
                ..CalibrateOptions::default()
            };
            let samples = Held::read(self.job.source, &self.job.seen, RESKETCHED)?;
            let table = calibrate(&candidate.model, self.judge.executor(), &samples, &how, &mut |_, _| {})?;
            candidate.replace_sketches(table.values, &changed);
            candidate.replan(sketches, options)?;
            candidate.plan.equalized = Some(alpha);
            let before = self.score.noise();
            if !self.propose("equalize_channels", what, candidate)? || self.score.noise() > before * PROMISING
            {
                break;
            }
        }
        Ok(())
    }

    /// Ranges with the least error behind the functions that alone read some values.
    fn fit_behind(&mut self, sketches: &Sketches) -> Result<()> {
        let mut candidate = self.draft.clone();
        candidate.behind = true;
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
        if self.enough() || self.judge.samples() < FEWEST {
            return Ok(());
        }
        let mut candidate = self.draft.clone();
        candidate.weights = true;
        candidate.replan(sketches, self.job.options)?;
        let factors = candidate.plan.weights.values().flatten().flat_map(|weight| &weight.scale_factors);
        let count = factors.filter(|&&factor| factor != 1.0).count();
        if count > 0 {
            self.propose("search_weight_scales", format!("{count} channels"), candidate)?;
        }
        Ok(())
    }

    /// Rounds the data of every product that may write floats, and so stands alone, when the model runs, if that is less noise:
    /// a range for each run costs next to nothing, where giving them back to float costs their integer kernels.
    fn round_at_run_time(&mut self, sketches: &Sketches) -> Result<()> {
        let options = self.job.options;
        let able = rounded_at_run_time(&self.draft.model, options.target);
        let alone = able.into_iter().filter(|(key, support)| {
            let plain = |op: &OpPlan| op.precision == options.precision && op.precision == Precision::Int8;
            *support == Support::Either && self.draft.plan.ops.get(key).is_some_and(plain)
        });
        let changed: Vec<String> = alone.map(|(key, _)| key).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let what = format!("{} products to ranges of each run", changed.len());
        let mut candidate = self.draft.clone();
        candidate.overrides.extend(changed.into_iter().map(|key| (key, Precision::Dynamic)));
        candidate.replan(sketches, options)?;
        self.propose("round_at_run_time", what, candidate)?;
        Ok(())
    }

    /// Stores the weights of what went back to float in 8 bits where that keeps the quality bar: most often the activations
    /// were guilty, and the size of the file is half of what was asked for.
    fn store_weights(&mut self, sketches: &Sketches) -> Result<()> {
        if !self.score.passes() {
            return Ok(());
        }
        let mut candidate = self.draft.clone();
        let back = candidate.overrides.values_mut().filter(|precision| **precision == Precision::Float);
        back.for_each(|precision| *precision = Precision::W8);
        candidate.replan(sketches, self.job.options)?;
        let float =
            |plan: &QuantPlan| plan.ops.values().filter(|op| op.precision == Precision::Float).count();
        let count = float(&self.draft.plan).saturating_sub(float(&candidate.plan));
        if count == 0 {
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
        let shifts =
            bias::shifts(&draft.model, &emit, self.judge.executor(), &samples, self.judge.threads())?;
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
