//! Operators against ONNX Runtime: every case of `data/contrib.jsonl`, which `data/make_contrib.py` writes. A case says its
//! own tolerance; integers are exact unless it allows steps.

#[allow(dead_code)]
mod cases;

use cases::Verdict;

#[test]
fn results_are_those_of_onnx_runtime() {
    let mut failures = Vec::new();
    for case in cases::read(include_str!("data/contrib.jsonl")) {
        match case.check() {
            Verdict::Passed => {}
            Verdict::Unsupported(why) | Verdict::Wrong(why) => failures.push(format!("{}: {why}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}
