//! What flows between operators at run time.

use ir::Tensor;

/// A run-time value. Cloning it shares the bytes of tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense tensor.
    Tensor(Tensor),
    /// A list of values.
    Sequence(Vec<Value>),
    /// A value or nothing.
    Optional(Option<Box<Value>>),
}

impl Value {
    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// What the value is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Value::Tensor(tensor) => format!("{} {:?}", tensor.dtype(), tensor.dims()),
            Value::Sequence(items) => format!("a sequence of {}", items.len()),
            Value::Optional(None) => "an empty optional".to_string(),
            Value::Optional(Some(inner)) => format!("an optional of {}", inner.describe()),
        }
    }

    /// Bytes held, roughly: what the memory budget counts.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Tensor(tensor) => match tensor.data() {
                ir::Data::Bytes(bytes) => bytes.len(),
                ir::Data::Strings(strings) => strings.iter().map(|s| s.len() + 32).sum(),
            },
            Value::Sequence(items) => items.iter().map(Value::bytes).sum(),
            Value::Optional(inner) => inner.as_ref().map_or(0, |inner| inner.bytes()),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}
