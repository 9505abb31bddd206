//! Every form of every profile, on every kind of reader: the wired model computes what the codes stand for, and so does its
//! lowered form.

#[path = "support/values.rs"]
#[allow(dead_code)]
mod values;

use ir::{Builder, DType, Model, Op, Tensor, ValueId};
use onnxq_passes::quantize::low_bit::{
    Coded, PROFILES, ProductForm, Profile, RowsForm, Site, adapt, find, opsets, pack, profile, wire,
};
use onnxq_passes::{Spec, Step};
use quant::layout::blocked::Order;
use quant::round::ScaleType;
use quant::weight::hqq::hqq;
use quant::weight::nf4::{Scale, Table, nf4};
use quant::weight::rtn::rtn;
use quant::weight::{Bits, Block, Weight, Zero};
use values::{agree, evaluate, made};

/// How the model reads its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    MatMul,
    Transposed,
    Gemm(i64),
    Conv,
    Rows,
    Tied,
}

/// Rows with a zero, one-signed and ordinary blocks.
fn numbers(rows: usize, cols: usize) -> Vec<f32> {
    let value = |at: usize| ((at * 7919 % 1013) as f32 - 500.0) / 300.0;
    let row = |n: usize, v: f32| match n % 5 {
        0 => 0.0,
        1 => v.abs(),
        2 => -v.abs(),
        _ => v,
    };
    (0..rows * cols).map(|at| row(at / cols, value(at))).collect()
}

fn tensor(dtype: DType, dims: &[usize], values: &[f32]) -> Tensor {
    match dtype {
        DType::F16 => {
            Tensor::from_slice(dims, &values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>())
        }
        DType::BF16 => {
            Tensor::from_slice(dims, &values.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>())
        }
        _ => Tensor::from_slice(dims, values),
    }
    .unwrap()
}

fn op(b: &mut Builder, op: Op, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    b.add(op, &inputs, 1)[0]
}

fn infer(model: &mut Model) {
    onnxq_passes::run(model, &[Step::Once(Spec::new("infer_shapes"))], Default::default()).unwrap();
}

/// A model that reads W `[n, k]`, whose numbers are given.
fn model(kind: Kind, dtype: DType, n: usize, k: usize, w: &[f32]) -> Model {
    let mut b = Builder::new(25);
    let float = if dtype == DType::F16 { "float16" } else { "float" };
    let turned: Vec<f32> = (0..k * n).map(|at| w[(at % n) * k + at / n]).collect();
    let bias: Vec<f32> = (0..n).map(|at| at as f32 / 8.0 - 1.0).collect();
    let y = match kind {
        Kind::MatMul => {
            let x = b.input("x", &format!("{float}[batch,3,{k}]"));
            let w = b.constant("w", tensor(dtype, &[k, n], &turned));
            op(&mut b, Op::new("MatMul"), &[x, w])
        }
        Kind::Transposed => {
            let x = b.input("x", &format!("{float}[3,{k}]"));
            let w = b.constant("w", tensor(dtype, &[n, k], w));
            let t = op(&mut b, Op::new("Transpose"), &[w]);
            op(&mut b, Op::new("MatMul"), &[x, t])
        }
        Kind::Gemm(trans) => {
            let x = b.input("x", &format!("{float}[3,{k}]"));
            let (dims, w) = if trans == 1 { ([n, k], w) } else { ([k, n], &turned[..]) };
            let w = b.constant("w", tensor(dtype, &dims, w));
            let bias = b.constant("b", tensor(dtype, &[n], &bias));
            op(&mut b, Op::new("Gemm").with("transB", trans), &[x, w, bias])
        }
        Kind::Conv => {
            let x = b.input("x", &format!("{float}[1,{k},2,3]"));
            let w = b.constant("w", tensor(dtype, &[n, k, 1, 1], w));
            let bias = b.constant("b", tensor(dtype, &[n], &bias));
            op(&mut b, Op::new("Conv"), &[x, w, bias])
        }
        Kind::Rows => {
            let x = b.input("i", "int64[2,3]");
            let w = b.constant("w", tensor(dtype, &[n, k], w));
            op(&mut b, Op::new("Gather"), &[w, x])
        }
        Kind::Tied => {
            let x = b.input("i", "int64[2,3]");
            let table = b.constant("w", tensor(dtype, &[n, k], w));
            let head = b.constant("h", tensor(dtype, &[k, n], &turned));
            let rows = op(&mut b, Op::new("Gather"), &[table, x]);
            op(&mut b, Op::new("MatMul"), &[rows, head])
        }
    };
    b.output(y);
    let mut model = b.build();
    infer(&mut model);
    model
}

fn feed(kind: Kind, dtype: DType, n: usize, k: usize) -> values::Feed {
    let indices = || {
        let rows: Vec<i64> = (0..6).map(|at| (at * 5 % n) as i64).collect();
        Tensor::from_slice(&[2, 3], &rows).unwrap()
    };
    let x = match kind {
        Kind::MatMul => made(dtype, &[2, 3, k], 1, Some((-1.0, 1.0)), false).unwrap(),
        Kind::Conv => made(dtype, &[1, k, 2, 3], 1, Some((-1.0, 1.0)), false).unwrap(),
        Kind::Rows | Kind::Tied => indices(),
        _ => made(dtype, &[3, k], 1, Some((-1.0, 1.0)), false).unwrap(),
    };
    vec![Some(ops::Value::Tensor(x))]
}

fn view<'a>(site: &Site, stored: &'a quant::weight::Stored<'a>) -> Weight<'a> {
    match site.order {
        Order::Kn => Weight::from_kn(stored.elements(), site.rows, site.cols).unwrap(),
        Order::Nk => Weight::from_rows(stored.elements(), site.rows, site.cols).unwrap(),
    }
}

/// Half precision as float32.
fn wide(value: &ops::Value) -> ops::Value {
    match value {
        ops::Value::Tensor(t) if t.dtype() == DType::F16 => {
            let floats = ops::array::to_f32s(t).unwrap();
            ops::Value::Tensor(Tensor::from_slice(t.dims(), &floats).unwrap())
        }
        other => other.clone(),
    }
}

/// Quantizes by `make`, wires, and compares: the float model over dequantized weights, the wired one, the lowered one.
fn check(
    kind: Kind,
    dtype: DType,
    (n, k): (usize, usize),
    profile: &Profile,
    make: &dyn Fn(&Weight<'_>) -> Coded,
) -> usize {
    let label = format!("{kind:?} {dtype} {n} x {k} for {}", profile.name);
    let float = model(kind, dtype, n, k, &numbers(n, k));
    let (sites, kept) = find(&float, 1);
    assert_eq!((sites.len(), kept.len()), (1, 0), "{label}: {kept:?}");
    let site = &sites[0];
    assert_eq!((site.rows, site.cols), (n, k), "{label}");
    let stored = site.stored(&float).unwrap();
    let coded = make(&view(site, &stored));
    let expected =
        evaluate(&model(kind, dtype, n, k, &coded.dequantize()), &feed(kind, dtype, n, k)).unwrap();
    let packed = pack(site, dtype, &coded, profile, None).unwrap_or_else(|e| panic!("{label}: {e}"));
    let bytes = packed.bytes();
    let mut wired = float.clone();
    let (onnx, _) = opsets([&packed]);
    assert!(onnx <= 25, "{label}");
    wire(&mut wired, &[(site.clone(), packed)], |_| 0).unwrap();
    assert!(ir::verify(&wired).is_ok(), "{label}");
    let left = wired
        .main()
        .values()
        .filter(|&v| wired.main().constant(v).is_some_and(|t| t.dtype() == dtype && t.elements() == n * k));
    assert_eq!(left.count(), 0, "{label}: the float weight is still there");
    // Sums in another order; half precision has 11 bits, and sums of up to 100 products.
    let tolerance = if dtype == DType::F16 { 2e-2 } else { 2e-5 };
    let given = feed(kind, dtype, n, k);
    let close = |model: &Model, what: &str, feed: &values::Feed, expected: &ops::Value| {
        let found = evaluate(model, feed).unwrap_or_else(|e| panic!("{label} {what}: {e}"));
        agree(expected, &found[0], Some(tolerance)).unwrap_or_else(|e| panic!("{label} {what}: {e}"));
    };
    infer(&mut wired);
    close(&wired, "wired", &given, &expected[0]);
    let lower = Step::Once(Spec::new("lower_for_execution"));
    onnxq_passes::run(&mut wired, &[lower], Default::default()).unwrap();
    let low_bit = |o: &ir::OpId| wired.main().op(*o).kind.domain() == "com.microsoft";
    assert_eq!(wired.main().ops().iter().filter(|o| low_bit(o)).count(), 0, "{label}: not lowered");
    // The lowered form computes in float32 throughout.
    let given: values::Feed = given.iter().map(|value| value.as_ref().map(wide)).collect();
    close(&wired, "lowered", &given, &wide(&expected[0]));
    bytes
}

const KINDS: [Kind; 7] =
    [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv, Kind::Rows, Kind::Tied];

#[test]
fn uniform_codes_of_every_profile_and_reader() {
    let mut tried = 0;
    for profile in PROFILES {
        for kind in KINDS {
            let table = matches!(kind, Kind::Rows | Kind::Tied);
            if (table && profile.rows == RowsForm::Float) || (kind == Kind::Conv && !profile.pointwise) {
                continue;
            }
            for &bits in profile.widths {
                if table && profile.rows == RowsForm::GatherInt4 && bits != Bits::Four {
                    continue;
                }
                for zero in [Zero::Center, Zero::PerBlock] {
                    for (dtype, scale) in [(DType::F32, ScaleType::F32), (DType::F16, ScaleType::F16)] {
                        // K divides, is ragged, is less than a block.
                        for size in [(12, 64), (7, 40), (5, 24)] {
                            let spec = quant::weight::Spec { bits, block: Block::Columns(32), zero, scale };
                            let spec = adapt(profile, spec, size.1, dtype);
                            check(kind, dtype, size, profile, &|w| Coded::Uniform(rtn(w, &spec).unwrap()));
                            tried += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn offsets_take_the_two_term_form() {
    for profile in PROFILES.iter().filter(|p| p.product != ProductForm::PerChannel) {
        for kind in [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv] {
            if kind == Kind::Conv && !profile.pointwise {
                continue;
            }
            for size in [(12, 64), (7, 40)] {
                let spec = quant::weight::Spec::int4(32);
                check(kind, DType::F32, size, profile, &|w| Coded::Affine(hqq(w, &spec).unwrap()));
            }
        }
    }
}

#[test]
fn tables_of_values_are_for_onnxruntime() {
    let ort = profile("ort-cpu").unwrap();
    for kind in [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv] {
        for (n, k) in [(12, 64), (7, 39)] {
            let make = |w: &Weight<'_>| Coded::Table(nf4(w, Table::Nf4, 32, Scale::Searched, false).unwrap());
            check(kind, DType::F32, (n, k), &ort, &make);
        }
    }
    let float = model(Kind::MatMul, DType::F32, 12, 64, &numbers(12, 64));
    let site = &find(&float, 1).0[0];
    let stored = site.stored(&float).unwrap();
    let coded = Coded::Table(nf4(&view(site, &stored), Table::Nf4, 32, Scale::Searched, false).unwrap());
    let refused = pack(site, DType::F32, &coded, &profile("plain").unwrap(), None).unwrap_err();
    assert!(refused.to_string().contains("rtn-search"), "{refused}");
}

#[test]
fn a_tied_weight_is_stored_once() {
    let ort = profile("ort-cpu").unwrap();
    let spec = quant::weight::Spec::int4(32);
    let make = |w: &Weight<'_>| Coded::Uniform(rtn(w, &spec).unwrap());
    let (one, tied) = (
        check(Kind::MatMul, DType::F32, (12, 64), &ort, &make),
        check(Kind::Tied, DType::F32, (12, 64), &ort, &make),
    );
    assert_eq!(one, tied);
}

/// `x * c -> two products`, the weights scaled by columns: 1/s goes into `c`.
#[test]
fn column_scales_are_folded_or_inserted() {
    let ort = profile("ort-cpu").unwrap();
    for folds in [true, false] {
        let (n, k) = (8, 32);
        let mut b = Builder::new(21);
        let x = b.input("x", &format!("float[3,{k}]"));
        let c = b.constant("c", tensor(DType::F32, &[k], &vec![0.5; k]));
        let h = op(&mut b, Op::new("Mul"), &[x, c]);
        let w = b.constant("w", tensor(DType::F32, &[k, n], &numbers(k, n)));
        let v = b.constant(
            "other",
            tensor(DType::F32, &[k, n], &numbers(k, n).iter().map(|x| x + 0.1).collect::<Vec<_>>()),
        );
        let (y, z) = (op(&mut b, Op::new("MatMul"), &[h, w]), op(&mut b, Op::new("MatMul"), &[h, v]));
        b.output(y);
        b.output(z);
        if !folds {
            b.output(h);
        }
        let mut float = b.build();
        infer(&mut float);
        let scales: Vec<f32> = (0..k).map(|at| 1.0 + at as f32 / 16.0).collect();
        let (sites, _) = find(&float, 1);
        let spec = quant::weight::Spec::int4(32).with_bits(Bits::Eight);
        let packed: Vec<_> = sites
            .iter()
            .map(|site| {
                let stored = site.stored(&float).unwrap();
                let mut scaled = view(site, &stored).to_f32().unwrap();
                scaled.chunks_mut(k).for_each(|row| row.iter_mut().zip(&scales).for_each(|(w, s)| *w *= s));
                let q = rtn(&Weight::from_rows(&scaled[..], n, k).unwrap(), &spec).unwrap();
                (site.clone(), pack(site, DType::F32, &Coded::Uniform(q), &ort, Some(&scales)).unwrap())
            })
            .collect();
        let mut wired = float.clone();
        wire(&mut wired, &packed, |_| 0).unwrap();
        let muls = wired.main().ops().iter().filter(|&&o| wired.main().op(o).kind.is("Mul")).count();
        assert_eq!(muls, if folds { 1 } else { 2 });
        let feed = feed(Kind::Transposed, DType::F32, n, k);
        let (a, b) = (evaluate(&float, &feed).unwrap(), evaluate(&wired, &feed).unwrap());
        // 8 bits a weight of up to 3·1.7, 32 products: half a step is 0.01, and errors add up like a walk.
        a.iter().zip(&b).for_each(|(a, b)| agree(a, b, Some(0.1)).unwrap());
    }
}

/// The columns of a 1x1 convolution are channels, those of a product the last axis.
#[test]
fn column_scales_meet_the_axis_of_the_columns() {
    let ort = profile("ort-cpu").unwrap();
    let (n, k) = (8, 32);
    let scales: Vec<f32> = (0..k).map(|at| 1.0 + at as f32 / 16.0).collect();
    let spec = quant::weight::Spec::int4(32).with_bits(Bits::Eight);
    for kind in [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv] {
        let float = model(kind, DType::F32, n, k, &numbers(n, k));
        let (sites, _) = find(&float, 1);
        let [site] = &sites[..] else { panic!("{} weights in {kind:?}", sites.len()) };
        let mut scaled = view(site, &site.stored(&float).unwrap()).to_f32().unwrap();
        scaled.chunks_mut(k).for_each(|row| row.iter_mut().zip(&scales).for_each(|(w, s)| *w *= s));
        let q = rtn(&Weight::from_rows(&scaled[..], n, k).unwrap(), &spec).unwrap();
        let packed = pack(site, DType::F32, &Coded::Uniform(q), &ort, Some(&scales)).unwrap();
        let mut wired = float.clone();
        wire(&mut wired, &[(site.clone(), packed)], |_| 0).unwrap();
        let feed = feed(kind, DType::F32, n, k);
        let (a, b) = (evaluate(&float, &feed).unwrap(), evaluate(&wired, &feed).unwrap());
        // As above.
        a.iter()
            .zip(&b)
            .for_each(|(a, b)| agree(a, b, Some(0.1)).unwrap_or_else(|e| panic!("{kind:?}: {e}")));
    }
}

#[test]
fn what_is_no_weight_stays_float_with_a_reason() {
    let mut b = Builder::new(21);
    let x = b.input("x", "float[32]");
    let w = b.constant("w", tensor(DType::F32, &[32, 8], &numbers(32, 8)));
    let y = op(&mut b, Op::new("MatMul"), &[x, w]);
    let m = b.input("m", "float[8,8]");
    let left = b.constant("left", tensor(DType::F32, &[4, 8], &numbers(4, 8)));
    let z = op(&mut b, Op::new("MatMul"), &[left, m]);
    let both = b.constant("both", tensor(DType::F32, &[8, 8], &numbers(8, 8)));
    let p = op(&mut b, Op::new("MatMul"), &[m, both]);
    let q = op(&mut b, Op::new("Add"), &[p, both]);
    [y, z, q].into_iter().for_each(|v| b.output(v));
    let mut float = b.build();
    infer(&mut float);
    let (sites, kept) = find(&float, 1);
    assert!(sites.is_empty());
    let why: Vec<(&str, &str)> = kept.iter().map(|k| (&*k.name, &*k.why)).collect();
    assert!(why.contains(&("w", "it is multiplied by a vector")), "{why:?}");
    assert!(why.contains(&("left", "it is the left side of a product")), "{why:?}");
    assert!(why.contains(&("both", "an operator other than a product reads it too")), "{why:?}");
}

/// Cosines and sines of positions are picked like embeddings, and stay float; what scales an embedding does not make it one.
#[test]
fn tables_of_factors_stay_float() {
    let mut b = Builder::new(21);
    let (ids, x) = (b.input("ids", "int64[5]"), b.input("x", "float[2,5,8]"));
    let angles = (0..40 * 8).map(|at| (at / 8) as f32 * 0.1 * (at % 8 + 1) as f32);
    let cosines: Vec<f32> = angles.map(f32::cos).collect();
    let table = b.constant("cos", tensor(DType::F32, &[40, 8], &cosines));
    let rows = op(&mut b, Op::new("Gather"), &[table, ids]);
    let axes = b.constant("axes", Tensor::from_slice(&[1], &[0i64]).unwrap());
    let rows = op(&mut b, Op::new("Unsqueeze"), &[rows, axes]);
    let turned = op(&mut b, Op::new("Mul"), &[x, rows]);
    // Learned factors of tokens are weights. (The first row of these numbers is zero, as that of a table of sines is.)
    let gates = b.constant("gates", tensor(DType::F32, &[40, 8], &numbers(41, 8)[8..]));
    let rows = op(&mut b, Op::new("Gather"), &[gates, ids]);
    let gated = op(&mut b, Op::new("Mul"), &[turned, rows]);
    let words = b.constant("words", tensor(DType::F32, &[40, 8], &cosines));
    let rows = op(&mut b, Op::new("Gather"), &[words, ids]);
    let root = b.constant("root", tensor(DType::F32, &[], &[2.0]));
    let scaled = op(&mut b, Op::new("Mul"), &[rows, root]);
    [gated, scaled].into_iter().for_each(|v| b.output(v));
    let mut float = b.build();
    infer(&mut float);
    let (sites, kept) = find(&float, 1);
    let names: Vec<&str> = sites.iter().map(|site| &*site.name).collect();
    assert_eq!(names, ["gates", "words"], "{kept:?}");
    assert_eq!((&*kept[0].name, kept[0].why.contains("rotary")), ("cos", true));
}

/// A weight of the outer graph that a branch multiplies by.
#[test]
fn inner_graphs_read_codes_too() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
outer (bool[1] flag, float[2,4] x) => (float[2,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
  y = If (flag) <
    then_branch = then () => (a) { a = MatMul(x, w) },
    else_branch = other () => (c) { t = MatMul(x, w) c = Neg(t) }
  >
}"#;
    let mut float = ir::text::parse(text).unwrap_or_else(|e| panic!("{e}"));
    infer(&mut float);
    let (sites, _) = find(&float, 1);
    assert_eq!((sites.len(), sites[0].readers.len()), (1, 2));
    let stored = sites[0].stored(&float).unwrap();
    let spec = quant::weight::Spec::int4(16).with_bits(Bits::Eight);
    let q = rtn(&view(&sites[0], &stored), &spec).unwrap();
    let packed = pack(&sites[0], DType::F32, &Coded::Uniform(q), &profile("ort-cpu").unwrap(), None).unwrap();
    let mut wired = float.clone();
    wire(&mut wired, &[(sites[0].clone(), packed)], |_| 0).unwrap();
    assert!(ir::verify(&wired).is_ok());
    assert!(wired.main().find("w").is_none());
    for flag in [true, false] {
        let feed: values::Feed = vec![
            Some(ops::Value::Tensor(Tensor::from_slice(&[1], &[flag]).unwrap())),
            Some(ops::Value::Tensor(made(DType::F32, &[2, 4], 3, Some((-1.0, 1.0)), false).unwrap())),
        ];
        let (a, b) = (evaluate(&float, &feed).unwrap(), evaluate(&wired, &feed).unwrap());
        // 8 bits of a weight up to 12: half a step is 0.024, four products.
        agree(&a[0], &b[0], Some(0.1)).unwrap();
    }
}

/// Two layers of a small decoder, weights named w0, w1, ... in their order: no name says what they are.
fn decoder() -> Model {
    let (vocabulary, width, inner) = (40, 8, 16);
    let mut b = Builder::new(21);
    let ids = b.input("ids", "int64[5]");
    let mut count = 0;
    let mut weight = |b: &mut Builder, dims: [usize; 2]| {
        count += 1;
        b.constant(&format!("w{}", count - 1), tensor(DType::F32, &dims, &numbers(dims[0], dims[1])))
    };
    let table = weight(&mut b, [vocabulary, width]);
    let mut stream = op(&mut b, Op::new("Gather"), &[table, ids]);
    for _ in 0..2 {
        let h = op(&mut b, Op::new("Relu"), &[stream]);
        let q = weight(&mut b, [width, width]);
        let q = op(&mut b, Op::new("MatMul"), &[h, q]);
        let k = weight(&mut b, [width, width]);
        let k = op(&mut b, Op::new("MatMul"), &[h, k]);
        let v = weight(&mut b, [width, width]);
        let v = op(&mut b, Op::new("MatMul"), &[h, v]);
        let turned = op(&mut b, Op::new("Transpose"), &[k]);
        let scores = op(&mut b, Op::new("MatMul"), &[q, turned]);
        let shares = op(&mut b, Op::new("Softmax"), &[scores]);
        let mixed = op(&mut b, Op::new("MatMul"), &[shares, v]);
        let o = weight(&mut b, [width, width]);
        let o = op(&mut b, Op::new("MatMul"), &[mixed, o]);
        stream = op(&mut b, Op::new("Add"), &[stream, o]);
        let h = op(&mut b, Op::new("Relu"), &[stream]);
        let gate = weight(&mut b, [width, inner]);
        let gate = op(&mut b, Op::new("MatMul"), &[h, gate]);
        let share = op(&mut b, Op::new("Sigmoid"), &[gate]);
        let up = weight(&mut b, [width, inner]);
        let up = op(&mut b, Op::new("MatMul"), &[h, up]);
        let gated = op(&mut b, Op::new("Mul"), &[share, up]);
        let down = weight(&mut b, [inner, width]);
        let down = op(&mut b, Op::new("MatMul"), &[gated, down]);
        stream = op(&mut b, Op::new("Add"), &[stream, down]);
    }
    let head = weight(&mut b, [width, vocabulary]);
    let y = op(&mut b, Op::new("MatMul"), &[stream, head]);
    b.output(y);
    let mut model = b.build();
    infer(&mut model);
    model
}

#[test]
fn roles_follow_from_the_graph() {
    use quant::weight::kmix::Role::{AttentionOutput, Down, Embedding, Head, Other, Value};
    let model = decoder();
    let (sites, _) = find(&model, 1);
    let names: Vec<&str> = sites.iter().map(|site| &*site.name).collect();
    assert_eq!(names, (0..16).map(|at| format!("w{at}")).collect::<Vec<_>>());
    let layer = [Other, Other, Value, AttentionOutput, Other, Other, Down];
    let wanted: Vec<_> = [Embedding].into_iter().chain(layer).chain(layer).chain([Head]).collect();
    assert_eq!(onnxq_passes::quantize::low_bit::roles(&model, &sites), (wanted, 1));
}

#[test]
fn scales_of_eight_bits_are_dequantized_in_the_graph() {
    let ort = profile("ort-cpu").unwrap();
    let make = |w: &Weight<'_>| {
        let q = rtn(w, &quant::weight::Spec::int4(32)).unwrap();
        Coded::Double(quant::weight::double::double_scaled(w, &q, None).unwrap())
    };
    let with_offsets = |w: &Weight<'_>| {
        let q = quant::weight::kquant::kquant(w, quant::weight::kquant::Kind::Q4K, None).unwrap();
        Coded::DoubleAffine(quant::weight::double::double_affine(w, &q, None).unwrap())
    };
    for kind in [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv] {
        for size in [(12, 64), (7, 40), (5, 24)] {
            check(kind, DType::F32, size, &ort, &make);
            check(kind, DType::F32, size, &ort, &with_offsets);
        }
    }
}

#[test]
fn powers_of_a_stream_reach_the_weights_behind_a_normalization() {
    let (n, k) = (6, 8);
    let mut b = Builder::new(23);
    let ids = b.input("ids", "int64[5]");
    // Column 3 of the table is four times as strong.
    let values: Vec<f32> = (0..40 * k)
        .map(|at| if at % k == 3 { 4.0 } else { 1.0 } * if at % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    let table = b.constant("table", tensor(DType::F32, &[40, k], &values));
    let gamma = b.constant("gamma", tensor(DType::F32, &[k], &[1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]));
    let w = b.constant("w", tensor(DType::F32, &[k, n], &numbers(k, n)));
    let v = b.constant(
        "v",
        tensor(DType::F32, &[k, n], &numbers(k, n).iter().map(|x| x + 1.0).collect::<Vec<_>>()),
    );
    let x = op(&mut b, Op::new("Gather"), &[table, ids]);
    let h = op(&mut b, Op::new("RMSNormalization"), &[x, gamma]);
    let y = op(&mut b, Op::new("MatMul"), &[h, w]);
    let z = op(&mut b, Op::new("MatMul"), &[x, v]);
    b.output(y);
    b.output(z);
    let mut model = b.build();
    infer(&mut model);
    let (sites, _) = find(&model, 1);
    let prior = onnxq_passes::quantize::low_bit::Prior::new(&model, &sites);
    let of = |name: &str| prior.importance(&model, sites.iter().find(|site| site.name == name).unwrap());
    // Powers 1, 4, 1, 16, 1, 1, 1, 1 (in units of the stream's mean), scaled to mean 1.
    let wanted = [1.0, 4.0, 1.0, 16.0, 1.0, 1.0, 1.0, 1.0].map(|p: f32| p * 8.0 / 26.0);
    let found = of("w").unwrap();
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}"); // f32 rounding
    assert_eq!(of("v"), None); // not behind a normalization
}

/// 8 bits on both sides: half a step of each operand of up to 64 products, which add up like a walk. Inputs are up to 2, weights
/// up to 1.7, steps 1/127 of that.
#[test]
fn outliers_take_a_float_path() {
    let (n, k) = (12, 64);
    // The narrow types: integers are made and summed in float32, or bfloat16 would turn 127.5 steps into -128.
    let types = [(DType::F32, ScaleType::F32), (DType::F16, ScaleType::F16), (DType::BF16, ScaleType::Bf16)];
    for (dtype, scale) in types {
        for kind in [Kind::MatMul, Kind::Transposed, Kind::Gemm(0), Kind::Gemm(1), Kind::Conv] {
            for columns in [&[][..], &[3, 40]] {
                let float = model(kind, dtype, n, k, &numbers(n, k));
                let (sites, _) = find(&float, 1);
                let stored = sites[0].stored(&float).unwrap();
                let weight = view(&sites[0], &stored);
                let split = quant::weight::outliers::split(&weight, columns, scale).unwrap();
                let packed =
                    pack(&sites[0], dtype, &Coded::Split(split), &profile("ort-cpu").unwrap(), None).unwrap();
                let mut wired = float.clone();
                wire(&mut wired, &[(sites[0].clone(), packed)], |_| 0).unwrap();
                assert!(wired.main().ops().iter().any(|&o| wired.main().op(o).kind.is("MatMulInteger")));
                let feed = feed(kind, dtype, n, k);
                let (a, b) = (evaluate(&float, &feed).unwrap(), evaluate(&wired, &feed).unwrap());
                a.iter().zip(&b).for_each(|(a, b)| agree(a, b, Some(0.15)).unwrap());
            }
        }
    }
}
