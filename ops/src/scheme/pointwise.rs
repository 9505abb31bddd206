//! Operators that compute each element of the output from the elements at the same place of the inputs, and from nothing else.

use ir::Op;

/// Sorted by name; ONNX's own domain.
const POINTWISE: &[&str] = &[
    "Abs",
    "Add",
    "Cast",
    "Celu",
    "Clip",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Max",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
];

/// The operator works element by element.
pub fn is_pointwise(op: &Op) -> bool {
    op.kind.domain().is_empty() && POINTWISE.binary_search(&&*op.kind.name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(POINTWISE.is_sorted());
        assert!(is_pointwise(&Op::new("Sigmoid")));
        assert!(!is_pointwise(&Op::new("Softmax")));
    }
}
