//! JSON lines: one object a sample, input names to numbers or nested lists.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use ir::{DType, Tensor};
use runtime::Feed;
use serde_json::Value;

use super::npy::map;
use super::{InputSpec, Source};

/// The lines of a file.
pub(super) struct Lines {
    bytes: bytes::Bytes,
    /// Number, counted from 1, and bytes of each line that is not empty.
    lines: Vec<(usize, std::ops::Range<usize>)>,
    dtypes: Vec<(String, DType)>,
}

impl Lines {
    pub(super) fn open(path: &Path, specs: &[InputSpec]) -> Result<Lines> {
        let bytes = map(path)?;
        let (mut lines, mut start) = (Vec::new(), 0);
        let ends = bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at);
        for (at, end) in ends.chain(std::iter::once(bytes.len())).enumerate() {
            if bytes[start..end].iter().any(|byte| !byte.is_ascii_whitespace()) {
                lines.push((at + 1, start..end));
            }
            start = (end + 1).min(bytes.len());
        }
        let dtypes = specs.iter().map(|spec| (spec.name.clone(), spec.dtype.unwrap_or(DType::F32))).collect();
        Ok(Lines { bytes, lines, dtypes })
    }
}

impl Source for Lines {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let (number, bytes) = self.lines.get(at).cloned().context("there is no such sample")?;
        let read = || -> Result<Feed> {
            let value: Value = serde_json::from_slice(&self.bytes[bytes])?;
            let Value::Object(object) = value else { bail!("not an object of input names") };
            let mut feed = Feed::new();
            if !object.keys().any(|key| self.dtypes.iter().any(|(name, _)| name == key)) {
                let keys: Vec<&str> = object.keys().map(String::as_str).collect();
                let names: Vec<&str> = self.dtypes.iter().map(|(name, _)| name.as_str()).collect();
                bail!(
                    "no key is an input of the model: found {}; inputs: {}",
                    keys.join(", "),
                    names.join(", ")
                );
            }
            for (name, value) in object {
                let known = self.dtypes.iter().find(|(known, _)| *known == name);
                let Some(&(_, dtype)) = known else { continue };
                feed.push((name.clone(), tensor(&value, dtype).with_context(|| format!("input {name:?}"))?));
            }
            Ok(feed)
        };
        read().with_context(|| format!("line {number}"))
    }
}

/// Nested lists of numbers as a tensor; all lists of one depth must have one length.
fn tensor(value: &Value, dtype: DType) -> Result<Tensor> {
    let (mut dims, mut inner) = (Vec::new(), value);
    while let Value::Array(items) = inner {
        dims.push(items.len());
        match items.first() {
            Some(first) => inner = first,
            None => break,
        }
    }
    let mut bytes = Vec::new();
    write(value, &dims, dtype, &mut bytes)?;
    Ok(Tensor::new(dtype, &dims[..], bytes)?)
}

fn write(value: &Value, dims: &[usize], dtype: DType, out: &mut Vec<u8>) -> Result<()> {
    if let Some((&size, rest)) = dims.split_first() {
        let Value::Array(items) = value else { bail!("the lists are nested to different depths") };
        ensure!(
            items.len() == size,
            "the lists have different lengths: {} and {size}; pad them to one length, as the model was trained to take it \
             (lines may differ from one another)",
            items.len()
        );
        return items.iter().try_for_each(|item| write(item, rest, dtype, out));
    }
    let float = || value.as_f64().with_context(|| format!("{value} is not a number"));
    let int = || {
        value
            .as_i64()
            .or_else(|| value.as_bool().map(i64::from))
            .with_context(|| format!("{value} is not an integer"))
    };
    match dtype {
        DType::F32 => out.extend((float()? as f32).to_le_bytes()),
        DType::F64 => out.extend(float()?.to_le_bytes()),
        DType::F16 => out.extend(f16::from_f64(float()?).to_le_bytes()),
        DType::BF16 => out.extend(bf16::from_f64(float()?).to_le_bytes()),
        DType::Bool => out.push(u8::from(int()? != 0)),
        DType::I64 => out.extend(int()?.to_le_bytes()),
        DType::U64 => out.extend(
            value.as_u64().with_context(|| format!("{value} is not an unsigned integer"))?.to_le_bytes(),
        ),
        DType::I32 => out.extend(i32::try_from(int()?)?.to_le_bytes()),
        DType::U32 => out.extend(u32::try_from(int()?)?.to_le_bytes()),
        DType::I16 => out.extend(i16::try_from(int()?)?.to_le_bytes()),
        DType::U16 => out.extend(u16::try_from(int()?)?.to_le_bytes()),
        DType::I8 => out.extend(i8::try_from(int()?)?.to_le_bytes()),
        DType::U8 => out.push(u8::try_from(int()?)?),
        other => bail!("{other} cannot be written as JSON numbers"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lists_become_tensors() {
        let value = serde_json::json!([[1, 2.5], [3, -4]]);
        let read = tensor(&value, DType::F32).unwrap();
        assert_eq!((read.dims(), read.to_vec::<f32>().unwrap()), (&[2, 2][..], vec![1.0, 2.5, 3.0, -4.0]));
    }

    #[test]
    fn ragged_lists_and_wrong_numbers_are_errors() {
        for (value, dtype) in [
            (serde_json::json!([[1, 2], [3]]), DType::F32),
            (serde_json::json!([[1, 2], 3]), DType::F32),
            (serde_json::json!([300]), DType::U8),
            (serde_json::json!(["a"]), DType::I64),
            (serde_json::json!([1.5]), DType::I64),
        ] {
            assert!(tensor(&value, dtype).is_err(), "{value}");
        }
    }
}
