//! The `onnxq` program.

fn main() {}
