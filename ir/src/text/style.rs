//! How much a text says.

/// How elements narrower than 32 bits are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// As `TensorProto` stores them: bit patterns of small floats, packed bytes below 8 bits. Other readers of ONNX's
    /// text understand only this.
    #[default]
    Stored,
    /// Every element as the number it is. [`super::parse`] reads both.
    Values,
}

/// How a model is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// How elements are written.
    pub numbers: Numbers,
    /// A tensor of more elements is printed as its type and a digest of its elements. Such a text is for reading and
    /// comparing only. None prints everything.
    pub largest: Option<usize>,
}

impl Style {
    /// Everything, as ONNX writes it: what [`super::print`] uses.
    pub fn full() -> Style {
        Style::default()
    }

    /// For people: numbers as values, tensors of more than 16 elements as a digest.
    pub fn brief() -> Style {
        Style { numbers: Numbers::Values, largest: Some(16) }
    }
}
