//! What the emitters write computes what the float model computes, in every form, for models that have gone wrong in other
//! tools. The reference evaluator runs both.

#[path = "support/values.rs"]
mod values;

use std::collections::BTreeMap;

use ir::text::parse;
use ir::{DType, Model, Tensor};
use onnxq_passes::check::{CheckOptions, check};
use onnxq_passes::quantize::emit_qdq::{emit_qdq, needed_opset};
use onnxq_passes::quantize::emit_qoperator::emit_qoperator;
use onnxq_passes::quantize::integer_io::integer_io;
use onnxq_passes::quantize::{Choices, Precision, QuantPlan, choose};
use onnxq_passes::target::target;
use onnxq_passes::{Spec, Step};
use ops::Value;
use quant::{Params, Policy};
use values::{Feed, evaluate, made};

/// A text model whose constants named `w…` and `b…` are filled by rule.
fn model(text: &str) -> Model {
    let mut model = parse(text).unwrap_or_else(|error| panic!("{error}"));
    for id in model.graph_ids() {
        let graph = model.graph_mut(id);
        for value in graph.values().collect::<Vec<_>>() {
            let Some(old) = graph.constant(value).cloned() else { continue };
            let name = graph.value(value).name().to_string();
            if old.dtype() == DType::F32 && old.elements() > 3 && name.starts_with(['w', 'b']) {
                let seed = name.bytes().map(u64::from).sum();
                let filled = made(DType::F32, old.dims(), seed, Some((-1.0, 1.0)), false).unwrap();
                graph.value_mut(value).data = Some(filled);
            }
        }
    }
    steps(&mut model, &["normalize", "sink_constants", "infer_shapes"]);
    model
}

fn steps(model: &mut Model, names: &[&str]) {
    let steps: Vec<Step> = names.iter().map(|name| Step::Once(Spec::new(name))).collect();
    onnxq_passes::run(model, &steps, Default::default())
        .unwrap_or_else(|failure| panic!("{}", failure.error));
}

fn feed(model: &Model) -> Feed {
    let main = model.main();
    let feed = main.inputs().iter().enumerate().map(|(at, &input)| {
        let value = main.value(input);
        let sizes = value.shape().and_then(|shape| shape.known()).expect("fixed sizes");
        let range = if value.dtype() == Some(DType::I64) { Some((0.0, 7.0)) } else { Some((-2.0, 2.0)) };
        let tensor = made(value.dtype().unwrap(), &sizes, 11 + at as u64, range, false).unwrap();
        Some(Value::Tensor(tensor))
    });
    feed.collect()
}

/// Scales from the range that each value really has.
fn fit(plan: &mut QuantPlan, model: &Model) {
    let names: Vec<String> = plan.values.keys().cloned().collect();
    let mut shown = model.clone();
    let main = shown.main_mut();
    let mut ranges: BTreeMap<String, (f32, f32)> = BTreeMap::new();
    let first = main.outputs().len();
    let mut tapped = Vec::new();
    let fed = feed(model);
    for name in names {
        let value = main.find(&name).unwrap();
        let inputs = main.inputs().to_vec();
        if let Some(tensor) = main.constant(value) {
            ranges.insert(name, quant::quantize::min_max(&tensor.to_vec::<f32>().unwrap()));
        } else if let Some(at) = inputs.iter().position(|&input| input == value) {
            let Some(Value::Tensor(tensor)) = &fed[at] else { panic!("a tensor") };
            ranges.insert(name, quant::quantize::min_max(&tensor.to_vec::<f32>().unwrap()));
        } else {
            main.add_output(value);
            tapped.push(name);
        }
    }
    for (name, value) in tapped.into_iter().zip(evaluate(&shown, &fed).unwrap().into_iter().skip(first)) {
        let Value::Tensor(tensor) = value else { panic!("a tensor") };
        ranges.insert(name, quant::quantize::min_max(&tensor.to_vec::<f32>().unwrap()));
    }
    let classes: BTreeMap<usize, Vec<String>> = plan
        .classes()
        .into_iter()
        .map(|(class, names)| (class, names.into_iter().map(String::from).collect()))
        .collect();
    for (class, names) in classes {
        let own = plan.rounded().filter(|(_, entry)| entry.class == class).find_map(|(_, entry)| entry.range);
        let seen = names.iter().map(|name| ranges[name]).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap();
        for (_, entry) in plan.rounded_mut().filter(|(_, entry)| entry.class == class) {
            let (low, high) = own.unwrap_or(seen);
            entry.params = Some(Params::from_range(low, high, entry.grid, &Policy::default()).0);
        }
    }
}

/// In dB, over all float outputs.
fn sqnr(model: &Model, other: &Model) -> f64 {
    ir::verify(other).unwrap_or_else(|error| panic!("{error}\n{}", ir::text::print(other)));
    let numbers = |model: &Model| -> Vec<f64> {
        let outputs =
            evaluate(model, &feed(model)).unwrap_or_else(|e| panic!("{e}\n{}", ir::text::print(model)));
        let tensors = outputs.into_iter().filter_map(|value| match value {
            Value::Tensor(tensor) => ops::array::to_f64s(&tensor),
            _ => None,
        });
        tensors.flatten().collect()
    };
    let (a, b) = (numbers(model), numbers(other));
    assert_eq!(a.len(), b.len());
    let noise: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    let signal: f64 = a.iter().map(|a| a * a).sum();
    10.0 * (signal / noise.max(1e-30)).log10()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Form {
    Qdq,
    Qoperator,
    Dynamic,
}

fn quantized(model: &Model, name: &str, form: Form, change: impl Fn(&mut Choices<'_>)) -> (QuantPlan, Model) {
    let mut choices = Choices::new(target(name).unwrap());
    choices.dynamic = form == Form::Dynamic;
    change(&mut choices);
    let mut plan = choose(model, &choices);
    fit(&mut plan, model);
    let mut out = model.clone();
    if out.opset("").unwrap() < needed_opset(&plan) {
        let step = Step::Once(Spec::new("raise_opset").with("to", needed_opset(&plan)));
        onnxq_passes::run(&mut out, &[step], Default::default())
            .unwrap_or_else(|failure| panic!("{}", failure.error));
    }
    match form {
        Form::Qoperator => emit_qoperator(&mut out, &plan).unwrap(),
        _ => emit_qdq(&mut out, &plan).unwrap(),
    }
    out.settle();
    (plan, out)
}

fn count(model: &Model, kind: &str) -> usize {
    let of = |id| {
        let graph = model.graph(id);
        graph.ops().into_iter().filter(|&op| &*graph.op(op).kind.name == kind).count()
    };
    model.graph_ids().into_iter().map(of).sum()
}

/// Rounding a signal to 8 bits over its own range leaves 30 to 45 dB for these models, one to four layers deep; a scale on
/// the wrong axis, a bias in the wrong unit or a lost function leaves less than 15.
const GOOD: f64 = 25.0;

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

fn filled(text: &str) -> Model {
    // The text form has no elements for large constants: `{}` stands for as many zeros as the sizes say.
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(" = {}") {
        let (head, tail) = rest.split_at(at);
        let start = head.rfind("float[").expect("a float constant") + "float[".len();
        let sizes = &head[start..start + head[start..].find(']').unwrap()];
        let count: usize = sizes.split(',').map(|size| size.trim().parse::<usize>().unwrap()).product();
        out += head;
        out += &format!(" = {{{}}}", vec!["0"; count].join(","));
        rest = &tail[" = {}".len()..];
    }
    model(&(out + rest))
}

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

/// A Clip goes only where the codes cannot leave its range: D5 of onnxruntime.quantization, which removes it and is off by 72 %.
#[test]
fn a_clip_away_from_zero_stays() {
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
fn a_relu_before_symmetric_codes_stays() {
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

/// One weight, two readers that use it differently: D6, 109 to 129 % error where the weight is rewritten in place.
#[test]
fn tied_weights_stay_what_they_are_for_each_reader() {
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

/// Scales for each matrix of a stack cannot run (D7): one scale for all.
#[test]
fn stacks_of_matrices_have_one_scale() {
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

/// D9: a bias of shape [1, N] crashes there. Here also [M, 1], one element, and beta.
#[test]
fn biases_of_every_shape() {
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

/// D13: float16 models fail below opset 19. Here they are widened, and their inputs and outputs stay what they are.
#[test]
fn half_precision_models_are_quantized() {
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

/// Runtimes round a float weight between rounded values to one scale when they load it: what was excluded would not be.
#[test]
fn an_excluded_convolution_is_kept_from_being_rounded() {
    let text = r#"
<ir_version: 10, opset_import: ["" : 17]>
main (float[1,8,6,6] x) => (float[1,16,6,6] y)
<float[16,8,1,1] w1 = {}, float[16,16,1,1] w2 = {}, float[16,16,1,1] w3 = {}>
{ a = Conv (x, w1)  b = Conv (a, w2)  y = Conv (b, w3) }"#;
    let model = filled(text);
    let (plan, out) = quantized(&model, "ort-cpu", Form::Qdq, |choices| {
        choices.overrides.insert("b".into(), Precision::Float);
    });
    assert!(!plan.weights.contains_key("b"));
    assert_eq!(count(&out, "Max"), 1, "{}", ir::text::print(&out));
    assert!(sqnr(&model, &out) > GOOD);
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
