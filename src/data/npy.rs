//! `.npy`: one array, samples along the first axis; or a folder with one file a sample.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use ir::{DType, Tensor};
use runtime::Feed;

use super::{InputSpec, Source, only_input};

/// The header of an array file: NumPy's format version 1 to 3.
pub(super) struct Array {
    dtype: DType,
    dims: Vec<usize>,
    data: Bytes,
}

impl Array {
    /// Reads the header; the elements stay where they are.
    pub(super) fn parse(bytes: Bytes) -> Result<Array> {
        ensure!(bytes.len() >= 10 && bytes[..6] == *b"\x93NUMPY", "not an .npy array");
        let (start, length) = match bytes[6] {
            1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
            2 | 3 if bytes.len() >= 12 => {
                (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize)
            }
            version => bail!("unknown .npy version {version}"),
        };
        ensure!(bytes.len() - start >= length, "the .npy header is cut off");
        let header =
            std::str::from_utf8(&bytes[start..start + length]).context("the .npy header is not text")?;
        let text = |key: &str| -> Result<&str> {
            let at =
                header.find(&format!("'{key}'")).with_context(|| format!("the .npy header has no {key}"))?;
            Ok(header[at + key.len() + 2..].trim_start_matches([':', ' ']))
        };
        let descr = text("descr")?.trim_start_matches('\'');
        let descr = &descr[..descr.find('\'').context("bad descr")?];
        let dtype =
            dtype_of(descr).with_context(|| format!("element type {descr:?} has no ONNX counterpart"))?;
        let shape = text("shape")?.trim_start_matches('(');
        let shape = &shape[..shape.find(')').context("bad shape")?];
        let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
        let dims = sizes.map(str::parse).collect::<Result<Vec<usize>, _>>().context("bad shape")?;
        ensure!(
            text("fortran_order")?.starts_with("False") || dims.len() < 2,
            "Fortran order is not supported; save with numpy.ascontiguousarray"
        );
        let data = bytes.slice(start + length..);
        let elements = ir::checked_elements(&dims)?;
        let needed = dtype.storage_bytes(elements).context("too large")?;
        ensure!(data.len() >= needed, "the .npy array is cut off: {} bytes of {needed}", data.len());
        Ok(Array { dtype, dims, data: data.slice(..needed) })
    }

    /// The whole array.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::new(self.dtype, &self.dims[..], self.data.clone())?)
    }

    /// Number of samples along the first axis.
    pub(super) fn rows(&self) -> usize {
        self.dims.first().copied().unwrap_or(0)
    }

    /// Sample `at` along the first axis, without that axis.
    pub(super) fn row(&self, at: usize) -> Result<Tensor> {
        let rest = self.dims.get(1..).context("a scalar holds no samples")?;
        let size = self.dtype.storage_bytes(ir::checked_elements(rest)?).context("too large")?;
        ensure!(at < self.rows(), "sample {at} of {}", self.rows());
        Ok(Tensor::new(self.dtype, rest, self.data.slice(at * size..(at + 1) * size))?)
    }
}

fn dtype_of(descr: &str) -> Option<DType> {
    let native = descr.strip_prefix(['<', '|', '='])?;
    Some(match native {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "b1" => DType::Bool,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        _ => return None,
    })
}

/// Maps a file into memory.
pub(super) fn map(path: &Path) -> Result<Bytes> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read only; a file that another process truncates meanwhile is outside what any reader of
    // mapped data can guard against.
    let map =
        unsafe { memmap2::Mmap::map(&file) }.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Bytes::from_owner(map))
}

pub(super) fn read(path: &Path) -> Result<Array> {
    Array::parse(map(path)?).with_context(|| path.display().to_string())
}

/// One array with the samples along a new first axis, or (if that fits the declared rank better) whole batches of one.
pub(super) struct Stacked {
    name: String,
    array: Array,
    /// The model's own rank equals the array's: the first axis is the batch, and a sample keeps it with size 1.
    keep_axis: bool,
}

impl Stacked {
    pub(super) fn open(path: &Path, specs: &[InputSpec]) -> Result<Stacked> {
        let spec = only_input(specs, "an .npy file")?;
        let array = read(path)?;
        let keep_axis = spec.dims.as_ref().is_some_and(|dims| dims.len() == array.dims.len());
        Ok(Stacked { name: spec.name.clone(), array, keep_axis })
    }
}

impl Source for Stacked {
    fn len(&self) -> usize {
        self.array.rows()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let mut tensor = self.array.row(at)?;
        if self.keep_axis {
            let dims: Vec<usize> = std::iter::once(1).chain(tensor.dims().iter().copied()).collect();
            tensor = tensor.reshaped(&dims[..])?;
        }
        Ok(vec![(self.name.clone(), tensor)])
    }
}

/// One array a sample.
pub(super) struct Files {
    name: String,
    files: Vec<PathBuf>,
}

impl Files {
    pub(super) fn new(files: Vec<PathBuf>, specs: &[InputSpec]) -> Result<Files> {
        Ok(Files { name: only_input(specs, "a folder of .npy files")?.name.clone(), files })
    }
}

impl Source for Files {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        Ok(vec![(self.name.clone(), read(&self.files[at])?.tensor()?)])
    }

    fn label(&self, at: usize) -> String {
        super::images::file_name(&self.files[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes.into()
    }

    #[test]
    fn headers_are_read() {
        let array = Array::parse(file(
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2), }\n",
            &[1, 0, 2, 0, 3, 0, 4, 0],
        ));
        let array = array.unwrap();
        assert_eq!(array.row(1).unwrap().to_vec::<i16>().unwrap(), [3, 4]);
        assert!(array.row(2).is_err());
    }

    #[test]
    fn bad_arrays_are_errors() {
        let bad = [
            file("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2), }", &[1, 0]),
            file("{'descr': '>i2', 'fortran_order': False, 'shape': (1,), }", &[1, 0]),
            file("{'descr': '<i2', 'fortran_order': True, 'shape': (1, 2), }", &[1, 0, 2, 0]),
            file("{'descr': '<i2', 'fortran_order': False, 'shape': (99999999999999999999,), }", &[]),
            file("{}", &[]),
            Bytes::from_static(b"\x93NUMPY\x01\x00\xff\xff"),
        ];
        for bytes in bad {
            assert!(Array::parse(bytes).is_err());
        }
    }
}
