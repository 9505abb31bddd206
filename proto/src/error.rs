//! Why a file cannot be read or written.

use std::io;
use std::path::PathBuf;

use ir::{DType, GraphError};
use thiserror::Error;

/// Why a file cannot be read or written.
#[derive(Debug, Error)]
pub enum ProtoError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The bytes are not an ONNX protobuf.
    #[error(
        "not a readable ONNX file: at byte {offset}, in {message}: {what} (the file is cut off, or holds something else)"
    )]
    Wire {
        /// Position in the file.
        offset: usize,
        /// The message (and field) that was being read.
        message: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes are a protobuf, but not of this schema.
    #[error("not a readable ONNX file: {0}")]
    Decode(String),
    /// The file decodes to far more than it holds.
    #[error("the file of {file} bytes would need more than {limit} bytes of memory: refused")]
    Amplified {
        /// Size of the file.
        file: usize,
        /// The limit for that size.
        limit: u64,
    },
    /// The model makes no sense at some place.
    #[error("{place}: {what}")]
    Invalid {
        /// Graph, and node if there is one.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The graph cannot be built.
    #[error("{place}: {source}")]
    Graph {
        /// Graph, and node if there is one.
        place: String,
        /// The cause.
        source: GraphError,
    },
    /// A tensor cannot be read or written.
    #[error("{place}: tensor {tensor:?}: {problem}")]
    Tensor {
        /// Graph, and node if there is one.
        place: String,
        /// Its name, which may be empty.
        tensor: String,
        /// What is wrong.
        problem: TensorProblem,
    },
    /// The model was read from a file with fields that this program does not know.
    #[error(
        "the input holds what this program does not know and would drop: {}\n\
         hint: force the writing if that may be lost", .0.join("; ")
    )]
    WouldDrop(Vec<String>),
    /// The model does not fit into one protobuf.
    #[error("the model needs {0} bytes, and one protobuf holds at most 2 GiB\nhint: use external data")]
    TooLarge(u64),
    /// The name for external data is not a plain file name.
    #[error("external data need a plain file name beside the model's, not {0:?}")]
    DataFileName(String),
    /// A value of a data set has another form than asked for.
    #[error("{what} in a file that should hold {expected}")]
    Value {
        /// What was found.
        what: String,
        /// What was asked for.
        expected: &'static str,
    },
}

/// What is wrong with a tensor.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TensorProblem {
    /// The element type is 0 or newer than the schema.
    #[error("unknown element type {0}")]
    DType(i32),
    /// A size is negative.
    #[error("negative size {0}")]
    NegativeSize(i64),
    /// The sizes multiply to more than fits.
    #[error("the sizes {0:?} overflow")]
    Overflow(Vec<usize>),
    /// Sizes and elements do not agree.
    #[error("{dtype} of sizes {dims:?} needs {needed} {unit}, found {found}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Sizes.
        dims: Vec<usize>,
        /// What is counted: bytes, or entries of a field.
        unit: &'static str,
        /// Needed.
        needed: usize,
        /// Found.
        found: usize,
    },
    /// The elements stand in a field that is not for this type, or in two fields.
    #[error("{dtype} elements cannot stand in {field}")]
    Field {
        /// Element type.
        dtype: DType,
        /// The fields that hold something.
        field: String,
    },
    /// An entry of `int32_data` or `uint64_data` is out of the type's range.
    #[error("entry {at} of {field} is {value}, which no {dtype} can be")]
    Range {
        /// Element type.
        dtype: DType,
        /// The field.
        field: &'static str,
        /// Position.
        at: usize,
        /// The entry.
        value: i64,
    },
    /// A tensor in several messages.
    #[error("segments are not supported (ONNX defines no way to join them)")]
    Segment,
    /// `data_location` is newer than the schema.
    #[error("unknown data location {0}")]
    Location(i32),
    /// The elements are in another file, and something is wrong with that.
    #[error("external data in {file:?}: {problem}")]
    External {
        /// The location as the file writes it.
        file: String,
        /// What is wrong.
        problem: ExternalProblem,
    },
}

/// What is wrong with external data.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExternalProblem {
    /// No location.
    #[error("no location is given")]
    NoLocation,
    /// The model was not read from a folder.
    #[error("the model's folder is not known")]
    NoFolder,
    /// An absolute path or one with `..`.
    #[error("the path must be relative, without \"..\"")]
    Path,
    /// The path leaves the model's folder through a symbolic link.
    #[error("the file lies outside the model's folder {0:?}")]
    Outside(PathBuf),
    /// The file is missing or cannot be read.
    #[error("{0}")]
    Io(String),
    /// Not a regular file.
    #[error("not a regular file")]
    NotAFile,
    /// Offset or length are no numbers.
    #[error("{key} is {value:?}, which is no number of bytes")]
    Number {
        /// `offset` or `length`.
        key: &'static str,
        /// As the file writes it.
        value: String,
    },
    /// The slice is not inside the file.
    #[error("{length} bytes at offset {offset} are not inside the file of {file} bytes")]
    Range {
        /// Start.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Size of the file.
        file: u64,
    },
    /// The length is not what type and sizes ask for.
    #[error("length {found} is given, type and sizes need {needed}")]
    Length {
        /// Needed.
        needed: u64,
        /// Given.
        found: u64,
    },
}
