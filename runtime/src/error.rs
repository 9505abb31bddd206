//! What can go wrong when a model is run.

use thiserror::Error;

/// Why a model was not prepared or run. Every message names the runtime and, where it is known, the operator or input.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The runtime lacks something that the model needs.
    #[error("{runtime} cannot run this model: {what}")]
    Unsupported {
        /// Name of the runtime.
        runtime: &'static str,
        /// The operators, joined for reading.
        what: String,
    },
    /// The runtime is not installed, too old, or hangs.
    #[error("{runtime} is not available: {what}")]
    Unavailable {
        /// Name of the runtime.
        runtime: &'static str,
        /// What was tried and what to do.
        what: String,
    },
    /// The runtime refused the model while loading or optimizing it.
    #[error("{runtime} could not load the model: {what}")]
    Load {
        /// Name of the runtime.
        runtime: &'static str,
        /// Its message.
        what: String,
    },
    /// The runtime failed on a sample.
    #[error("{runtime} failed while running: {what}")]
    Run {
        /// Name of the runtime.
        runtime: &'static str,
        /// Its message.
        what: String,
    },
    /// A sample lacks an input, or gives it another type or shape than the model declares.
    #[error("input {input:?}: expected {expected}, found {found}")]
    Input {
        /// Name of the input.
        input: String,
        /// What the model declares.
        expected: String,
        /// What the sample holds.
        found: String,
    },
    /// A value was asked for that the model does not have.
    #[error("the model has no value named {0:?}")]
    NoValue(String),
}

/// The first cause of a chain, which for tract says more than the context around it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
