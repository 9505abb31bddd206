//! Reading a file.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use ir::Model;

use crate::error::ProtoError;
use crate::external::ExternalFiles;
use crate::{generated as pb, import, mapped, scan, schema};

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Most bytes that the decoded messages may take, weights aside; none for 64 for each byte of the file, and 4 MiB.
    pub memory: Option<u64>,
}

/// A model and what there is to say about its file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Warnings, one line each.
    pub notes: Vec<String>,
}

/// `ir_version` of the schema.
const NEWEST_IR: i64 = pb::Version::IrVersion as i64;

/// Fields of `ModelProto` that are passed through as they are.
pub(crate) const TRAINING_INFO: u32 = 20;
/// See [`TRAINING_INFO`].
pub(crate) const CONFIGURATION: u32 = 26;

/// Reads an ONNX file. The file is mapped, and stays mapped as long as a tensor of the model lives: whoever changes it
/// in place meanwhile changes the model. [`crate::write`] never does.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Loaded, ProtoError> {
    let io = |source| ProtoError::Io { path: path.to_path_buf(), source };
    // `parent` of a bare file name is the empty path, which is no folder to the operating system.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.metadata().map_err(io)?.is_dir() {
        return Err(io(std::io::ErrorKind::IsADirectory.into()));
    }
    let bytes = File::open(path).and_then(mapped::map).map_err(io)?;
    load(bytes, ExternalFiles::new(Some(folder), Some(path)), options)
}

/// Reads an ONNX model from memory. External data are looked for in `folder`.
pub fn read_bytes(bytes: Bytes, folder: Option<&Path>) -> Result<Loaded, ProtoError> {
    load(bytes, ExternalFiles::new(folder, None), &ReadOptions::default())
}

fn load(bytes: Bytes, files: ExternalFiles, options: &ReadOptions) -> Result<Loaded, ProtoError> {
    let limit = options.memory.unwrap_or_else(|| scan::limit(&bytes));
    let found = scan::scan(&bytes, limit, &schema::MODEL_PROTO, &[TRAINING_INFO, CONFIGURATION])?;
    let mut model = import::model(&bytes, files)?;
    model.opaque = found.opaque.into_iter().map(|(number, range)| (number, bytes.slice(range))).collect();
    let unknown = found.unknown.into_iter();
    let unknown =
        unknown.map(|((message, number), count)| format!("field {number} of {message} ({count} times)"));
    model.dropped.splice(0..0, unknown);
    if model.ir_version > NEWEST_IR {
        model.dropped.push(format!("IR version {} is newer than {NEWEST_IR}", model.ir_version));
    }
    let notes = model
        .dropped
        .iter()
        .map(|what| format!("not understood, may be lost when written: {what}"))
        .collect();
    Ok(Loaded { model, notes })
}
