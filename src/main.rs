//! The `onnxq` program.

#[global_allocator]
static ALLOCATOR: onnxq::memory::Recycling = onnxq::memory::Recycling::new();

fn main() -> std::process::ExitCode {
    // A panic that a runtime turns into an error is told as that error, once.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !runtime::catches_panics() {
            tell(info);
        }
    }));
    onnxq::cli::main()
}
