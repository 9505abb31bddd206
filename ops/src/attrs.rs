//! Typed attributes: absent gives the default, another type than expected is an error.

use ir::{AttrValue, DType, GraphId, Op, Tensor};

use crate::error::{OpError, Result};

/// The attributes of an operator; both contexts have it as `cx.attrs()`.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub(crate) &'a Op);

/// What an attribute holds, for messages.
fn kind(value: &AttrValue) -> &'static str {
    match value {
        AttrValue::Float(_) => "a float",
        AttrValue::Int(_) => "an int",
        AttrValue::String(_) => "a string",
        AttrValue::Tensor(_) => "a tensor",
        AttrValue::Graph(_) => "a graph",
        AttrValue::Sparse(_) => "a sparse tensor",
        AttrValue::Type(_) => "a type",
        AttrValue::Floats(_) => "floats",
        AttrValue::Ints(_) => "ints",
        AttrValue::Strings(_) => "strings",
        AttrValue::Tensors(_) => "tensors",
        AttrValue::Graphs(_) => "graphs",
        AttrValue::Sparses(_) => "sparse tensors",
        AttrValue::Types(_) => "types",
        AttrValue::Reference { .. } => "a reference to a function's attribute",
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $out:ty, $expected:literal, $pattern:pat => $result:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(self, name: &str) -> Result<Option<$out>> {
            match self.0.attrs.get(name) {
                None => Ok(None),
                Some($pattern) => Ok(Some($result)),
                Some(other) => Err(self.wrong(name, $expected, kind(other))),
            }
        }
    )*};
}

impl<'a> Attributes<'a> {
    getters! {
        /// An int, if present.
        opt_int -> i64, "an int", AttrValue::Int(v) => *v;
        /// A float, if present.
        opt_float -> f32, "a float", AttrValue::Float(v) => *v;
        /// A string, if present.
        opt_bytes -> &'a [u8], "a string", AttrValue::String(v) => v;
        /// Ints, if present.
        opt_ints -> &'a [i64], "ints", AttrValue::Ints(v) => v;
        /// Floats, if present.
        opt_floats -> &'a [f32], "floats", AttrValue::Floats(v) => v;
        /// Strings, if present.
        opt_strings -> &'a [bytes::Bytes], "strings", AttrValue::Strings(v) => v;
        /// A tensor, if present.
        opt_tensor -> &'a Tensor, "a tensor", AttrValue::Tensor(v) => v;
        /// A graph, if present.
        opt_graph -> GraphId, "a graph", AttrValue::Graph(v) => *v;
    }

    /// The attribute as it is.
    pub fn get(self, name: &str) -> Option<&'a AttrValue> {
        self.0.attrs.get(name)
    }

    /// The attribute is present.
    pub fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// An int with a default.
    pub fn int(self, name: &str, default: i64) -> Result<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// An int that is 0 or not, with a default.
    pub fn flag(self, name: &str, default: bool) -> Result<bool> {
        Ok(self.opt_int(name)?.map_or(default, |value| value != 0))
    }

    /// A float with a default.
    pub fn float(self, name: &str, default: f32) -> Result<f32> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    /// A UTF-8 string, if present.
    pub fn opt_str(self, name: &str) -> Result<Option<&'a str>> {
        let Some(bytes) = self.opt_bytes(name)? else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.wrong(name, "a UTF-8 string", "other bytes"))
    }

    /// A UTF-8 string with a default.
    pub fn str(self, name: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.opt_str(name)?.unwrap_or(default))
    }

    /// An int that must be there.
    pub fn need_int(self, name: &str) -> Result<i64> {
        self.opt_int(name)?.ok_or_else(|| self.wrong(name, "an int", "nothing"))
    }

    /// Ints that must be there.
    pub fn need_ints(self, name: &str) -> Result<&'a [i64]> {
        self.opt_ints(name)?.ok_or_else(|| self.wrong(name, "ints", "nothing"))
    }

    /// A string that must be there.
    pub fn need_str(self, name: &str) -> Result<&'a str> {
        self.opt_str(name)?.ok_or_else(|| self.wrong(name, "a string", "nothing"))
    }

    /// A graph that must be there.
    pub fn need_graph(self, name: &str) -> Result<GraphId> {
        self.opt_graph(name)?.ok_or_else(|| self.wrong(name, "a graph", "nothing"))
    }

    /// An element type given by its `TensorProto.DataType` code; 0 and absent are none.
    pub fn dtype(self, name: &str) -> Result<Option<DType>> {
        match self.int(name, 0)? {
            0 => Ok(None),
            code => {
                let found = i32::try_from(code).ok().and_then(DType::from_code);
                found.map(Some).ok_or_else(|| self.wrong(name, "a data type", &code.to_string()))
            }
        }
    }

    /// An error about this attribute.
    pub fn wrong(self, name: &str, expected: &str, found: &str) -> OpError {
        OpError::Attribute {
            op: self.0.to_string(),
            name: name.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
