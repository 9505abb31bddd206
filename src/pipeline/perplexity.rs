//! How well a language model predicts a text, and how far its predictions are from another model's.
//!
//! Every window of tokens is one run (or several with a cache, see [`PerplexityOptions::step`]). Position i predicts token i + 1;
//! where windows overlap, each token is scored once, with the longest context that it has. Perplexity is exp of the mean
//! negative log-likelihood. The divergence from a reference model is KL(reference ‖ model) of the next-token distributions, in
//! nats, over all scored positions. Sums are f64 in the order of the text.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use ir::{DType, Model, Tensor};
use runtime::{Feed, Session, View};
use serde::Serialize;

use super::engine::run_all;
use crate::data::{Source, is_token_input};

/// How to go through the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerplexityOptions {
    /// Tokens at the start of each window but the first that are context only.
    pub overlap: usize,
    /// Tokens a run, with the cache of the runs before as input; none for whole windows.
    pub step: Option<usize>,
    /// Threads.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Mean negative log-likelihood, nats.
    pub mean_nll: f64,
    /// Tokens predicted.
    pub predictions: usize,
    /// Against a reference model.
    pub reference: Option<Against>,
}

/// A model beside its reference.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// The reference's own perplexity.
    pub perplexity: f64,
    /// Standard error of the difference of the two perplexities, from the differences token by token, as if tokens were
    /// independent. Two models whose perplexities differ by less than two of these are not told apart by this text.
    pub difference_error: f64,
    /// Mean KL divergence, nats.
    pub mean_kl: f64,
    /// 99 of 100 positions have a divergence of at most this.
    pub kl_99: f64,
    /// The greatest.
    pub max_kl: f64,
    /// Share of positions with the same most likely token.
    pub same_top1: f64,
    /// Positions compared.
    pub positions: usize,
}

/// A model that is loaded, and what it calls its values.
pub struct Language {
    session: Box<dyn Session>,
    logits: String,
    /// Cache inputs and the outputs that hold their next values.
    cache: Vec<(String, String)>,
    /// Width of the logits, where the model states it.
    vocabulary: Option<usize>,
}

impl Language {
    /// Finds logits and caches of `model`, which `session` runs.
    ///
    /// # Errors
    /// The model has no float output with one row a token.
    pub fn new(model: &Model, session: Box<dyn Session>) -> Result<Language> {
        let main = model.main();
        let outputs: Vec<_> = main.outputs().iter().map(|&v| main.value(v)).collect();
        let float = |v: &&&ir::Value| v.dtype().is_none_or(|dtype| dtype.is_compute_float());
        let logits = outputs.iter().find(|v| &**v.name() == "logits").or_else(|| outputs.iter().find(float));
        let logits = logits.context("the model has no output that could be logits")?;
        let vocabulary = logits.shape().and_then(|shape| shape.dims.last()?.known());
        let logits = logits.name().to_string();
        let past = main.inputs().iter().map(|&v| main.value(v).name().to_string());
        let past: Vec<String> = past.filter(|name| name.starts_with("past")).collect();
        let present = outputs.iter().map(|v| v.name().to_string()).filter(|name| *name != logits);
        let cache = past.into_iter().zip(present).collect();
        Ok(Language { session, logits, cache, vocabulary })
    }

    fn fork(&self) -> Result<Language> {
        let session = self.session.fork()?;
        let (logits, cache) = (self.logits.clone(), self.cache.clone());
        Ok(Language { session, logits, cache, vocabulary: self.vocabulary })
    }

    /// Logits of a window, `[tokens, vocabulary]`.
    fn scores(&mut self, feed: &Feed, step: Option<usize>) -> Result<(Vec<f32>, usize)> {
        let tokens = token_count(feed)?;
        let Some(step) = step.filter(|_| !self.cache.is_empty()) else {
            return Ok(self.one(feed)?.0);
        };
        let (mut scores, mut vocabulary, mut cache) = (Vec::new(), 0, Vec::new());
        for start in (0..tokens).step_by(step.max(1)) {
            let end = (start + step.max(1)).min(tokens);
            let piece = piece(feed, &self.cache, &cache, start, end)?;
            let ((part, width), present) = self.one(&piece)?;
            scores.extend(part);
            vocabulary = width;
            cache = present;
        }
        Ok((scores, vocabulary))
    }

    /// One run: logits, their width, and the new cache in the order of its inputs.
    #[allow(clippy::type_complexity)]
    fn one(&mut self, feed: &Feed) -> Result<((Vec<f32>, usize), Vec<Tensor>)> {
        let mut found = None;
        let mut present: Vec<Option<Tensor>> = vec![None; self.cache.len()];
        let (logits, cache) = (&self.logits, &self.cache);
        let mut keep = |name: &str, value: View<'_>| {
            if name == logits {
                let width = value.dims().last().copied().unwrap_or(0);
                found = value.floats().map(|floats| (floats.into_owned(), width));
            } else if let Some(at) = cache.iter().position(|(_, output)| output == name) {
                present[at] = value.to_tensor();
            }
        };
        self.session.run(feed, &mut keep)?;
        let found = found.with_context(|| format!("{logits:?} was not computed"))?;
        Ok((found, present.into_iter().flatten().collect()))
    }
}

/// The tokens of a feed.
fn tokens(feed: &Feed) -> Result<Vec<i64>> {
    let (name, tensor) =
        feed.iter().find(|(name, _)| is_token_input(name)).context("no input takes token numbers")?;
    Ok(match tensor.dtype() {
        DType::I64 => tensor.to_vec()?,
        DType::I32 => tensor.to_vec::<i32>()?.into_iter().map(i64::from).collect(),
        other => bail!("{name:?} is {other}, not token numbers"),
    })
}

fn token_count(feed: &Feed) -> Result<usize> {
    Ok(tokens(feed)?.len())
}

/// Tokens `start..end` of a window, behind a cache of the ones before.
fn piece(
    feed: &Feed,
    names: &[(String, String)],
    cache: &[Tensor],
    start: usize,
    end: usize,
) -> Result<Feed> {
    let mut piece = Feed::new();
    for (name, tensor) in feed {
        let at = names.iter().position(|(input, _)| input == name);
        let made = match at {
            Some(at) => cache.get(at).unwrap_or(tensor).clone(),
            None if tensor.dims().last().is_some_and(|&last| last >= end) && tensor.rank() <= 2 => {
                // The mask covers the cache as well; ids, positions and segments only what is new.
                let from = if name.contains("mask") { 0 } else { start };
                let size = tensor.dtype().bits() / 8;
                let bytes = tensor.bytes().slice(from * size..end * size);
                let mut dims = tensor.dims().to_vec();
                if let Some(last) = dims.last_mut() {
                    *last = end - from;
                }
                Tensor::new(tensor.dtype(), &dims[..], bytes)?
            }
            None => tensor.clone(),
        };
        piece.push((name.clone(), made));
    }
    Ok(piece)
}

/// log softmax of one row.
fn log_softmax(row: &[f32], out: &mut Vec<f64>) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    out.clear();
    out.extend(row.iter().map(|&v| f64::from(v) - f64::from(most)));
    let sum: f64 = out.iter().map(|v| v.exp()).sum();
    let log = sum.ln();
    out.iter_mut().for_each(|v| *v -= log);
}

/// The place of the greatest element; the first of equals.
fn greatest(row: &[f64]) -> usize {
    let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    (0..row.len()).reduce(better).unwrap_or(0)
}

/// One window.
#[derive(Default)]
struct Scored {
    nll: f64,
    reference_nll: f64,
    /// Σ of squared differences of the two.
    squares: f64,
    predictions: usize,
    kl: Vec<f64>,
    same: usize,
}

fn score(
    model: &mut Language,
    reference: Option<&mut Language>,
    feed: &Feed,
    first: bool,
    options: &PerplexityOptions,
) -> Result<Scored> {
    let ids = tokens(feed)?;
    // Before the model runs: a runtime that looks a token up outside of its table says nothing that helps.
    if let Some(words) = model.vocabulary
        && let Some(id) = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= words))
    {
        bail!(
            "token {id} is not in the model's vocabulary of {words}: the text was cut by another tokenizer"
        );
    }
    let (scores, width) = model.scores(feed, options.step)?;
    ensure!(
        width > 0 && scores.len() == ids.len() * width,
        "the logits have {} elements, {} tokens do not divide them",
        scores.len(),
        ids.len()
    );
    let beside = reference.map(|reference| reference.scores(feed, options.step)).transpose()?;
    if let Some((other, other_width)) = &beside {
        ensure!(
            (other.len(), *other_width) == (scores.len(), width),
            "the models have different vocabularies: {width} and {other_width}"
        );
    }
    let mut scored = Scored::default();
    let (mut log, mut exact) = (Vec::new(), Vec::new());
    // Position i predicts token i + 1: with an overlap, those within it were scored in the window before.
    let begin = if first { 0 } else { options.overlap.saturating_sub(1) };
    for at in begin..ids.len() {
        log_softmax(&scores[at * width..(at + 1) * width], &mut log);
        let next = ids.get(at + 1).and_then(|&id| usize::try_from(id).ok());
        let mut own = 0.0;
        if let Some(next) = next {
            own = *log.get(next).with_context(|| format!("token {next} is not in the vocabulary"))?;
            scored.nll -= own;
            scored.predictions += 1;
        }
        if let Some((other, _)) = &beside {
            log_softmax(&other[at * width..(at + 1) * width], &mut exact);
            if let Some(next) = next {
                scored.reference_nll -= exact[next];
                scored.squares += (exact[next] - own).powi(2);
            }
            let kl: f64 = exact
                .iter()
                .zip(&log)
                .map(|(p, q)| if p.is_finite() { p.exp() * (p - q) } else { 0.0 })
                .sum();
            scored.kl.push(kl.max(0.0));
            scored.same += usize::from(greatest(&log) == greatest(&exact));
        }
    }
    Ok(scored)
}

/// Scores every window of the source. `done` hears of each.
///
/// # Errors
/// A model that does not run or has no logits of the tokens' number; a text without a prediction.
pub fn perplexity(
    model: &Language,
    reference: Option<&Language>,
    source: &dyn Source,
    options: &PerplexityOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Perplexity> {
    let threads = options.threads.max(1);
    let fork = |_| Ok((model.fork()?, reference.map(Language::fork).transpose()?));
    let forks: Mutex<Vec<(Language, Option<Language>)>> =
        Mutex::new((0..threads).map(fork).collect::<Result<_>>()?);
    let samples: Vec<usize> = (0..source.len()).collect();
    let states = run_all(
        model.session.as_ref(),
        source,
        &samples,
        threads,
        || (forks.lock().unwrap_or_else(PoisonError::into_inner).pop(), Vec::new()),
        |(models, found), _, sample, feed| {
            let (model, reference) = models.as_mut().context("no session is left")?;
            found.push((sample, score(model, reference.as_mut(), &feed, sample == 0, options)?));
            Ok(())
        },
        done,
    )?;
    let mut windows: Vec<(usize, Scored)> = states.into_iter().flat_map(|(_, found)| found).collect();
    windows.sort_by_key(|(sample, _)| *sample);
    let sum = |of: fn(&Scored) -> f64| windows.iter().map(|(_, scored)| of(scored)).sum::<f64>();
    let predictions: usize = windows.iter().map(|(_, scored)| scored.predictions).sum();
    ensure!(predictions > 0, "the text is too short: nothing is predicted");
    let mean_nll = sum(|s| s.nll) / predictions as f64;
    let mut kl: Vec<f64> = windows.iter().flat_map(|(_, scored)| scored.kl.iter().copied()).collect();
    let same: usize = windows.iter().map(|(_, scored)| scored.same).sum();
    let reference = reference.map(|_| {
        let positions = kl.len();
        let mean_kl = kl.iter().sum::<f64>() / positions.max(1) as f64;
        kl.sort_by(f64::total_cmp);
        let quantile = (positions * 99).div_ceil(100).saturating_sub(1);
        let (count, gap) =
            (predictions as f64, (sum(|s| s.nll) - sum(|s| s.reference_nll)) / predictions as f64);
        let spread = (sum(|s| s.squares) / count - gap * gap).max(0.0);
        Against {
            perplexity: (sum(|s| s.reference_nll) / predictions as f64).exp(),
            difference_error: mean_nll.exp() * (spread / (count - 1.0).max(1.0)).sqrt(),
            mean_kl,
            kl_99: kl.get(quantile).copied().unwrap_or(0.0),
            max_kl: kl.last().copied().unwrap_or(0.0),
            same_top1: same as f64 / positions.max(1) as f64,
            positions,
        }
    });
    Ok(Perplexity { perplexity: mean_nll.exp(), mean_nll, predictions, reference })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_of_equal_scores_is_even() {
        let mut out = Vec::new();
        log_softmax(&[1000.0, 1000.0], &mut out);
        assert!(out.iter().all(|v| (v + 2f64.ln()).abs() < 1e-12));
        assert_eq!(greatest(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn a_piece_holds_what_is_new_and_the_mask_of_all() {
        let window = |values: &[i64]| Tensor::from_slice(&[1, values.len()], values).unwrap();
        let feed: Feed = vec![
            ("input_ids".into(), window(&[5, 6, 7])),
            ("attention_mask".into(), window(&[1, 1, 1])),
            ("past.0".into(), Tensor::from_slice::<f32>(&[1, 1, 0, 2], &[]).unwrap()),
        ];
        let cache = [Tensor::from_slice(&[1, 1, 2, 2], &[1f32; 4]).unwrap()];
        let piece = piece(&feed, &[("past.0".into(), "present.0".into())], &cache, 2, 3).unwrap();
        assert_eq!(piece[0].1, window(&[7]));
        assert_eq!(piece[1].1.dims(), [1, 3]);
        assert_eq!(piece[2].1.dims(), [1, 1, 2, 2]);
    }
}
