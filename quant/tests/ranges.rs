//! Range methods on known distributions against NumPy (tests/data/make_ranges.py), and what must hold of them anyway.

use onnxq_quant::quantize::{fake_quantize, quantize_one};
use onnxq_quant::range::density::{Density, MAX_DB};
use onnxq_quant::range::{METHODS, Method, Sketch, choose};
use onnxq_quant::{CodeType, Grid, Layout, Params, Policy, RangeNote, Span};
use serde_json::Value;

const N: usize = 20_000;
const SAMPLES: usize = 50;

/// The generator of make_ranges.py: SplitMix64 of the index.
fn uniform(stream: u64) -> Vec<f64> {
    (0..N as u64)
        .map(|i| {
            let z = (i + (stream << 32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f64 / 16_777_216.0
        })
        .collect()
}

fn gaussian(stream: u64) -> Vec<f64> {
    let mut g = vec![-6.0; N];
    for k in 0..12 {
        g.iter_mut().zip(uniform(12 * stream + k)).for_each(|(g, u)| *g += u);
    }
    g
}

fn distribution(name: &str) -> Vec<f32> {
    let (g, u, v) = (gaussian(0), uniform(500), uniform(501));
    let mut outlier = g.clone();
    outlier[N / 2] = 40.0;
    let x: Vec<f64> = match name {
        "gaussian" => g,
        "laplace" => {
            u.iter().zip(&v).map(|(u, v)| if *v < 0.5 { (1.0 - u).ln() } else { -(1.0 - u).ln() }).collect()
        }
        "outlier" => outlier,
        "relu" => g.iter().map(|g| g.max(0.0)).collect(),
        "negative" => outlier.iter().map(|g| -g.max(0.0)).collect(),
        "bimodal" => {
            gaussian(1).iter().zip(&v).map(|(g, v)| g * 0.5 + if *v < 0.5 { -4.0 } else { 4.0 }).collect()
        }
        "skewed" => u.iter().map(|u| u.powi(3) * 10.0 - 0.5).collect(),
        "constant" => vec![0.7; N],
        "zero" => vec![0.0; N],
        _ => panic!("{name}"),
    };
    x.into_iter().map(|v| v as f32).collect()
}

fn sketch(x: &[f32]) -> Sketch {
    let mut s = Sketch::new();
    for (i, part) in x.chunks((x.len() / SAMPLES).max(1)).enumerate() {
        s.observe(i as u64, part);
    }
    s
}

fn grid(name: &str) -> Grid {
    match name {
        "int8 symmetric" => Grid::symmetric(CodeType::I8),
        "uint8" => Grid::asymmetric(CodeType::U8),
        "int4 symmetric" => Grid::symmetric(CodeType::I4),
        "uint4" => Grid::asymmetric(CodeType::U4),
        _ => panic!("{name}"),
    }
}

fn pair(v: &Value) -> (f64, f64) {
    (v[0].as_f64().unwrap(), v[1].as_f64().unwrap())
}

/// Σ of squared errors of really quantizing.
fn noise(x: &[f32], p: Params, g: Grid) -> f64 {
    let mut y = vec![0.0; x.len()];
    fake_quantize(x, &Layout::per_tensor(x.len()), &[p], g.codes(), &mut y).unwrap();
    x.iter().zip(&y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}

fn each(mut f: impl FnMut(&str, &[f32], &Sketch, &Value)) {
    let golden: Value = serde_json::from_str(include_str!("data/ranges.json")).unwrap();
    for (name, want) in golden.as_object().unwrap() {
        let x = distribution(name);
        f(name, &x, &sketch(&x), want);
    }
}

#[test]
fn minmax_equals_numpy_to_the_bit() {
    each(|name, _, s, want| {
        let c = choose(Method::MinMax, s, Grid::asymmetric(CodeType::U8), &Policy::default());
        let bits =
            |i: usize| f32::from_bits(u32::from_str_radix(want["minmax"][i].as_str().unwrap(), 16).unwrap());
        assert_eq!((c.lo.to_bits(), c.hi.to_bits()), (bits(0).to_bits(), bits(1).to_bits()), "{name}");
        assert_eq!(c.clipped, 0.0, "{name}");
    });
}

#[test]
fn moments_and_averaged_extrema_equal_numpy() {
    each(|name, _, s, want| {
        // f64 sums in another order: 20,000 terms, each rounding 2^-53 relative.
        for (got, key) in [(s.mean(), "mean"), (s.mean_square(), "mean_square")] {
            let want = want[key].as_f64().unwrap();
            assert!((got - want).abs() <= 1e-12 * (1.0 + want.abs()), "{name} {key} {got} {want}");
        }
        for m in ["moving-average:0.05", "mean-extrema", "median-extrema"] {
            let c = choose(m.parse().unwrap(), s, Grid::asymmetric(CodeType::U8), &Policy::default());
            let (lo, hi) = pair(&want[m]);
            // The same f64 arithmetic rounded to f32; the means add in another order (one unit in the last place).
            let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1.2e-7 * b.abs();
            assert!(near(c.lo, lo) && near(c.hi, hi), "{name} {m}: {} {} for {lo} {hi}", c.lo, c.hi);
        }
    });
}

#[test]
fn percentiles_equal_numpy_within_a_bin() {
    each(|name, x, s, want| {
        for m in
            ["percentile:99.9", "percentile:99", "percentile-asymmetric:99.9", "percentile-asymmetric:98"]
        {
            let c = choose(m.parse().unwrap(), s, Grid::asymmetric(CodeType::U8), &Policy::default());
            let (lo, hi) = pair(&want[m]);
            // The order statistic's place within its bin is not known.
            let bin = s.histogram().width();
            let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= bin;
            assert!(
                near(c.lo, lo) && near(c.hi, hi),
                "{name} {m}: {} {} for {lo} {hi}, bin {bin}",
                c.lo,
                c.hi
            );
            let outside = x.iter().filter(|v| **v < c.lo || **v > c.hi).count() as f64 / N as f64;
            let cut = 1.0 - m.split(':').next_back().unwrap().parse::<f64>().unwrap() / 100.0;
            // In the pole of "skewed" a single bin holds 9 % of the numbers.
            assert!(outside <= cut + 0.002 || name == "skewed", "{name} {m} cuts {outside}");
        }
    });
}

#[test]
fn entropy_equals_numpy_and_clips_where_it_must() {
    each(|name, _, s, want| {
        for (g, want) in want["grids"].as_object().unwrap() {
            let c = choose(Method::Entropy, s, grid(g), &Policy::default());
            let (lo, hi) = pair(&want["entropy"]);
            // The same thresholds are tried; two of them may swap only if their divergences agree to 1e-12.
            let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-6 * b.abs();
            assert!(near(c.lo, lo) && near(c.hi, hi), "{name} {g}: {} {} for {lo} {hi}", c.lo, c.hi);
            match name {
                // Unlike minmax: the outlier is given up.
                "outlier" => assert!(c.hi < 8.0, "{g} {}", c.hi),
                "negative" => assert!(c.lo > -20.0 && c.hi == 0.0, "{g} {}", c.lo),
                // One-sided stays one-sided.
                "relu" => assert!(c.lo == 0.0 && c.hi > 2.0, "{g} {}", c.hi),
                // The valley between two modes is not a good range.
                "bimodal" => assert!(c.lo < -5.0 && c.hi > 5.0, "{g} {}", c.hi),
                "constant" => assert_eq!((c.lo, c.hi), (0.7, 0.7)),
                _ => {}
            }
        }
    });
}

#[test]
fn expected_error_equals_the_error_made() {
    each(|name, x, s, want| {
        for (g, want) in want["grids"].as_object().unwrap() {
            let density = Density::of(s);
            for m in ["minmax", "percentile:99", "entropy", "mse"] {
                let c = choose(m.parse().unwrap(), s, grid(g), &Policy::default());
                let (made, expected) = (noise(x, c.params, grid(g)), density.noise(c.params, grid(g), 1.0));
                // 20,000 numbers: the mean of their squared errors scatters by about 1 %. "skewed" has a pole at its
                // lower end, where the density within a bin is far from even. A constant's error is the rounding of
                // one product.
                let slack = if name == "skewed" { 0.05 } else { 0.03 } * made + N as f64 * 1e-14;
                assert!((made - expected).abs() <= slack, "{name} {g} {m}: made {made}, expected {expected}");
                if m == "minmax" {
                    let numpy = want["minmax_noise"].as_f64().unwrap();
                    // float32 against float64 division and products
                    assert!((made - numpy).abs() <= 1e-4 * numpy + 1e-9, "{name} {g}: {made} {numpy}");
                }
                let clipped = x.iter().filter(|v| {
                    let (lo, hi) = c.params.interval(grid(g));
                    let half = 0.5 * f64::from(c.params.scale());
                    f64::from(**v) < lo - half || f64::from(**v) > hi + half
                });
                let share = clipped.count() as f64 / N as f64;
                assert!((share - c.clipped).abs() < 2e-3, "{name} {g} {m}: {share} {}", c.clipped);
            }
        }
    });
}

#[test]
fn mse_is_as_good_as_brute_force() {
    each(|name, x, s, want| {
        for (g, want) in want["grids"].as_object().unwrap() {
            let least = want["least_noise"].as_f64().unwrap();
            let c = choose(Method::Mse, s, grid(g), &Policy::default());
            let made = noise(x, c.params, grid(g));
            // Brute force may overfit the 20,000 numbers, mse sees a histogram: 2 %.
            assert!(
                made <= 1.02 * least + 1e-9,
                "{name} {g}: [{}, {}] makes {made}, {least} is to be had",
                c.lo,
                c.hi
            );
            let t = choose(Method::TfEnhanced, s, grid(g), &Policy::default());
            assert!(t.clipped <= c.clipped + 1e-12, "{name} {g}: clipping weighs more");
        }
    });
}

#[test]
fn auto_is_never_worse_than_any_method() {
    each(|name, _, s, want| {
        for g in want["grids"].as_object().unwrap().keys() {
            let auto = choose(Method::Auto, s, grid(g), &Policy::default());
            for (m, _) in METHODS {
                let c = choose(m.parse().unwrap(), s, grid(g), &Policy::default());
                assert!(auto.sqnr_db >= c.sqnr_db - 0.15, "{name} {g} {m}: {} {}", auto.sqnr_db, c.sqnr_db);
            }
        }
    });
    let s = sketch(&distribution("outlier"));
    let auto = choose(Method::Auto, &s, grid("int4 symmetric"), &Policy::default());
    let minmax = choose(Method::MinMax, &s, grid("int4 symmetric"), &Policy::default());
    assert!(auto.sqnr_db > minmax.sqnr_db + 8.0);
    // Where nothing is to be gained, nothing is clipped.
    let s = sketch(&(0..1000).map(|i| i as f32 / 999.0).collect::<Vec<_>>());
    let auto = choose(Method::Auto, &s, grid("uint8"), &Policy::default());
    assert_eq!((auto.method, auto.clipped), (Method::MinMax, 0.0));
}

#[test]
fn percentile_best_picks_the_best() {
    each(|name, _, s, want| {
        for g in want["grids"].as_object().unwrap().keys() {
            let best = choose(Method::PercentileBest, s, grid(g), &Policy::default());
            for p in [99.9, 99.99, 99.999] {
                let m =
                    if grid(g).symmetric { Method::Percentile(p) } else { Method::PercentileAsymmetric(p) };
                let c = choose(m, s, grid(g), &Policy::default());
                assert!(best.sqnr_db >= c.sqnr_db, "{name} {g} {p}");
            }
            assert!(matches!(best.method, Method::Percentile(_) | Method::PercentileAsymmetric(_)));
        }
    });
}

/// Every method on every odd sketch gives a usable answer, on every kind of grid.
#[test]
fn odd_sketches_get_usable_ranges() {
    let odd: Vec<Vec<f32>> = vec![
        vec![],
        vec![f32::NAN; 5],
        vec![f32::INFINITY, f32::NEG_INFINITY],
        vec![f32::INFINITY, 1.0, 2.0],
        vec![0.0],
        vec![-0.0, 0.0],
        vec![5.0],
        vec![-5.0],
        vec![1e-45],
        vec![-1e-45, 1e-40],
        vec![f32::MAX, f32::MIN, 1.0],
        vec![f32::MAX],
        vec![1.0; 3000],
        (0..5000).map(|i| if i == 7 { 1e30 } else { i as f32 * 1e-6 }).collect(),
        (0..2000).map(|i| (i % 2) as f32).collect(),
    ];
    let mut grids: Vec<Grid> = CodeType::ALL.iter().map(|&c| Grid::symmetric(c)).collect();
    grids.extend(CodeType::ALL.iter().filter(|c| !c.is_float()).map(|&c| Grid::asymmetric(c)));
    grids.push(Grid::asymmetric(CodeType::U8).with_span(Span::Reduced));
    grids.push(Grid::symmetric(CodeType::I8).with_span(Span::Narrow));
    for x in &odd {
        let s = sketch(x);
        let (lo, hi) = s.extent().unwrap_or((0.0, 0.0));
        for &g in &grids {
            for (m, _) in METHODS {
                let c = choose(m.parse().unwrap(), &s, g, &Policy::default());
                let what = || format!("{m} on {} for {:?}: {c:?}", g.code, &x[..x.len().min(4)]);
                assert!(c.lo >= lo && c.hi <= hi && c.lo <= c.hi, "{}", what());
                assert!(c.params.scale() > 0.0 && c.params.scale().is_finite(), "{}", what());
                assert!((-MAX_DB..=MAX_DB).contains(&c.sqnr_db), "{}", what());
                assert!((0.0..=1.0).contains(&c.clipped), "{}", what());
                if s.finite() == 0 {
                    assert_eq!(c.note, RangeNote::Empty, "{}", what());
                }
            }
        }
    }
    let s = sketch(&[f32::INFINITY, 1.0, 2.0]);
    let c = choose(Method::MinMax, &s, Grid::asymmetric(CodeType::U8), &Policy::default());
    assert_eq!((c.lo, c.hi), (1.0, 2.0), "one Inf does not make the scale infinite");
    assert!((c.clipped - 1.0 / 3.0).abs() < 1e-12);
}

#[test]
fn float_grids_are_weighed_by_their_own_codes() {
    let x = distribution("gaussian");
    let s = sketch(&x);
    let g = Grid::symmetric(CodeType::F8E4M3FN);
    let c = choose(Method::MinMax, &s, g, &Policy::default());
    // E4M3 keeps 3 bits of mantissa: relative error uniform in a binade, 31.5 dB for a Gaussian (within half a dB).
    assert!((c.sqnr_db - 31.5).abs() < 0.5, "{}", c.sqnr_db);
    assert_eq!(quantize_one(0.0, c.params, (-128, 127)), 0);
}

/// The answer depends on the set of observations only.
#[test]
fn choices_do_not_depend_on_order() {
    let x = distribution("laplace");
    let mut forth = Sketch::new();
    let mut back = Sketch::new();
    for (i, part) in x.chunks(500).enumerate() {
        forth.observe(i as u64, part);
    }
    for (i, part) in x.chunks(500).enumerate().rev() {
        let mut one = Sketch::new();
        one.observe(i as u64, part);
        back.merge(&one).unwrap();
    }
    for (m, _) in METHODS {
        let at = |s| choose(m.parse().unwrap(), s, Grid::asymmetric(CodeType::U8), &Policy::default());
        assert_eq!(at(&forth), at(&back), "{m}");
    }
}
