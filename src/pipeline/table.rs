//! The calibration table: what was seen of every value, with fingerprints of the model and of every sample.
//!
//! JSON, versioned. Sketches merge exactly, so a table made of shards equals the table of one run to the byte.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use quant::range::Sketch;
use serde::{Deserialize, Serialize};

/// Version of the stored form.
pub const VERSION: u32 = 1;

/// The table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationTable {
    /// Version of the stored form.
    pub version: u32,
    /// Fingerprint of the model.
    pub model: String,
    /// The runtime and its version.
    pub runtime: String,
    /// The data were made up.
    pub random: bool,
    /// Number of samples of the whole run, of which this table may hold a part.
    pub total: usize,
    /// Fingerprints of the samples that are in, by number.
    pub samples: BTreeMap<usize, String>,
    /// What was seen, by value name.
    pub values: BTreeMap<String, Sketch>,
}

impl CalibrationTable {
    /// An empty table.
    pub fn new(model: String, runtime: String, random: bool, total: usize) -> CalibrationTable {
        let (samples, values) = (BTreeMap::new(), BTreeMap::new());
        CalibrationTable { version: VERSION, model, runtime, random, total, samples, values }
    }

    /// Every sample is in.
    pub fn is_complete(&self) -> bool {
        self.samples.len() == self.total
    }

    /// Adds another part of the same run.
    ///
    /// # Errors
    /// Another model, runtime or number of samples, or samples that are in both parts.
    pub fn merge(&mut self, other: CalibrationTable) -> Result<()> {
        ensure!(self.model == other.model, "the tables are of different models");
        ensure!(
            self.runtime == other.runtime,
            "the tables were made with {} and {}",
            self.runtime,
            other.runtime
        );
        ensure!(
            self.total == other.total,
            "the tables are parts of runs of {} and {} samples",
            self.total,
            other.total
        );
        if let Some(twice) = other.samples.keys().find(|sample| self.samples.contains_key(sample)) {
            bail!("sample {twice} is in both tables");
        }
        self.random |= other.random;
        self.samples.extend(other.samples);
        for (name, sketch) in other.values {
            match self.values.entry(name) {
                Entry::Occupied(mut known) => {
                    let merged = known.get_mut().merge(&sketch);
                    merged.with_context(|| format!("value {:?}", known.key()))?;
                }
                Entry::Vacant(free) => drop(free.insert(sketch)),
            }
        }
        Ok(())
    }

    /// Reads a table.
    ///
    /// # Errors
    /// An unreadable or truncated file, or another version.
    pub fn read(path: &Path) -> Result<CalibrationTable> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let table: CalibrationTable = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no whole calibration table", path.display()))?;
        ensure!(
            table.version == VERSION,
            "{} has version {}, this program reads {VERSION}",
            path.display(),
            table.version
        );
        Ok(table)
    }

    /// Writes the table: to a temporary file first, so that a killed run leaves the old one whole.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(proto::write_file(path, &serde_json::to_vec(self)?)?)
    }

    /// Refuses a table of another model.
    pub fn check_model(&self, fingerprint: &str, path: &Path) -> Result<()> {
        ensure!(
            self.model == fingerprint,
            "{} was made for another model (weights or operators differ): calibrate again",
            path.display()
        );
        Ok(())
    }
}
