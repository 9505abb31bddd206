//! Any text is a model or an error, and a model prints as a text that reads as the same model, is verified without
//! panic and settles into a valid one if it was valid.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq_ir::text::{self, Numbers, Style};
use onnxq_ir::verify;

fuzz_target!(|source: &str| {
    let Ok(mut model) = text::parse(source) else { return };
    for numbers in [Numbers::Stored, Numbers::Values] {
        let printed = text::print_with(&model, &Style { numbers, largest: None });
        let again = text::parse(&printed).expect("what is printed can be read");
        model.same(&again).expect("what is printed reads as the same model");
    }
    let valid = verify(&model).is_ok();
    model.settle();
    assert!(!valid || verify(&model).is_ok(), "settling a valid model keeps it valid");
});
