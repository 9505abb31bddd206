//! Running the changes: each sample once in float with every value kept; then for each change its group alone, and what is
//! downstream of it.
//!
//! Samples are spread by successive halving: everything on a few samples, then the more harmful half on twice as many, and
//! so on; it ends early when the ranking is stable under the bootstrap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use ir::{Model, Tensor};
use runtime::{Executor, Feed, Recording, Session, View};

use super::super::engine::{collect, form_for, prepare, run_all};
use super::damage::{Damage, Power, Score, spearman};
use super::part::Part;
use super::table::{Change, SensitivityTable};
use crate::data::Source;
use crate::pipeline::rounding::rounded;

/// Samples of the first round.
const FIRST: usize = 6;

/// The ranking is stable when rankings of resampled data agree with it this well (Spearman), on average.
const STABLE: f64 = 0.99;

/// What one change needs to be run.
pub struct Runner {
    /// The change.
    pub change: Change,
    /// Its group.
    pub part: Part,
    session: Option<Box<dyn Session>>,
    /// The session is of the whole model with this change: for runtimes that cannot run parts again, and for values that
    /// they do not show.
    whole: bool,
}

impl Runner {
    /// Prepares a part.
    ///
    /// # Errors
    /// The runtime cannot run it.
    pub fn new(change: Change, part: Part, executor: &dyn Executor) -> Result<Runner> {
        let session = match &part.model {
            Some(model) => Some(prepare(executor, form_for(executor, model)?.as_ref(), vec![])?),
            None => None,
        };
        Ok(Runner { change, part, session, whole: false })
    }

    /// Prepares the whole model with the change.
    ///
    /// # Errors
    /// The runtime cannot run it.
    pub fn whole(change: Change, part: Part, model: &Model, executor: &dyn Executor) -> Result<Runner> {
        Ok(Runner {
            change,
            part,
            session: Some(prepare(executor, form_for(executor, model)?.as_ref(), vec![])?),
            whole: true,
        })
    }

    /// Names of float values that it needs to see.
    pub fn taps(&self) -> impl Iterator<Item = &String> {
        self.part
            .inputs
            .iter()
            .chain(&self.part.outputs)
            .chain(self.part.rounded.iter().map(|(name, _)| name))
    }
}

/// Labels by sample.
pub type Labels = BTreeMap<usize, usize>;

/// Everything that a measurement works on.
pub struct Bench<'a> {
    /// The float model's session, tapped at every [`Runner::taps`].
    pub session: &'a dyn Session,
    /// Names of the outputs, in order.
    pub outputs: &'a [String],
    /// The changes.
    pub runners: &'a [Runner],
    /// Samples.
    pub source: &'a dyn Source,
    /// Their labels.
    pub labels: &'a Labels,
    /// Samples at the same time.
    pub threads: usize,
    /// Measure everything on all samples.
    pub exhaustive: bool,
}

/// Runs of changes, for progress and for the record: `(done, planned)`.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;

impl Bench<'_> {
    /// Fills the table. `save` is called between rounds. Returns the number of runs of a change.
    ///
    /// # Errors
    /// The runtime fails on a sample.
    pub fn run(
        &self,
        table: &mut SensitivityTable,
        progress: &mut Progress<'_>,
        save: &mut dyn FnMut(&SensitivityTable) -> Result<()>,
    ) -> Result<usize> {
        let all: Vec<usize> = (0..self.source.len()).collect();
        let mut active: Vec<usize> = (0..self.runners.len()).collect();
        let mut count = if self.exhaustive { all.len() } else { FIRST.min(all.len()) };
        let mut spent = 0;
        loop {
            // Evenly spaced, so that sorted data are seen whole; a round's samples hold the former round's.
            let samples = spread(&all, count);
            spent += self.round(table, &active, &samples, progress)?;
            save(table)?;
            if count >= all.len() || stable(table) {
                return Ok(spent);
            }
            let scores = table.scores();
            let harm = |at: usize| scores.get(&self.runners[at].change).map_or(0.0, |score| score.noise);
            active.sort_by(|&a, &b| harm(b).total_cmp(&harm(a)).then(a.cmp(&b)));
            active.truncate(active.len().div_ceil(2).max(3));
            count = (count * 2).min(all.len());
        }
    }

    /// Runs changes on samples, leaving out what the table has.
    fn round(
        &self,
        table: &mut SensitivityTable,
        active: &[usize],
        samples: &[usize],
        progress: &mut Progress<'_>,
    ) -> Result<usize> {
        let known = |at: usize, sample: usize| {
            table.of(&self.runners[at].change).is_some_and(|samples| samples.contains_key(&sample))
        };
        let missing: BTreeMap<usize, Vec<usize>> = samples
            .iter()
            .map(|&sample| {
                (sample, active.iter().copied().filter(|&at| !known(at, sample)).collect::<Vec<_>>())
            })
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        let planned: usize = missing.values().map(Vec::len).sum();
        let left: Vec<usize> = missing.keys().copied().collect();
        let threads = self.threads.clamp(1, left.len().max(1));
        let forks = (0..threads).map(|_| self.forks()).collect::<Result<Vec<_>>>()?;
        let forks = Mutex::new(forks);
        let make = || {
            let forks = forks.lock().unwrap_or_else(PoisonError::into_inner).pop();
            (forks.unwrap_or_default(), Vec::<(usize, usize, Damage)>::new(), Vec::<(usize, bool)>::new())
        };
        let mut done = 0;
        // Sessions are of one thread each: the workers see the rest.
        let parts: Vec<(&Change, Option<&Part>)> = self
            .runners
            .iter()
            .map(|runner| (&runner.change, (!runner.whole).then_some(&runner.part)))
            .collect();
        let replays = self.runners.iter().any(|runner| !runner.whole);
        let (labels, outputs, missing) = (self.labels, self.outputs, &missing);
        let states = run_all(
            self.session,
            self.source,
            &left,
            threads,
            make,
            |(forks, found, float), session, sample, feed| {
                let label = labels.get(&sample).copied();
                let truth = Truth::new(session, feed, outputs, replays)?;
                if let Some(label) = label {
                    let mut damage = Damage::default();
                    for tensor in truth.outputs.iter() {
                        damage.output(tensor, View::of(tensor), Some(label));
                    }
                    float.extend(damage.right.map(|right| (sample, right)));
                }
                for &at in &missing[&sample] {
                    let (change, part) = parts[at];
                    let own = forks.get_mut(at).and_then(Option::as_mut);
                    let damage = match part {
                        Some(part) => truth.change(session, own, part, label),
                        None => truth.rerun(own, label),
                    };
                    let damage = damage.with_context(|| format!("group {:?} at {}", change.0, change.1))?;
                    found.push((at, sample, damage));
                }
                Ok(())
            },
            |sample| {
                done += missing[&sample].len();
                progress(done, planned);
            },
        )?;
        for (_, found, float) in states {
            table.float_right.extend(float);
            for (at, sample, damage) in found {
                table.add(&self.runners[at].change, sample, damage);
            }
        }
        Ok(planned)
    }

    fn forks(&self) -> Result<Vec<Option<Box<dyn Session>>>> {
        let fork = |runner: &Runner| runner.session.as_ref().map(|session| session.fork()).transpose();
        Ok(self.runners.iter().map(fork).collect::<Result<_, _>>()?)
    }
}

/// One sample in float: what was computed, and how to compute parts of it again.
struct Truth {
    values: BTreeMap<String, Tensor>,
    outputs: Vec<Tensor>,
    names: Vec<String>,
    feed: Feed,
    recording: Option<Recording>,
}

impl Truth {
    fn new(session: &mut dyn Session, feed: Feed, names: &[String], replays: bool) -> Result<Truth> {
        let mut values: BTreeMap<String, Tensor> = feed.iter().cloned().collect();
        let mut recording = None;
        if replays {
            let mut keep = |name: &str, view: View<'_>| {
                if let Some(tensor) = view.to_tensor() {
                    values.insert(name.to_string(), tensor);
                }
            };
            recording = Some(session.record(&feed, &mut keep)?);
        } else {
            values.extend(collect(session, &feed)?);
        }
        let output = |name: &String| values.get(name).cloned().with_context(|| format!("no output {name:?}"));
        let outputs = names.iter().map(output).collect::<Result<_>>()?;
        Ok(Truth { values, outputs, names: names.to_vec(), feed, recording })
    }

    fn value(&self, name: &str) -> Result<&Tensor> {
        self.values.get(name).with_context(|| format!("the runtime did not show {name:?}"))
    }

    /// What a change does: its group on the float values, then everything downstream.
    fn change(
        &self,
        session: &mut dyn Session,
        own: Option<&mut Box<dyn Session>>,
        part: &Part,
        label: Option<usize>,
    ) -> Result<Damage> {
        let mut damage = Damage::default();
        let mut replaced: Vec<(String, Tensor)> = Vec::new();
        for (name, grid) in &part.rounded {
            replaced.push((name.clone(), rounded(self.value(name)?, grid)?));
        }
        if let Some(own) = own {
            let feed = part.inputs.iter().map(|name| Ok((name.clone(), self.value(name)?.clone())));
            let feed: Feed = feed.collect::<Result<_>>()?;
            for (name, tensor) in collect(own.as_mut(), &feed)? {
                let power = Power::between(self.value(&name)?, View::of(&tensor));
                damage.local.signal += power.signal;
                damage.local.other += power.other;
                damage.local.noise += power.noise;
                replaced.push((name, tensor));
            }
        }
        let mut changed: BTreeMap<String, Tensor> = replaced.iter().cloned().collect();
        let wanted: BTreeSet<&str> = self.names.iter().map(String::as_str).collect();
        changed.retain(|name, _| wanted.contains(name.as_str()));
        let mut keep = |name: &str, view: View<'_>| {
            if let Some(tensor) = view.to_tensor().filter(|_| wanted.contains(name)) {
                changed.insert(name.to_string(), tensor);
            }
        };

        let recording = self.recording.as_ref().context("nothing was recorded")?;
        session.replay(recording, &replaced, &mut keep)?;
        self.compare(&changed, &mut damage, label);
        Ok(damage)
    }

    /// What a change does, by running the whole changed model.
    fn rerun(&self, own: Option<&mut Box<dyn Session>>, label: Option<usize>) -> Result<Damage> {
        let own = own.context("the changed model was not prepared")?;
        let changed: BTreeMap<String, Tensor> = collect(own.as_mut(), &self.feed)?.into_iter().collect();
        let mut damage = Damage::default();
        self.compare(&changed, &mut damage, label);
        // The group's own results are not seen: the outputs stand for them.
        damage.local = damage.outputs.first().copied().unwrap_or_default();
        Ok(damage)
    }

    fn compare(&self, changed: &BTreeMap<String, Tensor>, damage: &mut Damage, label: Option<usize>) {
        for (name, reference) in self.names.iter().zip(&self.outputs) {
            let other = changed.get(name).unwrap_or(reference);
            damage.output(reference, View::of(other), label);
        }
    }
}

/// `count` of the samples such that doubling the count keeps them: steps of a power of two, offset by half a step.
fn spread(all: &[usize], count: usize) -> Vec<usize> {
    // The order of bit-reversed counting visits a range evenly at every length.
    let bits = usize::BITS - all.len().saturating_sub(1).leading_zeros();
    let order =
        (0..1usize << bits).map(|at| if bits == 0 { 0 } else { at.reverse_bits() >> (usize::BITS - bits) });
    let mut picked: Vec<usize> = order.filter_map(|at| all.get(at).copied()).take(count).collect();
    picked.sort_unstable();
    picked
}

/// Rankings of resampled data agree with the ranking.
fn stable(table: &SensitivityTable) -> bool {
    let scores = table.scores();
    let mut by_precision: BTreeMap<_, Vec<&Score>> = BTreeMap::new();
    for ((_, precision), score) in &scores {
        by_precision.entry(*precision).or_default().push(score);
    }
    by_precision.values().all(|scores| {
        let centre: Vec<f64> = scores.iter().map(|score| score.global_db).collect();
        // Errors of different changes on the same samples go together, so independent errors are the cautious assumption.
        let spreads: Vec<f64> =
            scores.iter().map(|score| (score.interval_db.1 - score.interval_db.0) / (2.0 * 1.645)).collect();
        let trials = 16;
        let agreement: f64 = (0..trials)
            .map(|trial| {
                let moved: Vec<f64> = centre
                    .iter()
                    .zip(&spreads)
                    .enumerate()
                    .map(|(at, (centre, spread))| centre + spread * noise(trial, at))
                    .collect();
                spearman(&centre, &moved)
            })
            .sum();
        agreement / f64::from(trials) >= STABLE
    })
}

/// Repeatable noise of unit variance: evenly spread fractions through the sum of four of them.
fn noise(trial: u32, at: usize) -> f64 {
    let part = |k: usize| {
        let x = (f64::from(trial) + 1.0) * 0.754_877_666
            + (at as f64 + 1.0) * 0.569_840_291 * (k as f64 + 1.0).sqrt();
        x.fract()
    };
    ((0..4).map(part).sum::<f64>() - 2.0) * 3f64.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_round_hold_those_of_the_former() {
        for total in [1, 2, 7, 32, 100] {
            let all: Vec<usize> = (0..total).collect();
            let mut before = vec![];
            for count in [1, 3, 6, 12, 24, 48, 100] {
                let now = spread(&all, count.min(total));
                assert_eq!(now.len(), count.min(total));
                assert!(before.iter().all(|sample| now.contains(sample)));
                before = now;
            }
        }
        // Half of the samples lie in each half.
        let half = spread(&(0..32).collect::<Vec<_>>(), 8);
        assert_eq!(half.iter().filter(|&&sample| sample < 16).count(), 4);
    }
}
