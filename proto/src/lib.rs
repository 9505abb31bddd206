//! ONNX files in and out.
//!
//! [`read`] maps a file into memory and brings it into an [`ir::Model`] without copying a weight: tensors are slices of
//! the mapped file, or of the mapped files it refers to. [`write()`] streams a model back: what no pass touched goes from
//! the input's map to the output file, and the output appears under its name only when it is complete.
//!
//! This crate knows the format and no meaning: what an operator does, or whether its attributes make sense, is not
//! asked here. prost appears in this crate only.
//!
//! # What a round trip keeps
//!
//! Reading and writing without a pass between gives the same protobuf, field by field, down to which empty strings are
//! written out ([`ir::Spelling`]), except for these normalizations:
//!
//! 1. Nodes that are not in topological order are put into it, as close to the file's order as that allows.
//! 2. External data move to one file beside the output, named after it, each tensor at an aligned offset; `offset` and
//!    `length` are always written, `checksum` and other keys are not. Tensors that shared bytes still share them.
//! 3. Elements of 8- and 16-bit types in `int32_data` are written in the type's own range: -1 in a `uint8` tensor
//!    becomes 255; in packed and float types the bits become a number without sign.
//! 4. A missing key or value of a string pair, a missing `name`, `op_type` or opset `version` become empty ones or 0.
//! 5. A dimension named `""` is an unknown dimension, and an empty denotation of a dimension is none.
//! 6. Fields that the schema does not know (a file newer than IR version 14) are dropped. Reading lists them in
//!    [`ir::Model::dropped`], and writing such a model needs [`WriteOptions::force`].
//!
//! # Hostile input
//!
//! Before anything is decoded a scan of the wire format (`scan`) checks every length and the nesting depth, and adds
//! up what the decoded messages are going to take. A file that asks for more than 64 bytes of memory for each of its
//! own (and 4 MiB) is refused. External paths must stay inside the model's folder. Every error is a [`ProtoError`] that
//! names the place; nothing here panics on any input.

mod error;
mod export;
mod external;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all)]
mod generated;
mod import;
mod mapped;
mod output;
mod parts;
mod read;
mod scan;
#[rustfmt::skip]
mod schema;
mod spelling;
mod stream;
mod value;
mod write;

pub use error::{ExternalProblem, ProtoError, TensorProblem};
pub use mapped::release_pages;
pub use output::{writable, write_file};
pub use read::{Loaded, ReadOptions, read, read_bytes};
pub use value::{Keys, TestValue, read_value, value_from_bytes, value_to_bytes, write_value};
pub use write::{External, Layout, Split, WriteOptions, to_bytes, to_bytes_external, write};
