//! Any bytes are a model or an error; what was read can be written and is then read as the same bytes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq_proto::{read_bytes, to_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(loaded) = read_bytes(bytes.to_vec().into(), None) else { return };
    let written = to_bytes(&loaded.model).expect("what was read can be written");
    let again = read_bytes(written.clone().into(), None).expect("what was written can be read");
    assert!(to_bytes(&again.model).expect("and written again") == written);
});
