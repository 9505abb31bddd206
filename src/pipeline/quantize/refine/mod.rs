//! Accuracy passes of static quantization. Each proposes a change of the draft, is judged on samples that are held back from
//! calibration, and is kept only if it helps; what each did is in the report.

mod bias;
mod draft;
mod guilty;
mod judge;
mod meeting;

use anyhow::Result;
use passes::correct_bias::correct;
use passes::quantize::fit::Sketches;
use passes::quantize::{Precision, QuantPlan};
use serde::Serialize;

pub(super) use draft::Draft;
use judge::{Judge, Score};

use super::Job;
use judge::Held;

/// A pass is kept if it leaves at most this share of the noise: 0.1 dB less. Smaller gains are chance on a dozen samples.
const WORTHWHILE: f64 = 0.977;

/// How many of the guiltiest values are tried in float.
const TRIED: [usize; 7] = [1, 2, 3, 4, 6, 9, 14];

/// Trials in a row that may fail: what comes next on the list is guilty of less.
const GIVE_UP: usize = 2;

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
    let plain = (draft.clone(), score.clone());
    let mut refiner = Refiner { job, judge, draft, score, steps: Vec::new() };
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

    /// Takes the fewest of the guiltiest values back to float until the quality bar is met, as far as each step helps.
    fn restore_guilty(&mut self, sketches: &Sketches) -> Result<()> {
        let options = self.job.options;
        let Some((feed, expected)) = self.judge.example() else { return Ok(()) };
        let draft = &self.draft;
        let emitted = draft.emit(options)?;
        let suspects =
            guilty::suspects(&draft.model, &emitted, &draft.plan, self.judge.executor(), feed, expected)?;
        let mut in_vain = 0;
        for count in TRIED {
            let taken: Vec<_> = suspects.iter().take(count).collect();
            let mut candidate = self.draft.clone();
            for suspect in &taken {
                candidate.overrides.extend(suspect.ops.iter().map(|op| (op.clone(), Precision::Float)));
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
            let helped = self.propose("restore_guilty", what, candidate)?;
            in_vain = if helped { 0 } else { in_vain + 1 };
            if self.score.passes() || count >= suspects.len() || in_vain == GIVE_UP {
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
