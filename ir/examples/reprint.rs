//! Reads a text model from standard input, verifies nothing, and prints it: for checks against other readers.

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut text = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut text) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match onnxq_ir::text::parse(&text) {
        Ok(model) => {
            print!("{}", onnxq_ir::text::print(&model));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
