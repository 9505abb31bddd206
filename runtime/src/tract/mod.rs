//! tract: the embedded default runtime.
//!
//! How values are seen: every wanted value is made an output *before* tract optimizes, so it survives fusion; the places
//! where they end up are remembered, the real outputs are selected again, and the run calls back after each node. That
//! costs about as much as a plain run and nothing is kept (rust-feasibility notes, way D).
//!
//! tract ignores domains and several attributes. What it is not known to run right is run by its definition instead
//! ([`evaluate`]), or refused: [`gate`] decides before tract sees the model.

mod barrier;
mod convert;
mod evaluate;
mod fake_quant;
mod gate;
mod mend;
mod plan;
mod session;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ir::Model;

use crate::{Executor, Prepare, RuntimeError, Session, Unsupported};

pub(crate) const NAME: &str = "tract";

/// The version that Cargo.toml pins; a test compares the two.
const VERSION: &str = "0.23.9";

/// tract has this element type.
pub(crate) fn has_type(dtype: ir::DType) -> bool {
    convert::datum_type(dtype).is_some()
}

/// The tract runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

/// tract without its gate, for the test that finds out what belongs into the gate. It runs some models wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ungated;

impl Executor for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.to_string()
    }

    fn supports(&self, model: &Model) -> Result<(), Vec<Unsupported>> {
        let refused = gate::judge(model).refused;
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    fn remarks(&self, model: &Model) -> Vec<Unsupported> {
        gate::judge(model).remarks
    }

    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        let found = gate::judge(model);
        if !found.refused.is_empty() {
            let what = crate::executor::join(&found.refused);
            return Err(RuntimeError::Unsupported { runtime: NAME, what });
        }
        let mender = mend::Mender::new(model, options, found.defined);
        let source = mender.load()?;
        Ok(Box::new(session::TractSession::new(Arc::new(source), Some(mender))))
    }
}

impl Executor for Ungated {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        format!("{VERSION}, ungated")
    }

    fn supports(&self, _model: &Model) -> Result<(), Vec<Unsupported>> {
        Ok(())
    }

    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        let source = guard(|| plan::Source::load(model, options))?;
        Ok(Box::new(session::TractSession::new(Arc::new(source), None)))
    }
}

thread_local! {
    static GUARDED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A panic on this thread would be caught and become an error: a program need not show it.
pub(crate) fn is_guarded() -> bool {
    GUARDED.get()
}

/// tract panics on some models (index out of range in shape rules). A panic is an error like any other here.
fn guard<T>(work: impl FnOnce() -> Result<T, RuntimeError>) -> Result<T, RuntimeError> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match result {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(RuntimeError::Run { runtime: NAME, what: format!("panic: {text}") })
        }
    }
}
