//! `onnxq ... | head`: nobody reads the output to its end, and that is no error.

use std::process::{Command, Stdio};

/// Runs the program with both streams closed at their other ends.
fn unread(args: &[&str]) -> i32 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_onnxq"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    drop(child.stderr.take());
    child.wait().expect("it ends").code().expect("by itself")
}

#[test]
fn a_closed_pipe_is_the_end_of_printing_and_nothing_else() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/mobilenet_v1_0.25_224/model.onnx");
    assert_eq!(unread(&["inspect", model, "--json"]), 0);
    assert_eq!(unread(&["inspect", model, "--nodes"]), 0);
    assert_eq!(unread(&["list", "ops"]), 0);
    assert_eq!(unread(&["explain", "fold_constants"]), 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.onnx");
    assert_eq!(unread(&["simplify", model, "-o", &out.display().to_string(), "--explain"]), 0);
    // What it was asked to do besides printing is done.
    assert!(out.is_file());
    assert_eq!(unread(&["inspect", "nofile.onnx"]), 2);
}
