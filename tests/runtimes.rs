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

#[path = "../ops/tests/cases/archive.rs"]
mod archive;
#[path = "runtimes/cases.rs"]
mod cases;
#[allow(dead_code)]
#[path = "../ops/tests/cases/mod.rs"]
mod contrib;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cases::{Case, End, OPSETS, TYPES, all_constant, cases, run, varied, with_constants};
use ir::{DType, OpKind};
use onnxq::pipeline::prepare::lowered;
use runtime::proof::form;
use runtime::{Executor, Tract, Ungated};

// ---- the gate --------------------------------------------------------------------------------------------------

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

/// A form that was run.
struct Run {
    features: BTreeSet<String>,
    attributes: BTreeSet<String>,
    right: bool,
}

type Seen = BTreeMap<(String, String), Vec<Run>>;

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
    let (features, attributes) = (form.features, form.attributes);
    seen.entry((form.op, types)).or_default().push(Run { features, attributes, right });
}

/// Two features that no case that ran right has together.
fn told_by_two(features: &BTreeSet<String>, runs: &[Run]) -> Option<String> {
    let list: Vec<&String> = features.iter().collect();
    let together = |a: &String, b: &String| {
        runs.iter().any(|run| run.right && run.features.contains(a) && run.features.contains(b))
    };
    let pairs = (0..list.len()).flat_map(|i| (i + 1..list.len()).map(move |j| (i, j)));
    let pairs = pairs.map(|(i, j)| (list[i], list[j])).filter(|(a, b)| !together(a, b));
    let best = pairs.min_by_key(|(a, b)| (weight(a) + weight(b), a.to_string(), b.to_string()))?;
    Some(format!("{}&{}", best.0, best.1))
}

/// The table as text.
fn table(seen: &Seen) -> String {
    let mut text = String::from(
        "# Forms of operators that tract 0.23.9 was seen to run right: operator, types of the given inputs (repeats left\n\
         # out), features with which it is not known to; behind +, attributes with which it ever ran right. Generated:\n\
         # BLESS=1 cargo test --test runtimes the_gate\n",
    );
    let mut attributes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for ((op, _), runs) in seen {
        let known = attributes.entry(op).or_default();
        known.extend(
            runs.iter().filter(|run| run.right).flat_map(|run| run.attributes.iter().map(String::as_str)),
        );
    }
    // What has a space in it would break the row.
    attributes.values_mut().for_each(|known| known.retain(|attribute| !attribute.contains(' ')));
    for (op, known) in attributes.iter().filter(|(_, known)| !known.is_empty()) {
        let known: Vec<&str> = known.iter().copied().collect();
        text.push_str(&format!("{op} + {}\n", known.join(" ")));
    }
    for ((op, types), runs) in seen {
        let passed: BTreeSet<&str> = runs
            .iter()
            .filter(|run| run.right)
            .flat_map(|run| run.features.iter().map(String::as_str))
            .collect();
        let mut refused: BTreeSet<String> = BTreeSet::new();
        let mut proven = runs.iter().any(|run| run.right);
        // An attribute that the row behind + lacks is refused for itself: what failed with it says nothing about the rest.
        let known = &attributes[op.as_str()];
        let told_already = |run: &Run| run.attributes.iter().any(|found| !known.contains(found.as_str()));
        for Run { features, .. } in runs.iter().filter(|run| !run.right && !told_already(run)) {
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
