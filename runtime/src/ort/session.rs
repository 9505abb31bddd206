//! Running samples in ONNX Runtime.

use std::sync::{Arc, Mutex, PoisonError};

use ::ort::session::{Session as OrtSession, SessionInputValue};
use ::ort::value::{DynTensorValueType, ValueType};

use super::{NAME, convert};
use crate::{Feed, Observer, RuntimeError, Session, View};

/// A loaded model. ONNX Runtime sessions are thread-safe, but this binding asks for exclusive access: forks share one
/// session and take turns at running; what they do with the results goes on beside the next run.
pub(super) struct Running {
    session: Arc<Mutex<OrtSession>>,
    /// Inputs to show from the feed.
    shown: Vec<String>,
}

impl Running {
    pub(super) fn new(session: OrtSession, shown: Option<Vec<String>>) -> Running {
        Running { session: Arc::new(Mutex::new(session)), shown: shown.unwrap_or_default() }
    }
}

impl Running {
    /// Ends the profile of a session that was made to write one; gives the file's name.
    pub(super) fn end_profiling(&self) -> Result<String, RuntimeError> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).end_profiling().map_err(fail)
    }
}

fn fail(what: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: NAME, what: what.to_string() }
}

impl Session for Running {
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inputs: Vec<(String, SessionInputValue<'_>)> = Vec::new();
        for input in session.inputs() {
            let name = input.name();
            let wrong = |found: String| RuntimeError::Input {
                input: name.to_string(),
                expected: describe(input.dtype()),
                found,
            };
            let Some((_, tensor)) = feed.iter().find(|(key, _)| key == name) else {
                return Err(wrong("nothing".into()));
            };
            let found = || format!("{} {:?}", tensor.dtype(), tensor.dims());
            let value = convert::to_ort(session.allocator(), tensor).ok_or_else(|| wrong(found()))?;
            inputs.push((name.to_string(), value.into()));
        }
        let outputs = session.run(inputs).map_err(fail)?;
        let outputs: Vec<_> = outputs.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        // The next sample runs while these values are looked at.
        drop(session);
        for name in &self.shown {
            if let Some((_, tensor)) = feed.iter().find(|(key, _)| key == name) {
                observer.see(name, View::of(tensor));
            }
        }
        for (name, value) in outputs {
            let Ok(tensor) = value.downcast::<DynTensorValueType>() else { continue };
            let dims: Vec<usize> = tensor.shape().iter().map(|&size| size.max(0) as usize).collect();
            let Some(dtype) = convert::dtype(*tensor.data_type()) else { continue };
            if let Some(bytes) = convert::bytes(&tensor, dtype, dims.iter().product()) {
                observer.see(&name, View::new(dtype, &dims, bytes));
            }
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError> {
        Ok(Box::new(Running { session: self.session.clone(), shown: self.shown.clone() }))
    }

    fn missing(&self) -> &[String] {
        &[]
    }
}

fn describe(ty: &ValueType) -> String {
    match ty {
        ValueType::Tensor { ty, shape, .. } => {
            let dtype = convert::dtype(*ty).map_or("tensor".to_string(), |dtype| dtype.to_string());
            let dims: Vec<String> =
                shape.iter().map(|&size| if size < 0 { "?".into() } else { size.to_string() }).collect();
            format!("{dtype} [{}]", dims.join(", "))
        }
        other => format!("{other:?}"),
    }
}
