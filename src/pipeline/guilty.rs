//! Proof on samples that rewrites change nothing, and the search for the one that does.
//!
//! Every rewrite of a run of passes has a number, and a run may stop behind any of them, so the first bad one is found by
//! halving.

use anyhow::{Context, Result, bail};
use ir::Model;

use super::engine::{EngineOptions, collect, form_for, prepare};
use super::measure::compare;
use super::prepare::lowered;
use crate::data::Source;

/// How two models are held against each other.
pub struct Judge<'a> {
    /// The samples.
    pub source: &'a dyn Source,
    /// What runs the models.
    pub engine: EngineOptions,
    /// Least signal to noise of a float output, in dB; other outputs must be equal.
    pub least_sqnr: f64,
}

/// The first rewrite after which the outputs differ.
pub struct Guilty {
    /// Rewrites before it, which are right.
    pub good: u64,
    /// What differs behind it.
    pub why: String,
}

impl Judge<'_> {
    /// Why the second model does not compute what the first does; none if it does.
    ///
    /// # Errors
    /// The first model cannot be run.
    pub fn differs(&self, first: &Model, second: &Model) -> Result<Option<String>> {
        let (executor, note) = self.engine.choose(&lowered(first)?)?;
        note.iter().for_each(|note| eprintln!("note: {note}"));
        let (first, second) = (form_for(executor.as_ref(), first)?, form_for(executor.as_ref(), second)?);
        let mut a = prepare(executor.as_ref(), &first, vec![])?;
        let b = match prepare(executor.as_ref(), &second, vec![]) {
            Ok(session) => session,
            Err(error) => return Ok(Some(format!("the result cannot be run: {error:#}"))),
        };
        let samples: Vec<usize> = (0..self.source.len()).collect();
        match compare(a.as_ref(), b.as_ref(), self.source, &samples, self.engine.threads(), &mut |_| {}) {
            Ok(figures) => {
                let bad = figures.iter().find(|figures| match figures.differing {
                    Some(share) => share > 0.0,
                    // Not a number, on both sides or on one, is no agreement that could be measured.
                    None => figures.sqnr_db < self.least_sqnr,
                });
                Ok(bad.map(|figures| match figures.differing {
                    Some(share) => format!("{:.2} % of output {:?} differ", share * 100.0, figures.name),
                    None => format!("output {:?} differs (SQNR {:.1} dB)", figures.name, figures.sqnr_db),
                }))
            }
            Err(error) => {
                // If the first model runs, the second is to blame.
                let sample = self.source.sample(0)?;
                collect(a.as_mut(), &sample).context("running the model before any change")?;
                Ok(Some(format!("{error:#}")))
            }
        }
    }

    /// Finds the first of `total` rewrites that changes what the model computes. `stopped_after` gives the model behind
    /// that many rewrites.
    ///
    /// # Errors
    /// A model cannot be run, or the model behind no rewrite already differs: then it differs from itself.
    pub fn first_bad(
        &self,
        original: &Model,
        total: u64,
        stopped_after: impl Fn(u64) -> Result<Model>,
    ) -> Result<Guilty> {
        if let Some(why) = self.differs(original, &stopped_after(0)?)? {
            bail!("the model does not compute the same twice (random operators?): {why}");
        }
        let (mut good, mut bad) = (0, total.max(1));
        let mut why = String::new();
        while good + 1 < bad {
            let middle = good + (bad - good) / 2;
            match self.differs(original, &stopped_after(middle)?)? {
                None => good = middle,
                Some(found) => (bad, why) = (middle, found),
            }
        }
        if why.is_empty() {
            why = self.differs(original, &stopped_after(bad)?)?.unwrap_or_default();
        }
        Ok(Guilty { good, why })
    }
}
