//! What the emitters write computes what the float model computes, in every form, for models that have gone wrong in other
//! tools. The reference evaluator runs both.

#[path = "support/emitted.rs"]
mod emitted;
#[path = "support/values.rs"]
mod values;

use emitted::{Form, GOOD, count, filled, quantized, sqnr};
use ir::{DType, Model, Tensor};
use onnxq_passes::check::{CheckOptions, check};
use onnxq_passes::quantize::integer_io::integer_io;
use onnxq_passes::quantize::{Choices, Kernel, Precision, choose};
use onnxq_passes::target::target;

const NETWORK: &str = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,5] y)
<float[16,8,3,3] w1 = {}, float[16] b1 = {}, float[16,1,3,3] w2 = {}, float[16] b2 = {}, float[16,16,1,1] w3 = {},
 float[5,16] w4 = {}, float[5] b4 = {}>
{
  a = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r = Relu (a)
  d = Conv <group = 16, pads = [1,1,1,1]> (r, w2, b2)
  s = Sigmoid (d)
  m = Mul (d, s)
  p = Conv (m, w3)
  t = Add (p, r)
  q = Relu (t)
  pool = MaxPool <kernel_shape = [2,2], strides = [2,2]> (q)
  c = Concat <axis = 1> (pool, pool)
  parts0, parts1 = Split <axis = 1> (c)
  g = GlobalAveragePool (parts0)
  f = Flatten (g)
  y = Gemm <transB = 1> (f, w4, b4)
}
"#;

#[test]
fn every_form_computes_the_network() {
    let model = filled(NETWORK);
    for (name, form) in [
        ("ort-cpu", Form::Qdq),
        ("ort-cpu", Form::Qoperator),
        ("ort-cpu", Form::Dynamic),
        ("openvino", Form::Qdq),
        ("qnn", Form::Qdq),
        ("tract", Form::Qdq),
        ("tensorrt", Form::Dynamic),
    ] {
        let (_, out) = quantized(&model, name, form, |_| {});
        let found = sqnr(&model, &out);
        assert!(found > GOOD, "{name} {form:?}: {found:.1} dB\n{}", ir::text::print(&out));
    }
}

#[test]
fn qoperator_leaves_nothing_between_codes() {
    let model = filled(NETWORK);
    let (_, out) = quantized(&model, "ort-cpu", Form::Qoperator, |_| {});
    for (kind, times) in [
        ("QLinearConv", 3),
        ("QLinearAdd", 1),
        ("QLinearMul", 1),
        ("QLinearSigmoid", 1),
        ("QLinearConcat", 1),
        ("QLinearGlobalAveragePool", 1),
        ("QGemm", 1),
        ("Relu", 0),
        ("QuantizeLinear", 1),
        ("DequantizeLinear", 0),
    ] {
        assert_eq!(count(&out, kind), times, "{kind} in\n{}", ir::text::print(&out));
    }
    assert_eq!(out.opset("com.microsoft"), Some(1));
}

#[test]
fn every_forms_nodes_have_names_of_their_own() {
    let model = filled(NETWORK);
    for form in [Form::Qdq, Form::Qoperator, Form::Dynamic] {
        let (_, out) = quantized(&model, "ort-cpu", form, |_| {});
        let graph = out.main();
        let mut names: Vec<String> = graph.ops().into_iter().map(|op| graph.op(op).name.clone()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{form:?}");
    }
}

/// Type of the zero point of every Q and DQ around an operator's data, by the operator's first output.
fn types_read(model: &Model, key: &str) -> Vec<DType> {
    let graph = model.main();
    let made = |name: &str| graph.find(name).and_then(|value| graph.producer(value));
    let (op, _) = made(&format!("{key}_float")).or_else(|| made(key)).expect("the operator is there");
    let inputs = graph.op_inputs(op).into_iter().flatten();
    let links = inputs.filter_map(|value| graph.producer(value).map(|(op, _)| op));
    let links = links.filter(|&link| graph.op(link).kind.is("DequantizeLinear"));
    links.filter_map(|link| graph.constant(graph.input(link, 2)?)).map(Tensor::dtype).collect()
}

#[test]
fn two_precisions_meet_at_a_conversion() {
    // The convolution `p` and the sum behind it read 16 bits, everything around them 8: `m` is converted for `p`, `r` (which
    // `d` reads in 8 bits) for `t`, and `q` for the pool.
    let model = filled(NETWORK);
    let wide = |choices: &mut Choices<'_>| {
        choices.overrides.extend(["p", "t"].map(|key| (key.to_string(), Precision::A16w8)));
    };
    for name in ["qnn", "ort-cpu", "openvino"] {
        let (plan, out) = quantized(&model, name, Form::Qdq, wide);
        let seen = sqnr(&model, &out);
        assert!(seen > GOOD, "{name}: {seen:.1} dB\n{}", ir::text::print(&out));
        assert_eq!(out.opset(""), Some(21), "{name}");
        assert_eq!(plan.ops["p"].precision, Precision::A16w8, "{name}");
        assert_eq!(plan.ops["d"].precision, Precision::Int8, "{name}");
        assert_eq!(types_read(&out, "p")[0], DType::U16, "{name}");
        assert_eq!(types_read(&out, "d")[0], DType::U8, "{name}");
        // No operator reads or writes codes of two types, whatever its neighbours do.
        let options = CheckOptions::default();
        for (target, rule) in [("qnn", "QNN09"), ("ort-cpu", "ORT02")] {
            let found = check(&out, onnxq_passes::target::target(target).unwrap(), &options);
            let mixed: Vec<_> = found.iter().filter(|finding| finding.rule == rule).collect();
            assert!(mixed.is_empty(), "{name}: {mixed:?}\n{}", ir::text::print(&out));
        }
    }
    let (plan, out) = quantized(&model, "qnn", Form::Qdq, wide);
    let converted: Vec<(&str, &str)> =
        plan.conversions.iter().map(|(name, list)| (name.as_str(), list[0].to.grid.code.name())).collect();
    assert_eq!(converted, [("m", "uint16"), ("q", "uint8"), ("r", "uint16")]);
    assert_eq!(types_read(&out, "t"), [DType::U16, DType::U16]);
    // What is 16 bits wide is more accurate than 8 bits there.
    let (_, narrow) = quantized(&model, "qnn", Form::Qdq, |_| {});
    let gain = sqnr(&model, &out) - sqnr(&model, &narrow);
    assert!(gain > 0.0, "{gain:.2} dB");
}

#[test]
fn a_value_that_nothing_writes_in_codes_is_rounded_to_its_widest_grid_first() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,32] x) => (float[4,16] y, float[4,16] z)
<float[32,16] w1 = {}, float[32,16] w2 = {}>
{
  y = MatMul (x, w1)
  z = MatMul (x, w2)
}"#;
    let (plan, out) = quantized(&filled(text), "qnn", Form::Qdq, |choices| {
        choices.overrides.insert("z".into(), Precision::A16w8);
    });
    assert_eq!(plan.values["x"].grid.code.name(), "uint16");
    assert_eq!(plan.conversions["x"][0].readers, ["y"]);
    assert_eq!(types_read(&out, "y")[0], DType::U8);
    assert_eq!(types_read(&out, "z")[0], DType::U16);
}

#[test]
fn constants_are_stored_once_for_each_precision_of_their_readers() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y, float[1,16,6,6] z)
<float[16,8,3,3] w1 = {}, float[16,8,3,3] w2 = {}, float[1,16,1,1] c = {0.5,0.25,0.5,0.25,0.5,0.25,0.5,0.25,
 0.5,0.25,0.5,0.25,0.5,0.25,0.5,0.25}>
{
  a = Conv <pads = [1,1,1,1]> (x, w1)
  d = Conv <pads = [1,1,1,1]> (x, w2)
  y = Add (a, c)
  z = Add (d, c)
}"#;
    let model = filled(text);
    let (plan, out) = quantized(&model, "qnn", Form::Qdq, |choices| {
        choices.overrides.extend(["d", "z"].map(|key| (key.to_string(), Precision::A16w8)));
    });
    assert_eq!(plan.conversions["c"].len(), 1);
    assert_eq!(types_read(&out, "y"), [DType::U8, DType::U8]);
    assert_eq!(types_read(&out, "z"), [DType::U16, DType::U16]);
    let seen = sqnr(&model, &out);
    assert!(seen > GOOD, "{seen:.1} dB\n{}", ir::text::print(&out));
}

#[test]
fn inputs_and_outputs_become_codes() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y)
<float[16,8,3,3] w1 = {}, float[16] b1 = {}>
{ y = Conv <pads = [1,1,1,1]> (x, w1, b1) }"#;
    let (_, mut out) = quantized(&filled(text), "ort-cpu", Form::Qdq, |_| {});
    let told = integer_io(&mut out);
    assert_eq!(
        told.iter().map(|io| (io.name.as_str(), io.codes)).collect::<Vec<_>>(),
        [("x", "uint8"), ("y", "uint8")]
    );
    ir::verify(&out).unwrap();
    let main = out.main();
    assert_eq!(main.value(main.inputs()[0]).dtype(), Some(DType::U8));
    assert_eq!((count(&out, "QuantizeLinear"), &**main.value(main.outputs()[0]).name()), (1, "y"));
}

#[test]
fn a_pointwise_convolution_on_many_channels_is_a_matrix_product() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,128,5] x) => (float[1,160,5] y)
<float[160,128,1] w = {}, float[160] b = {}>
{ y = Conv (x, w, b) }"#;
    let model = filled(text);
    let (plan, out) = quantized(&model, "ort-cpu", Form::Dynamic, |_| {});
    assert_eq!(plan.ops["y"].precision, Precision::Dynamic);
    assert_eq!((count(&out, "MatMulInteger"), count(&out, "Transpose"), count(&out, "Conv")), (1, 2, 0));
    assert!(sqnr(&model, &out) > GOOD);
}

#[test]
fn recurrent_layers_have_a_dynamic_form() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 14]>
main (float[3,2,24] x) => (float[3,2,2,16] y, float[2,2,16] h)
<float[2,64,24] w = {}, float[2,64,16] w_again = {}, float[2,128] b = {}>
{ y, h = LSTM <hidden_size = 16, direction = "bidirectional"> (x, w, w_again, b) }"#;
    let model = filled(text);
    for (form, name, asked, kind) in [
        (Form::Dynamic, "ort-cpu", Some(Precision::Dynamic), "DynamicQuantizeLSTM"),
        (Form::Qdq, "ort-cpu", Some(Precision::Dynamic), "DynamicQuantizeLSTM"),
        (Form::Dynamic, "ort-cpu", None, "LSTM"),
        (Form::Qdq, "ort-cpu", Some(Precision::W8), "LSTM"),
        (Form::Dynamic, "tensorrt", None, "LSTM"),
    ] {
        let (plan, out) = quantized(&model, name, form, |choices| {
            choices.overrides.extend(asked.map(|precision| ("y".to_string(), precision)));
        });
        assert_eq!(plan.weights.contains_key("y"), name == "ort-cpu", "{form:?} {name}");
        assert_eq!(count(&out, kind), 1, "{form:?} {name}");
        assert!(sqnr(&model, &out) > GOOD, "{form:?} {name}");
    }
}

/// Bodies are quantized without ranges, with the constants that stand outside of them too.
#[test]
fn bodies_are_quantized() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,48] x, float[4,48] z) => (float[4,48] y)
<float[48,48] w1 = {}, float[48,48] w2 = {}, bool c = {1}>
{
  n = ReduceSum <keepdims = 0> (z)
  zero = Sub (n, n)
  t = Equal (zero, zero)
  y = If (t) <
    then_branch = one () => (float[4,48] a) { a = MatMul (x, w1) },
    else_branch = two () => (float[4,48] a2) { a2 = MatMul (x, w2) }
  >
}"#;
    let model = filled(text);
    let (plan, out) = quantized(&model, "ort-cpu", Form::Qdq, |_| {});
    assert_eq!(plan.weights.keys().collect::<Vec<_>>(), ["y/else_branch/a2", "y/then_branch/a"]);
    assert_eq!(count(&out, "MatMulInteger"), 2);
    assert!(sqnr(&model, &out) > GOOD);
}

#[test]
fn what_is_no_number_or_too_small_stays_float() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,48] x) => (float[4,48] y, float[4,2] z)
<float[48,48] w1 = {}, float[48,2] w2 = {}>
{ y = MatMul (x, w1)  z = MatMul (x, w2) }"#;
    let mut model = filled(text);
    let graph = model.main_mut();
    let weight = graph.find("w1").unwrap();
    let mut numbers = graph.constant(weight).unwrap().to_vec::<f32>().unwrap();
    numbers[5] = f32::NAN;
    graph.value_mut(weight).data = Some(Tensor::from_slice(&[48, 48], &numbers).unwrap());
    let plan = choose(&model, &Choices { dynamic: true, ..Choices::new(target("ort-cpu").unwrap()) });
    assert_eq!(plan.weights.len(), 0);
    assert_eq!(plan.ops["y"].reason, "the weight holds NaN or infinity");
    assert_eq!(plan.ops["z"].reason, "its weight is too small to save anything");
}

/// The same plan gives the same bytes.
#[test]
fn emission_is_deterministic() {
    let model = filled(NETWORK);
    for form in [Form::Qdq, Form::Qoperator, Form::Dynamic] {
        let bytes = || proto::to_bytes(&quantized(&model, "ort-cpu", form, |_| {}).1).unwrap();
        assert_eq!(bytes(), bytes(), "{form:?}");
    }
}

/// The vector added to a product whose data are rounded when it runs is added by the same kernel: no operator of its own.
#[test]
fn a_bias_of_a_dynamic_product_is_predicted_with_it() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[4,32] x) => (float[4,40] y, float[4,40] z)
<float[32,40] w1 = {}, float[32,40] w2 = {}, float[40] b = {}>
{ a = MatMul (x, w1)  y = Add (a, b)  c = MatMul (x, w2)  z = Add (c, a) }"#;
    let (plan, _) = quantized(&filled(text), "ort-cpu", Form::Dynamic, |_| {});
    // `a` has two readers: no kernel can take the bias of one of them.
    assert_eq!(plan.ops["y"].kernel, Kernel::Float);
    let (plan, _) = quantized(
        &filled(
            &text
                .replace("(c, a)", "(c, x)")
                .replace("[4,40] z", "[4,32] z")
                .replace("float[32,40] w2", "float[32,32] w2"),
        ),
        "ort-cpu",
        Form::Dynamic,
        |_| {},
    );
    assert_eq!(plan.ops["y"].kernel, Kernel::Moves);
    assert_eq!(plan.ops["z"].kernel, Kernel::Float);
}
