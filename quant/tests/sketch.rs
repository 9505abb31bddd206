//! Sketches: fast equals plain, merging is exact and order-free, the stored form round-trips and is checked.

use onnxq_quant::Layout;
use onnxq_quant::range::extrema::KEPT;
use onnxq_quant::range::histogram::{HALF, Histogram};
use onnxq_quant::range::sketch::{Sketch, VERSION};
use proptest::prelude::*;

/// Deterministic numbers of wildly different sizes.
fn numbers(seed: u64, n: usize, spread: f32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            let u = (s >> 40) as f32 / (1 << 23) as f32 - 1.0;
            if s.is_multiple_of(5) { 0.0 } else { u * spread.powf(((s >> 8) % 16) as f32 / 16.0) }
        })
        .collect()
}

fn both(slices: &[Vec<f32>]) -> Sketch {
    let (mut fast, mut plain) = (Sketch::new(), Sketch::new());
    for (i, x) in slices.iter().enumerate() {
        fast.observe(i as u64, x);
        plain.observe_ref(i as u64, x);
        assert_eq!(fast, plain, "after slice {i} of {} numbers", x.len());
    }
    fast
}

#[test]
fn fast_equals_plain_on_every_length_and_growth() {
    let mut slices: Vec<Vec<f32>> = (0..70).map(|n| numbers(n, n as usize, 1.0)).collect();
    slices.extend([1023, 1024, 1025, 4095, 4096, 4097, 9000].map(|n| numbers(n as u64, n, 1e3)));
    // growing many times within one slice, then by a lot, then tiny numbers
    slices.push((0..20_000).map(|i| (i as f32).powi(3) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect());
    slices.push(vec![f32::MAX, f32::MIN, 1e-45, -1e-45, f32::MIN_POSITIVE]);
    let s = both(&slices);
    assert_eq!(s.count(), slices.iter().map(|s| s.len() as u64).sum::<u64>());
    assert_eq!(s.histogram().total() + s.zeros(), s.finite());
    // More chunks than the 16-bit tables hold between two flushes, all in one bin.
    both(&[vec![0.7; 4096 * 130 + 5]]);
    both(&[vec![-0.0; 70_000], vec![0.0; 5000]]);
}

#[test]
fn fast_equals_plain_by_channel() {
    // every way in which stretches, rows and pieces can lie to one another
    let shapes = [
        ([1, 3, 5], 1),
        ([2, 7, 4099], 1),
        ([1, 2, 9000], 1),
        ([3, 64, 169], 1),
        ([2, 300, 1], 1),
        ([50, 40, 1], 1),
        ([3, 5000, 1], 1),
        ([1, 10_000, 1], 1),
        ([900, 1, 1], 1),
        ([4, 1, 17], 1),
        ([70, 3, 1], 1),
        ([0, 3, 4], 1),
        ([3, 4, 0], 1),
        ([5, 16, 33], 0),
        ([5, 16, 33], 2),
    ];
    for (i, (dims, axis)) in (0u64..).zip(shapes) {
        let layout = Layout::per_axis(&dims, axis).unwrap();
        let (mut fast, mut plain) = (Sketch::new(), Sketch::new());
        for round in 0..4 {
            let mut x = numbers(10 * i + round, layout.len(), [1.0, 1e3, 10.0, 1e-3][round as usize]);
            if round == 2 && x.len() > 20 {
                let n = x.len();
                (x[3], x[n / 2], x[n - 1]) = (f32::NAN, f32::NEG_INFINITY, f32::INFINITY);
            }
            fast.observe_channels(round, &x, &layout).unwrap();
            plain.observe_channels_ref(round, &x, &layout).unwrap();
            assert_eq!(fast, plain, "{dims:?}, axis {axis}, round {round}");
            let whole = fast.channels().unwrap().ranges();
            let (lo, hi) = whole.into_iter().fold((0f32, 0f32), |(a, b), (c, d)| (a.min(c), b.max(d)));
            let (a, b) = fast.extent().unwrap_or_default();
            assert_eq!((lo, hi), (a.min(0.0), b.max(0.0)));
        }
    }
    let blocked = Layout::blocked(&[2, 8], 1, 4).unwrap();
    assert!(Sketch::new().observe_channels(0, &[0.0; 16], &blocked).is_err());
}

/// The sketch of a concatenation is that of its parts together, up to the order of sums.
#[test]
fn parts_join() {
    let parts = [numbers(1, 2 * 3 * 50, 10.0), numbers(2, 2 * 5 * 50, 1e3)];
    let (mut a, mut b, mut whole) = (Sketch::new(), Sketch::new(), Sketch::new());
    for sample in 0..3 {
        a.observe_channels(sample, &parts[0], &Layout::per_axis(&[2, 3, 50], 1).unwrap()).unwrap();
        b.observe_channels(sample, &parts[1], &Layout::per_axis(&[2, 5, 50], 1).unwrap()).unwrap();
        let rows = parts[0].chunks(150).zip(parts[1].chunks(250));
        let x: Vec<f32> = rows.flat_map(|(a, b)| [a, b].concat()).collect();
        whole.observe_channels(sample, &x, &Layout::per_axis(&[2, 8, 50], 1).unwrap()).unwrap();
    }
    let joined = Sketch::joined([&a, &b], true).unwrap();
    assert_eq!((joined.histogram(), joined.extrema()), (whole.histogram(), whole.extrema()));
    assert_eq!(
        (joined.count(), joined.zeros(), joined.extent()),
        (whole.count(), whole.zeros(), whole.extent())
    );
    let (j, w) = (joined.channels().unwrap(), whole.channels().unwrap());
    // Channels see the same numbers in the same order; sums of the whole are f64 sums in another one.
    assert_eq!(j, w);
    assert!((joined.mean() - whole.mean()).abs() < 1e-9 && (joined.std() - whole.std()).abs() < 1e-9);
    assert!(Sketch::joined([&a, &b], false).is_err(), "3 and 5 channels are not the same");
    assert_eq!(Sketch::joined([&a], true).unwrap(), a);
    assert_eq!(Sketch::joined([], true).unwrap(), Sketch::new());
    assert!(Sketch::joined([&a, &Sketch::of(&[1.0])], true).unwrap().channels().is_none());
}

#[test]
fn ugly_numbers_are_counted_apart() {
    let mut x = numbers(3, 10_000, 10.0);
    (x[17], x[4100], x[4101], x[9999]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY);
    x[5000] = -0.0;
    let s = both(&[x.clone(), vec![], vec![f32::NAN; 20], vec![f32::INFINITY; 2000]]);
    assert_eq!((s.nan(), s.pos_inf(), s.neg_inf()), (21, 2002, 1));
    let finite: Vec<f32> = x.iter().copied().filter(|v| v.is_finite()).collect();
    let lo = finite.iter().copied().fold(f32::INFINITY, f32::min);
    let hi = finite.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(s.extent(), Some((lo, hi)));
    assert_eq!(s.finite(), finite.len() as u64);
    assert_eq!(s.extrema().len(), 1, "a sample without finite numbers has no extrema");
    let mean = finite.iter().map(|v| f64::from(*v)).sum::<f64>() / finite.len() as f64;
    assert!((s.mean() - mean).abs() < 1e-12, "another order of the same f64 additions");
    let none = both(&[vec![f32::NAN]]);
    assert_eq!((none.extent(), none.abs_max(), none.mean(), none.std()), (None, 0.0, 0.0, 0.0));
}

#[test]
fn bins_have_the_least_power_of_two_that_reaches() {
    for m in [1e-30f32, 0.3, 0.999, 1.0, 1.5, 2.0, 3e38] {
        let e = Histogram::exponent_for(m);
        let reach = 2f64.powi(e) * HALF as f64;
        assert!(f64::from(m) < reach && f64::from(m) >= reach / 2.0, "{m}");
    }
    let s = both(&[vec![0.25, -0.25, 1.0 - 1e-7, 1e-30, -1e-30]]);
    let h = s.histogram();
    assert_eq!(h.width(), 1.0 / HALF as f64);
    assert_eq!((h.positive()[0], h.positive()[HALF / 4], h.positive()[HALF - 1]), (1, 1, 1));
    assert_eq!((h.negative()[0], h.negative()[HALF / 4]), (1, 1), "mirror image of the positive side");
}

#[test]
fn size_does_not_grow_with_samples() {
    let mut s = Sketch::new();
    let mut sizes = vec![];
    for i in 0..4 * KEPT as u64 {
        s.observe(i, &numbers(i, 64, 4.0));
        if i + 1 == 2 * KEPT as u64 || i + 1 == 4 * KEPT as u64 {
            sizes.push(serde_json::to_string(&s).unwrap().len());
        }
    }
    assert_eq!(s.extrema().len(), KEPT);
    // Only digits of the counts grow.
    assert!(sizes[1] < sizes[0] * 11 / 10, "{sizes:?}");
}

#[test]
fn stored_form_round_trips_and_is_checked() {
    let mut s = both(&[numbers(1, 5000, 1e3), numbers(2, 100, 1e-3)]);
    s.observe_channels(7, &numbers(9, 60, 2.0), &Layout::per_axis(&[3, 4, 5], 1).unwrap()).unwrap();
    let text = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), s);
    let empty = serde_json::to_string(&Sketch::new()).unwrap();
    assert_eq!(serde_json::from_str::<Sketch>(&empty).unwrap(), Sketch::new());
    let broken = [
        text.replace(&format!("\"version\":{VERSION}"), "\"version\":99"),
        text.replace("\"zeros\"", "\"unknown\":1,\"zeros\""),
        text.replace("\"width_exponent\":", "\"width_exponent\":9"),
        text.replacen("\"positive\":[", "\"positive\":[-99999999999,", 1),
        text.replacen("\"positive\":[", "\"positive\":[9223372036854775807,9223372036854775807,", 1),
        text.replacen("\"index\":[0,", "\"index\":[0,0,", 1),
        text.replacen("\"digits\":[", "\"digits\":[9223372036854775807,", 1),
        text.replacen("\"extent\":[", "\"extent\":[1e30,-1e30,", 1),
        text.replacen("\"extent\":[-", "\"extent\":[-1e9", 1),
        text[..text.len() / 2].to_string(),
    ];
    for (i, b) in broken.iter().enumerate() {
        assert_ne!(*b, text, "case {i} changes nothing");
        assert!(serde_json::from_str::<Sketch>(b).is_err(), "case {i}");
    }
}

/// A table that claims absurd counts is read, merged and weighed without a panic.
#[test]
fn absurd_counts_do_not_overflow() {
    let mut s = both(&[vec![1.0, -1.0, 3.0]]);
    s.observe_channels(0, &[1.0, 2.0], &Layout::per_axis(&[2, 1], 0).unwrap()).unwrap();
    let text = serde_json::to_string(&s).unwrap();
    let huge = format!("[-511,{}]", 1u64 << 62);
    let text = text
        .replacen("\"count\":5", "\"count\":18446744073709551615", 1)
        .replacen("\"zeros\":0", "\"zeros\":18446744073709551615", 1)
        .replacen("\"negative\":[-512,1]", &format!("\"negative\":{huge}"), 1);
    assert!(text.contains(&huge));
    let mut s: Sketch = serde_json::from_str(&text).unwrap();
    for _ in 0..6 {
        let same = s.clone();
        s.merge(&same).unwrap();
    }
    s.observe(0, &[1e30, 0.0, f32::NAN]);
    for (m, _) in onnxq_quant::range::METHODS {
        let grid = onnxq_quant::Grid::asymmetric(onnxq_quant::CodeType::U8);
        let c = onnxq_quant::range::choose(m.parse().unwrap(), &s, grid, &onnxq_quant::Policy::default());
        assert!(c.params.scale() > 0.0 && !c.sqnr_db.is_nan(), "{m}");
    }
}

#[test]
fn channels_know_their_extrema_and_means() {
    // [2, 3, 2]; channel 1 has a NaN and an Inf, channel 2 only NaN
    let n = f32::NAN;
    let x = [1.0, -2.0, 5.0, n, n, n, 3.0, 4.0, f32::INFINITY, -7.0, n, n];
    let mut s = Sketch::new();
    s.observe_channels(0, &x, &Layout::per_axis(&[2, 3, 2], 1).unwrap()).unwrap();
    let c = s.channels().unwrap();
    assert_eq!(c.ranges(), [(-2.0, 4.0), (-7.0, 5.0), (0.0, 0.0)]);
    assert_eq!(c.abs_max(), [4.0, 7.0, 0.0]);
    assert_eq!(c.mean(), [1.5, -0.5, 0.0]);
    // the same numbers with the channels last
    let y: Vec<f32> = (0..2)
        .flat_map(|o| (0..2).flat_map(move |i| (0..3).map(move |c| (o, c, i))))
        .map(|(o, c, i)| x[o * 6 + c * 2 + i])
        .collect();
    let mut t = Sketch::new();
    t.observe_channels(0, &y, &Layout::per_axis(&[4, 3], 1).unwrap()).unwrap();
    assert_eq!(t.channels(), s.channels());
    assert!(s.observe_channels(1, &x, &Layout::per_axis(&[4, 3], 0).unwrap()).is_err());
    assert!(s.observe_channels(1, &x[1..], &Layout::per_axis(&[4, 3], 1).unwrap()).is_err());
    assert_eq!(s.count(), 12, "a refused slice leaves no trace");
}

fn slices() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let number = prop_oneof![4 => -10.0f32..10.0, 1 => any::<f32>(), 1 => Just(0.0f32)];
    let small = prop::collection::vec(number, 0..40);
    let large = (any::<u64>(), 1000usize..9000, 1.0f32..1e6).prop_map(|(s, n, spread)| numbers(s, n, spread));
    prop::collection::vec(prop_oneof![3 => small, 1 => large], 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_equals_plain(x in slices()) {
        both(&x);
    }

    /// Any split into shards, observed in any order, merged in any order: the same sketch.
    #[test]
    fn merging_is_exact(x in slices(), shard in prop::collection::vec(0usize..3, 8), flip: bool) {
        let whole = both(&x);
        let mut parts = vec![Sketch::new(); 3];
        let mut order: Vec<usize> = (0..x.len()).collect();
        if flip { order.reverse(); }
        for i in order {
            parts[shard[i]].observe(i as u64, &x[i]);
        }
        if flip { parts.rotate_left(1); }
        // through the stored form, as shards on several machines are
        let mut merged = Sketch::new();
        for p in &parts {
            let stored: Sketch = serde_json::from_str(&serde_json::to_string(p).unwrap()).unwrap();
            merged.merge(&stored).unwrap();
        }
        prop_assert_eq!(&merged, &whole);
        prop_assert_eq!(serde_json::to_string(&merged).unwrap(), serde_json::to_string(&whole).unwrap());
    }

    #[test]
    fn extrema_merge_beyond_the_limit(cut in 0usize..3000, step in 1usize..7) {
        let mut whole = Sketch::new();
        let mut parts = [Sketch::new(), Sketch::new()];
        for i in 0..3000 {
            whole.observe(i as u64, &[i as f32, -1.0]);
        }
        for j in 0..3000 {
            let i = (j * (step * 2 + 1)) % 3000;
            // A step that does not reach all indices leaves some out; add those below.
            parts[usize::from(i < cut)].observe(i as u64, &[i as f32]);
        }
        for i in 0..3000 {
            parts[usize::from(i >= cut)].observe(i as u64, &[-1.0, i as f32]);
        }
        let [mut a, b] = parts;
        a.merge(&b).unwrap();
        prop_assert_eq!(a.extrema(), whole.extrema());
    }
}
