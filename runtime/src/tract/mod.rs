//! tract: the embedded default runtime.
//!
//! How values are seen: every wanted value is made an output *before* tract optimizes, so it survives fusion; the places
//! where they end up are remembered, the real outputs are selected again, and the run calls back after each node. That
//! costs about as much as a plain run and nothing is kept (rust-feasibility notes, way D).
//!
//! tract ignores domains and several attributes. What it would run wrong is refused by [`gate`] before it sees the model.

mod convert;
mod fake_quant;
mod gate;
mod plan;
mod session;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ir::Model;

use crate::{Executor, Prepare, RuntimeError, Session, Unsupported};

pub(crate) const NAME: &str = "tract";

/// The version that Cargo.toml pins; a test compares the two.
const VERSION: &str = "0.23.9";

/// The tract runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Executor for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.to_string()
    }

    fn supports(&self, model: &Model) -> Result<(), Vec<Unsupported>> {
        gate::check(model)
    }

    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        self.supports(model).map_err(|list| RuntimeError::Unsupported {
            runtime: NAME,
            what: crate::executor::join(&list),
        })?;
        let source = guard(|| plan::Source::load(model, options))?;
        Ok(Box::new(session::TractSession::new(Arc::new(source))))
    }
}

/// tract panics on some models (index out of range in shape rules). A panic is an error like any other here.
fn guard<T>(work: impl FnOnce() -> Result<T, RuntimeError>) -> Result<T, RuntimeError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(RuntimeError::Run { runtime: NAME, what: format!("panic: {text}") })
        }
    }
}
