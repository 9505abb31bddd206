//! Output files that appear under their name only when they are complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::ProtoError;

/// Writes a whole file: beside its place first, then renamed, so that a killed run leaves what was there. Pipes and devices
/// are written as they are.
///
/// # Errors
///
/// [`ProtoError::Io`] with the path where the folder is missing or cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ProtoError> {
    Output::new(path.to_path_buf())?.fill(|file| file.write_all(bytes))?.publish()
}

/// Tries whether a file can be written there, and leaves nothing behind: asked before long work.
///
/// # Errors
///
/// As [`write_file`].
pub fn writable(path: &Path) -> Result<(), ProtoError> {
    match path.metadata() {
        // Opening a pipe and closing it again would end it for its reader.
        Ok(found) if !found.is_dir() && !found.is_file() => Ok(()),
        _ => Output::new(path.to_path_buf()).map(drop),
    }
}

/// A file that is not there until it is complete.
pub(crate) enum Output {
    /// Renamed at the end.
    Temporary { file: NamedTempFile, path: PathBuf },
    /// A pipe or device: written as it is.
    Device { file: File, path: PathBuf },
}

impl Output {
    pub(crate) fn new(path: PathBuf) -> Result<Output, ProtoError> {
        let opened = match path.metadata() {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => File::options()
                .write(true)
                .open(&path)
                .map(|file| Output::Device { file, path: path.clone() }),
            found => temporary(&path, found.ok()).map(|file| Output::Temporary { file, path: path.clone() }),
        };
        opened.map_err(|source| ProtoError::Io { path, source })
    }

    pub(crate) fn fill(
        mut self,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Output, ProtoError> {
        let (file, path) = match &mut self {
            Output::Temporary { file, path } => (file.as_file_mut(), path),
            Output::Device { file, path } => (file, path),
        };
        write(file).map_err(|source| ProtoError::Io { path: path.clone(), source })?;
        Ok(self)
    }

    pub(crate) fn publish(self) -> Result<(), ProtoError> {
        match self {
            Output::Temporary { file, path } => match file.persist(&path) {
                Ok(_) => Ok(()),
                Err(error) => Err(ProtoError::Io { path, source: error.error }),
            },
            Output::Device { .. } => Ok(()),
        }
    }
}

/// A temporary file in the folder of `path`, with the permissions of the file that it is going to replace, or the usual.
fn temporary(path: &Path, replaced: Option<std::fs::Metadata>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnxq-").suffix(".tmp");
    let permissions = match &replaced {
        Some(found) => Some(found.permissions()),
        None => usual_permissions(),
    };
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let why = format!("there is no folder {}: make it first", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    builder.tempfile_in(folder)
}

/// Readable and writable by all, less the process's mask.
#[cfg(unix)]
fn usual_permissions() -> Option<std::fs::Permissions> {
    Some(std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

#[cfg(not(unix))]
fn usual_permissions() -> Option<std::fs::Permissions> {
    None
}
