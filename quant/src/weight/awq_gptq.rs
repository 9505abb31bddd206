//! `awq+gptq`: column scales ([`super::awq`]) before [`super::gptq`], where they help.
//!
//! AWQ's search minimizes the error of *rounding*. GPTQ makes up for most of what that search gains, and what suits one need
//! not suit the other: scales change which columns share a grid well, how even the pivots are, and what the damping means. So
//! every candidate goes through GPTQ on most of the tokens and is judged by the output error Σ tr(ΔW·H·ΔWᵀ) that it leaves
//! on tokens that were held back, summed over the weights that share the scales. Candidates are the searched scales, their
//! square roots, and none; scales must gain [`GAIN`] to be kept, as they may cost a multiplication when the model runs.

use super::awq::{Trial, apply, awq_scales, sample_rows};
use super::gptq::{GptqOptions, GptqPlan};
use super::gram::Gram;
use super::loss::Loss;
use super::{Spec, Weight, WeightError};

/// Part of the error that scales must take away: smaller gains on the tokens that judge were seen not to last on other text.
pub const GAIN: f64 = 0.05;
/// Exponents of the searched scales that are tried.
const POWERS: [f32; 2] = [1.0, 0.5];

/// What was chosen, and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// One positive factor per column: weights × s, inputs / s; `None` where GPTQ alone is as good.
    pub scales: Option<Vec<f32>>,
    /// Output error on the judging tokens without scales.
    pub without: f64,
    /// The least with scales; `None` where AWQ's search found no scales to try.
    pub with: Option<f64>,
}

/// Chooses the scales of weights that read one input, each with its grid. `fitted` is the Gram matrix of most tokens, `held`
/// that of the others; one that saw nothing is replaced by `fitted`.
///
/// # Errors
/// Sizes that do not fit, or what [`GptqPlan::new`] refuses.
pub fn choose_scales(
    weights: &[(Weight<'_>, Spec)],
    fitted: &Gram,
    held: &Gram,
    options: &GptqOptions,
) -> Result<Scaling, WeightError> {
    let Some((_, first)) = weights.first() else {
        return Ok(Scaling { scales: None, without: 0.0, with: None });
    };
    let cols = fitted.cols();
    let rows: usize = weights.iter().map(|(weight, _)| weight.rows()).sum();
    let sampled: Vec<Vec<f32>> =
        weights.iter().map(|(weight, _)| sample_rows(weight)).collect::<Result<_, _>>()?;
    let loss = Loss::new(if held.tokens() > 0 { held } else { fitted });
    let judge = |scales: Option<&[f32]>| -> Result<f64, WeightError> {
        let scaled = scales.map(|scales| fitted.scaled(scales)).transpose()?;
        let gram = scaled.as_ref().unwrap_or(fitted);
        let mut plans: Vec<(Spec, GptqPlan)> = Vec::new();
        let mut total = 0.0;
        for (sample, (_, spec)) in sampled.iter().zip(weights) {
            let exact = Weight::from_rows(&sample[..], sample.len() / cols, cols)?;
            let moved = scales.map(|scales| apply(&exact, scales)).transpose()?;
            let target = Weight::from_rows(moved.as_deref().unwrap_or(sample), exact.rows(), cols)?;
            if !plans.iter().any(|(known, _)| known == spec) {
                plans.push((*spec, GptqPlan::new(gram, spec, options, rows)?));
            }
            let Some((_, plan)) = plans.iter().find(|(known, _)| known == spec) else { continue };
            let mut back = plan.quantize(&target, spec)?.dequantize();
            if let Some(scales) = scales {
                unscale(&mut back, scales);
            }
            total += loss.of(&exact, &back)?;
        }
        Ok(total)
    };
    let without = judge(None)?;
    let views: Vec<Weight<'_>> = weights.iter().map(|(weight, _)| *weight).collect();
    let searched = awq_scales(&views, first, fitted, None, Trial::RtnSearch)?;
    let mut best: Option<(f64, Vec<f32>)> = None;
    if searched.ratio.is_some() {
        for power in POWERS {
            let scales: Vec<f32> = searched.scales.iter().map(|s| s.powf(power)).collect();
            let left = judge(Some(&scales))?;
            if best.as_ref().is_none_or(|(least, _)| left < *least) {
                best = Some((left, scales));
            }
        }
    }
    let with = best.as_ref().map(|(least, _)| *least);
    let kept = best.filter(|(least, _)| *least < (1.0 - GAIN) * without);
    Ok(Scaling { scales: kept.map(|(_, scales)| scales), without, with })
}

/// Divides the columns of `[N, K]` by their scales: what a scaled weight amounts to.
pub fn unscale(weight: &mut [f32], scales: &[f32]) {
    for row in weight.chunks_mut(scales.len().max(1)) {
        row.iter_mut().zip(scales).for_each(|(w, s)| *w /= s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    /// Tokens whose columns differ in strength: every sixteenth is `strong` times as strong.
    fn tokens(count: usize, cols: usize, seed: u64, strong: f32) -> Gram {
        let mut x = gaussian(count * cols, seed);
        let factor = |k: usize| if k % 16 == 3 { strong } else { 1.0 };
        x.iter_mut().enumerate().for_each(|(i, v)| *v *= factor(i % cols));
        let mut gram = Gram::new(cols);
        gram.add(&x).unwrap();
        gram
    }

    #[test]
    fn scales_are_kept_where_they_help_on_other_tokens() {
        let w = gaussian(96 * 128, 1);
        let weight = Weight::from_rows(&w[..], 96, 128).unwrap();
        let options = GptqOptions::default();
        let both = [(weight, Spec::int4(32)), (weight, Spec::int4(32).symmetric())];
        let (fitted, held) = (tokens(600, 128, 2, 12.0), tokens(200, 128, 3, 12.0));
        let found = choose_scales(&both, &fitted, &held, &options).unwrap();
        // 0.75 measured: blocks of one strong and many weak columns are what scales are for.
        assert!(found.scales.is_some() && found.with.unwrap() < 0.85 * found.without, "{found:?}");
        // The judge is what it says it is.
        let scales = found.scales.unwrap();
        let mut total = 0.0;
        for (weight, spec) in &both {
            let moved = apply(weight, &scales).unwrap();
            let view = Weight::from_rows(&moved[..], 96, 128).unwrap();
            let plan = GptqPlan::new(&fitted.scaled(&scales).unwrap(), spec, &options, 192).unwrap();
            let mut back = plan.quantize(&view, spec).unwrap().dequantize();
            unscale(&mut back, &scales);
            total += Loss::new(&held).of(weight, &back).unwrap();
        }
        assert_eq!(found.with, Some(total));
    }

    #[test]
    fn scales_that_do_not_help_are_left_out() {
        let w = gaussian(64 * 64, 5);
        let weight = Weight::from_rows(&w[..], 64, 64).unwrap();
        let options = GptqOptions::default();
        let spec = [(weight, Spec::int4(32))];
        // Inputs of even strength: what the search finds gains half a percent, which is no Mul's worth.
        let found =
            choose_scales(&spec, &tokens(300, 64, 6, 1.0), &tokens(300, 64, 7, 1.0), &options).unwrap();
        assert!(found.scales.is_none() && found.with.is_some_and(|with| with > 0.98 * found.without));
        // Nothing held back: judged on what there is. Nothing seen at all, or no weights: nothing to choose.
        let seen = tokens(300, 64, 6, 12.0);
        assert!(choose_scales(&spec, &seen, &Gram::new(64), &options).unwrap().scales.is_some());
        assert!(choose_scales(&spec, &Gram::new(64), &Gram::new(64), &options).unwrap().scales.is_none());
        assert!(choose_scales(&[], &seen, &seen, &options).unwrap().scales.is_none());
        assert!(choose_scales(&spec, &Gram::new(32), &Gram::new(32), &options).is_err());
    }
}
