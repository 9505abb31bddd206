//! Small floats against ml_dtypes and scales against onnxruntime (tests/data/make_grids.py), and the stated policy for
//! degenerate ranges. Everything here is exact: equal bits.

use onnxq_quant::minifloat::{self, MiniFloat, Overflow};
use onnxq_quant::round::ScaleType;
use onnxq_quant::{CodeType, Grid, Layout, Params, Policy, RangeNote, Span};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("data/grids.json")).unwrap()
}

fn float(v: &Value) -> f32 {
    f32::from_bits(u32::from_str_radix(v.as_str().unwrap(), 16).unwrap())
}

#[test]
fn every_small_float_code_decodes_as_ml_dtypes() {
    for (name, values) in golden()["decode"].as_object().unwrap() {
        let format = MiniFloat::of(name.parse().unwrap()).unwrap();
        for (code, want) in values.as_array().unwrap().iter().map(float).enumerate() {
            let got = format.decode(code as u8);
            assert!(
                got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                "{name} {code}: {got} {want}"
            );
            if !got.is_nan() {
                for overflow in [Overflow::NonFinite, Overflow::Saturate] {
                    if got.is_finite() || overflow == Overflow::NonFinite {
                        assert_eq!(format.encode(got, overflow), code as u8, "{name} {got}");
                    }
                }
            }
        }
    }
}

#[test]
fn small_floats_round_as_ml_dtypes() {
    for (name, cases) in golden()["encode"].as_object().unwrap() {
        let format = MiniFloat::of(name.parse().unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let (x, want) = (float(&case[0]), case[1].as_u64().unwrap() as u8);
            let got = format.encode(x, Overflow::NonFinite);
            let (g, w) = (format.decode(got), format.decode(want));
            assert!(got == want || (g.is_nan() && w.is_nan()), "{name} {x}: {got:02x} {want:02x}");
        }
    }
}

/// The nearest of all values, the even code on a tie: slow and obviously right.
#[test]
fn small_floats_round_to_the_nearest() {
    for &code in CodeType::ALL.iter().filter(|c| c.is_float()) {
        let format = MiniFloat::of(code).unwrap();
        let finite: Vec<(u8, f64)> = (0..1u32 << code.bits())
            .map(|c| (c as u8, f64::from(format.decode(c as u8))))
            .filter(|(_, v)| v.is_finite())
            .collect();
        let mut x = f64::from(code.max_value()) * 1e-4;
        while x < f64::from(code.max_value()) {
            for x in [x as f32, -x as f32] {
                let distance = |v: f64| (v - f64::from(x)).abs();
                let best = finite.iter().map(|c| distance(c.1)).fold(f64::INFINITY, f64::min);
                let got = format.decode(format.encode(x, Overflow::Saturate));
                assert_eq!(distance(f64::from(got)), best, "{code} {x}");
            }
            x *= 1.0037;
        }
    }
}

#[test]
fn small_floats_beyond_the_end() {
    let one = |code, x, o| MiniFloat::of(code).unwrap().encode(x, o);
    use CodeType::*;
    use Overflow::*;
    for (code, max, over) in [
        (F8E4M3FN, 0x7e, 0x7f),
        (F8E5M2, 0x7b, 0x7c),
        (F8E4M3FNUZ, 0x7f, 0x80),
        (F8E5M2FNUZ, 0x7f, 0x80),
        (F6E2M3, 0x1f, 0x1f),
        (F6E3M2, 0x1f, 0x1f),
        (F4E2M1, 0x7, 0x7),
    ] {
        for x in [1e6, f32::MAX, f32::INFINITY] {
            assert_eq!(one(code, x, Saturate), max, "{code} {x}");
            assert_eq!(one(code, x, NonFinite), over, "{code} {x}");
        }
        let sign = 1 << (code.bits() - 1);
        assert_eq!(one(code, f32::NEG_INFINITY, Saturate), max | sign, "{code}");
        let nan = MiniFloat::of(code).unwrap().decode(one(code, f32::NAN, Saturate));
        assert!(if code.bits() == 8 { nan.is_nan() } else { nan == 0.0 }, "{code}");
    }
    // Not saturating differs from saturating only where rounding overflows: 464 is the tie above 448.
    assert_eq!(one(F8E4M3FN, 464.0, NonFinite), 0x7e);
    assert_eq!(one(F8E4M3FN, 464.1, NonFinite), 0x7f);
    assert_eq!(one(F8E4M3FNUZ, -0.0, Saturate), 0);
    assert_eq!(one(F8E4M3FNUZ, -1e-9, Saturate), 0);
}

#[test]
fn float_slices_use_their_scales() {
    let layout = Layout::per_axis(&[2, 3], 0).unwrap();
    let params = [Params::new(1.0, 0).unwrap(), Params::new(0.5, 0).unwrap()];
    let x = [0.5, -1.0, 6.0, 3.0, 100.0, f32::NAN];
    let mut q = [0; 6];
    minifloat::quantize(&x, &layout, &params, CodeType::F4E2M1, Overflow::Saturate, &mut q).unwrap();
    assert_eq!(q, [1, 0xa, 7, 7, 7, 0]);
    let (mut a, mut b) = ([0.0; 6], [0.0; 6]);
    minifloat::dequantize(&q, &layout, &params, CodeType::F4E2M1, &mut a).unwrap();
    minifloat::fake_quantize(&x, &layout, &params, CodeType::F4E2M1, Overflow::Saturate, &mut b).unwrap();
    assert_eq!(a, [0.5, -1.0, 6.0, 3.0, 3.0, 0.0]);
    assert_eq!(a, b);
    assert!(minifloat::quantize(&x, &layout, &params, CodeType::I8, Overflow::Saturate, &mut q).is_err());
}

#[test]
fn scales_equal_onnxruntimes() {
    let golden = golden();
    let cases = golden["scales"].as_array().unwrap();
    assert!(cases.len() > 500);
    for c in cases {
        let code: CodeType = c[0].as_str().unwrap().parse().unwrap();
        let (symmetric, reduced, f16) = (c[1].as_bool().unwrap(), c[2].as_bool().unwrap(), c[3] == "f16");
        let grid = Grid { code, symmetric, span: if reduced { Span::Reduced } else { Span::Full } };
        let policy = Policy {
            scale_type: if f16 { ScaleType::F16 } else { ScaleType::F32 },
            min_real_range: c[4].as_bool().unwrap().then_some(if f16 { 0.010002136 } else { 0.01 }),
            ..Policy::ort_compatible()
        };
        let (p, _) = Params::from_range(float(&c[5]), float(&c[6]), grid, &policy);
        let want = (float(&c[7]), c[8].as_i64().unwrap() as i32);
        assert_eq!((p.scale(), p.zero_point()), want, "{c}");
    }
}

#[test]
fn degenerate_ranges_follow_the_table() {
    let i8 = Grid::asymmetric(CodeType::I8);
    let u8 = Grid::asymmetric(CodeType::U8);
    let u8s = Grid::symmetric(CodeType::U8);
    let d = Policy::default();
    let get = |lo, hi, g, p: &Policy| {
        let (p, n) = Params::from_range(lo, hi, g, p);
        (p.scale(), p.zero_point(), n)
    };
    use RangeNote::*;
    assert_eq!(get(0.0, 0.0, i8, &d), (1.0, 0, AllZero));
    assert_eq!(get(0.0, 0.0, u8s, &d), (1.0, 128, AllZero));
    assert_eq!(get(0.0, 0.0, u8, &Policy { zero_scale: 0.25, ..d }), (0.25, 0, AllZero));
    assert_eq!(get(f32::INFINITY, f32::NEG_INFINITY, u8, &d), (1.0, 0, Infinite)); // graver than Empty
    assert_eq!(get(1.0, -1.0, u8, &d), (1.0, 0, Empty));
    assert_eq!(get(1.0, 255.0, u8, &d), (1.0, 0, ZeroAdded));
    assert_eq!(get(-255.0, -1.0, u8, &d), (1.0, 255, ZeroAdded));
    assert_eq!(get(f32::NAN, 255.0, u8, &d), (1.0, 0, NotANumber));
    assert_eq!(get(0.0, f32::NAN, u8, &d), (1.0, 0, NotANumber));
    let (s, zp, n) = get(f32::NEG_INFINITY, f32::INFINITY, u8, &d);
    assert!(s.is_finite() && zp == 128 && n == Infinite);
    assert_eq!(get(0.0, 1e-40, u8, &d), (f32::MIN_POSITIVE, 0, ScaleRaised));
    let f16 = Policy { scale_type: ScaleType::F16, ..d };
    assert_eq!(get(0.0, 1e-3, u8, &f16), (2f32.powi(-14), 0, ScaleRaised));
    assert_eq!(get(0.0, 1e9, u8, &f16), (65504.0, 0, ScaleLowered));
    assert_eq!(get(0.0, 1e-3, u8, &Policy { min_real_range: Some(2.55), ..d }), (0.01, 0, Widened));
    assert_eq!(get(-1.0, 127.0, Grid::symmetric(CodeType::I8), &d), (1.0, 0, Fine));
    assert_eq!(get(-128.0, 1.0, Grid::symmetric(CodeType::I8), &d), (1.0, 0, Fine));
    assert_eq!(get(-127.0, 1.0, Grid::symmetric(CodeType::I8).with_span(Span::Narrow), &d), (1.0, 0, Fine));
    assert_eq!(get(-896.0, 1.0, Grid::symmetric(CodeType::F8E4M3FN), &d), (2.0, 0, Fine));
}

#[test]
fn dead_channels_take_the_largest_scale() {
    let ranges = [(-127.0, 3.0), (0.0, 0.0), (0.0, 12.7), (f32::INFINITY, f32::NEG_INFINITY)];
    let grid = Grid::symmetric(CodeType::I8).with_span(Span::Narrow);
    let (p, n) = Params::for_channels(&ranges[..3], grid, &Policy::default());
    assert_eq!(p.iter().map(|p| p.scale()).collect::<Vec<_>>(), [1.0, 1.0, 0.1]);
    assert_eq!(n, [RangeNote::Fine, RangeNote::AllZero, RangeNote::Fine]);
    let (p, _) = Params::for_channels(&ranges[1..3], grid, &Policy::ort_compatible());
    assert_eq!(p[0].scale(), 1.0);
}

#[test]
fn params_refuse_bad_scales_also_from_files() {
    for s in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(Params::new(s, 0).is_err());
    }
    assert!(serde_json::from_str::<Params>(r#"{"scale":-1.0,"zero_point":0}"#).is_err());
    let p = Params::new(0.1, 7).unwrap();
    assert_eq!(serde_json::from_str::<Params>(&serde_json::to_string(&p).unwrap()).unwrap(), p);
    assert!(p.check(CodeType::I2).is_err());
}
