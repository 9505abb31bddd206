//! Importance of the inputs of weights, from a file: the mean of x² of each of the K columns that a weight multiplies.
//!
//! `.npz`: one float array a weight, named as the model names the constant; written by `--write-imatrix`. `.dat`: llama.cpp's
//! older form (count; name, calls, sums of each entry), for models whose constants keep the checkpoint's names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Mean squares by the name of the weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    columns: BTreeMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file by its ending.
    ///
    /// # Errors
    /// Another ending, a file that is cut off, or numbers that are no mean squares.
    pub fn read(path: &Path) -> Result<Imatrix> {
        let what = || format!("cannot read the imatrix {}", path.display());
        let columns = match path.extension().and_then(|e| e.to_str()) {
            Some("npz") => from_npz(path).with_context(what)?,
            Some("dat") => from_dat(&std::fs::read(path).with_context(what)?).with_context(what)?,
            _ => bail!("{}: an imatrix ends in .npz or .dat", path.display()),
        };
        ensure!(!columns.is_empty(), "{}: no entry", path.display());
        for (name, values) in &columns {
            if let Some(at) = values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
                bail!("{}: {name:?} has {} in column {at}", path.display(), values[at]);
            }
        }
        Ok(Imatrix { columns })
    }

    /// The columns of a weight.
    ///
    /// # Errors
    /// The entry has another length than the weight has columns.
    pub fn of(&self, name: &str, columns: usize) -> Result<Option<&[f32]>> {
        let Some(found) = self.columns.get(name) else { return Ok(None) };
        ensure!(
            found.len() == columns,
            "the imatrix has {} columns for {name:?}, which multiplies {columns}: it is another model's",
            found.len()
        );
        Ok(Some(found))
    }

    /// Names of its entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Adds an entry.
    pub fn insert(&mut self, name: &str, columns: Vec<f32>) {
        self.columns.insert(name.to_string(), columns);
    }

    /// The `.npz` form, the same bytes for the same numbers.
    ///
    /// # Errors
    /// The archive cannot be made.
    pub fn to_npz(&self) -> Result<Vec<u8>> {
        let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, values) in &self.columns {
            archive
                .start_file(format!("{name}.npy"), options.last_modified_time(zip::DateTime::default()))?;
            let mut head =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.len());
            // The head ends at a multiple of 64, with a line's end.
            head.push_str(&" ".repeat(63 - (10 + head.len()) % 64));
            head.push('\n');
            archive.write_all(b"\x93NUMPY\x01\x00")?;
            archive.write_all(&u16::try_from(head.len())?.to_le_bytes())?;
            archive.write_all(head.as_bytes())?;
            values.iter().try_for_each(|v| archive.write_all(&v.to_le_bytes()))?;
        }
        Ok(archive.finish()?.into_inner())
    }
}

fn from_npz(path: &Path) -> Result<BTreeMap<String, Vec<f32>>> {
    let arrays = crate::data::npz_arrays(path)?;
    arrays
        .into_iter()
        .map(|(name, tensor)| {
            let values: Vec<f32> = tensor.to_vec().with_context(|| format!("{name:?} is not float32"))?;
            Ok((name, values))
        })
        .collect()
}

/// `i32 entries; per entry: i32 length, name, i32 calls, i32 count, count × f32`. The numbers are means times calls.
fn from_dat(bytes: &[u8]) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut rest = bytes;
    let mut take = |count: usize| -> Result<&[u8]> {
        let (head, tail) = rest.split_at_checked(count).context("the file is cut off")?;
        rest = tail;
        Ok(head)
    };
    let int = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(i32::from_le_bytes).unwrap_or(-1);
    let size = |n: i32| usize::try_from(n).context("a negative size");
    let entries = size(int(take(4)?))?;
    let mut columns = BTreeMap::new();
    for _ in 0..entries {
        let length = size(int(take(4)?))?;
        let name = String::from_utf8_lossy(take(length)?).into_owned();
        let calls = int(take(4)?);
        let count = size(int(take(4)?))?;
        let values = take(count.checked_mul(4).context("a size beyond any file")?)?;
        let scale = if calls > 0 { 1.0 / calls as f32 } else { 1.0 };
        let numbers = values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) * scale);
        columns.insert(name, numbers.collect());
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npz_keeps_names_and_numbers() {
        let mut all = Imatrix::default();
        all.insert("layers.0/w", vec![1.0, 0.5, 0.0]);
        all.insert("b", vec![2.0; 100]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.npz");
        std::fs::write(&path, all.to_npz().unwrap()).unwrap();
        let read = Imatrix::read(&path).unwrap();
        assert_eq!(read, all);
        assert_eq!(read.of("layers.0/w", 3).unwrap(), Some(&[1.0, 0.5, 0.0][..]));
        assert!(read.of("layers.0/w", 4).unwrap_err().to_string().contains("another model's"));
        assert_eq!(read.of("c", 4).unwrap(), None);
    }

    #[test]
    fn dat_is_read_and_hostile_files_are_refused() {
        let mut bytes = Vec::new();
        for n in [1i32, 3] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(b"abc");
        for n in [4i32, 2] {
            bytes.extend(n.to_le_bytes());
        }
        for v in [8.0f32, 2.0] {
            bytes.extend(v.to_le_bytes());
        }
        assert_eq!(from_dat(&bytes).unwrap()["abc"], [2.0, 0.5]);
        for end in 0..bytes.len() {
            assert!(from_dat(&bytes[..end]).is_err());
        }
        assert!(from_dat(&[0xff; 64]).is_err());
    }
}
