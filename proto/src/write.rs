//! Writing a file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::ProtoError;
use crate::export::{Chunk, Exporter, Lengths, Placement, Placer, Wire};
use crate::mapped::write_slice;
use crate::output::Output;
use crate::stream::FileBuf;
use bytes::BufMut;
use ir::Model;

/// What protobuf libraries accept at most: 2 GiB less one byte.
const MAX_PROTO: u64 = i32::MAX as u64;

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Where the elements of tensors go.
    pub layout: Layout,
    /// Write a model although its file held what this program does not know (see [`Model::dropped`]).
    pub force: bool,
}

/// Where the elements of tensors go.
#[derive(Clone, Debug, Default)]
pub enum Layout {
    /// Where the input had them: external tensors stay external, in one file `<output>.data`. A model that would not fit
    /// into one protobuf gets external data with the settings of [`External::default`].
    #[default]
    AsRead,
    /// Into the model file. A model over 2 GiB is an error.
    Inline,
    /// Large tensors into another file.
    External(External),
}

/// Settings of external data.
#[derive(Clone, Debug)]
pub struct External {
    /// Tensors of at least so many bytes go out.
    pub threshold: usize,
    /// Each starts at a multiple of this. ONNX asks for the page size, so that runtimes can map them.
    pub align: u64,
    /// Name of the file, in the model's folder; none for the model's file name and `.data`.
    pub file_name: Option<String>,
}

impl Default for External {
    fn default() -> External {
        External { threshold: 1024, align: 4096, file_name: None }
    }
}

/// A model that has been measured, ready to be encoded.
struct Encoding<'a> {
    exporter: Exporter<'a>,
    size: u64,
    lengths: Lengths,
}

impl<'a> Encoding<'a> {
    fn new(model: &'a Model, placer: Placer) -> Result<Encoding<'a>, ProtoError> {
        let mut exporter = Exporter::new(model, placer);
        let (size, lengths) = Wire::measure(|wire| exporter.model(wire))?;
        Ok(Encoding { exporter, size, lengths })
    }

    /// What goes into the data file.
    fn chunks(&self) -> &[Chunk] {
        &self.exporter.placer.chunks
    }

    /// Writes the model file and gives what goes into the data file.
    fn encode(mut self, out: &mut impl BufMut) -> Result<Vec<Chunk>, ProtoError> {
        Wire::write(out, (self.size, self.lengths), |wire| self.exporter.model(wire))?;
        Ok(self.exporter.placer.chunks)
    }

    /// The model file in memory, if it is not too large.
    fn into_bytes(self) -> Result<(Vec<u8>, Vec<Chunk>), ProtoError> {
        if self.size > MAX_PROTO {
            return Err(ProtoError::TooLarge(self.size));
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        let chunks = self.encode(&mut bytes)?;
        Ok((bytes, chunks))
    }
}

fn check(model: &Model, force: bool) -> Result<(), ProtoError> {
    if model.dropped.is_empty() || force { Ok(()) } else { Err(ProtoError::WouldDrop(model.dropped.clone())) }
}

/// Writes a model. Model and external data appear under their names when they are complete; until then, and after an
/// error, files of these names are as before. The path may be that of the file the model was read from. Returns the bytes of
/// both files together.
pub fn write(model: &Model, path: &Path, options: &WriteOptions) -> Result<u64, ProtoError> {
    check(model, options.force)?;
    let target = Target::new(path)?;
    let external = match &options.layout {
        Layout::External(external) => external.clone(),
        _ => External::default(),
    };
    let file = external.file_name.unwrap_or_else(|| format!("{}.data", target.name));
    let plain =
        Path::new(&file).file_name().is_some_and(|name| name == file.as_str()) && !file.contains(['/', '\0']);
    if !plain || file == target.name {
        return Err(ProtoError::DataFileName(file));
    }
    let placer = |placement| Placer::new(placement, file.clone(), external.align);
    let mut encoding = match &options.layout {
        Layout::AsRead => Encoding::new(model, placer(Placement::AsRead))?,
        Layout::Inline => Encoding::new(model, placer(Placement::Inline))?,
        Layout::External(_) => Encoding::new(model, placer(Placement::From(external.threshold)))?,
    };
    if encoding.size > MAX_PROTO && matches!(options.layout, Layout::AsRead) {
        encoding = Encoding::new(model, placer(Placement::From(external.threshold)))?;
    }
    if encoding.size > MAX_PROTO {
        return Err(ProtoError::TooLarge(encoding.size));
    }
    let (size, chunks) = (encoding.size, encoding.chunks());
    let beside = chunks.iter().map(|chunk| chunk.offset + chunk.bytes.len() as u64).max().unwrap_or(0);
    let data = match chunks {
        [] => None,
        chunks => Some(target.beside(&file)?.fill(|file| write_chunks(file, chunks))?),
    };
    let model = target.open()?.fill(|file| {
        let mut out = FileBuf::new(file);
        encoding.encode(&mut out).map_err(io::Error::other)?;
        out.finish()
    })?;
    // The data first: the new model never stands beside the old data.
    data.map_or(Ok(()), Output::publish)?;
    model.publish()?;
    Ok(beside + size)
}

fn write_chunks(file: &mut File, chunks: &[Chunk]) -> io::Result<()> {
    let mut at = 0;
    for chunk in chunks {
        if chunk.offset != at {
            // Leaves a hole, which reads as zeros.
            file.seek(SeekFrom::Start(chunk.offset))?;
        }
        write_slice(file, &chunk.bytes)?;
        at = chunk.offset + chunk.bytes.len() as u64;
    }
    Ok(())
}

/// The bytes of a model file with everything in it.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>, ProtoError> {
    let placer = Placer::new(Placement::Inline, String::new(), 1);
    Ok(Encoding::new(model, placer)?.into_bytes()?.0)
}

/// A model file and its external data in memory.
#[derive(Clone, Debug)]
pub struct Split {
    /// The model file.
    pub model: Vec<u8>,
    /// Slices of the data file with their offsets, in ascending order.
    pub data: Vec<(u64, bytes::Bytes)>,
}

/// The bytes of a model file whose tensors of `threshold` bytes and more are to be found at `location`, and those
/// tensors: for runtimes that take external data from memory.
pub fn to_bytes_external(model: &Model, location: &str, external: &External) -> Result<Split, ProtoError> {
    let placer = Placer::new(Placement::From(external.threshold), location.to_string(), external.align);
    let (model, chunks) = Encoding::new(model, placer)?.into_bytes()?;
    let data = chunks.into_iter().map(|chunk| (chunk.offset, chunk.bytes)).collect();
    Ok(Split { model, data })
}

/// Where a model goes: the real path behind links.
struct Target {
    folder: PathBuf,
    name: String,
}

impl Target {
    fn new(path: &Path) -> Result<Target, ProtoError> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = real.file_name().and_then(|name| name.to_str()).map(str::to_string);
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a file name");
        let name = name.ok_or(ProtoError::Io { path: path.to_path_buf(), source })?;
        let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(Target { folder: folder.unwrap_or(Path::new(".")).to_path_buf(), name })
    }

    fn open(&self) -> Result<Output, ProtoError> {
        self.beside(&self.name)
    }

    fn beside(&self, name: &str) -> Result<Output, ProtoError> {
        Output::new(self.folder.join(name))
    }
}
