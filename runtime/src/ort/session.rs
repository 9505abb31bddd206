//! Running samples in ONNX Runtime.

use std::sync::{Arc, Mutex, PoisonError};

use ::ort::session::{Session as OrtSession, SessionInputValue};
use ::ort::value::{DynTensorValueType, ValueType};

use super::pool::Pool;
use super::tap::{self, Taps};
use super::{NAME, convert};
use crate::{Feed, Observer, RuntimeError, Session, View};

/// A loaded model. Forks take a copy of their own from the pool when they first run.
pub(super) struct Running {
    pool: Arc<Pool>,
    session: Option<Arc<Mutex<OrtSession>>>,
    /// Inputs to show from the feed.
    shown: Arc<[String]>,
    taps: Arc<Taps>,
}

impl Running {
    pub(super) fn new(pool: Pool, shown: Vec<String>, taps: Taps) -> Running {
        Running { pool: Arc::new(pool), session: None, shown: shown.into(), taps: Arc::new(taps) }
    }

    /// A session that nobody else runs.
    pub(super) fn single(session: OrtSession) -> Running {
        Running::new(Pool::single(session), Vec::new(), Taps::default())
    }

    fn session(&mut self) -> Arc<Mutex<OrtSession>> {
        self.session.get_or_insert_with(|| self.pool.take()).clone()
    }

    /// Ends the profile of a session that was made to write one; gives the file's name.
    pub(super) fn end_profiling(&mut self) -> Result<String, RuntimeError> {
        self.session().lock().unwrap_or_else(PoisonError::into_inner).end_profiling().map_err(fail)
    }
}

fn fail(what: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: NAME, what: what.to_string() }
}

impl Session for Running {
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError> {
        let held = self.session();
        let mut session = held.lock().unwrap_or_else(PoisonError::into_inner);
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
        for name in self.shown.iter() {
            if let Some((_, tensor)) = feed.iter().find(|(key, _)| key == name) {
                observer.see(name, View::of(tensor));
            }
        }
        let outputs = tap::watching(observer, &self.taps.names, || session.run(inputs)).map_err(fail)?;
        let outputs: Vec<_> = outputs.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        // Where threads share a session, the next sample runs while these values are looked at.
        drop(session);
        for (name, value) in outputs {
            if self.taps.outputs.contains(&name) {
                continue;
            }
            if let Ok(tensor) = value.downcast::<DynTensorValueType>() {
                convert::show(&name, &tensor, observer);
            }
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError> {
        let (pool, shown, taps) = (self.pool.clone(), self.shown.clone(), self.taps.clone());
        Ok(Box::new(Running { pool, session: None, shown, taps }))
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
