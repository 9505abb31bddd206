//! The model in memory: graph, values, types, tensors, text form, verifier.
//!
//! This crate knows no file format and no operator. A [`Model`] is a table of [`Graph`]s: the main one, the bodies of
//! control flow operators and of functions. Operators and values are nodes of one dataflow graph, reached through
//! [`OpId`] and [`ValueId`], which hold within one pass; whatever outlives a pass is keyed by name.

mod attr;
mod builder;
mod diff;
mod dtype;
mod graph;
mod location;
mod model;
mod op;
mod rare;
mod same;
mod settle;
mod spelling;
mod tensor;
pub mod text;
mod types;
mod value;
mod verify;

pub use attr::{Attr, AttrValue, Attrs, SparseTensor};
pub use builder::Builder;
pub use diff::{diff, diff_models};
pub use dtype::{Class, DType};
pub use graph::{Annotation, Graph, GraphError, GraphId, OpId, Place, Slot, Slots, Use, ValueId};
pub use location::{Location, Part};
pub use model::{Function, Model, sorted_opsets, version};
pub use op::{KindParts, Op, OpKind, OpNotes, canonical_domain};
pub use rare::{Blank, Rare};
pub use same::Difference;
pub use spelling::{Listing, Spelling, Stray, StrayList};
pub use tensor::{
    Data, Dims, Element, Encoding, Tensor, TensorError, TensorNotes, TensorParts, checked_elements,
};
pub use types::{Dim, Shape, TensorType, Type, TypeKind, TypeParts};
pub use value::{Role, Value, ValueNotes};
pub use verify::{Invalid, Invariant, Violation, verify};
