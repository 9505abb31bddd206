//! Files with the elements of tensors: found, contained, mapped once.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use crate::error::ExternalProblem;
use crate::mapped;

/// The external files of one model.
pub(crate) struct ExternalFiles {
    folder: Option<PathBuf>,
    /// The real folder, and that of the model's real file where the model is a link (as in a Hugging Face cache).
    roots: Vec<PathBuf>,
    mapped: HashMap<String, Result<Bytes, String>>,
}

impl ExternalFiles {
    /// The files beside a model. `model` is its path, if it has one.
    pub fn new(folder: Option<&Path>, model: Option<&Path>) -> ExternalFiles {
        let mut roots: Vec<PathBuf> =
            folder.and_then(|folder| folder.canonicalize().ok()).into_iter().collect();
        let real = model.and_then(|model| model.canonicalize().ok());
        roots.extend(real.and_then(|real| real.parent().map(Path::to_path_buf)));
        ExternalFiles { folder: folder.map(Path::to_path_buf), roots, mapped: HashMap::new() }
    }

    /// `length` bytes at `offset` of the file at `location`.
    pub fn slice(&mut self, location: &str, offset: u64, length: u64) -> Result<Bytes, ExternalProblem> {
        let bytes = match self.mapped.get(location) {
            Some(Ok(bytes)) => bytes.clone(),
            Some(Err(error)) => return Err(ExternalProblem::Io(error.clone())),
            None => self.open(location)?,
        };
        let file = bytes.len() as u64;
        match offset.checked_add(length) {
            // Both fit usize because the file is mapped.
            Some(end) if end <= file => Ok(bytes.slice(offset as usize..end as usize)),
            _ => Err(ExternalProblem::Range { offset, length, file }),
        }
    }

    fn open(&mut self, location: &str) -> Result<Bytes, ExternalProblem> {
        let folder = self.folder.as_ref().ok_or(ExternalProblem::NoFolder)?;
        let relative = Path::new(location);
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || location.contains('\0') || !relative.components().all(plain) {
            return Err(ExternalProblem::Path);
        }
        let io = |error: std::io::Error| ExternalProblem::Io(error.to_string());
        let real = folder.join(relative).canonicalize().map_err(io)?;
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err(ExternalProblem::Outside(folder.clone()));
        }
        // A pipe or device would block on opening: look first.
        if !real.metadata().map_err(io)?.is_file() {
            return Err(ExternalProblem::NotAFile);
        }
        let mapped = File::open(&real).and_then(mapped::map).map_err(|error| error.to_string());
        self.mapped.insert(location.to_string(), mapped.clone());
        mapped.map_err(ExternalProblem::Io)
    }
}
