//! What can go wrong in this crate. Callers add the place (node, tensor); numbers do not know it.

use crate::code::CodeType;

/// An input that no number can be computed from. Values inside slices (NaN, Inf) are never errors: they have policies.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two slices that must agree in length do not.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Elements it must have.
        expected: usize,
        /// Elements it has.
        found: usize,
    },
    /// A scale that is not a positive finite number.
    #[error("scale must be positive and finite, found {0}")]
    Scale(f32),
    /// A zero point that the code type cannot hold.
    #[error("zero point {zero_point} does not fit {code}")]
    ZeroPoint {
        /// The zero point given.
        zero_point: i32,
        /// The element type it must fit.
        code: CodeType,
    },
    /// A code type that this function does not handle (a float type where codes are integers, or the reverse).
    #[error("{what} does not take {code}")]
    CodeType {
        /// The function.
        what: &'static str,
        /// The type it was given.
        code: CodeType,
    },
    /// A code outside the type's range.
    #[error("code {value} at index {index} does not fit {code}")]
    CodeRange {
        /// Index in the slice.
        index: usize,
        /// The code found.
        value: i32,
        /// The element type it must fit.
        code: CodeType,
    },
    /// An axis that the shape does not have, or a block size of zero, or a shape whose size overflows.
    #[error("{0}")]
    Shape(String),
    /// A name that is not in its list.
    #[error("unknown {what} \"{name}\"; known: {known}")]
    UnknownName {
        /// What kind of name.
        what: &'static str,
        /// The name given.
        name: String,
        /// The names there are, comma separated.
        known: String,
    },
    /// A parameter outside its domain.
    #[error("{what} must be {must}, found {found}")]
    Parameter {
        /// Which parameter.
        what: &'static str,
        /// Its domain in words.
        must: &'static str,
        /// The value given.
        found: String,
    },
}

/// Checks a slice length.
pub fn check_len(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
