//! `.npz`: arrays by input name; one file with the samples along a new first axis, or a folder with one file a sample.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use runtime::Feed;
use zip::{CompressionMethod, ZipArchive};

use super::Source;
use super::npy::{Array, map};

/// The arrays of an archive. What is stored uncompressed stays in the mapped file.
fn arrays(path: &Path) -> Result<Vec<(String, Array)>> {
    let bytes = map(path)?;
    let read = || -> Result<Vec<(String, Array)>> {
        let mut archive = ZipArchive::new(std::io::Cursor::new(&bytes[..]))?;
        let mut arrays = Vec::new();
        for at in 0..archive.len() {
            let mut entry = archive.by_index(at)?;
            let name = entry.name()?.trim_end_matches(".npy").to_string();
            let start = entry.data_start().map(|start| start as usize);
            let data = match (entry.compression(), start) {
                (CompressionMethod::Stored, Some(start)) => {
                    let end = start.checked_add(entry.size() as usize).filter(|&end| end <= bytes.len());
                    bytes.slice(start..end.context("an entry is cut off")?)
                }
                _ => {
                    let mut data = Vec::new();
                    entry.read_to_end(&mut data)?;
                    Bytes::from(data)
                }
            };
            arrays.push((name.clone(), Array::parse(data).with_context(|| format!("array {name:?}"))?));
        }
        Ok(arrays)
    };
    read().with_context(|| path.display().to_string())
}

/// Every array of an archive, whole.
///
/// # Errors
/// The file is no archive of arrays.
pub fn npz_arrays(path: &Path) -> Result<Vec<(String, ir::Tensor)>> {
    arrays(path)?.into_iter().map(|(name, array)| Ok((name, array.tensor()?))).collect()
}

/// One archive, samples along the first axis of every array.
pub(super) struct Stacked {
    arrays: Vec<(String, Array)>,
    samples: usize,
}

impl Stacked {
    pub(super) fn open(path: &Path) -> Result<Stacked> {
        let arrays = arrays(path)?;
        let samples = arrays.first().map_or(0, |(_, array)| array.rows());
        for (name, array) in &arrays {
            ensure!(
                array.rows() == samples,
                "{}: array {name:?} holds {} samples, {:?} holds {samples}; the samples are stacked on a new first axis",
                path.display(),
                array.rows(),
                arrays[0].0,
            );
        }
        Ok(Stacked { arrays, samples })
    }
}

impl Source for Stacked {
    fn len(&self) -> usize {
        self.samples
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        self.arrays.iter().map(|(name, array)| Ok((name.clone(), array.row(at)?))).collect()
    }
}

/// One archive a sample.
pub(super) struct Files(Vec<PathBuf>);

impl Files {
    pub(super) fn new(files: Vec<PathBuf>) -> Files {
        Files(files)
    }
}

impl Source for Files {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        arrays(&self.0[at])?.into_iter().map(|(name, array)| Ok((name, array.tensor()?))).collect()
    }

    fn label(&self, at: usize) -> String {
        super::images::file_name(&self.0[at])
    }
}
