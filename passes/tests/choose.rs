//! Which operators and values each target quantizes, on the patterns that models are made of. Each case names the values
//! that are rounded and what is predicted of every operator (`i` integer, `m` moves, `f` float, `x` fails), in the order
//! of the model.

use ir::{Builder, DType, Model, Op, Shape, Tensor, Type, ValueId};
use onnxq_passes::quantize::{Choices, Kernel, Precision, QuantPlan, choose};
use onnxq_passes::target::{skip_slot, target};
use onnxq_passes::{Spec, Step};

/// A constant of these sizes whose elements differ.
fn weight(b: &mut Builder, name: &str, dims: &[usize]) -> ValueId {
    let count = dims.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 100.0).collect();
    b.constant(name, Tensor::from_slice(dims, &values).unwrap())
}

fn named(b: &mut Builder, name: &str, value: ValueId) -> ValueId {
    b.graph().rename(value, name).unwrap();
    value
}

/// `name = kind(inputs)` with attributes.
fn op(b: &mut Builder, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let value = b.add(op, &inputs, 1)[0];
    named(b, name, value)
}

/// A 3 x 3 convolution with a bias.
fn conv(b: &mut Builder, name: &str, x: ValueId, from: usize, to: usize, group: i64) -> ValueId {
    let w = weight(b, &format!("{name}_w"), &[to, from / group as usize, 3, 3]);
    let bias = weight(b, &format!("{name}_b"), &[to]);
    let kind = Op::new("Conv").with("pads", ir::AttrValue::Ints(vec![1; 4])).with("group", group);
    op(b, name, kind, &[x, w, bias])
}

/// A Relu of 32 channels; `x` of the model says whether the batch is open.
fn relu(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    let input = b.graph().find("x").unwrap();
    let batch = b.graph().value(input).shape().unwrap().dims[0].clone();
    let value = op(b, name, Op::new("Relu"), &[x]);
    let sizes = [batch, 32.into(), 8.into(), 8.into()];
    b.graph().value_mut(value).ty = Some(Type::tensor(DType::F32, Some(Shape::new(sizes))));
    value
}

fn finish(mut b: Builder, y: ValueId) -> Model {
    b.output(y);
    let mut model = b.build();
    let infer = Step::Once(Spec::new("infer_shapes"));
    onnxq_passes::run(&mut model, &[infer], Default::default()).unwrap();
    model
}

fn image(b: &mut Builder, channels: usize) -> ValueId {
    b.input("x", &format!("float[1,{channels},8,8]"))
}

/// `stem -> relu -> (conv -> relu -> conv) + skip -> relu -> conv`.
fn residual() -> Model {
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let stem = conv(&mut b, "stem", x, 32, 32, 1);
    let skip = relu(&mut b, "skip", stem);
    let first = conv(&mut b, "first", skip, 32, 32, 1);
    let middle = relu(&mut b, "middle", first);
    let second = conv(&mut b, "second", middle, 32, 32, 1);
    let sum = op(&mut b, "sum", Op::new("Add"), &[second, skip]);
    let out = relu(&mut b, "out", sum);
    let y = conv(&mut b, "y", out, 32, 32, 1);
    finish(b, y)
}

/// A residual block whose skip is a convolution too: the longer branch is fused.
fn downsample() -> Model {
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let first = conv(&mut b, "first", x, 32, 32, 1);
    let middle = relu(&mut b, "middle", first);
    let second = conv(&mut b, "second", middle, 32, 32, 1);
    let short = conv(&mut b, "short", x, 32, 32, 1);
    let sum = op(&mut b, "sum", Op::new("Add"), &[short, second]);
    let y = conv(&mut b, "y", sum, 32, 32, 1);
    finish(b, y)
}

fn concat() -> Model {
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let left = conv(&mut b, "left", x, 32, 32, 1);
    let a = relu(&mut b, "a", left);
    let right = conv(&mut b, "right", a, 32, 32, 1);
    let c = relu(&mut b, "c", right);
    let d = conv(&mut b, "d", c, 32, 32, 1);
    let joined = op(&mut b, "joined", Op::new("Concat").with("axis", 1i64), &[a, c]);
    let e = conv(&mut b, "e", joined, 64, 32, 1);
    let y = op(&mut b, "y", Op::new("Mul"), &[d, e]);
    finish(b, y)
}

/// `conv -> x * sigmoid(x) -> conv`.
fn silu() -> Model {
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let a = conv(&mut b, "a", x, 32, 32, 1);
    let gate = op(&mut b, "gate", Op::new("Sigmoid"), &[a]);
    let act = op(&mut b, "act", Op::new("Mul"), &[a, gate]);
    let y = conv(&mut b, "y", act, 32, 32, 1);
    finish(b, y)
}

/// Self attention with one head, and the residual behind it.
fn attention() -> Model {
    let mut b = Builder::new(17);
    let x = b.input("x", "float[1,16,32]");
    let heads: Vec<ValueId> = ["q", "k", "v"]
        .map(|name| {
            let w = weight(&mut b, &format!("{name}_w"), &[32, 32]);
            op(&mut b, name, Op::new("MatMul"), &[x, w])
        })
        .to_vec();
    let turn = Op::new("Transpose").with("perm", ir::AttrValue::Ints(vec![0, 2, 1]));
    let kt = op(&mut b, "kt", turn, &[heads[1]]);
    let scores = op(&mut b, "scores", Op::new("MatMul"), &[heads[0], kt]);
    let share = op(&mut b, "share", Op::new("Softmax"), &[scores]);
    let mixed = op(&mut b, "mixed", Op::new("MatMul"), &[share, heads[2]]);
    let w = weight(&mut b, "o_w", &[32, 32]);
    let o = op(&mut b, "o", Op::new("MatMul"), &[mixed, w]);
    let sum = op(&mut b, "sum", Op::new("Add"), &[o, x]);
    let (scale, shift) = (weight(&mut b, "scale", &[32]), weight(&mut b, "shift", &[32]));
    let norm = op(&mut b, "norm", Op::new("LayerNormalization"), &[sum, scale, shift]);
    let w = weight(&mut b, "y_w", &[32, 32]);
    let y = op(&mut b, "y", Op::new("MatMul"), &[norm, w]);
    finish(b, y)
}

/// Pool, flatten, classify; the batch is open.
fn classifier() -> Model {
    let mut b = Builder::new(17);
    let x = b.input("x", "float[n,32,8,8]");
    let c = conv(&mut b, "c", x, 32, 32, 1);
    let act = relu(&mut b, "act", c);
    let pool = op(&mut b, "pool", Op::new("GlobalAveragePool"), &[act]);
    let flat = op(&mut b, "flat", Op::new("Flatten"), &[pool]);
    let (w, bias) = (weight(&mut b, "y_w", &[16, 32]), weight(&mut b, "y_b", &[16]));
    let y = op(&mut b, "y", Op::new("Gemm").with("transB", 1i64), &[flat, w, bias]);
    finish(b, y)
}

/// First layer, depthwise, pointwise.
fn depthwise() -> Model {
    let mut b = Builder::new(17);
    let x = image(&mut b, 3);
    let first = conv(&mut b, "first", x, 3, 32, 1);
    let deep = conv(&mut b, "deep", first, 32, 32, 32);
    let y = conv(&mut b, "y", deep, 32, 64, 1);
    finish(b, y)
}

fn plan(model: &Model, name: &str) -> QuantPlan {
    choose(model, &Choices::new(target(name).unwrap()))
}

/// `name=i` for every operator in the order of the model.
fn kernels(model: &Model, plan: &QuantPlan) -> String {
    let graph = model.main();
    let mut out = Vec::new();
    for op in graph.ops() {
        let name = graph.value(graph.output(op, 0).unwrap()).name().to_string();
        let letter = match plan.ops[&name].kernel {
            Kernel::Integer => "i",
            Kernel::Moves => "m",
            Kernel::Float => "f",
            Kernel::Fails => "x",
        };
        out.push(format!("{name}={letter}"));
    }
    out.join(" ")
}

type Case = (&'static str, fn() -> Model, &'static str, &'static str, &'static str);

/// Name, model, target, rounded values, predictions.
const CASES: &[Case] = &[
    (
        "ONNX Runtime adds on codes, so both branches are rounded, behind the activation",
        residual,
        "ort-cpu",
        "middle out second skip x y",
        "stem=i skip=m first=i middle=m second=i sum=i out=m y=i",
    ),
    (
        "TensorRT fuses the sum into the second convolution: only the skip is rounded",
        residual,
        "tensorrt",
        "middle out skip x",
        "stem=i skip=m first=i middle=m second=i sum=i out=m y=i",
    ),
    (
        "OpenVINO fuses the sum; the branch stays float",
        residual,
        "openvino",
        "middle out skip x",
        "stem=i skip=m first=i middle=m second=i sum=f out=f y=i",
    ),
    (
        "QNN wants every unit complete",
        residual,
        "qnn",
        "middle out second skip x y",
        "stem=i skip=m first=i middle=m second=i sum=i out=m y=i",
    ),
    (
        "tract computes in float whatever is rounded",
        residual,
        "tract",
        "middle out skip x",
        "stem=f skip=f first=f middle=f second=f sum=f out=f y=f",
    ),
    (
        "of two convolutions the shorter branch is the skip",
        downsample,
        "tensorrt",
        "middle short sum x",
        "first=i middle=m second=i short=i sum=i y=i",
    ),
    (
        "the rounding moves across the concatenation",
        concat,
        "tensorrt",
        "a c joined x",
        "left=i a=m right=i c=m d=i joined=m e=i y=f",
    ),
    (
        "concatenation on codes",
        concat,
        "openvino",
        "a c joined x",
        "left=i a=m right=i c=m d=i joined=m e=i y=f",
    ),
    ("nothing is rounded inside of a SiLU", silu, "tensorrt", "act x", "a=i gate=f act=f y=i"),
    ("sigmoid and product run on codes", silu, "ort-cpu", "a act gate x y", "a=i gate=i act=i y=i"),
    (
        "attention itself and the residual stay float",
        attention,
        "ort-cpu",
        "mixed norm x",
        "q=i k=i v=i kt=f scores=f share=f mixed=f o=i sum=f norm=f y=i",
    ),
    (
        "no residual is fused behind a matrix product",
        attention,
        "tensorrt",
        "mixed norm x",
        "q=i k=i v=i kt=f scores=f share=f mixed=f o=i sum=f norm=f y=i",
    ),
    (
        "products of activations and data movement too, the normalization is an island",
        attention,
        "qnn",
        "k kt mixed norm o q scores share sum v x y",
        "q=i k=i v=i kt=m scores=i share=i mixed=i o=i sum=i norm=f y=i",
    ),
    (
        "the pool's neighbours are quantized, so it is",
        classifier,
        "ort-cpu",
        "act flat pool x",
        "c=i act=m pool=i flat=m y=i",
    ),
    (
        "an open batch: nothing would load",
        classifier,
        "qnn",
        "act flat pool x y",
        "c=x act=x pool=x flat=x y=x",
    ),
    (
        "few input channels stay float, depthwise is quantized",
        depthwise,
        "tensorrt",
        "deep first",
        "first=f deep=i y=i",
    ),
    ("everything", depthwise, "ort-cpu", "deep first x y", "first=i deep=i y=i"),
];

#[test]
fn each_target_quantizes_what_pays_there() {
    let mut wrong = Vec::new();
    for (why, model, target, values, predicted) in CASES {
        let model = model();
        let plan = plan(&model, target);
        let found: Vec<&str> = plan.values.keys().map(String::as_str).collect();
        let (found, kernels) = (found.join(" "), kernels(&model, &plan));
        if found != *values || kernels != *predicted {
            wrong.push(format!("{target}: {why}\n  {values}\n  {found}\n  {predicted}\n  {kernels}"));
        }
    }
    assert!(wrong.is_empty(), "expected, then found:\n{}", wrong.join("\n"));
}

#[test]
fn concatenated_values_share_one_scale_where_the_target_wants_it() {
    for (target, shared) in [("tensorrt", true), ("openvino", true), ("ort-cpu", false)] {
        let plan = plan(&concat(), target);
        let class = |name: &str| plan.values[name].class;
        assert_eq!(class("a") == class("c") && class("a") == class("joined"), shared, "{target}");
    }
}

#[test]
fn movement_keeps_the_scale() {
    let plan = plan(&classifier(), "ort-cpu");
    assert_eq!(plan.values["pool"].class, plan.values["flat"].class);
    assert_ne!(plan.values["act"].class, plan.values["flat"].class);
}

#[test]
fn weights_and_biases_follow_the_target() {
    for (name, conv_axis, product_axis, bias) in [
        ("ort-cpu", Some(0), Some(0), true),
        ("tensorrt", Some(0), Some(0), false),
        ("openvino", Some(0), Some(0), false),
        ("qnn", Some(0), None, true),
        ("tract", Some(0), Some(0), false),
    ] {
        let plan = plan(&classifier(), name);
        assert_eq!(plan.weights["c"][0].axis, conv_axis, "{name}");
        assert_eq!(plan.weights["y"][0].axis, product_axis, "{name}");
        assert_eq!(plan.biases.contains_key("c"), bias, "{name}");
        let grid = plan.values["x"].grid;
        assert_eq!(grid.symmetric, name == "tensorrt", "{name}");
    }
}

#[test]
fn sixteen_bit_functions_get_the_scales_that_qnn_has_built_in() {
    let model = silu();
    let choices = Choices { precision: Precision::A16w8, ..Choices::new(target("qnn").unwrap()) };
    let plan = choose(&model, &choices);
    let (low, high) = plan.values["gate"].range.unwrap();
    assert_eq!((low, (high - low) / 65535.0), (0.0, 1.0 / 65536.0));
}

#[test]
fn constants_beside_activations_are_rounded_with_them() {
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let a = conv(&mut b, "a", x, 32, 32, 1);
    let shift = b.constant("shift", Tensor::from_slice(&[1, 32, 1, 1], &[0.5f32; 32]).unwrap());
    let sum = op(&mut b, "sum", Op::new("Add"), &[a, shift]);
    let y = conv(&mut b, "y", sum, 32, 32, 1);
    let model = finish(b, y);
    let plan = plan(&model, "ort-cpu");
    assert_eq!(plan.values.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "shift", "sum", "x", "y"]);
}

#[test]
fn a_block_around_one_convolution_has_no_skip() {
    // The convolution is where the branches part: its own result is added to what was computed from it.
    let mut b = Builder::new(17);
    let x = image(&mut b, 32);
    let a = conv(&mut b, "a", x, 32, 32, 1);
    let norm = op(&mut b, "norm", Op::new("Softmax"), &[a]);
    let sum = op(&mut b, "sum", Op::new("Add"), &[norm, a]);
    let y = conv(&mut b, "y", sum, 32, 32, 1);
    let model = finish(b, y);
    let graph = model.main();
    let add = graph.ops().into_iter().find(|&op| graph.op(op).kind.is("Add")).unwrap();
    assert_eq!(skip_slot(graph, add), None);
}
