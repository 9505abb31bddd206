//! Finished weights on disk: what bounds the memory of a run, and what an interrupted run resumes from.
//!
//! A folder with two files. `weights.bin` holds the packed tensors, each at a multiple of 4 KiB and mapped as soon as it is
//! written; `journal.jsonl` has a line for the run and one for each finished weight, written after its tensors. A last line
//! that is cut short is ignored, so it does not matter when the run ends. A folder of another run is refused if its work was
//! dear, and forgotten if nothing is finished in it or can be made again in no time (data-free methods): whoever leaves out
//! a weight that an error named should not have to ask twice. Tensors that are not those that were written (each line has a
//! checksum of its own) are refused.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ir::{DType, Tensor};
use memmap2::MmapOptions;
use passes::quantize::low_bit::Packed;
use serde::{Deserialize, Serialize};

use super::WeightReport;

const PAGE: u64 = 4096;
/// What the line of a run begins with if its work is cheap to do again.
pub const CHEAP: &str = "data-free ";

/// A finished weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// What is written into the model.
    pub packed: Packed,
    /// What is said about it.
    pub report: WeightReport,
}

#[derive(Serialize, Deserialize)]
struct Line {
    name: String,
    finished: Finished,
    /// Start of each tensor in `weights.bin`.
    offsets: Vec<u64>,
    /// [`checksum`] of the tensors.
    checksum: u64,
}

/// Finished weights by name.
pub struct Spool {
    disk: Option<Disk>,
    done: BTreeMap<String, Finished>,
    /// Work of another run was there, and is gone.
    pub forgot: bool,
}

struct Disk {
    folder: PathBuf,
    data: File,
    journal: File,
    end: u64,
}

impl Spool {
    /// Nothing finished; everything stays in memory.
    pub fn in_memory() -> Spool {
        Spool { disk: None, done: BTreeMap::new(), forgot: false }
    }

    /// Opens the folder, and takes up what is left of a run with this fingerprint. Cheap work of another run is forgotten.
    ///
    /// # Errors
    /// The folder holds another run's dear work, or cannot be written.
    pub fn open(folder: &Path, fingerprint: &str) -> Result<Spool> {
        let wrong = || format!("cannot keep unfinished work in {}", folder.display());
        std::fs::create_dir_all(folder).with_context(wrong)?;
        let open = |name: &str| {
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(folder.join(name))
        };
        let (data, mut journal) =
            (open("weights.bin").with_context(wrong)?, open("journal.jsonl").with_context(wrong)?);
        let mut spool = Spool { disk: None, done: BTreeMap::new(), forgot: false };
        let (first, finished) = first_line(&journal).with_context(wrong)?;
        if first != fingerprint.as_bytes() && (first.starts_with(CHEAP.as_bytes()) || !finished) {
            spool.forgot = finished;
            journal.set_len(0).with_context(wrong)?;
            data.set_len(0).with_context(wrong)?;
        }
        journal.rewind().with_context(wrong)?;
        let (mut kept, mut end) = (0, 0);
        for (at, line) in BufReader::new(&journal).split(b'\n').enumerate() {
            let line = line.with_context(wrong)?;
            if at == 0 && kept == 0 {
                if line != fingerprint.as_bytes() {
                    bail!(
                        "{} is left of another run, of another model, other data or options: --restart forgets it",
                        folder.display()
                    );
                }
            } else {
                let Ok(mut found) = serde_json::from_slice::<Line>(&line) else { break };
                let Ok(reached) = restore(&data, &mut found) else { break };
                if checksum(&found.finished)? != found.checksum {
                    bail!(
                        "{} is damaged: {:?} is not what was written; --restart forgets it",
                        folder.display(),
                        found.name
                    );
                }
                end = reached;
                spool.done.insert(found.name, found.finished);
            }
            kept += line.len() as u64 + 1;
        }
        journal.set_len(kept.min(journal.metadata()?.len())).with_context(wrong)?;
        journal.seek(SeekFrom::End(0)).with_context(wrong)?;
        if kept == 0 {
            writeln!(journal, "{fingerprint}").with_context(wrong)?;
        }
        spool.disk = Some(Disk { folder: folder.to_path_buf(), data, journal, end });
        Ok(spool)
    }

    /// A weight that was finished, now or before.
    pub fn get(&self, name: &str) -> Option<&Finished> {
        self.done.get(name)
    }

    /// How many are finished.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Keeps a weight: from now on its tensors are slices of a file.
    pub fn put(&mut self, name: &str, mut finished: Finished) -> Result<()> {
        if let Some(disk) = &mut self.disk {
            let offsets = disk.write(&mut finished)?;
            let checksum = checksum(&finished)?;
            let line = Line { name: name.to_string(), finished: finished.clone(), offsets, checksum };
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            disk.journal.write_all(&text)?;
        }
        self.done.insert(name.to_string(), finished);
        Ok(())
    }

    /// Takes a weight out.
    pub fn take(&mut self, name: &str) -> Option<Finished> {
        self.done.remove(name)
    }

    /// Removes the folder: the work is in its final place.
    pub fn discard(self) -> Result<()> {
        let Some(disk) = self.disk else { return Ok(()) };
        std::fs::remove_dir_all(&disk.folder)
            .with_context(|| format!("cannot remove {}", disk.folder.display()))
    }
}

impl Disk {
    fn write(&mut self, finished: &mut Finished) -> Result<Vec<u64>> {
        let wrong = || format!("cannot write to {}", self.folder.display());
        let mut offsets = Vec::new();
        for part in finished.packed.parts_mut() {
            let Some(tensor) = &mut part.tensor else { bail!("a packed weight has no elements") };
            let start = self.end.next_multiple_of(PAGE);
            self.data.seek(SeekFrom::Start(start)).with_context(wrong)?;
            self.data.write_all(tensor.bytes()).with_context(wrong)?;
            self.end = start + tensor.bytes().len() as u64;
            *tensor = mapped(&self.data, start, tensor.dtype(), tensor.dims())?;
            offsets.push(start);
        }
        Ok(offsets)
    }
}

/// The line of the run that a journal belongs to, and whether a line follows.
fn first_line(journal: &File) -> std::io::Result<(Vec<u8>, bool)> {
    let mut lines = BufReader::new(journal).split(b'\n');
    let first = lines.next().transpose()?.unwrap_or_default();
    Ok((first, lines.next().transpose()?.is_some()))
}

/// Tells damaged tensors from whole ones, at the speed of memory: four lanes of eight bytes, as it need not withstand anybody
/// who means harm.
fn checksum(finished: &Finished) -> Result<u64> {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |lane: u64, word: u64| (lane ^ word).wrapping_mul(PRIME).rotate_left(29);
    let mut sum = PRIME;
    for part in finished.packed.parts() {
        let bytes = part.tensor.as_ref().context("a packed weight has no elements")?.bytes();
        let mut lanes = [sum; 4];
        let (chunks, rest) = bytes.as_chunks::<32>();
        for chunk in chunks {
            for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
                *lane = step(*lane, u64::from_le_bytes(*word));
            }
        }
        sum = rest.iter().fold(bytes.len() as u64, |sum, &byte| step(sum, u64::from(byte)));
        sum = lanes.iter().fold(sum, |sum, &lane| step(sum, lane));
    }
    Ok(sum)
}

/// A tensor over a piece of the file.
fn mapped(file: &File, start: u64, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let length = dtype.storage_bytes(ir::checked_elements(dims)?).context("strings are no weights")?;
    if length == 0 {
        return Ok(Tensor::new(dtype, dims, Bytes::new())?);
    }
    if file.metadata()?.len() < start + length as u64 {
        bail!("the file of finished weights is cut short");
    }
    // SAFETY: the folder belongs to this run: a run refuses a folder that it did not begin, and nothing else writes there.
    let map = unsafe { MmapOptions::new().offset(start).len(length).map(file)? };
    Ok(Tensor::new(dtype, dims, Bytes::from_owner(map))?)
}

/// Maps a weight's tensors; the end of the last one.
fn restore(data: &File, line: &mut Line) -> Result<u64> {
    let mut end = 0;
    let mut offsets = line.offsets.iter();
    for part in line.finished.packed.parts_mut() {
        let start = *offsets.next().context("an offset is missing")?;
        let dtype = DType::from_code(part.dtype).context("an unknown element type")?;
        let tensor = mapped(data, start, dtype, &part.dims)?;
        end = start + tensor.bytes().len() as u64;
        part.tensor = Some(tensor);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(codes: Vec<u8>) -> Finished {
        let text = r#"{"packed": {"rows": 1, "cols": 1, "product": null, "table": null,
            "input_scales": {"role": "input_scales", "dtype": 2, "dims": [0]}},
            "report": {"name": "w", "rows": 1, "cols": 1, "method": "rtn", "bits": 4, "block": 32,
            "bits_per_weight": 4.0, "relative_error": null, "output_error": null, "notes": []}}"#;
        let mut made: Finished = serde_json::from_str(text).unwrap();
        for part in made.packed.parts_mut() {
            part.dims = vec![codes.len()];
            part.tensor = Some(Tensor::new(DType::U8, &[codes.len()][..], codes.clone()).unwrap());
        }
        made
    }

    #[test]
    fn what_was_kept_is_taken_up_and_what_was_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let codes: Vec<u8> = (0..5000).map(|at| (at % 251) as u8).collect();
        let mut spool = Spool::open(&work, "one").unwrap();
        spool.put("a", finished(codes.clone())).unwrap();
        spool.put("b", finished(vec![7])).unwrap();
        drop(spool);
        let again = Spool::open(&work, "one").unwrap();
        let part = again.get("a").unwrap().packed.parts().next().unwrap().tensor.clone().unwrap();
        assert_eq!((again.len(), &part.bytes()[..]), (2, &codes[..]));
        drop((again, part));
        assert!(Spool::open(&work, "two").is_err(), "another run's");
        // Cheap work of another run is forgotten, and so is a folder in which nothing is finished.
        let cheap = folder.path().join("cheap");
        let mut spool = Spool::open(&cheap, &format!("{CHEAP}one")).unwrap();
        spool.put("a", finished(codes.clone())).unwrap();
        drop(spool);
        assert_eq!(Spool::open(&cheap, &format!("{CHEAP}one")).unwrap().len(), 1);
        let other = Spool::open(&cheap, "two").unwrap();
        assert!(other.forgot && other.len() == 0);
        drop(other);
        let third = Spool::open(&cheap, "three").unwrap();
        assert!(!third.forgot && third.len() == 0);
        drop(third);
        assert!(!Spool::open(&cheap, "three").unwrap().forgot);
        // A last line that is cut short is a weight that was not finished.
        let journal = work.join("journal.jsonl");
        let whole = std::fs::read(&journal).unwrap();
        std::fs::write(&journal, &whole[..whole.len() - 9]).unwrap();
        assert_eq!(Spool::open(&work, "one").unwrap().len(), 1);
        std::fs::write(&journal, &whole).unwrap();
        // One bit of one byte.
        let data = work.join("weights.bin");
        let mut bytes = std::fs::read(&data).unwrap();
        bytes[4321] ^= 4;
        std::fs::write(&data, &bytes).unwrap();
        let said = Spool::open(&work, "one").err().unwrap().to_string();
        assert!(said.contains("damaged") && said.contains("\"a\"") && said.contains("--restart"), "{said}");
    }
}
