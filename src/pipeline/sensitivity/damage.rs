//! What one change does to one sample, and what many samples say together: an estimate with a confidence interval.

use ir::Tensor;
use quant::measure::{Distance, Divergence, Rows, TopK};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use runtime::View;
use serde::{Deserialize, Serialize};

/// Resamplings of the bootstrap.
const RESAMPLES: usize = 200;

/// The confidence of every interval: the true value lies within in nine of ten cases.
pub const CONFIDENCE: f64 = 0.9;

/// Sums over the elements of one value on one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// Σ r², r of the float model.
    #[serde(serialize_with = "finite")]
    pub signal: f64,
    /// Σ o², o of the changed model.
    #[serde(serialize_with = "finite")]
    pub other: f64,
    /// Σ (r - o)²; infinite where one side is not finite.
    #[serde(serialize_with = "finite")]
    pub noise: f64,
}

/// JSON has no infinity; 1e300 is as hopeless.
fn finite<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(if value.is_finite() { value.clamp(-1e300, 1e300) } else { 1e300 })
}

impl Power {
    /// Compares elements; tensors that are not floating point count as equal or entirely wrong.
    pub fn between(reference: &Tensor, other: View<'_>) -> Power {
        let (Some(r), Some(o)) = (View::of(reference).floats(), other.floats()) else {
            let wrong = reference.bytes() != other.bytes();
            return Power { signal: 1.0, other: 1.0, noise: if wrong { 1.0 } else { 0.0 } };
        };
        let mut distance = Distance::default();
        if r.len() != o.len() || distance.add(&r, &o).is_err() {
            return Power { signal: 1.0, other: 0.0, noise: f64::INFINITY };
        }
        let power =
            |x: &[f32]| x.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v) * f64::from(v)).sum();
        let noise =
            if distance.broken() > 0 { f64::INFINITY } else { distance.mean_square() * r.len() as f64 };
        Power { signal: power(&r), other: power(&o), noise }
    }

    /// No difference.
    pub fn equal(reference: &Tensor) -> Power {
        Power::between(reference, View::of(reference))
    }

    fn add(&mut self, more: &Power) {
        self.signal += more.signal;
        self.other += more.other;
        self.noise += more.noise;
    }

    /// Noise as a share of the signal: 0 for equal, infinite where broken or where only the signal is zero.
    pub fn share(&self) -> f64 {
        match () {
            _ if self.noise == 0.0 => 0.0,
            _ if self.signal <= 0.0 => f64::INFINITY,
            _ => self.noise / self.signal,
        }
    }
}

/// What one change did to one sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// The results of the changed group itself.
    pub local: Power,
    /// The outputs of the model, in its order.
    pub outputs: Vec<Power>,
    /// Kullback-Leibler divergence of the softmax of the outputs, summed over rows, in nats.
    #[serde(serialize_with = "finite")]
    pub kl: f64,
    /// Rows behind `kl`.
    pub rows: u64,
    /// The first choice is the label; none without labels.
    pub right: Option<bool>,
}

impl Damage {
    /// Adds the comparison of one output.
    pub fn output(&mut self, reference: &Tensor, other: View<'_>, label: Option<usize>) {
        self.outputs.push(Power::between(reference, other));
        let row = reference.dims().last().copied().unwrap_or(1);
        let (Some(r), Some(o)) = (View::of(reference).floats(), other.floats()) else { return };
        // Rows of nothing, or no row at all, have no first choice.
        if row > 1 && r.len() == o.len() && r.len() >= row {
            let mut divergence = Divergence::default();
            let sum: f64 = r[..row].iter().map(|&v| f64::from(v)).sum();
            let shares = r[..row].iter().all(|v| (0.0..=1.0).contains(v)) && (sum - 1.0).abs() < 1e-3;
            let kind = if shares { Rows::Probabilities } else { Rows::Logits };
            if divergence.add(&r, &o, row, kind).is_ok() {
                let rows = divergence.rows() - divergence.broken();
                self.kl += divergence.mean() * rows as f64;
                self.rows += rows;
            }
            if let Some(label) = label.filter(|_| self.right.is_none()) {
                let mut top = TopK::default();
                top.add_labelled(&o[..row], label);
                self.right = top.accuracy().map(|share| share > 0.5);
            }
        }
    }

    /// Noise of the outputs as a share of their signal, the mean over the outputs.
    pub fn noise(samples: &[&Damage]) -> f64 {
        let outputs = samples.iter().map(|damage| damage.outputs.len()).max().unwrap_or(0);
        let share = |at: usize| {
            let mut sum = Power::default();
            samples.iter().filter_map(|damage| damage.outputs.get(at)).for_each(|power| sum.add(power));
            sum.share()
        };
        (0..outputs).map(share).sum::<f64>() / outputs.max(1) as f64
    }
}

/// What many samples say about one change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Samples.
    pub samples: usize,
    /// Noise of the outputs as a share of the signal.
    pub noise: f64,
    /// The same in dB.
    pub global_db: f64,
    /// Ends of the confidence interval of `global_db`.
    pub interval_db: (f64, f64),
    /// SQNR of the group's own results, in dB.
    pub local_db: f64,
    /// Cosine at the outputs, the least of all.
    pub cosine: f64,
    /// Mean Kullback-Leibler divergence of a row, in nats.
    pub kl: f64,
    /// Share of labelled samples that are right.
    pub accuracy: Option<f64>,
}

/// A share of noise in decibels, within ±200.
pub fn decibels(noise: f64) -> f64 {
    if noise.is_nan() { -200.0 } else { (-10.0 * noise.log10()).clamp(-200.0, 200.0) }
}

impl Score {
    /// Estimates from samples; `seed` makes the bootstrap repeatable.
    pub fn of(samples: &[&Damage], seed: u64) -> Score {
        let noise = Damage::noise(samples);
        let mut local = Power::default();
        samples.iter().for_each(|damage| local.add(&damage.local));
        let outputs = samples.first().map_or(0, |damage| damage.outputs.len());
        let cosine = |at: usize| {
            let mut sum = Power::default();
            samples.iter().filter_map(|damage| damage.outputs.get(at)).for_each(|power| sum.add(power));
            let length = (sum.signal * sum.other).sqrt();
            if length > 0.0 {
                ((sum.signal + sum.other - sum.noise) / (2.0 * length)).clamp(-1.0, 1.0)
            } else {
                1.0
            }
        };
        let rows: u64 = samples.iter().map(|damage| damage.rows).sum();
        let right: Vec<bool> = samples.iter().filter_map(|damage| damage.right).collect();
        let global_db = decibels(noise);
        Score {
            samples: samples.len(),
            noise,
            global_db,
            interval_db: interval(samples, global_db, seed),
            local_db: decibels(local.share()),
            cosine: (0..outputs).map(cosine).fold(1.0, f64::min),
            kl: samples.iter().map(|damage| damage.kl).sum::<f64>() / rows.max(1) as f64,
            accuracy: (!right.is_empty())
                .then(|| right.iter().filter(|right| **right).count() as f64 / right.len() as f64),
        }
    }
}

/// The interval in dB. Its half width is Student's t times the greater of two standard errors:
///
/// - the bootstrap's, corrected for its own bias of (n-1)/n (Efron and Tibshirani, An Introduction to the Bootstrap,
///   sections 5 and 12): right for any distribution once there are many samples;
/// - that of the mean of a log-normal distribution with the spread that the samples' own shares have (Cox's method: Zhou
///   and Gao, Confidence intervals for the log-normal mean, 1997). Noise differs between samples by factors, and a dozen
///   draws seldom hold the rare bad one that carries the mean, which no resampling of them can know.
///
/// Towards more noise the interval goes further by what the samples' mean lacks of the log-normal one. `1 + 1/n` makes up
/// for the spread being estimated too. Simulated (2,000 trials each, log-normal noise with a spread of 1 dB to 5 dB, also
/// gamma and partly vanishing noise, n from 4 to 64) the truth is covered in 88 % to 95 % of the cases; light tails more.
fn interval(samples: &[&Damage], estimate: f64, seed: u64) -> (f64, f64) {
    let n = samples.len();
    if n < 2 {
        return (-200.0, 200.0);
    }
    if estimate.abs() >= 200.0 {
        return (estimate, estimate);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = Vec::with_capacity(n);
    let values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.clear();
            drawn.extend((0..n).map(|_| samples[random.random_range(0..n)]));
            decibels(Damage::noise(&drawn))
        })
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (values.len() - 1) as f64;
    let count = n as f64;
    let resampled = (variance * count / (count - 1.0)).sqrt();
    let (modelled, lacking) = log_normal(samples);
    let factor = student((1.0 + CONFIDENCE) / 2.0, n - 1) * (1.0 + 1.0 / count);
    let half = factor * resampled.max(modelled);
    ((estimate - half - lacking).max(-200.0), (estimate + half).min(200.0))
}

/// Noise further below the strongest than this counts as this far below: an error of one rounding in a million.
const FLOOR: f64 = 1e-12;

/// The standard error of the mean share in dB if shares of samples are log-normal, and how many dB the samples' mean lies
/// below the mean of that distribution.
fn log_normal(samples: &[&Damage]) -> (f64, f64) {
    let n = samples.len() as f64;
    let shares: Vec<f64> = samples.iter().map(|damage| Damage::noise(&[damage])).collect();
    let most = shares.iter().copied().filter(|share| share.is_finite()).fold(0.0, f64::max);
    if most <= 0.0 || n < 2.0 {
        return (0.0, 0.0);
    }
    let mut logs: Vec<f64> = shares.iter().map(|share| share.clamp(most * FLOOR, most).ln()).collect();
    logs.sort_by(f64::total_cmp);
    let at = logs.len() / 2;
    let middle = if logs.len() % 2 == 1 { logs[at] } else { (logs[at - 1] + logs[at]) / 2.0 };
    // What is far below the rest adds nothing to the mean: the lower tail counts a quarter longer than the upper at most.
    let least = middle - 1.25 * (most.ln() - middle);
    logs.iter_mut().for_each(|log| *log = log.max(least));
    let mean = logs.iter().sum::<f64>() / n;
    let spread = logs.iter().map(|log| (log - mean) * (log - mean)).sum::<f64>() / (n - 1.0);
    // Samples of strong signal weigh more: the weights' squares stand for 1/n.
    let signal = |damage: &&Damage| damage.outputs.iter().map(|power| power.signal).sum::<f64>();
    let (sum, squares) =
        samples.iter().map(signal).fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    let weight = if sum > 0.0 && squares.is_finite() { squares / (sum * sum) } else { 1.0 / n };
    let error = (spread * weight.max(1.0 / n) + spread * spread / (2.0 * (n - 1.0))).sqrt();
    let average = shares.iter().map(|share| share.min(most)).sum::<f64>() / n;
    let relative =
        shares.iter().map(|share| (share.min(most) / average - 1.0).powi(2)).sum::<f64>() / (n - 1.0);
    let lacking = (spread / 2.0 - relative.ln_1p() / 2.0).max(0.0);
    let to_decibels = 10.0 / std::f64::consts::LN_10;
    (error * to_decibels, lacking * to_decibels)
}

/// Quantile of Student's t: the Cornish-Fisher expansion around the normal quantile (Abramowitz and Stegun 26.7.5), exact
/// forms for 1 and 2 degrees of freedom.
fn student(quantile: f64, freedom: usize) -> f64 {
    match freedom {
        0 | 1 => (std::f64::consts::PI * (quantile - 0.5)).tan(),
        2 => (2.0 * quantile - 1.0) * (2.0 / (4.0 * quantile * (1.0 - quantile))).sqrt(),
        _ => {
            // The 95 % quantile of the normal distribution: the only one that is used.
            let z: f64 = 1.644_853_626_951_472_2;
            debug_assert!((quantile - 0.95).abs() < 1e-12);
            let v = freedom as f64;
            let terms = [
                (z.powi(3) + z) / 4.0,
                (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
                (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
            ];
            z + terms[0] / v + terms[1] / (v * v) + terms[2] / v.powi(3)
        }
    }
}

/// Spearman's rank correlation; ties share their mean rank. 1 for fewer than two items.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len().min(b.len()) as f64;
    if n < 2.0 {
        return 1.0;
    }
    let mean = (n + 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let length = (sum(&a, &a) * sum(&b, &b)).sqrt();
    if length > 0.0 { sum(&a, &b) / length } else { 1.0 }
}

fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&i, &j| x[i].total_cmp(&x[j]));
    let mut ranks = vec![0.0; x.len()];
    let mut at = 0;
    while at < order.len() {
        let ties = order[at..].iter().take_while(|&&i| x[i] == x[order[at]]).count();
        order[at..at + ties].iter().for_each(|&i| ranks[i] = at as f64 + (ties as f64 + 1.0) / 2.0);
        at += ties;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(signal: f64, noise: f64) -> Damage {
        Damage { outputs: vec![Power { signal, other: signal, noise }], ..Damage::default() }
    }

    /// Noise differs between samples by factors, as it does in networks: log-normal with a spread of 1 dB to 5 dB; also
    /// squared normal errors of few degrees of freedom, and noise that vanishes in a third of the samples.
    #[test]
    fn intervals_cover_the_truth_at_their_rate() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut uniform = || random.random::<f64>();
        let kinds: [(&str, f64); 6] = [
            ("even", 0.23),
            ("uneven", 0.46),
            ("very", 0.92),
            ("extreme", 1.2),
            ("chi", 1.0),
            ("gone", 0.46),
        ];
        for (kind, spread) in kinds {
            let truth = match kind {
                "chi" => 1.0,
                "gone" => 0.7 * f64::exp(spread * spread / 2.0),
                _ => f64::exp(spread * spread / 2.0),
            };
            let truth = decibels(1e-3 * truth);
            for count in [4, 6, 12, 24, 48, 64] {
                let trials = 500;
                let mut covered = 0;
                for trial in 0..trials {
                    let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                    let samples: Vec<Damage> = (0..count)
                        .map(|_| {
                            let signal = (0.3 * normal()).exp();
                            let share = match kind {
                                "chi" => (0..4).map(|_| normal().powi(2)).sum::<f64>() / 4.0,
                                "gone" if normal() < -0.5244 => 0.0,
                                _ => (spread * normal()).exp(),
                            };
                            damage(signal, signal * 1e-3 * share)
                        })
                        .collect();
                    let (low, high) = Score::of(&samples.iter().collect::<Vec<_>>(), trial).interval_db;
                    covered += usize::from(low <= truth && truth <= high);
                }
                let rate = covered as f64 / trials as f64;
                // Nine of ten are stated. 500 trials of such a rate have a standard error of 1.3 points: two of them below is
                // chance. Above is caution, and is bounded where the distribution is the one that the interval supposes.
                let most = if ["chi", "gone"].contains(&kind) { 1.0 } else { 0.98 };
                assert!((0.873..=most).contains(&rate), "{kind}, {count} samples: {rate}");
            }
        }
    }

    #[test]
    fn outputs_without_elements_say_nothing() {
        let mut found = Damage::default();
        for dims in [&[0usize, 4][..], &[0], &[3, 0], &[]] {
            let tensor = Tensor::from_slice(dims, &vec![1f32; dims.iter().product()]).unwrap();
            found.output(&tensor, View::of(&tensor), Some(0));
        }
        assert_eq!((found.outputs.len(), found.rows, found.right), (4, 0, None));
    }

    #[test]
    fn scores_by_hand() {
        let samples = [damage(1.0, 0.01), damage(3.0, 0.03)];
        let score = Score::of(&samples.iter().collect::<Vec<_>>(), 0);
        assert!((score.global_db - 20.0).abs() < 1e-9 && (score.noise - 0.01).abs() < 1e-15);
        let broken = [damage(1.0, f64::INFINITY), damage(1.0, 0.1)];
        assert_eq!(Score::of(&broken.iter().collect::<Vec<_>>(), 0).interval_db, (-200.0, -200.0));
        assert_eq!(Score::of(&[], 0).samples, 0);
    }

    #[test]
    fn ranks_and_quantiles() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]), 1.0);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(ranks(&[5.0, 5.0, 1.0]), [2.5, 2.5, 1.0]);
        // Tables of Student's t at 95 %: 6.314, 2.920, 2.353, 2.015, 1.796.
        for (freedom, wanted) in [(1, 6.314), (2, 2.920), (3, 2.353), (5, 2.015), (11, 1.796)] {
            let found = student(0.95, freedom);
            assert!((found - wanted).abs() < 0.02, "{freedom}: {found}"); // the expansion's remainder at 3
        }
    }
}
