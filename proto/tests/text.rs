//! Real models through the text form, the verifier and the end of a pass.

mod common;

use std::path::Path;

use ir::text::{Numbers, Style, parse, print_with};

fn check(path: &Path) {
    let mut model = match onnxq_proto::read(path, &Default::default()) {
        Ok(loaded) => loaded.model,
        // The 90 MB of weights of one development model are made by a script that was not run.
        Err(error) if error.to_string().contains("No such file") => return,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let at = path.display();
    ir::verify(&model).unwrap_or_else(|invalid| panic!("{at}: {invalid}"));
    for numbers in [Numbers::Stored, Numbers::Values] {
        let text = print_with(&model, &Style { numbers, largest: None });
        let again = parse(&text).unwrap_or_else(|error| panic!("{at}: {error}"));
        model.same(&again).unwrap_or_else(|difference| panic!("{at}: {difference}"));
    }
    // Settling changes nothing in a model that no pass has touched.
    let before = model.clone();
    model.settle();
    before.same(&model).unwrap_or_else(|difference| panic!("{at}: {difference}"));
    ir::verify(&model).unwrap_or_else(|invalid| panic!("{at}, settled: {invalid}"));
}

#[test]
fn fixtures() {
    let files = common::files(&common::root().join("fixtures"), "onnx");
    assert!(!files.is_empty());
    files.iter().for_each(|path| check(path));
}

#[test]
fn development_models() {
    // Larger ones are many megabytes of text and teach nothing new.
    const LARGEST: u64 = 4_000_000;
    let Some(shared) = common::shared() else { return };
    let mut files = common::files(&shared.join("models"), "onnx");
    files.retain(|path| path.metadata().is_ok_and(|found| found.len() <= LARGEST));
    files.iter().for_each(|path| check(path));
}
