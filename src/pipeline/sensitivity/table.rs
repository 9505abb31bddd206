//! The sensitivity table: what each change did to each sample. Parts of one run join exactly, whoever made them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use passes::quantize::{Precision, QuantPlan};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::damage::{Damage, Score};

/// Version of the stored form.
pub const VERSION: u32 = 1;

/// A change: a group by name, and its precision.
pub type Change = (String, Precision);

/// The table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensitivityTable {
    /// Version of the stored form.
    pub version: u32,
    /// Fingerprint of the model.
    pub model: String,
    /// Fingerprint of the plan whose groups these are.
    pub plan: String,
    /// The runtime and its version.
    pub runtime: String,
    /// The data were made up.
    pub random: bool,
    /// Samples of the whole run.
    pub total: usize,
    /// Damage by group, precision and sample.
    pub groups: BTreeMap<String, BTreeMap<Precision, BTreeMap<usize, Damage>>>,
    /// Whether the float model is right, by labelled sample.
    pub float_right: BTreeMap<usize, bool>,
}

impl SensitivityTable {
    /// An empty table.
    pub fn new(
        model: String,
        plan: &QuantPlan,
        runtime: String,
        random: bool,
        total: usize,
    ) -> SensitivityTable {
        let text = serde_json::to_vec(plan).unwrap_or_default();
        let plan = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        let (groups, float_right) = (BTreeMap::new(), BTreeMap::new());
        SensitivityTable { version: VERSION, model, plan, runtime, random, total, groups, float_right }
    }

    /// Adds what one change did to one sample.
    pub fn add(&mut self, change: &Change, sample: usize, damage: Damage) {
        self.groups.entry(change.0.clone()).or_default().entry(change.1).or_default().insert(sample, damage);
    }

    /// What is known of a change, by sample.
    pub fn of(&self, change: &Change) -> Option<&BTreeMap<usize, Damage>> {
        self.groups.get(&change.0)?.get(&change.1)
    }

    /// Every change with its score. Changes that were measured on few samples are compared with the others on the same
    /// samples, and scaled by what all samples made of those: samples differ more than changes do.
    pub fn scores(&self) -> BTreeMap<Change, Score> {
        let all = self.groups.iter().flat_map(|(group, by)| {
            by.iter().map(move |(precision, samples)| ((group.clone(), *precision), samples))
        });
        let all: Vec<(Change, &BTreeMap<usize, Damage>)> =
            all.filter(|(_, samples)| !samples.is_empty()).collect();
        let most = all.iter().map(|(_, samples)| samples.len()).max().unwrap_or(0);
        let whole: Vec<&BTreeMap<usize, Damage>> =
            all.iter().filter(|(_, samples)| samples.len() == most).map(|(_, samples)| *samples).collect();
        let mut steps: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
        let scored = all.iter().map(|(change, samples)| {
            let damages: Vec<&Damage> = samples.values().collect();
            let mut score = Score::of(&damages, seed(change));
            let which: Vec<usize> = samples.keys().copied().collect();
            if which.len() < most {
                let shift = *steps.entry(which).or_insert_with_key(|which| shift(&whole, which));
                score.noise *= 10f64.powf(-shift / 10.0);
                score.global_db = (score.global_db + shift).clamp(-200.0, 200.0);
                score.interval_db.0 = (score.interval_db.0 + shift).clamp(-200.0, 200.0);
                score.interval_db.1 = (score.interval_db.1 + shift).clamp(-200.0, 200.0);
            }
            (change.clone(), score)
        });
        scored.collect()
    }

    /// Adds another part of the same run.
    ///
    /// # Errors
    /// Another model, plan, runtime or number of samples.
    pub fn merge(&mut self, other: SensitivityTable) -> Result<()> {
        ensure!(self.model == other.model, "the tables are of different models");
        ensure!(self.plan == other.plan, "the tables are of different plans");
        ensure!(self.runtime == other.runtime, "made with {} and {}", self.runtime, other.runtime);
        ensure!(self.total == other.total, "parts of runs of {} and {} samples", self.total, other.total);
        self.random |= other.random;
        self.float_right.extend(other.float_right);
        for (group, precisions) in other.groups {
            for (precision, samples) in precisions {
                self.groups.entry(group.clone()).or_default().entry(precision).or_default().extend(samples);
            }
        }
        Ok(())
    }

    /// Reads a table.
    ///
    /// # Errors
    /// An unreadable file or another version.
    pub fn read(path: &Path) -> Result<SensitivityTable> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let table: SensitivityTable = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no whole sensitivity table", path.display()))?;
        ensure!(
            table.version == VERSION,
            "{} has version {}, this program reads {VERSION}",
            path.display(),
            table.version
        );
        Ok(table)
    }

    /// Writes the table: to a temporary file first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(proto::write_file(path, &serde_json::to_vec(self)?)?)
    }
}

/// How many decibels better the whole is than these samples, in the median of the changes that have both.
fn shift(whole: &[&BTreeMap<usize, Damage>], which: &[usize]) -> f64 {
    let one = |samples: &&BTreeMap<usize, Damage>| {
        let part: Vec<&Damage> = which.iter().filter_map(|sample| samples.get(sample)).collect();
        let (part, all) = (Damage::noise(&part), Damage::noise(&samples.values().collect::<Vec<_>>()));
        (part > 0.0 && all > 0.0 && part.is_finite() && all.is_finite()).then(|| 10.0 * (part / all).log10())
    };
    let mut found: Vec<f64> = whole.iter().filter_map(one).collect();
    found.sort_by(f64::total_cmp);
    // A handful of changes says little about the others.
    if found.len() < 3 { 0.0 } else { found[found.len() / 2] }
}

/// The same change always draws the same resamples.
fn seed(change: &Change) -> u64 {
    let digest = Sha256::digest(format!("{} {}", change.0, change.1));
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default())
}
