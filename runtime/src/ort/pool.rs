//! Loaded copies of a model, one for each thread that runs it.
//!
//! The binding asks for exclusive access while a model runs, since parts of ONNX Runtime are not safe to share. So threads
//! have a copy each while copies are small; threads beyond that take turns.

use std::sync::{Arc, Mutex, PoisonError};

use ::ort::session::Session as OrtSession;

use crate::RuntimeError;

/// Bytes of models that copies beyond the first may have together.
const MOST: usize = 512 << 20;

type Load = dyn Fn() -> Result<OrtSession, RuntimeError> + Send + Sync;

/// See the module.
pub(super) struct Pool {
    loaded: Mutex<Loaded>,
    /// What the runtime says of inputs; the same for every copy.
    size: usize,
}

struct Loaded {
    copies: Vec<Arc<Mutex<OrtSession>>>,
    /// Loads another copy; none where the model is too large for a second one.
    load: Option<Box<Load>>,
}

impl Pool {
    /// The first copy, and how to load others of about `size` bytes.
    pub(super) fn new(
        first: OrtSession,
        size: usize,
        load: impl Fn() -> Result<OrtSession, RuntimeError> + Send + Sync + 'static,
    ) -> Pool {
        let load: Option<Box<Load>> = if size <= MOST { Some(Box::new(load)) } else { None };
        Pool { loaded: Mutex::new(Loaded { copies: vec![Arc::new(Mutex::new(first))], load }), size }
    }

    /// A single copy, for all threads.
    pub(super) fn single(session: OrtSession) -> Pool {
        let copies = vec![Arc::new(Mutex::new(session))];
        Pool { loaded: Mutex::new(Loaded { copies, load: None }), size: 0 }
    }

    /// A copy that nobody holds, a new one if they may still grow in number, else the one that the fewest hold. What cannot
    /// be loaded a second time is shared.
    pub(super) fn take(&self) -> Arc<Mutex<OrtSession>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idle) = loaded.copies.iter().find(|copy| Arc::strong_count(copy) == 1) {
            return idle.clone();
        }
        let fits = loaded.copies.len().saturating_mul(self.size) <= MOST;
        if let Some(Ok(session)) = loaded.load.as_ref().filter(|_| fits).map(|load| load()) {
            let copy = Arc::new(Mutex::new(session));
            loaded.copies.push(copy.clone());
            return copy;
        }
        loaded.load = None;
        let first = loaded.copies[0].clone();
        let fewest = loaded.copies.iter().min_by_key(|copy| Arc::strong_count(copy));
        fewest.cloned().unwrap_or(first)
    }
}
