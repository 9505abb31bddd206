//! The defects D1 to D14 of onnxruntime.quantization 1.31.1, each as a model or data on which that tool is wrong, with what
//! is right. (Reproduced there; the reports are in the issues named.)
//!
//! | id  | there | here |
//! |-----|-------|------|
//! | D1  | entropy calibration is min/max: its search has one candidate | cuts an outlier off |
//! | D2  | GPTQ is rounding to nearest: no error is fed back | reaches a quarter of that error |
//! | D3  | k-quant is no better than rounding; one-signed blocks are destroyed | better by a tenth; half a step of error |
//! | D4  | samples beyond a buffer are thrown away | every sample counts, in whatever parts |
//! | D5  | Clip and Relu are removed though codes reach beyond them | stay |
//! | D6  | a tied weight is rewritten in place | a form for each reader |
//! | D7  | blocks and channels that cannot run | one scale |
//! | D8  | an odd number of blocks a column crashes | packed like any other |
//! | D9  | a bias of shape [1, N] crashes | any bias that broadcasts |
//! | D10 | only the first override is looked at | all are: `tests/program/defects.toml` |
//! | D11 | a TensorRT cache has the maximum, not the absolute one | both ends: `tests/program/defects.toml` |
//! | D12 | samples of several sizes crash, infinities pass | merged; infinities counted and left out |
//! | D13 | float16 below opset 19 and 4 bits in other forms raise | widened; 4 bits have their own mode |
//! | D14 | arguments of the programs mean something else | `tests/program/defects.toml` |

#[path = "support/emitted.rs"]
mod emitted;
#[path = "support/values.rs"]
mod values;

use emitted::{Form, GOOD, count, filled, quantized, sqnr, steps};
use ir::DType;
use quant::quantize::Layout;
use quant::range::{Method, Sketch, choose};
use quant::weight::gptq::{GptqOptions, Order, Range, gptq};
use quant::weight::gram::Gram;
use quant::weight::rtn::rtn;
use quant::weight::rtn_search::rtn_search;
use quant::weight::{Quantized, Spec, Weight};
use quant::{CodeType, Grid, Policy};

/// Numbers of a bell curve: sums of twelve uniform ones of a linear congruence.
fn normal(count: usize, mut seed: u64) -> Vec<f32> {
    let mut uniform = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

#[test]
fn d1_entropy_searches() {
    let mut data = normal(200_000, 1);
    data.push(40.0);
    let sketch = Sketch::of(&data);
    let range = |method| choose(method, &sketch, Grid::asymmetric(CodeType::U8), &Policy::default());
    let (all, cut) = (range(Method::MinMax), range(Method::Entropy));
    assert_eq!(all.hi, 40.0);
    // 200,000 numbers of a bell curve end near 4.4; a search with bins of 1/50 gives 5.1.
    assert!(cut.hi < 8.0, "{}", cut.hi);
    // What is kept has steps of a quarter: 12 dB less noise.
    assert!(
        cut.params.scale() < all.params.scale() / 4.0,
        "{} of {}",
        cut.params.scale(),
        all.params.scale()
    );
}

#[test]
fn d2_gptq_feeds_errors_back() {
    let (rows, cols, tokens, correlation) = (16, 128, 1024, 0.975f32);
    let w = normal(rows * cols, 2);
    let noise = normal(tokens * cols, 3);
    let mut inputs = vec![0.0f32; tokens * cols];
    for token in 0..tokens {
        let mut x = noise[token * cols];
        for col in 0..cols {
            inputs[token * cols + col] = x;
            x = correlation * x + (1.0 - correlation * correlation).sqrt() * noise[token * cols + col];
        }
    }
    let mut gram = Gram::new(cols);
    gram.add(&inputs).unwrap();
    let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
    let spec = Spec::int4(128);
    let error = |q: &Quantized| -> f64 {
        let found = q.dequantize();
        let row = |at: usize| {
            let d: Vec<f64> = (0..cols).map(|c| f64::from(w[at * cols + c] - found[at * cols + c])).collect();
            (0..cols).map(|i| d[i] * (0..cols).map(|j| gram.at(i, j) * d[j]).sum::<f64>()).sum::<f64>()
        };
        (0..rows).map(row).sum::<f64>().sqrt()
    };
    let plain = GptqOptions {
        damping: 1e-6,
        order: Order::Natural,
        range: Range::MinMax,
        sweeps: Some(0),
        ..GptqOptions::default()
    };
    let nearest = error(&rtn(&weight, &spec).unwrap());
    let fed_back = error(&gptq(&weight, &spec, &gram, &plain).unwrap());
    // The closed form for this correlation is 0.23; a third leaves room for so few rows.
    assert!(fed_back < 0.34 * nearest, "{fed_back} of {nearest}");
}

#[test]
fn d3_searching_beats_rounding_and_one_signed_blocks_keep_their_values() {
    let (rows, cols) = (32, 256);
    let data = normal(rows * cols, 4);
    let weight = Weight::from_rows(&data[..], rows, cols).unwrap();
    let spec = Spec::int4(32);
    let error = |q: Quantized| q.squared_error(&weight, None).unwrap();
    let (plain, searched) =
        (error(rtn(&weight, &spec).unwrap()), error(rtn_search(&weight, &spec, None).unwrap()));
    assert!(searched < 0.97 * plain, "{searched} of {plain}");
    let block: Vec<f32> = (0..32).map(|at| 0.5 + at as f32 / 62.0).collect();
    let weight = Weight::from_rows(&block[..], 1, 32).unwrap();
    for made in [rtn(&weight, &spec).unwrap(), rtn_search(&weight, &spec, None).unwrap()] {
        let worst = made.dequantize().iter().zip(&block).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Half a step of 1/15, which is what a range from zero to one costs.
        assert!(worst < 0.034, "{worst}");
    }
}

#[test]
fn d4_no_sample_is_thrown_away() {
    let samples: Vec<Vec<f32>> = (0..6u8).map(|at| vec![-f32::from(10 - at), f32::from(at)]).collect();
    let mut whole = Sketch::new();
    let mut parts = [Sketch::new(), Sketch::new()];
    for (at, sample) in samples.iter().enumerate() {
        whole.observe(at as u64, sample);
        parts[usize::from(at >= 4)].observe(at as u64, sample);
    }
    assert_eq!(whole.extent(), Some((-10.0, 5.0)));
    let [mut first, second] = parts;
    first.merge(&second).unwrap();
    assert_eq!((first.extent(), first.count()), (whole.extent(), 12));
}

/// A Clip goes only where the codes cannot leave its range; removed, the output is off by 72 %.
#[test]
fn d5_a_clip_away_from_zero_stays() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y)
<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}, float low = {2.0}, float high = {6.0}>
{ a = Conv (x, w1)  c = Clip (a, low, high)  y = Conv (c, w2) }"#;
    let model = filled(text);
    for form in [Form::Qdq, Form::Qoperator] {
        let (_, out) = quantized(&model, "ort-cpu", form, |_| {});
        assert_eq!(count(&out, "Clip"), 1, "{form:?}");
        assert!(sqnr(&model, &out) > GOOD, "{form:?}");
    }
}

/// As before, for a Relu before codes that are symmetric around zero.
#[test]
fn d5_a_relu_before_symmetric_codes_stays() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y)
<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}>
{ a = Conv (x, w1)  c = Relu (a)  y = Conv (c, w2) }"#;
    let model = filled(text);
    for form in [Form::Qdq, Form::Qoperator] {
        let symmetric = quant::Grid::symmetric(quant::CodeType::I8);
        let (_, out) = quantized(&model, "ort-cpu", form, |choices| choices.activation = Some(symmetric));
        assert_eq!(count(&out, "Relu"), 1, "{form:?}");
        assert!(sqnr(&model, &out) > GOOD, "{form:?}");
    }
}

/// One weight, two readers that use it differently: 109 to 129 % error where the weight is rewritten in place.
#[test]
fn d6_tied_weights_stay_what_they_are_for_each_reader() {
    let twice = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,48] x) => (float[4,48] y)
<float[48,48] w = {}>
{ a = Gemm <transB = 1> (x, w)  y = Gemm <transB = 1> (a, w) }"#;
    let table = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (int64[4] i) => (float[4,64] y)
<float[64,48] w = {}>
{ rows = Gather (w, i)  y = Gemm <transB = 1> (rows, w) }"#;
    for text in [twice, table] {
        let model = filled(text);
        for form in [Form::Dynamic, Form::Qdq, Form::Qoperator] {
            let (_, out) = quantized(&model, "ort-cpu", form, |_| {});
            let found = sqnr(&model, &out);
            assert!(found > GOOD, "{form:?}: {found:.1} dB\n{}", ir::text::print(&out));
        }
    }
}

/// Scales for each matrix of a stack cannot run: one scale for all.
#[test]
fn d7_stacks_of_matrices_have_one_scale() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[3,4,32] x) => (float[3,4,16] y)
<float[3,32,16] w = {}>
{ y = MatMul (x, w) }"#;
    let model = filled(text);
    for form in [Form::Qdq, Form::Dynamic] {
        let (plan, out) = quantized(&model, "ort-cpu", form, |_| {});
        assert_eq!(plan.weights["y"][0].axis, None);
        assert!(sqnr(&model, &out) > GOOD, "{form:?}");
    }
}

/// A bias of shape [1, N] crashes there. Here also [M, 1], one element, and beta.
#[test]
fn d9_biases_of_every_shape() {
    for (sizes, beta) in [("1,40", 1.0), ("40", 1.0), ("1", 1.0), ("4,1", 1.0), ("40", 0.5), ("4,40", 1.0)] {
        let text = format!(
            "<ir_version: 10, opset_import: [\"\" : 17]>\nmain (float[4,32] x) => (float[4,40] y)\n\
             <float[32,40] w = {{}}, float[{sizes}] b = {{}}>\n{{ y = Gemm <beta = {beta:.1}> (x, w, b) }}"
        );
        let model = filled(&text);
        for form in [Form::Qdq, Form::Qoperator, Form::Dynamic] {
            let (_, out) = quantized(&model, "ort-cpu", form, |_| {});
            let found = sqnr(&model, &out);
            assert!(found > GOOD, "[{sizes}] beta {beta} {form:?}: {found:.1} dB\n{}", ir::text::print(&out));
        }
    }
}

/// Float16 models fail below opset 19. Here they are widened, and their inputs and outputs stay what they are.
#[test]
fn d13_half_precision_models_are_quantized() {
    let text = r#"
<ir_version: 8, opset_import: ["" : 13]>
main (float16[4,32] x) => (float16[4,40] y)
<float[32,40] w = {}, float[40] b = {}>
{ wh = Cast <to = 10> (w)  bh = Cast <to = 10> (b)  y = Gemm (x, wh, bh) }"#;
    let mut model = filled(text);
    steps(&mut model, &["fold_constants", "eliminate_dead", "infer_shapes"]);
    let mut wide = model.clone();
    steps(&mut wide, &["widen_floats", "infer_shapes"]);
    for form in [Form::Qdq, Form::Dynamic] {
        let (plan, out) = quantized(&wide, "ort-cpu", form, |_| {});
        assert_eq!(plan.weights.len(), 1, "{form:?}");
        let main = out.main();
        assert_eq!(main.value(main.inputs()[0]).dtype(), Some(DType::F16));
        assert_eq!(main.value(main.outputs()[0]).dtype(), Some(DType::F16));
        assert!(sqnr(&model, &out) > GOOD, "{form:?}");
    }
}

/// 896 inputs in blocks of 128 are 7 blocks a column.
#[test]
fn d8_an_odd_number_of_blocks() {
    let (rows, cols) = (3, 896);
    let data = normal(rows * cols, 5);
    let weight = Weight::from_rows(&data[..], rows, cols).unwrap();
    let spec = Spec::int4(128);
    for made in [rtn(&weight, &spec).unwrap(), rtn_search(&weight, &spec, None).unwrap()] {
        assert_eq!(made.scales.len(), rows * 7);
        let power: f64 = data.iter().map(|&number| f64::from(number) * f64::from(number)).sum();
        let share = made.squared_error(&weight, None).unwrap() / power;
        // Steps of a seventh of the range of 128 numbers of a bell curve (5.3): 1.0 %.
        assert!(share < 0.02, "{share}");
        let packed = quant::layout::nbits::pack(&made).unwrap();
        assert_eq!(packed.zero_points.as_ref().map(Vec::len), Some(rows * 4), "rows padded to whole bytes");
    }
}

#[test]
fn d12_samples_of_several_sizes_and_infinities() {
    let mut sketch = Sketch::new();
    for (at, size) in [8usize, 16, 24].into_iter().enumerate() {
        sketch.observe(at as u64, &vec![at as f32 + 1.0; size]);
    }
    sketch.observe(3, &[f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 2.0]);
    assert_eq!((sketch.count(), sketch.infinite(), sketch.nan()), (52, 2, 1));
    for method in [Method::MinMax, Method::Entropy, Method::Percentile(99.99), Method::Auto] {
        let found = choose(method, &sketch, Grid::asymmetric(CodeType::U8), &Policy::default());
        let scale = found.params.scale();
        assert!(scale.is_finite() && scale > 0.0 && found.hi <= 3.0, "{method}: {scale}");
    }
    // Channels, more than once.
    let mut sketch = Sketch::new();
    let layout = Layout::per_axis(&[2, 3], 0).unwrap();
    for at in 0..3u64 {
        sketch.observe_channels(at, &[1.0, 2.0, 3.0, -1.0, -2.0, -3.0], &layout).unwrap();
    }
    assert_eq!(sketch.extent(), Some((-3.0, 3.0)));
}

/// Every defect has a test here or a case of the program.
#[test]
fn every_defect_has_a_test() {
    let here = include_str!("defects.rs").to_string();
    let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/program/defects.toml");
    let all = here + &std::fs::read_to_string(cases).unwrap().to_lowercase();
    for id in 1..=14 {
        let tested = all.contains(&format!("fn d{id}_")) || all.contains(&format!("name = \"d{id}:"));
        assert!(tested, "D{id}");
    }
}
