//! What every runtime offers.

use std::borrow::Cow;

use ir::{DType, Model, Tensor};

use crate::{RuntimeError, View};

/// The inputs of one run, by name, in any order.
pub type Feed = Vec<(String, Tensor)>;

/// An operator (or type, or attribute) that a runtime cannot run right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The operator, as [`ir::Op`] prints itself.
    pub op: String,
    /// Why.
    pub why: String,
}

/// The list as one line for an error.
pub(crate) fn join(list: &[Unsupported]) -> String {
    let lines: Vec<String> = list.iter().map(|item| format!("{}: {}", item.op, item.why)).collect();
    lines.join("; ")
}

/// The tensor as a model input of this type takes it: half-precision data of a model that was widened become float32,
/// which loses nothing.
pub(crate) fn widened(tensor: &Tensor, wanted: Option<DType>) -> Cow<'_, Tensor> {
    let narrow = matches!(tensor.dtype(), DType::F16 | DType::BF16) && wanted == Some(DType::F32);
    let floats = narrow.then(|| View::of(tensor).floats()).flatten();
    match floats.and_then(|floats| Tensor::from_slice(tensor.dims(), &floats[..]).ok()) {
        Some(wide) => Cow::Owned(wide),
        None => Cow::Borrowed(tensor),
    }
}

/// What to prepare a session for.
#[derive(Clone, Debug, Default)]
pub struct Prepare {
    /// Names of values to show to the observer besides the model's outputs.
    pub taps: Vec<String>,
    /// Names of values that [`Session::replay`] replaces.
    pub replaced: Vec<String>,
    /// Threads for one run; 0 means one.
    pub threads: usize,
}

/// A way to run models.
pub trait Executor: Send + Sync {
    /// The name that users type.
    fn name(&self) -> &'static str;

    /// Version, and settings that change numbers (optimization level).
    fn version(&self) -> String;

    /// It is given lowered models: plain operators that compute in float. ONNX Runtime is given the model itself.
    fn wants_lowered(&self) -> bool {
        true
    }

    /// Everything in the model that this runtime cannot run right; an error lists it all.
    fn supports(&self, model: &Model) -> Result<(), Vec<Unsupported>>;

    /// Operators that this runtime runs right, but by their plain definition: slower than its own.
    fn remarks(&self, _model: &Model) -> Vec<Unsupported> {
        Vec::new()
    }

    /// Loads the model. Checks [`Executor::supports`] first.
    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError>;
}

/// A loaded model. One sample at a time; [`Session::fork`] gives each thread its own.
pub trait Session: Send {
    /// Runs one sample. Wanted values reach the observer in the order of execution, outputs included; each name once.
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError>;

    /// Another session over the same loaded model.
    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError>;

    /// The wanted values that this runtime cannot show (fused away), by name.
    fn missing(&self) -> &[String];

    /// Runs one sample as [`Session::run`] does and keeps every value, so that parts can be run again by
    /// [`Session::replay`]. The observer sees; it changes nothing.
    fn record(&mut self, _feed: &Feed, _observer: &mut dyn Observer) -> Result<Recording, RuntimeError> {
        Err(RuntimeError::Unsupported { runtime: "this runtime", what: "partial re-execution".into() })
    }

    /// Runs again what lies downstream of `replaced` (taps or inputs, by name), everything else as recorded. Only values
    /// that were computed again reach the observer.
    fn replay(
        &mut self,
        _recording: &Recording,
        _replaced: &[(String, Tensor)],
        _observer: &mut dyn Observer,
    ) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported { runtime: "this runtime", what: "partial re-execution".into() })
    }
}

/// The values of one run, for [`Session::replay`]. Only the session that made it (or a fork) can read it.
pub struct Recording(pub(crate) Box<dyn std::any::Any + Send + Sync>);

/// Sees values as they are computed, and may change them.
pub trait Observer {
    /// A wanted value was computed.
    fn see(&mut self, name: &str, value: View<'_>);

    /// The observer wants to change the f32 elements of this value before anything reads it. Called before `see`.
    fn edits(&self, _name: &str) -> bool {
        false
    }

    /// Changes the elements in place. Only called where [`Observer::edits`] says so, and only for f32 values.
    fn edit(&mut self, _name: &str, _dims: &[usize], _elements: &mut [f32]) {}
}

/// Any closure over name and value is an observer.
impl<F: FnMut(&str, View<'_>)> Observer for F {
    fn see(&mut self, name: &str, value: View<'_>) {
        self(name, value)
    }
}
