//! Any text is a list of passes or an error. What a list prints as reads as the same list, and every pass of it can be
//! made or says why not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq_passes::{Spec, table};

fuzz_target!(|text: &str| {
    let Ok(specs) = Spec::list(text) else { return };
    let printed: Vec<String> = specs.iter().map(Spec::to_string).collect();
    let again = Spec::list(&printed.join(",")).expect("what is printed can be read");
    assert_eq!(again, specs);
    for spec in &specs {
        let _ = table::make(spec);
    }
});
