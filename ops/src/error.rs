//! What a rule may answer instead of a result.

use ir::TensorError;
use thiserror::Error;

use crate::rule::NoRule;

/// The result of a rule.
pub type Result<T> = std::result::Result<T, OpError>;

/// Why an operator cannot be inferred or evaluated. Every message begins with the operator.
#[derive(Debug, Error)]
pub enum OpError {
    /// There is no rule for the operator.
    #[error(transparent)]
    NoRule(NoRule),
    /// A form of the operator that the rule does not handle. The model may be right.
    #[error("{op}: unsupported: {why}")]
    Unsupported {
        /// The operator.
        op: String,
        /// What is not supported.
        why: String,
    },
    /// An input is not what the operator takes.
    #[error("{op}: input {at}: expected {expected}, found {found}")]
    Input {
        /// The operator.
        op: String,
        /// Input slot.
        at: usize,
        /// What the operator takes.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An attribute is missing or is not what the operator takes.
    #[error("{op}: attribute {name}: expected {expected}, found {found}")]
    Attribute {
        /// The operator.
        op: String,
        /// Attribute name.
        name: String,
        /// What the operator takes.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Inputs that do not fit each other, or another rule of the operator that is broken.
    #[error("{op}: {why}")]
    Invalid {
        /// The operator.
        op: String,
        /// What is wrong.
        why: String,
    },
    /// The result would not fit the memory budget.
    #[error("{op}: a result of {needed} bytes exceeds the memory budget, {left} bytes left")]
    Budget {
        /// The operator.
        op: String,
        /// Bytes of the result.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A tensor cannot be built.
    #[error("{op}: {source}")]
    Tensor {
        /// The operator.
        op: String,
        /// Why.
        source: TensorError,
    },
    /// An error of an operator inside the body of control flow or of a function.
    #[error("{op}: in its body: {source}")]
    Body {
        /// The outer operator.
        op: String,
        /// The inner error.
        source: Box<OpError>,
    },
}

impl OpError {
    /// The rule, or the version of it, is missing: not an error of the model.
    pub fn is_unsupported(&self) -> bool {
        match self {
            OpError::NoRule(_) | OpError::Unsupported { .. } => true,
            OpError::Body { source, .. } => source.is_unsupported(),
            _ => false,
        }
    }
}
