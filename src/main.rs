//! The `onnxq` program.

fn main() -> std::process::ExitCode {
    onnxq::cli::main()
}
