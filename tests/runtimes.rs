//! What each runtime can do, operator by operator: the ONNX node cases and ONNX Runtime's answers for com.microsoft
//! operators, run through tract.
//!
//! Forms that neither of them has are in `ort_cases.jsonl`, with ONNX Runtime's answers (`make_ort_cases.py` writes it).
//!
//! Two files are generated here (`BLESS=1` writes them) and must be fresh:
//! - `runtime/src/tract/proven.txt`, the gate: forms of operators that tract itself runs right. Each case also runs with
//!   other element types and operator sets, judged by the reference evaluator.
//! - `runtime/OPERATORS.txt`: what becomes of each operator when a model is lowered and run.
//!
//! Nothing that the gate lets through may come out wrong: that is the test.
//!
//! `ONNXQ_EXPLAIN=Resize` prints why cases of that operator do not count as right.
//!
//! `ONNXQ_NODE_CASES` names the unpacked folder of cases, or `ONNXQ_SHARED` the folder that holds
//! `data/onnx-node-tests.tar.zst`; without either the tests say so and pass.

extern crate ops as onnxq_ops;

#[allow(dead_code)]
#[path = "../ops/tests/cases/mod.rs"]
mod contrib;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ir::{DType, Graph, Model, OpKind, Place, Shape, Tensor, Type};
use onnxq::pipeline::prepare::lowered;
use runtime::proof::form;
use runtime::{Executor, Feed, Prepare, Tract, Ungated, View};

/// A model with one set of inputs and outputs, all tensors.
#[derive(Clone)]
struct Case {
    name: String,
    model: Model,
    feed: Feed,
    expected: Vec<(String, Tensor)>,
}

/// Cases whose expected numbers were written by hand with four digits, not always rounded: absolute tolerance one of the last.
const FOUR_DIGITS: &[&str] = &[
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_roialign_aligned_false",
    "test_roialign_aligned_true",
];

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Right,
    Wrong(String),
    Error(String),
}

fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ONNXQ_NODE_CASES") {
        return Some(folder.into());
    }
    let archive = PathBuf::from(std::env::var_os("ONNXQ_SHARED")?).join("data/onnx-node-tests.tar.zst");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-cases");
    if !folder.join("node").exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder).status().unwrap();
        assert!(unpacked.success(), "tar cannot unpack {}", archive.display());
    }
    Some(folder.join("node"))
}

/// Every case that is about tensors alone.
fn cases() -> Option<Vec<Case>> {
    let Some(folder) = folder() else {
        eprintln!("skipped: neither ONNXQ_NODE_CASES nor ONNXQ_SHARED is set");
        return None;
    };
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut cases: Vec<Case> = names.iter().filter_map(|path| node_case(path)).collect();
    for text in [include_str!("../ops/tests/data/contrib.jsonl"), include_str!("ort_cases.jsonl")] {
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
fn with_constants(case: &Case) -> Option<Case> {
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
fn all_constant(case: &Case) -> Option<Case> {
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
fn run(executor: &dyn Executor, case: &Case, slack: f64) -> End {
    let slack = if FOUR_DIGITS.contains(&case.name.as_str()) { 1e-4 } else { slack };
    let mut session = match executor.prepare(&case.model, &Prepare::default()) {
        Ok(session) => session,
        Err(error) => return End::Error(error.to_string()),
    };
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

// ---- the gate --------------------------------------------------------------------------------------------------

/// Element types that a case is tried with in the place of each of its own.
const TYPES: &[DType] = &[
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
const OPSETS: &[i64] = &[18, 19, 21, 23];

/// The case in another type and operator set, with what the reference evaluator makes of it; none where that is nothing.
fn varied(case: &Case, types: Option<(DType, DType)>, opset: Option<i64>) -> Option<Case> {
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

/// Features by how well they explain a failure; the last resort last.
fn weight(feature: &str) -> u8 {
    match feature {
        _ if feature.starts_with("opset=") => 4,
        _ if feature.starts_with("rank") => 3,
        _ if feature.starts_with("input") || feature.starts_with("output") => 2,
        _ if feature.contains('=') => 0,
        _ => 1,
    }
}

type Seen = BTreeMap<(String, String), Vec<(BTreeSet<String>, bool, String)>>;

fn try_out(case: &Case, seen: &mut Seen) {
    let ids = case.model.main().ops();
    let [op] = ids[..] else { return };
    if case.model.main().op(op).attrs.graphs().next().is_some() || !case.model.functions.is_empty() {
        return;
    }
    let constants = with_constants(case);
    let folded = all_constant(case);
    let best = constants.as_ref().unwrap_or(case);
    let form = form(&best.model, best.model.main_id(), best.model.main().ops()[0]);
    let Some(types) = form.types.filter(|types| !types.is_empty()) else { return };
    let ends: Vec<End> = [Some(case), constants.as_ref(), folded.as_ref()]
        .into_iter()
        .flatten()
        .map(|c| run(&Ungated, c, 0.0))
        .collect();
    let wrong = ends.iter().any(|end| matches!(end, End::Wrong(_)));
    let right = ends.contains(&End::Right) && !wrong;
    if !right && std::env::var("ONNXQ_EXPLAIN").is_ok_and(|op| op == form.op) {
        eprintln!("{} {types}: {ends:?}", case.name);
    }
    seen.entry((form.op, types)).or_default().push((form.features, right, case.name.clone()));
}

/// Two features that no case that ran right has together.
fn told_by_two(features: &BTreeSet<String>, runs: &[(BTreeSet<String>, bool, String)]) -> Option<String> {
    let list: Vec<&String> = features.iter().collect();
    let together =
        |a: &String, b: &String| runs.iter().any(|(f, right, _)| *right && f.contains(a) && f.contains(b));
    let pairs = (0..list.len()).flat_map(|i| (i + 1..list.len()).map(move |j| (i, j)));
    let pairs = pairs.map(|(i, j)| (list[i], list[j])).filter(|(a, b)| !together(a, b));
    let best = pairs.min_by_key(|(a, b)| (weight(a) + weight(b), a.to_string(), b.to_string()))?;
    Some(format!("{}&{}", best.0, best.1))
}

/// The table as text.
fn table(seen: &Seen) -> String {
    let mut text = String::from(
        "# Forms of operators that tract 0.23.9 was seen to run right: operator, types of the given inputs (repeats left\n\
         # out), features with which it is not known to. Generated: BLESS=1 cargo test --test runtimes the_gate\n",
    );
    for ((op, types), runs) in seen {
        let passed: BTreeSet<&str> = runs
            .iter()
            .filter(|(_, right, _)| *right)
            .flat_map(|(f, ..)| f.iter().map(String::as_str))
            .collect();
        let mut refused: BTreeSet<String> = BTreeSet::new();
        let mut proven = runs.iter().any(|(_, right, _)| *right);
        for (features, ..) in runs.iter().filter(|(_, right, _)| !right) {
            let own = || features.iter().map(String::as_str);
            let told = own().filter(|feature| !passed.contains(feature)).min_by_key(|f| (weight(f), *f));
            match told {
                Some(feature) => drop(refused.insert(feature.to_string())),
                None => match told_by_two(features, runs) {
                    Some(pair) => drop(refused.insert(pair)),
                    None => proven = false,
                },
            }
        }
        // Attribute values with spaces would break the row.
        if proven && !refused.iter().any(|feature| feature.contains(' ')) {
            let words = [op.as_str(), types.as_str()].into_iter().chain(refused.iter().map(String::as_str));
            let words: Vec<&str> = words.collect();
            text.push_str(&words.join(" "));
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_gate_is_what_tract_was_seen_to_run_right() {
    let Some(cases) = cases() else { return };
    let mut seen = Seen::new();
    for case in &cases {
        try_out(case, &mut seen);
        let mut kinds: Vec<DType> = case.feed.iter().map(|(_, tensor)| tensor.dtype()).collect();
        kinds.sort_by_key(|dtype| dtype.code());
        kinds.dedup();
        for (&from, &to) in kinds.iter().flat_map(|from| TYPES.iter().map(move |to| (from, to))) {
            if let Some(case) = varied(case, Some((from, to)), None) {
                try_out(&case, &mut seen);
            }
        }
        for &opset in OPSETS {
            if let Some(case) = varied(case, None, Some(opset)) {
                try_out(&case, &mut seen);
            }
        }
    }
    fresh("runtime/src/tract/proven.txt", &table(&seen));
}

/// The checked-in file is what was generated; `BLESS=1` writes it.
fn fresh(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    if known == text {
        return;
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let changed: Vec<&str> =
        text.lines().filter(|line| !known.lines().any(|old| old == *line)).take(20).collect();
    let gone: Vec<&str> =
        known.lines().filter(|line| !text.lines().any(|new| new == *line)).take(20).collect();
    panic!("{file} is stale; BLESS=1 writes it.\nnew: {changed:#?}\ngone: {gone:#?}");
}

// ---- what is let through is right ------------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    native: usize,
    defined: usize,
    refused: BTreeSet<String>,
    failed: BTreeSet<String>,
}

#[test]
fn nothing_that_is_let_through_comes_out_wrong() {
    let Some(cases) = cases() else { return };
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        // The operator that the case is about; a case of many operators is about the function that they define.
        let ids = case.model.main().ops();
        let about = match ids[..] {
            [op] => plain(&case.model.main().op(op).kind),
            _ => "(several operators)".to_string(),
        };
        // Operators on codes end one step away where a sum lies at a tie; tract divides by multiplying with the inverse.
        let on_codes = ids.iter().any(|&op| {
            let name = case.model.main().op(op).kind.key().1;
            name.starts_with("QLinear")
                || name == "QGemm"
                || case.name.contains("dynamicquantize")
                || name.starts_with("DynamicQuantize")
        });
        let definition_differs = matches!(run(&runtime::Reference, case, 0.0), End::Wrong(_));
        for case in [Some(case.clone()), with_constants(case), all_constant(case)].into_iter().flatten() {
            let tally = tallies.entry(about.clone()).or_default();
            let low = match lowered(&case.model) {
                Ok(low) => low,
                Err(error) => {
                    tally.failed.insert(short(&error.to_string()));
                    continue;
                }
            };
            if let Err(list) = Tract.supports(&low) {
                tally.refused.extend(list.iter().map(|item| short(&item.why)));
                continue;
            }
            let remarks = Tract.remarks(&low);
            let case = Case { model: low, ..case };
            match run(&Tract, &case, if on_codes { 1.0 } else { 0.0 }) {
                End::Right if remarks.is_empty() => tally.native += 1,
                End::Right => tally.defined += 1,
                End::Error(why) => drop(tally.failed.insert(short(&why))),
                // Whether a definition is right is the business of `ops/tests`.
                End::Wrong(_) if definition_differs => tally.defined += 1,
                End::Wrong(why) => wrong.push(format!("{}: {why}", case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let mut text = String::from(
        "# What becomes of each operator in a lowered model run by tract: cases right by tract itself, cases right by the\n\
         # operator's plain definition inside it, and why the others are refused or fail with an error. No case is wrong.\n\
         # The reference evaluator runs them all but those that `ops/tests/node_cases.rs` lists. Generated:\n\
         # BLESS=1 cargo test --test runtimes nothing\n",
    );
    for (op, tally) in &tallies {
        text.push_str(&format!("{op}: {} itself, {} by definition", tally.native, tally.defined));
        for (what, list) in [("refused", &tally.refused), ("fails", &tally.failed)] {
            let list: Vec<&str> = list.iter().map(String::as_str).take(3).collect();
            if !list.is_empty() {
                text.push_str(&format!("; {what}: {}", list.join(" | ")));
            }
        }
        text.push('\n');
    }
    let sum = |of: fn(&Tally) -> usize| tallies.values().map(of).sum::<usize>();
    eprintln!("{} runs by tract itself, {} by definition", sum(|t| t.native), sum(|t| t.defined));
    fresh("runtime/OPERATORS.txt", &text);
}

fn plain(kind: &OpKind) -> String {
    match kind.key() {
        ("", name) => name.to_string(),
        (domain, name) => format!("{domain}.{name}"),
    }
}

/// A message on one line, without what differs from case to case.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut plain = String::new();
    for c in line.chars().take(100) {
        plain.push(if c.is_ascii_digit() { '#' } else { c });
    }
    plain
}
