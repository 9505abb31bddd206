//! Quantized text models: fitted to what their values are, written in one of three forms, run by the reference evaluator.

use std::collections::BTreeMap;

use ir::text::parse;
use ir::{DType, Model};
use onnxq_passes::quantize::emit_qdq::{emit_qdq, needed_opset};
use onnxq_passes::quantize::emit_qoperator::emit_qoperator;
use onnxq_passes::quantize::{Choices, QuantPlan, choose};
use onnxq_passes::target::target;
use onnxq_passes::{Spec, Step};
use ops::Value;
use quant::{Params, Policy};

use super::values::{Feed, evaluate, made};

/// A text model whose constants named `w…` and `b…` are filled by rule.
pub fn model(text: &str) -> Model {
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

pub fn steps(model: &mut Model, names: &[&str]) {
    let steps: Vec<Step> = names.iter().map(|name| Step::Once(Spec::new(name))).collect();
    onnxq_passes::run(model, &steps, Default::default())
        .unwrap_or_else(|failure| panic!("{}", failure.error));
}

pub fn feed(model: &Model) -> Feed {
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
pub fn fit(plan: &mut QuantPlan, model: &Model) {
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
pub fn sqnr(model: &Model, other: &Model) -> f64 {
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

/// How a plan is written.
#[allow(dead_code)] // not every test writes every form
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    Qdq,
    Qoperator,
    Dynamic,
}

pub fn quantized(
    model: &Model,
    name: &str,
    form: Form,
    change: impl Fn(&mut Choices<'_>),
) -> (QuantPlan, Model) {
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

#[allow(dead_code)] // as above
pub fn count(model: &Model, kind: &str) -> usize {
    let of = |id| {
        let graph = model.graph(id);
        graph.ops().into_iter().filter(|&op| &*graph.op(op).kind.name == kind).count()
    };
    model.graph_ids().into_iter().map(of).sum()
}

/// Rounding a signal to 8 bits over its own range leaves 30 to 45 dB for these models, one to four layers deep; a scale on
/// the wrong axis, a bias in the wrong unit or a lost function leaves less than 15.
pub const GOOD: f64 = 25.0;

pub fn filled(text: &str) -> Model {
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
