//! Any valid model is simplified or refused with a reason: what comes out is valid and can be written, and what was
//! written is then read and written as the same bytes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq_passes::{Options, op_count, simplify};
use onnxq_proto::{read_bytes, to_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(loaded) = read_bytes(bytes.to_vec().into(), None) else { return };
    let mut model = loaded.model;
    if onnxq_ir::verify(&model).is_err() {
        return;
    }
    let Ok(report) = simplify(&mut model, Options::default()) else { return };
    assert_eq!(report.ops_after, op_count(&model));
    onnxq_ir::verify(&model).expect("a simplified model is valid");
    let written = to_bytes(&model).expect("a simplified model can be written");
    let again = read_bytes(written.clone().into(), None).expect("what was written can be read");
    assert!(to_bytes(&again.model).expect("and written again") == written);
});
