//! `restore_guilty`: gives values back to float where the quality bar is missed, the most rewarding first, and only as far
//! as that pays.
//!
//! What a trial gains is the share of the noise beyond the bar that it takes off, times the decibels that the bar was
//! missed by; what it costs is the larger of two shares: multiplications that leave the integer kernels, and bytes that
//! the weights grow by. A group is kept if it gains [`WORTH_DB`] a whole model, or [`WORTH_NOISE_DB`] where nothing is
//! damaged. So a bar that is missed by little does not cost a lot, and the same numbers decide in reverse: what was given up
//! as part of a group goes back to integers where that loses less than it is worth.
//!
//! Bounded: as many runs over the judge's samples as [`GROUPS`] has entries, [`DEAREST`] and [`RETURNS`]; and one sample per
//! suspect.

use std::collections::BTreeMap;

use anyhow::Result;
use ir::Model;
use passes::quantize::{Precision, QuantPlan};

use super::guilty::{self, Suspect};
use super::judge::Score;
use super::{Draft, Refiner, Sketches, Step, WORTHWHILE};

/// How many further values go back to float in each trial.
const GROUPS: [usize; 8] = [1, 1, 2, 4, 8, 16, 32, 64];

/// Trials in a row that may fail: what comes next on the list is guilty of less.
const GIVE_UP: usize = 5;

/// Trials to return to integers what was given up in vain.
const RETURNS: usize = 6;

/// The share of the multiplications from which on what was given up is tried on integers by itself, and how many such at most.
const DEAR: f64 = 0.04;
/// See [`DEAR`].
const DEAREST: usize = 3;

/// What goes back to integers must leave the bar met: a trial that misses it by this much on the first samples ends there.
const FAR_OFF_DB: f64 = 1.0;

/// Decibels of missing quality that all multiplications (or all bytes) of the model are worth where an output is damaged
/// ([`Score::damaged`]). A model that misses its bar by less is not given up as a whole.
const WORTH_DB: f64 = 2.0;

/// The same where outputs are noisier than their bars and no more: noise that is spread evenly over a model is not worth half its
/// integers, a guilty few take off more than their share.
const WORTH_NOISE_DB: f64 = 10.0;

/// The share of the multiplications that may be given up without meeting the bar.
const MOST_GIVEN_UP: f64 = 0.5;

/// What the whole model is worth, in dB, to get away from `score`.
fn price(score: &Score) -> f64 {
    if score.damaged() { WORTH_DB } else { WORTH_NOISE_DB }
}

/// What trials are weighed against.
struct Start {
    draft: Draft,
    score: Score,
}

impl Start {
    /// The larger of the shares of multiplications and of weight bytes that `plan` gives up.
    fn cost(&self, plan: &QuantPlan) -> f64 {
        let share = |plan: &QuantPlan| plan.integer_share().unwrap_or(0.0);
        let (before, all) = weight_bytes(&self.draft.model, &self.draft.plan);
        let (after, _) = weight_bytes(&self.draft.model, plan);
        let bytes = (after as f64 - before as f64) / all.max(1) as f64;
        (share(&self.draft.plan) - share(plan)).max(bytes)
    }

    /// Decibels of what the bar was missed by that lie between two scores.
    fn gain(&self, from: &Score, to: &Score) -> f64 {
        self.score.missing_db() * (from.excess() - to.excess()) / self.score.excess().max(1e-20)
    }
}

/// Bytes of the constants as a plan stores them, and as floats.
fn weight_bytes(model: &Model, plan: &QuantPlan) -> (u64, u64) {
    let bits: BTreeMap<&str, usize> = plan
        .weights
        .values()
        .flatten()
        .map(|weight| (weight.value.as_str(), weight.grid.code.bits() as usize))
        .collect();
    let graph = model.main();
    let constants = graph.values().filter_map(|value| graph.constant(value).map(|tensor| (value, tensor)));
    let sizes = constants.map(|(value, tensor)| {
        let float = tensor.bytes().len() as u64;
        let name: &str = graph.value(value).name();
        (bits.get(name).map_or(float, |&bits| (tensor.elements() * bits / 8) as u64), float)
    });
    sizes.fold((0, 0), |(stored, float), (s, f)| (stored + s, float + f))
}

impl Refiner<'_, '_> {
    /// See the module.
    pub(super) fn restore_guilty(&mut self, sketches: &Sketches) -> Result<()> {
        let Some((feed, expected)) = self.judge.example().filter(|_| !self.score.passes()) else {
            return Ok(());
        };
        let (model, plan) = (&self.draft.model, &self.draft.plan);
        let suspects = guilty::suspects(model, plan, self.judge.executor(), feed, expected)?;
        let start = Start { draft: self.draft.clone(), score: self.score.clone() };
        let mut restored = Vec::new();
        let (mut next, mut in_vain) = (0, 0);
        for size in GROUPS {
            let group = &suspects[next.min(suspects.len())..(next + size).min(suspects.len())];
            next += size;
            if group.is_empty() || in_vain == GIVE_UP || self.score.passes() {
                break;
            }
            // Also those that were given up in vain: some are guilty together only.
            let all: Vec<&Suspect> = suspects[..next.min(suspects.len())].iter().collect();
            in_vain += 1;
            if self.give_up(sketches, &start, &all, group.len())? {
                (restored, in_vain) = (all, 0);
            }
        }
        self.take_back(sketches, &start, restored)
    }

    /// Tries the starting draft with the operators around these values in float, the last `new` of them for the first time.
    fn give_up(&mut self, sketches: &Sketches, start: &Start, all: &[&Suspect], new: usize) -> Result<bool> {
        let hopeless = |first: &Score| self.score.is_clearly_better_than(first);
        let Some((candidate, score)) = self.in_float(sketches, start, all, &hopeless)? else {
            return Ok(false);
        };
        let cost = start.cost(&candidate.plan);
        let more = cost - start.cost(&self.draft.plan);
        let worth = start.gain(&self.score, &score) >= price(&self.score) * more;
        let allowed = cost <= MOST_GIVEN_UP || score.passes();
        let kept = score.noise() < self.score.noise() * WORTHWHILE && worth && allowed;
        let what = described(&all[all.len() - new..], "to float", &candidate.plan);
        self.decide("restore_guilty", what, candidate, score, kept);
        Ok(kept)
    }

    /// Returns to integers what was given up and is not needed: first what costs most, one at a time, then the least
    /// rewarding, in halves.
    fn take_back(&mut self, sketches: &Sketches, start: &Start, restored: Vec<&Suspect>) -> Result<()> {
        let mut left = restored;
        let mut dear: Vec<&Suspect> = left.iter().copied().filter(|suspect| suspect.cost >= DEAR).collect();
        dear.sort_by(|a, b| b.cost.total_cmp(&a.cost));
        for suspect in dear.into_iter().take(DEAREST) {
            let rest: Vec<&Suspect> =
                left.iter().copied().filter(|other| other.value != suspect.value).collect();
            if !rest.is_empty() && self.does_without(sketches, start, &[suspect], &rest)? {
                left = rest;
            }
        }
        left.sort_by(|a, b| b.reward().total_cmp(&a.reward()));
        // Of those in `left`, the first `needed` were found to be needed.
        let (mut needed, mut size) = (0, left.len() / 2);
        for _ in 0..RETURNS {
            size = size.min(left.len() - needed).max(1);
            if left.len() <= 1 || needed == left.len() {
                break;
            }
            let from = left.len() - needed - size;
            let returned: Vec<&Suspect> = left[from..from + size].to_vec();
            let rest: Vec<&Suspect> = left[..from].iter().chain(&left[from + size..]).copied().collect();
            if self.does_without(sketches, start, &returned, &rest)? {
                left = rest;
            } else if size == 1 {
                needed += 1;
            } else {
                size /= 2;
            }
        }
        Ok(())
    }

    /// Tries the starting draft with only `rest` in float, and no longer what is `returned`. True if that is the draft now.
    fn does_without(
        &mut self,
        sketches: &Sketches,
        start: &Start,
        returned: &[&Suspect],
        rest: &[&Suspect],
    ) -> Result<bool> {
        let hopeless = |first: &Score| {
            self.score.passes() && self.score.extrapolate(first.clone()).missing_db() > FAR_OFF_DB
        };
        // The others may ask for the same operators.
        let Some((candidate, score)) = self.in_float(sketches, start, rest, &hopeless)? else {
            return Ok(true);
        };
        let saved = start.cost(&self.draft.plan) - start.cost(&candidate.plan);
        let lost = start.gain(&score, &self.score);
        let still = score.passes() || !self.score.passes();
        let kept = saved > 0.0 && still && lost < price(&score) * saved;
        let what = described(returned, "back to integers", &candidate.plan);
        self.decide("restore_guilty", what, candidate, score, kept);
        Ok(kept)
    }

    /// The starting draft with these in float and its score, extrapolated where the first samples are hopeless; none if that is
    /// the draft at hand.
    fn in_float(
        &self,
        sketches: &Sketches,
        start: &Start,
        suspects: &[&Suspect],
        hopeless: &dyn Fn(&Score) -> bool,
    ) -> Result<Option<(Draft, Score)>> {
        let mut candidate = start.draft.clone();
        let ops = suspects.iter().flat_map(|suspect| &suspect.ops);
        candidate.overrides.extend(ops.map(|op| (op.clone(), Precision::Float)));
        if candidate.overrides == self.draft.overrides {
            return Ok(None);
        }
        candidate.replan(sketches, self.job.options)?;
        let score = self.judge.score_unless(&candidate.emit(self.job.options)?, hopeless)?;
        let score = if score.first.is_none() { self.score.extrapolate(score) } else { score };
        Ok(Some((candidate, score)))
    }

    /// Writes down a trial, and takes its draft over if it is kept.
    fn decide(&mut self, pass: &'static str, what: String, candidate: Draft, score: Score, kept: bool) {
        let (before_db, after_db) = (self.score.db(), score.db());
        self.steps.push(Step { pass, what, before_db, after_db, kept });
        if kept {
            (self.draft, self.score) = (candidate, score);
        }
    }

    /// What the user should know, given what there was before: the price, and whether the bar is met for it.
    pub(super) fn tell(&mut self, (draft, score): &(Draft, Score)) {
        let share = |plan: &QuantPlan| plan.integer_share().unwrap_or(0.0) * 100.0;
        let price = share(&draft.plan) - share(&self.draft.plan);
        if price >= 0.05 {
            self.job.notes.push(format!(
                "restore_guilty gave {price:.1} % of the multiplications back to float: {:.1} dB instead of {:.1} dB",
                self.score.db(),
                score.db()
            ));
        }
        if !self.score.passes() {
            self.job.notes.push(format!(
                "the quality bar is missed by {:.1} dB before bias correction: what would help costs more integer \
                 multiplications than it is worth; --auto weighs every layer",
                self.score.missing_db()
            ));
        }
    }
}

/// What a trial does, in one line.
fn described(group: &[&Suspect], goes: &str, plan: &QuantPlan) -> String {
    let first = group.first().map_or("", |suspect| suspect.value.as_str());
    let (first, more) = (short(first), if group.len() > 1 { ", ..." } else { "" });
    let share = plan.integer_share().unwrap_or(0.0) * 100.0;
    let count = group.len();
    format!("{count} {goes} ({first}{more}); {share:.1} % of the multiplications on integers")
}

/// The end of a long name, where it says most.
fn short(name: &str) -> String {
    const LONGEST: usize = 32;
    let count = name.chars().count();
    if count <= LONGEST {
        return name.to_string();
    }
    format!("…{}", name.chars().skip(count + 1 - LONGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::judge::OutputScore;
    use super::*;

    fn score(noise: f64) -> Score {
        let output = OutputScore { name: "y".into(), noise, rms: 0.0, integer: false, agreement: None };
        Score { outputs: vec![output], first: None }
    }

    #[test]
    fn gains_add_up_to_what_the_bar_is_missed_by() {
        let model = ir::text::parse(
            "<ir_version: 10, opset_import: [\"\": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }",
        )
        .unwrap();
        // The bar is 0.01; 0.1 misses it by 10 dB.
        let start = Start { draft: Draft::of_plan(model, QuantPlan::default()), score: score(0.1) };
        let (first, second) =
            (start.gain(&score(0.1), &score(0.05)), start.gain(&score(0.05), &score(0.001)));
        assert!((first + second - 10.0).abs() < 1e-9);
        assert!((first - 10.0 * 0.05 / 0.09).abs() < 1e-9);
        // Beyond the bar nothing is gained.
        assert_eq!(start.gain(&score(0.01), &score(0.0001)), 0.0);
    }

    #[test]
    fn names_are_cut_in_front() {
        assert_eq!(short("conv"), "conv");
        let long = format!("{}/Conv_output_0", "layer/".repeat(20));
        assert_eq!(short(&long).chars().count(), 32);
        assert!(short(&long).ends_with("/Conv_output_0"));
    }
}
