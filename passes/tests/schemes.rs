//! Every operator that can be quantized, between two layers that are: what each target makes of it. The table is
//! `schemes.txt`; `BLESS=1` writes it anew, and the difference is what to read.
//!
//! One line an operator, one column a target: how the operator computes (`int` on codes, `moves`, `float`, `w8` with weights
//! in 8 bits, `dyn` on data rounded at run time), and behind it how many of its float inputs and outputs are rounded, as in
//! `int 1>1`. Of every emitted model the outputs are right, and the target's own rules find no error.

#[path = "support/emitted.rs"]
mod emitted;
#[path = "support/values.rs"]
mod values;

use std::fmt::Write;
use std::path::Path;

use emitted::{Form, GOOD, filled, quantized, sqnr};
use ir::Model;
use onnxq_passes::check::{CheckOptions, Severity, check};
use onnxq_passes::quantize::{Kernel, Precision, QuantPlan};
use onnxq_passes::target::{TARGETS, target};

/// Between two convolutions of pictures [1, 16, 8, 8]; the operator reads `a` (and `b`) and writes `o`.
const PICTURES: &[(&str, &str)] = &[
    ("Relu", "o = Relu (a)"),
    ("Clip", "o = Clip (a, zero, six)"),
    ("LeakyRelu", "o = LeakyRelu (a)"),
    ("PRelu", "o = PRelu (a, bend)"),
    ("Sigmoid", "o = Sigmoid (a)"),
    ("HardSigmoid", "o = HardSigmoid (a)"),
    ("HardSwish", "o = HardSwish (a)"),
    ("Tanh", "o = Tanh (a)"),
    ("Gelu", "o = Gelu (a)"),
    ("Swish", "o = Swish (a)"),
    ("Softmax", "o = Softmax <axis = 1> (a)"),
    ("Add", "o = Add (a, b)"),
    ("Sub", "o = Sub (a, b)"),
    ("Mul", "o = Mul (a, b)"),
    ("Div", "o = Div (a, far)"),
    ("Min", "o = Min (a, b)"),
    ("Max", "o = Max (a, b)"),
    ("Where", "o = Where (which, a, b)"),
    ("Concat", "o = Concat <axis = 2> (a, b)"),
    ("MaxPool", "o = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)"),
    ("AveragePool", "o = AveragePool <kernel_shape = [2,2], strides = [2,2]> (a)"),
    ("GlobalAveragePool", "o = GlobalAveragePool (a)"),
    ("ReduceMean", "o = ReduceMean (a, axes)"),
    ("ReduceMax", "o = ReduceMax (a, axes)"),
    ("Resize, nearest", "o = Resize <mode = \"nearest\"> (a, , twice)"),
    ("Resize, linear", "o = Resize <mode = \"linear\"> (a, , twice)"),
    ("Pad, zeros", "o = Pad (a, pads)"),
    ("Pad, edge", "o = Pad <mode = \"edge\"> (a, pads)"),
    ("Pad, ones", "o = Pad (a, pads, one)"),
    ("Reshape", "o = Reshape (a, shape)"),
    ("Transpose", "o = Transpose <perm = [0,1,3,2]> (a)"),
    ("Squeeze", "s = Squeeze (a, axis0)  o = Unsqueeze (s, axis0)"),
    ("Slice", "o = Slice (a, one1, eight1, two1)"),
    ("Split", "o, rest = Split <axis = 2, num_outputs = 2> (a)"),
    ("Expand", "o = Expand (a, shape)"),
    ("Tile", "o = Tile (a, repeats)"),
    ("Gather", "o = Gather <axis = 2> (a, picked)"),
    ("GatherElements", "o = GatherElements <axis = 2> (a, elements)"),
    ("DepthToSpace", "d = DepthToSpace <blocksize = 2> (a)  o = SpaceToDepth <blocksize = 2> (d)"),
    ("InstanceNormalization", "o = InstanceNormalization (a, ones, zeros)"),
    ("LayerNormalization", "o = LayerNormalization (a, ones8, zeros8)"),
    ("RMSNormalization", "o = RMSNormalization (a, ones8)"),
    ("Conv, grouped", "o = Conv <group = 2> (a, wgroup, b16)"),
    ("Conv, depthwise", "o = Conv <group = 16> (a, wdepth)"),
    ("ConvTranspose", "o = ConvTranspose (a, wpoint, b16)"),
    ("ConvTranspose, grouped", "o = ConvTranspose <group = 2> (a, wgroup)"),
];

/// Between two products of matrices [4, 32].
const MATRICES: &[(&str, &str)] = &[
    ("MatMul, constant right", "o = MatMul (a, w)"),
    ("MatMul, constant left", "o = MatMul (w4, a)"),
    ("MatMul, both computed", "t = Transpose (b)  u = MatMul (a, t)  o = MatMul (u, b)"),
    ("MatMul, stack", "r = Unsqueeze (a, axis0)  m = MatMul (r, wstack)  o = Squeeze (m, axis0)"),
    ("Gemm", "o = Gemm (a, w, b32)"),
    ("Gemm, transposed weight", "o = Gemm <transB = 1> (a, w, b32)"),
    ("Gemm, beta", "o = Gemm <beta = 0.5> (a, w, b32)"),
    ("Gemm, alpha", "o = Gemm <alpha = 0.5> (a, w, b32)"),
    ("Einsum", "o = Einsum <equation = \"md,dn->mn\"> (a, w)"),
    ("Einsum, transposed weight", "o = Einsum <equation = \"md,nd->mn\"> (a, w)"),
    ("Softmax", "o = Softmax (a)"),
    ("LayerNormalization", "o = LayerNormalization (a, ones32, zeros32)"),
    ("Flatten", "o = Flatten (a)"),
    ("ArgMax", "k = ArgMax <axis = 1, keepdims = 0> (a)  o = Gather (w, k)"),
    ("TopK", "v, k = TopK (a, all32)  o = Identity (v)"),
    ("CumSum", "o = CumSum (a, axis)"),
    (
        "LSTM",
        "r = Unsqueeze (a, axis0)  h, hn, cn = LSTM <hidden_size = 32> (r, wl, rl)  o = Reshape (h, back)",
    ),
    ("GRU", "r = Unsqueeze (a, axis0)  h, hn = GRU <hidden_size = 32> (r, wg, rg)  o = Reshape (h, back)"),
];

const ONES: &str = "{1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}";

fn picture(ops: &str) -> Model {
    let eights = |text: &str| text.split(',').take(8).collect::<Vec<_>>().join(",").replace('}', "") + "}";
    let zeros = ONES.replace('1', "0");
    let far = ["4"; 16].join(",");
    let elements = (0..128).map(|at| (at % 8).to_string()).collect::<Vec<_>>().join(",");
    filled(&format!(
        "<ir_version: 12, opset_import: [\"\" : 24]>\nmain (float[1,8,8,8] x) => (float[] y)\n\
         <float[16,8,1,1] w1 = {{}}, float[16,8,1,1] w2 = {{}}, float[4,16,1,1] w3 = {{}}, float[16,8,3,3] wgroup = {{}},\n\
          float[16,1,3,3] wdepth = {{}}, float[16,16,1,1] wpoint = {{}}, float[16] b16 = {{}}, float zero = {{0.0}},\n\
          float six = {{6.0}}, float one = {{1.0}}, float[16,1,1] bend = {{}}, float[1,16,1,1] far = {{{far}}},\n\
          bool[1,1,1,8] which = {{1,0,1,0,1,0,1,0}}, int64[2] axes = {{2,3}}, float[4] twice = {{1.0,1.0,2.0,2.0}},\n\
          int64[8] pads = {{0,0,1,1,0,0,1,1}}, int64[4] shape = {{1,16,8,8}}, int64[1] axis0 = {{0}}, int64[1] one1 = {{1}},\n\
          int64[1] eight1 = {{8}}, int64[1] two1 = {{2}}, int64[4] repeats = {{1,1,2,1}}, int64[3] picked = {{0,3,5}},\n\
          int64[1,16,1,8] elements = {{{elements}}}, float[16] ones = {ONES}, float[16] zeros = {zeros},\n\
          float[8] ones8 = {}, float[8] zeros8 = {}>\n\
         {{ a = Conv (x, w1)  b = Conv (x, w2)  {ops}  y = Conv (o, w3) }}",
        eights(ONES),
        eights(&zeros),
    ))
}

fn matrix(ops: &str) -> Model {
    let many = |what: &str, count: usize| vec![what; count].join(",");
    filled(&format!(
        "<ir_version: 12, opset_import: [\"\" : 24]>\nmain (float[4,32] x) => (float[] y)\n\
         <float[32,32] w1 = {{}}, float[32,32] w2 = {{}}, float[32,32] w3 = {{}}, float[32,32] w = {{}}, float[4,4] w4 = {{}},\n\
          float[1,32,32] wstack = {{}}, float[32] b32 = {{}}, int64[1] axis0 = {{0}}, int64 axis = {{1}},\n\
          float[32] ones32 = {{{}}}, float[32] zeros32 = {{{}}}, int64[1] all32 = {{32}}, int64[2] back = {{4,32}},\n\
          float[1,128,32] wl = {{}}, float[1,128,32] rl = {{}}, float[1,96,32] wg = {{}}, float[1,96,32] rg = {{}}>\n\
         {{ a = MatMul (x, w1)  b = MatMul (x, w2)  {ops}  y = MatMul (o, w3) }}",
        many("1", 32),
        many("0", 32),
    ))
}

/// The operator of the case is the first of its text: that which reads `a`.
fn found(model: &Model, plan: &QuantPlan, ops: &str) -> String {
    let kind = ops.split(['=']).nth(1).and_then(|text| text.split_whitespace().next()).unwrap_or_default();
    let graph = model.main();
    let made = graph.ops().into_iter().filter(|&op| graph.op(op).kind.is(kind)).find(|&op| {
        let first = graph.output(op, 0).map(|value| graph.value(value).name().to_string());
        !matches!(first.as_deref(), Some("a" | "b" | "y"))
    });
    let Some(op) = made else { return "gone".into() };
    let key = onnxq_passes::quantize::keys::key_of(graph, op);
    let entry = &plan.ops[&key];
    let how = match (entry.precision, entry.kernel) {
        (_, Kernel::Fails) => "FAILS",
        (Precision::Dynamic, _) => "dyn",
        (Precision::W8, _) => "w8",
        (_, Kernel::Integer) => "int",
        (_, Kernel::Moves) => "moves",
        (_, Kernel::Float) => "float",
    };
    let rounded = |values: Vec<Option<ir::ValueId>>| {
        let names = values.into_iter().flatten().map(|value| graph.value(value).name().to_string());
        let weights = plan.weights.get(&key);
        let weight =
            |name: &String| weights.is_some_and(|list| list.iter().any(|weight| weight.value == *name));
        names.filter(|name| plan.values.contains_key(name) || weight(name)).count()
    };
    format!("{how} {}>{}", rounded(graph.op_inputs(op).to_vec()), rounded(graph.op_outputs(op).to_vec()))
}

#[test]
fn every_operator_has_its_form_for_each_target() {
    let mut table = String::from("operator                   ");
    TARGETS.iter().for_each(|target| write!(table, " {:<11}", target.name()).unwrap());
    let mut wrong = Vec::new();
    type Maker = fn(&str) -> Model;
    let cases = PICTURES.iter().map(|case| (case, picture as Maker));
    for ((name, ops), make) in cases.chain(MATRICES.iter().map(|case| (case, matrix as Maker))) {
        let model = make(ops);
        write!(table, "\n{name:<27}").unwrap();
        for to in TARGETS {
            let (plan, out) = quantized(&model, to.name(), Form::Qdq, |_| {});
            write!(table, " {:<11}", found(&model, &plan, ops)).unwrap();
            let seen = sqnr(&model, &out);
            // An argument of the greatest may be another one where two are alike: nothing to compare then.
            if seen < GOOD && !name.starts_with("ArgMax") {
                wrong.push(format!("{name} for {}: {seen:.1} dB", to.name()));
            }
            let findings = check(&out, target(to.name()).unwrap(), &CheckOptions::default());
            let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
            wrong.extend(
                errors.map(|f| format!("{name} for {}: {} {}: {}", to.name(), f.rule, f.node, f.found)),
            );
        }
    }
    let table = table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemes.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), table, "BLESS=1 writes it");
}
