//! What a file must look like to run as integers in ONNX Runtime, row by row of the table that was read off its optimized
//! graphs (version 1.31.1), and what we write so that it does. Each case: the trap, a model that walks into it, and what must
//! be in the file that we write. In every one nothing is left for `check --target ort-cpu` to find that could be otherwise,
//! and the outputs are right.

#[path = "support/emitted.rs"]
mod emitted;
#[path = "support/values.rs"]
mod values;

use emitted::{Form, GOOD, count, filled, quantized, sqnr};
use onnxq_passes::check::{CheckOptions, Cpu, check};
use onnxq_passes::quantize::Precision;
use onnxq_passes::target::target;

/// Name of the trap, inputs and outputs, constants, operators, how often operators are in the file.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static [(&'static str, usize)]);

const CASES: &[Case] = &[
    (
        "a convolution writes codes: its output, which is an output of the model too, is rounded for both",
        "(float[1,8,6,6] x) => (float[1,16,6,6] a, float[1,16,6,6] y)",
        "<float[16,8,1,1] w1 = {}, float[16] b1 = {}, float[16,16,1,1] w2 = {}>",
        "{ a = Conv (x, w1, b1)  y = Conv (a, w2) }",
        &[("QuantizeLinear", 3), ("DequantizeLinear", 6)],
    ),
    (
        "two readers of one convolution, one of them in float, read the rounded value",
        "(float[1,8,6,6] x) => (float[1,16,6,6] y, float[1,16,6,6] z)",
        "<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}>",
        "{ a = Conv (x, w1)  y = Conv (a, w2)  z = Exp (a) }",
        &[("QuantizeLinear", 3)],
    ),
    (
        "a bias is int32 with the product of the scales, of a convolution and of a Gemm",
        "(float[4,32] x) => (float[4,40] y)",
        "<float[40,32] w = {}, float[40] b = {}>",
        "{ y = Gemm <transB = 1> (x, w, b) }",
        &[("DequantizeLinear", 3)],
    ),
    (
        "a Gemm with beta is computed in float, so nothing around it is rounded",
        "(float[4,32] x) => (float[4,40] y)",
        "<float[32,40] w = {}, float[40] b = {}>",
        "{ y = Gemm <beta = 0.5> (x, w, b) }",
        &[("QuantizeLinear", 0)],
    ),
    (
        "a product of matrices may write float: its output is not rounded for nothing",
        "(float[4,32] x) => (float[4,40] y)",
        "<float[32,40] w = {}>",
        "{ a = MatMul (x, w)  y = Exp (a) }",
        &[("QuantizeLinear", 1)],
    ),
    (
        "scales of a matrix lie along its columns, never along what is summed",
        "(float[2,4,32] x) => (float[2,4,40] y)",
        "<float[32,40] w = {}>",
        "{ y = MatMul (x, w) }",
        &[("QuantizeLinear", 1)],
    ),
    (
        "a constant on the left has one scale",
        "(float[32,40] x) => (float[4,40] y)",
        "<float[4,32] w = {}>",
        "{ y = MatMul (w, x) }",
        &[("QuantizeLinear", 1)],
    ),
    (
        "one float operand makes an addition float: it is left out of the rounding",
        "(float[1,8,6,6] x, float[1,16,6,6] f) => (float[1,16,6,6] y)",
        "<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}>",
        "{ a = Conv (x, w1)  e = Exp (f)  s = Add (a, e)  t = Exp (s)  y = Conv (t, w2) }",
        &[("Add", 1), ("QuantizeLinear", 4)],
    ),
    (
        "data movement has one scale on both sides",
        "(float[1,8,6,6] x) => (float[1,16,36] y)",
        "<float[16,8,1,1] w1 = {}, int64[3] to = {1,16,36}, float[16,16,1] w2 = {}>",
        "{ a = Conv (x, w1)  r = Reshape (a, to)  y = Conv (r, w2) }",
        &[("QuantizeLinear", 4)],
    ),
    (
        "an operator without an integer kernel is not rounded on both sides",
        "(float[1,8,6,6] x) => (float[1,16,6,6] y)",
        "<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}>",
        "{ a = Conv (x, w1)  e = Tanh (a)  y = Conv (e, w2) }",
        &[("Tanh", 1)],
    ),
    (
        "a float weight between rounded values would be rounded when loaded: the small product is kept apart",
        "(float[1,8,6,6] x) => (float[1,16,6,6] y)",
        "<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}>",
        "{ a = Conv (x, w1)  b = Conv (a, w2)  y = Conv (b, w2) }",
        &[("Conv", 3)],
    ),
    (
        "what is rounded once at run time is shared by its readers",
        "(float[4,32] x) => (float[4,40] y, float[4,40] z)",
        "<float[32,40] w1 = {}, float[32,40] w2 = {}>",
        "{ y = MatMul (x, w1)  z = MatMul (x, w2) }",
        &[("QuantizeLinear", 1)],
    ),
];

/// What must be left: the convolutions on both sides only take and write codes, and the operator between has no kernel on
/// them.
const LEFT: &[(&str, &str)] = &[("one float operand", "ORT01"), ("an operator without", "ORT12")];

#[test]
fn nothing_that_we_write_walks_into_a_trap() {
    let mut wrong = Vec::new();
    for (why, values, constants, ops, counts) in CASES {
        let text = format!("<ir_version: 10, opset_import: [\"\" : 17]>\nmain {values}\n{constants}\n{ops}");
        let model = filled(&text);
        for form in [Form::Qdq, Form::Qoperator, Form::Dynamic] {
            let (_, out) = quantized(&model, "ort-cpu", form, |_| {});
            let seen = sqnr(&model, &out);
            if seen < GOOD {
                wrong.push(format!("{why}: {form:?}: {seen:.1} dB"));
            }
            let options = CheckOptions { cpu: Some(Cpu::Vnni), ..CheckOptions::default() };
            for finding in check(&out, target("ort-cpu").unwrap(), &options) {
                if LEFT.iter().any(|(start, rule)| why.starts_with(start) && *rule == finding.rule) {
                    continue;
                }
                wrong.push(format!("{why}: {form:?}: {} {}: {}", finding.rule, finding.node, finding.found));
            }
            for (kind, times) in counts.iter().filter(|_| form == Form::Qdq) {
                if count(&out, kind) != *times {
                    wrong.push(format!(
                        "{why}: {} {kind}, not {times}\n{}",
                        count(&out, kind),
                        ir::text::print(&out)
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runtimes round a float weight between rounded values to one scale when they load it: what was excluded would not be.
#[test]
fn an_excluded_convolution_is_kept_from_being_rounded() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y)
<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}, float[16,16,1,1] w3 = {}>
{ a = Conv (x, w1)  b = Conv (a, w2)  y = Conv (b, w3) }"#;
    let model = filled(text);
    for precision in [Precision::Float, Precision::Fp16] {
        let (plan, out) = quantized(&model, "ort-cpu", Form::Qdq, |choices| {
            choices.overrides.insert("b".into(), precision);
        });
        assert!(!plan.weights.contains_key("b"));
        assert_eq!(plan.ops["b"].precision, precision);
        assert_eq!(count(&out, "Max"), 1, "{}", ir::text::print(&out));
        assert!(sqnr(&model, &out) > GOOD);
    }
}

/// onnxruntime makes a float Gemm of a product and the vector added to it, unless the vector has the product's rank.
#[test]
fn a_vector_behind_a_product_is_kept_apart() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,4,32] x) => (float[1,4,40] y)
<float[32,40] w = {}, float[40] b = {}>
{ t = MatMul (x, w)  y = Add (t, b) }"#;
    let model = filled(text);
    let (_, out) = quantized(&model, "ort-cpu", Form::Qdq, |_| {});
    let graph = out.main();
    let add = graph.ops().into_iter().find(|&op| graph.op(op).kind.is("Add")).unwrap();
    let bias = graph.op_inputs(add).into_iter().flatten().find_map(|value| graph.constant(value)).unwrap();
    assert_eq!(bias.dims(), [1, 1, 40]);
    assert!(sqnr(&model, &out) > GOOD);
}

/// And of a product and a matrix added to it, whichever of two products comes first.
#[test]
fn a_matrix_added_to_a_product_is_kept_apart() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,32] x, float[4,16] h) => (float[4,40] y)
<float[32,40] w1 = {}, float[16,40] w2 = {}>
{ a = MatMul (x, w1)  b = MatMul (h, w2)  t = Add (a, b)  y = Tanh (t) }"#;
    let model = filled(text);
    let (_, out) = quantized(&model, "ort-cpu", Form::Qdq, |_| {});
    assert_eq!((count(&out, "Add"), count(&out, "Sum")), (0, 1), "{}", ir::text::print(&out));
    assert!(sqnr(&model, &out) > GOOD);
}
