//! What a file says in more than one way.
//!
//! A file may write an empty documentation string or leave it out, list a value's type or not, order its lists freely.
//! None of it has a meaning; all of it must survive a round trip. Import notes it here, export repeats it, and nothing
//! else looks: two things that differ only in their spelling are equal.

use crate::Type;

/// Marks that import sets and export reads; the meaning of the bits is theirs. Always equal to any other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spelling(pub u32);

impl PartialEq for Spelling {
    fn eq(&self, _: &Spelling) -> bool {
        true
    }
}

impl Eq for Spelling {}

impl std::hash::Hash for Spelling {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// Where a file lists a value, from 1; 0 where it does not. What passes create is not listed yet and is written last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// Position in `value_info`.
    pub info: u32,
    /// Position among the initializers.
    pub initializer: u32,
}

/// An entry of a file's value lists that no [`crate::Value`] can hold: an unknown name, or a second entry that says
/// something else. Kept until the first pass ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Stray {
    /// Which list.
    pub list: StrayList,
    /// Position in the list, from 1.
    pub at: u32,
    /// Name.
    pub name: String,
    /// Type.
    pub ty: Option<Type>,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// How the file wrote it.
    pub spelling: Spelling,
}

/// Which list of a graph a [`Stray`] stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrayList {
    /// The outputs.
    Output,
    /// `value_info`.
    Info,
}
