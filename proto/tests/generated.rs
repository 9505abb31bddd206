//! The checked-in generated files are what the schema gives.

#[path = "../examples/generate.rs"]
mod generate;

#[test]
fn generated_files_are_fresh() {
    for (path, expected) in generate::generate() {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "{} is stale: cargo run -p onnxq-proto --example generate",
            path.display()
        );
    }
}
