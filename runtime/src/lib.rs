//! Running a model: tract, the reference evaluator, ONNX Runtime.
//!
//! An [`Executor`] says what it can run and prepares a [`Session`]; a session runs samples and shows every wanted value to
//! an [`Observer`] by ONNX value name. The models given to `tract` and `reference` are lowered (`lower_for_execution`):
//! plain operators and `onnxq.FakeQuant`, never Quantize/DequantizeLinear around them. ONNX Runtime also loads files as
//! they are.
//!
//! tract is named only below `tract/`, the ONNX Runtime binding only below `ort/`.

mod error;
mod executor;
mod ort;
pub mod proof;
mod reference;
mod tract;
mod view;

pub use crate::ort::{Level, Ort};
pub use error::RuntimeError;
pub use executor::{Executor, Feed, Observer, Prepare, Recording, Session, Unsupported};
pub use reference::Reference;
pub use tract::{Tract, Ungated};
pub use view::View;

/// Products of 8-bit codes on this CPU add up without saturating: x86 needs an instruction for that (VNNI), which AVX2 alone
/// does not have.
pub fn multiplies_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}

/// A panic on this thread would be caught by a runtime and become an error: a program need not show it.
pub fn catches_panics() -> bool {
    tract::is_guarded()
}
