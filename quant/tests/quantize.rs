//! Fast paths equal their references to the bit; codes and reals obey the laws of a grid.

use onnxq_quant::quantize::{
    dequantize, fake_quantize, fake_quantize_ref, quantize, quantize_one, quantize_ref,
};
use onnxq_quant::{CodeType, Grid, Layout, Params, Policy, Span, pack};
use proptest::prelude::*;

const INTS: &[CodeType] = &[
    CodeType::I2,
    CodeType::U2,
    CodeType::I4,
    CodeType::U4,
    CodeType::I8,
    CodeType::U8,
    CodeType::I16,
    CodeType::U16,
    CodeType::I32,
];

fn ugly() -> Vec<f32> {
    let mut v = vec![0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN];
    v.extend([f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, -1e-45, 2147483648.0, -2147483648.0, 4194304.5]);
    // every tie and its neighbours for small codes
    for i in -300..300 {
        let t = i as f32 + 0.5;
        v.extend([t, f32::from_bits(t.to_bits() + 1), f32::from_bits(t.to_bits() - 1), i as f32]);
    }
    v
}

fn same(a: &[f32], b: &[f32]) {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "at {i}: {a} {b}");
    }
}

fn check_all(x: &[f32], layout: &Layout, params: &[Params], clip: (i32, i32)) {
    let (mut a, mut b) = (vec![0i32; x.len()], vec![0i32; x.len()]);
    quantize_ref(x, layout, params, clip, &mut a).unwrap();
    quantize(x, layout, params, clip, &mut b).unwrap();
    assert_eq!(a, b);
    let (mut f, mut g, mut h) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
    fake_quantize_ref(x, layout, params, clip, &mut f).unwrap();
    fake_quantize(x, layout, params, clip, &mut g).unwrap();
    dequantize(&a, layout, params, &mut h).unwrap();
    same(&f, &g);
    same(&f, &h);
}

#[test]
fn ugly_values_in_every_type() {
    let x = ugly();
    for &code in INTS {
        let (lo, hi) = code.int_range().unwrap();
        for zp in [lo, 0.max(lo), hi / 2, hi] {
            for scale in [1.0, 0.1, 3.0, f32::MIN_POSITIVE, 1e38] {
                let p = Params::new(scale, zp).unwrap();
                check_all(&x, &Layout::per_tensor(x.len()), &[p], (lo, hi));
            }
        }
    }
}

#[test]
fn ties_go_to_even_and_nan_to_zero() {
    let p = Params::new(1.0, 3).unwrap();
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    let mut q = [0u8; 9];
    quantize(&x, &Layout::per_tensor(9), &[p], (0, 255), &mut q).unwrap();
    assert_eq!(q, [3, 5, 5, 3, 1, 3, 255, 0, 3]);
}

#[test]
fn axes_and_blocks_take_their_own_scale() {
    // [2, 5, 3], scale = index of the parameter + 1, so that code·scale tells which was used
    let dims = [2, 5, 3];
    let x: Vec<f32> = (0..30).map(|i| i as f32 * 0.7 - 9.0).collect();
    for axis in 0..3 {
        for block in [0, 1, 2, 4, 7] {
            let layout = match block {
                0 => Layout::per_axis(&dims, axis).unwrap(),
                b => Layout::blocked(&dims, axis, b).unwrap(),
            };
            let params: Vec<_> = (0..layout.params_len())
                .map(|i| Params::new(0.1 * (i + 1) as f32, i as i32 % 5).unwrap())
                .collect();
            check_all(&x, &layout, &params, (-128, 127));
            for (i, _) in x.iter().enumerate() {
                let (o, a, n) = (i / 15, i / 3 % 5, i % 3);
                let at = [o, a, n];
                let want = if block == 0 {
                    at[axis]
                } else {
                    let mut d = dims;
                    let mut p = at;
                    d[axis] = d[axis].div_ceil(block);
                    p[axis] /= block;
                    (p[0] * d[1] + p[1]) * d[2] + p[2]
                };
                assert_eq!(layout.param_of(i), want);
            }
        }
    }
}

#[test]
fn shapes_are_checked() {
    assert!(Layout::per_axis(&[2, 3], 2).is_err());
    assert!(Layout::per_axis(&[usize::MAX, 3], 0).is_err());
    assert!(Layout::blocked(&[2, 3], 1, 0).is_err());
    let l = Layout::per_axis(&[2, 3], 1).unwrap();
    let p = [Params::default(); 3];
    let mut out = [0i8; 6];
    assert!(quantize(&[0.0; 5], &l, &p, (-128, 127), &mut out[..5]).is_err());
    assert!(quantize(&[0.0; 6], &l, &p[..2], (-128, 127), &mut out).is_err());
    assert!(quantize(&[0.0; 6], &l, &p, (-128, 127), &mut out[..5]).is_err());
    let empty = Layout::per_axis(&[0, 3], 1).unwrap();
    assert!(quantize::<i8>(&[], &empty, &p, (-128, 127), &mut []).is_ok());
}

fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![3 => -1e3f32..1e3, 1 => any::<f32>(), 1 => -1.0f32..1.0]
}

proptest! {
    #[test]
    fn fast_equals_reference(
        x in prop::collection::vec(any_f32(), 0..64),
        scale in 1e-6f32..1e3,
        code in prop::sample::select(INTS),
        t in 0.0f64..1.0,
    ) {
        let (lo, hi) = code.int_range().unwrap();
        let zp = (f64::from(lo) + t * (f64::from(hi) - f64::from(lo))) as i32;
        check_all(&x, &Layout::per_tensor(x.len()), &[Params::new(scale, zp).unwrap()], (lo, hi));
    }

    /// Whatever the range, the scale is usable, zero is a code, and a value in the range is off by at most half a step.
    #[test]
    fn every_range_gives_a_usable_grid(
        lo in any::<f32>(), hi in any::<f32>(), t in 0.0f64..1.0,
        code in prop::sample::select(CodeType::ALL), symmetric: bool,
        span in prop::sample::select(&[Span::Full, Span::Narrow, Span::Reduced][..]),
        ort: bool,
    ) {
        let grid = Grid { code, symmetric, span };
        let policy = if ort { Policy::ort_compatible() } else { Policy::default() };
        let (p, _) = Params::from_range(lo, hi, grid, &policy);
        prop_assert!(p.scale().is_finite() && p.scale() > 0.0);
        prop_assert!(code.is_float() || p.check(code).is_ok());
        prop_assert_eq!(quantize_one(0.0, p, code.int_range().unwrap_or((-1, 1))), p.zero_point());
        if !ort && !code.is_float() && lo.is_finite() && hi.is_finite() {
            let (lo, hi) = (lo.min(hi).min(0.0), lo.max(hi).max(0.0));
            let x = (f64::from(lo) + t * (f64::from(hi) - f64::from(lo))) as f32;
            let (p, _) = Params::from_range(lo, hi, grid, &policy);
            let q = quantize_one(x, p, grid.codes());
            let back = (f64::from(q) - f64::from(p.zero_point())) * f64::from(p.scale());
            // Half a step, half more where rounding the zero point moved an end outside, and f32's own resolution.
            let step = f64::from(p.scale());
            let slack = f64::from(x).abs() * 4e-7 + step * 1e-3;
            prop_assert!((back - f64::from(x)).abs() <= step + slack, "{} -> {} step {}", x, back, step);
        }
    }

    #[test]
    fn packing_round_trips(codes in prop::collection::vec(any::<u8>(), 0..40), bits in prop::sample::select(&[2u32, 4, 8][..])) {
        let masked: Vec<u8> = codes.iter().map(|c| c & ((1u16 << bits) - 1) as u8).collect();
        let bytes = pack::pack(&codes, bits).unwrap();
        prop_assert_eq!(bytes.len(), (codes.len() * bits as usize).div_ceil(8));
        prop_assert_eq!(pack::unpack(&bytes, bits, codes.len()).unwrap(), masked);
        let used = codes.len() * bits as usize % 8;
        if used != 0 {
            prop_assert_eq!(bytes[bytes.len() - 1] >> used, 0, "unused bits are zero");
        }
    }

    #[test]
    fn raw_round_trips(seed in prop::collection::vec(0.0f64..1.0, 0..20), code in prop::sample::select(INTS)) {
        let (lo, hi) = code.int_range().unwrap();
        let codes: Vec<i32> = seed.iter().map(|t| (f64::from(lo) + t * (f64::from(hi) - f64::from(lo))) as i32).collect();
        let raw = pack::to_raw(&codes, code).unwrap();
        prop_assert_eq!(pack::from_raw(&raw, code, codes.len()).unwrap(), codes);
    }
}

proptest! {
    /// A wider range never has a smaller scale, and rounding is monotone: order survives quantization.
    #[test]
    fn scales_and_codes_are_monotone(
        lo in -1e6f32..0.0, hi in 0.0f32..1e6, wider in 1.0f32..4.0, x in -1e6f32..1e6, y in -1e6f32..1e6,
        code in prop::sample::select(CodeType::ALL), symmetric: bool,
    ) {
        let grid = Grid { code, symmetric, span: Span::Full };
        let (p, _) = Params::from_range(lo, hi, grid, &Policy::default());
        let (q, _) = Params::from_range(lo * wider, hi * wider, grid, &Policy::default());
        prop_assert!(q.scale() >= p.scale() || hi - lo == 0.0);
        let clip = code.int_range().unwrap_or((-1, 1));
        prop_assert!(quantize_one(x.min(y), p, clip) <= quantize_one(x.max(y), p, clip));
    }

    /// Quantizing what is on the grid already changes nothing.
    #[test]
    fn codes_survive_the_round_trip(code in prop::sample::select(INTS), scale in 1e-6f32..1e3, t in 0.0f64..1.0, z in 0.0f64..1.0) {
        // 16 bits and fewer: an int32 code times a float32 scale has more digits than float32 holds.
        prop_assume!(code != CodeType::I32);
        let (lo, hi) = code.int_range().unwrap();
        let between = |t: f64| (f64::from(lo) + t * (f64::from(hi) - f64::from(lo))) as i32;
        let p = Params::new(scale, between(z)).unwrap();
        let q = between(t);
        let x = onnxq_quant::quantize::dequantize_one(q, p);
        prop_assert_eq!(quantize_one(x, p, (lo, hi)), q);
    }
}
