//! The bits of [`ir::Spelling`]: which fields without content a file wrote out, and which usual ones it left out.

use ir::Spelling;

/// `name` is written though empty.
pub(crate) const NAME: u32 = 1 << 0;
/// `doc_string` is written though empty.
pub(crate) const DOC: u32 = 1 << 1;
/// `domain` is written though empty.
pub(crate) const DOMAIN: u32 = 1 << 2;
/// `overload` is written though empty.
pub(crate) const OVERLOAD: u32 = 1 << 3;
/// `producer_name` is written though empty.
pub(crate) const PRODUCER_NAME: u32 = 1 << 4;
/// `producer_version` is written though empty.
pub(crate) const PRODUCER_VERSION: u32 = 1 << 5;
/// `model_version` is written though 0.
pub(crate) const MODEL_VERSION: u32 = 1 << 6;
/// `denotation` is written though empty.
pub(crate) const DENOTATION: u32 = 1 << 7;
/// `elem_type` or `key_type` is written though undefined.
pub(crate) const ELEM_TYPE: u32 = 1 << 8;
/// The type is left out (of an attribute, or the inner type of a sequence, map or optional).
pub(crate) const NO_TYPE: u32 = 1 << 9;
/// The value of an attribute is left out, which means 0 or empty.
pub(crate) const NO_VALUE: u32 = 1 << 10;
/// `ref_attr_name` is written though empty.
pub(crate) const REFERENCE: u32 = 1 << 11;
/// `data_location` is written though it is the default.
pub(crate) const LOCATION: u32 = 1 << 12;
/// `ir_version` is written though 0.
pub(crate) const IR_VERSION: u32 = 1 << 13;

/// `domain` of entry `at` of the opset imports is written though empty. Entries from 16 on are not marked.
pub(crate) fn opset_domain(at: usize) -> u32 {
    if at < 16 { 1 << (16 + at) } else { 0 }
}

/// Takes the content of optional fields and notes which empty ones the file wrote out.
#[derive(Default)]
pub(crate) struct Marks(Spelling);

impl Marks {
    /// The text of an optional field.
    pub fn text(&mut self, bit: u32, field: Option<String>) -> String {
        let text = field.as_deref();
        self.note(bit, text == Some(""));
        field.unwrap_or_default()
    }

    /// The number in an optional field.
    pub fn number(&mut self, bit: u32, field: Option<i64>) -> i64 {
        self.note(bit, field == Some(0));
        field.unwrap_or_default()
    }

    /// Sets the bit if the condition holds.
    pub fn note(&mut self, bit: u32, holds: bool) {
        if holds {
            self.0.0 |= bit;
        }
    }

    /// All marks.
    pub fn done(self) -> Spelling {
        self.0
    }
}

/// The bit is set.
pub(crate) fn has(spelling: Spelling, bit: u32) -> bool {
    spelling.0 & bit != 0
}

/// The optional field for a text.
pub(crate) fn text(spelling: Spelling, bit: u32, text: &str) -> Option<String> {
    (!text.is_empty() || has(spelling, bit)).then(|| text.to_string())
}

/// The optional field for a number.
pub(crate) fn number(spelling: Spelling, bit: u32, number: i64) -> Option<i64> {
    (number != 0 || has(spelling, bit)).then_some(number)
}
