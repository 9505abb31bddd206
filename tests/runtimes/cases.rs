//! Models of one operator with inputs and the outputs that are expected of them, and variants of these.

use std::path::{Path, PathBuf};

use ir::{DType, Graph, Model, Place, Shape, Tensor, Type};
use onnxq_ops as ops;
use runtime::{Executor, Feed, Prepare, View};

use crate::{archive, contrib};

/// A model with one set of inputs and outputs, all tensors.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub model: Model,
    pub feed: Feed,
    pub expected: Vec<(String, Tensor)>,
}

/// Cases whose expected numbers were written by hand with four digits, not always rounded: absolute tolerance one of the last.
const FOUR_DIGITS: &[&str] = &[
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_roialign_aligned_false",
    "test_roialign_aligned_true",
];

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Right,
    Wrong(String),
    Error(String),
}

/// Every case that is about tensors alone.
pub fn cases() -> Option<Vec<Case>> {
    let Some(folder) = archive::folder() else {
        eprintln!("skipped: neither ONNXQ_NODE_CASES nor ONNXQ_SHARED is set");
        return None;
    };
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut cases: Vec<Case> = names.iter().filter_map(|path| node_case(path)).collect();
    for text in [include_str!("../../ops/tests/data/contrib.jsonl"), include_str!("../ort_cases.jsonl")] {
        cases.extend(contrib::read(text).into_iter().filter_map(contrib_case));
    }
    Some(cases)
}

fn node_case(path: &Path) -> Option<Case> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let model = proto::read(&path.join("model.onnx"), &proto::ReadOptions::default()).ok()?.model;
    let data = path.join("test_data_set_0");
    let main = model.main();
    let read = |kind: &str, values: &[ir::ValueId]| -> Option<Feed> {
        let mut found = Feed::new();
        for (at, &id) in values.iter().enumerate() {
            let file = data.join(format!("{kind}_{at}.pb"));
            if !file.exists() {
                continue;
            }
            match proto::read_value(&file, main.value(id).ty.as_ref()).ok()? {
                proto::TestValue::Tensor(tensor) => found.push((main.value(id).name().to_string(), tensor)),
                _ => return None,
            }
        }
        Some(found)
    };
    let (feed, expected) = (read("input", main.inputs())?, read("output", main.outputs())?);
    // Random numbers are what nobody else draws.
    let random = ["bernoulli", "training_dropout", "random"].iter().any(|word| name.contains(word));
    (!random && !expected.is_empty()).then_some(Case { name, model, feed, expected })
}

fn contrib_case(case: contrib::Case) -> Option<Case> {
    let mut graph = Graph::new("case");
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let (mut feed, mut expected) = (Feed::new(), Vec::new());
    for (at, tensor) in case.inputs.into_iter().enumerate() {
        let Some(tensor) = tensor else {
            inputs.push(None);
            continue;
        };
        let name = format!("i{at}");
        let ty = Type::tensor(tensor.dtype(), Some(Shape::fixed(tensor.dims())));
        inputs.push(Some(graph.add_input(&name, Some(ty)).ok()?));
        feed.push((name, tensor));
    }
    for (at, tensor) in case.outputs.into_iter().enumerate() {
        let Some(tensor) = tensor else {
            outputs.push(None);
            continue;
        };
        let name = format!("o{at}");
        let ty = Type::tensor(tensor.dtype(), Some(Shape::fixed(tensor.dims())));
        outputs.push(Some(graph.add_computed(&name, Some(ty)).ok()?));
        expected.push((name, tensor));
    }
    let domain = case.op.kind.domain().to_string();
    graph.add_op(case.op, &inputs, &outputs, Place::End).ok()?;
    outputs.iter().flatten().for_each(|&output| graph.add_output(output));
    let mut model = Model::new(10, if domain.is_empty() { case.opset } else { 21 }, graph);
    if !domain.is_empty() {
        model.raise_opset(&domain, case.opset);
    }
    Some(Case { name: case.name, model, feed, expected })
}

/// The case with all inputs but the first as constants: what models mostly do.
pub fn with_constants(case: &Case) -> Option<Case> {
    let mut case = case.clone();
    if case.feed.len() < 2 {
        return None;
    }
    let rest = case.feed.split_off(1);
    let main = case.model.main_mut();
    for (name, tensor) in rest {
        let id = main.find(&name)?;
        main.value_mut(id).data = Some(tensor);
        main.fix_input(id);
    }
    Some(case)
}

/// The case with all inputs as constants: what folding sees.
pub fn all_constant(case: &Case) -> Option<Case> {
    let mut case = case.clone();
    let main = case.model.main_mut();
    for (name, tensor) in case.feed.drain(..) {
        let id = main.find(&name)?;
        main.value_mut(id).data = Some(tensor);
        main.fix_input(id);
    }
    Some(case)
}

/// Runs a case; the outputs of other names or types than expected count as wrong.
pub fn run(executor: &dyn Executor, case: &Case, slack: f64) -> End {
    let slack = if FOUR_DIGITS.contains(&case.name.as_str()) { 1e-4 } else { slack };
    let mut session = match executor.prepare(&case.model, &Prepare::default()) {
        Ok(session) => session,
        Err(error) => return End::Error(error.to_string()),
    };
    // Once before: what a run leaves behind must not show in the next one.
    if let Err(error) = session.run(&case.feed, &mut |_: &str, _: View<'_>| ()) {
        return End::Error(error.to_string());
    }
    let mut found: Vec<(String, Tensor)> = Vec::new();
    let mut keep = |name: &str, view: View<'_>| found.extend(view.to_tensor().map(|t| (name.to_string(), t)));
    if let Err(error) = session.run(&case.feed, &mut keep) {
        return End::Error(error.to_string());
    }
    for (name, expected) in &case.expected {
        if expected.dtype() == DType::String {
            return End::Error("strings are not shown".into());
        }
        let Some((_, found)) = found.iter().find(|(known, _)| known == name) else {
            return End::Wrong(format!("output {name:?} is missing"));
        };
        if let Err(why) = agree(found, expected, slack) {
            return End::Wrong(format!("output {name:?}: {why}"));
        }
    }
    End::Right
}

/// The expected numbers were computed in their own type and another order of sums: a few units in the last place of the
/// whole tensor. Integers are exact, but for `slack` steps where an operator on codes is computed in float.
fn agree(found: &Tensor, expected: &Tensor, slack: f64) -> Result<(), String> {
    let half = |dtype| matches!(dtype, DType::F16 | DType::BF16);
    let widened = half(expected.dtype()) && found.dtype() == DType::F32;
    if (found.dtype() != expected.dtype() && !widened) || found.dims() != expected.dims() {
        let show = |t: &Tensor| format!("{} {:?}", t.dtype(), t.dims());
        return Err(format!("{}, expected {}", show(found), show(expected)));
    }
    let (Some(a), Some(b)) = (ops::array::to_f64s(found), ops::array::to_f64s(expected)) else {
        return if found.data() == expected.data() { Ok(()) } else { Err("other elements".into()) };
    };
    let relative = match expected.dtype() {
        DType::F64 => 1e-6,
        DType::F32 => 1e-4,
        DType::F16 => 5e-3,
        DType::BF16 => 3e-2,
        _ => 0.0,
    };
    let size = b.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    for (at, (a, b)) in a.iter().zip(&b).enumerate() {
        let near = a == b
            || (a.is_nan() && b.is_nan())
            || (a - b).abs() <= slack + relative * (b.abs() + 0.1 * size);
        // A number beyond float16 stays finite where it was widened.
        let beyond = widened && b.is_infinite() && a.abs() > 65_000.0;
        if !near && !beyond {
            return Err(format!("element {at} is {a}, expected {b}"));
        }
    }
    Ok(())
}

/// Element types that a case is tried with in the place of each of its own.
pub const TYPES: &[DType] = &[
    DType::F32,
    DType::F64,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::Bool,
];

/// Operator sets that a case is tried with.
pub const OPSETS: &[i64] = &[18, 19, 21, 23];

/// The case in another type and operator set, with what the reference evaluator makes of it; none where that is nothing.
pub fn varied(case: &Case, types: Option<(DType, DType)>, opset: Option<i64>) -> Option<Case> {
    let mut case = case.clone();
    if let Some((from, dtype)) = types {
        if from == dtype || !matches!(from, DType::F32 | DType::I64 | DType::I32 | DType::Bool | DType::U8) {
            return None;
        }
        let main = case.model.main_mut();
        for value in main.values().collect::<Vec<_>>() {
            // What the outputs are follows from the inputs.
            main.value_mut(value).ty = None;
        }
        for (name, tensor) in &mut case.feed {
            if tensor.dtype() == from {
                *tensor = cast(tensor, dtype)?;
            }
            let id = main.find(name)?;
            main.value_mut(id).ty = Some(Type::tensor(tensor.dtype(), Some(Shape::fixed(tensor.dims()))));
        }
    }
    if let Some(opset) = opset {
        let own = case.model.opsets.iter_mut().find(|(domain, own)| domain.is_empty() && *own != opset)?;
        own.1 = opset;
    }
    let reference = expected(&case)?;
    case.expected = reference;
    Some(case)
}

fn cast(tensor: &Tensor, dtype: DType) -> Option<Tensor> {
    let numbers = ops::array::to_f64s(tensor)?;
    if dtype.is_float() || dtype == DType::Bool {
        let numbers: Vec<f32> = numbers.iter().map(|&v| v as f32).collect();
        return match dtype {
            DType::Bool => {
                Tensor::from_slice(tensor.dims(), &numbers.iter().map(|&v| v > 0.0).collect::<Vec<_>>()).ok()
            }
            _ => ops::array::from_f32s(dtype, tensor.dims(), &numbers).ok(),
        };
    }
    // Small whole numbers: inside every type, and no product of a few of them leaves it.
    let whole: Vec<i64> = numbers.iter().map(|v| (v.abs() * 3.0).min(9.0) as i64).collect();
    ops::array::from_i64s(dtype, tensor.dims(), &whole).ok()
}

/// What the reference evaluator gives.
fn expected(case: &Case) -> Option<Vec<(String, Tensor)>> {
    let mut session = runtime::Reference.prepare(&case.model, &Prepare::default()).ok()?;
    let mut found = Vec::new();
    let mut keep = |name: &str, view: View<'_>| found.extend(view.to_tensor().map(|t| (name.to_string(), t)));
    session.run(&case.feed, &mut keep).ok()?;
    (!found.is_empty()).then_some(found)
}
