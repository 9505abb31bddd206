//! Features out of labels (`ai.onnx.ml` and its like): TfIdfVectorizer, LabelEncoder, Binarizer.

use std::collections::HashMap;

use bytes::Bytes;
use ir::{AttrValue, DType, Dim, Tensor};

use crate::array;
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};

/// Something to look up: a number (floats by their bits, with one NaN and one zero) or a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Int(i64),
    Float(u64),
    Text(Bytes),
}

fn float_key(value: f64) -> Key {
    Key::Float(if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() })
}

fn keys(tensor: &Tensor) -> Option<Vec<Key>> {
    Some(match tensor.dtype() {
        DType::String => array::to_strings(tensor)?.iter().cloned().map(Key::Text).collect(),
        dtype if dtype.is_float() => array::to_f64s(tensor)?.into_iter().map(float_key).collect(),
        _ => array::to_i64s(tensor)?.into_iter().map(Key::Int).collect(),
    })
}

// ---- LabelEncoder: each key to a value --------------------------------------------------------------------------

/// A list attribute of any of its forms, as a tensor; and a default to go with it.
fn list(attrs: Attributes<'_>, prefix: &str) -> Result<Option<Tensor>> {
    let found = ["tensor", "strings", "int64s", "floats"].iter().find_map(|form| {
        let name = format!("{prefix}_{form}");
        attrs.get(&name).map(|value| (name, value))
    });
    let Some((name, value)) = found else { return Ok(None) };
    let made = match value {
        AttrValue::Tensor(tensor) => Ok(tensor.clone()),
        AttrValue::Strings(all) => Tensor::strings([all.len()].as_slice(), all.clone()),
        AttrValue::Ints(all) => Tensor::from_slice(&[all.len()], all),
        AttrValue::Floats(all) => Tensor::from_slice(&[all.len()], all),
        _ => return Err(attrs.wrong(&name, "a list", "something else")),
    };
    made.map(Some).map_err(|error| attrs.wrong(&name, "a list", &error.to_string()))
}

fn encode_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dtype = list(cx.attrs(), "values")?.map(|values| values.dtype());
    cx.set(0, dtype, cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

fn encode(cx: &EvalCx) -> Result<Outputs> {
    let (input, attrs) = (cx.tensor(0)?, cx.attrs());
    let (Some(from), Some(to)) = (list(attrs, "keys")?, list(attrs, "values")?) else {
        return Err(cx.invalid("it has no keys or no values"));
    };
    if from.elements() != to.elements() || from.dtype() != input.dtype() {
        return Err(cx.invalid("keys, values and input do not fit"));
    }
    let default = match to.dtype() {
        DType::String => {
            let text = attrs.opt_bytes("default_string")?.unwrap_or(b"_Unused");
            Tensor::strings([1usize].as_slice(), vec![Bytes::copy_from_slice(text)])
        }
        DType::I64 => Tensor::from_slice(&[1], &[attrs.int("default_int64", -1)?]),
        DType::F32 => Tensor::from_slice(&[1], &[attrs.float("default_float", -0.0)?]),
        dtype if dtype.is_float() => array::from_f32s(dtype, &[1], &[-0.0]),
        dtype => array::from_i64s(dtype, &[1], &[-1]),
    };
    let default = match attrs.opt_tensor("default_tensor")? {
        Some(tensor) => tensor.clone(),
        None => default.map_err(|error| cx.tensor_error(error))?,
    };
    let (known, wanted) = (keys(&from), keys(input));
    let (Some(known), Some(wanted)) = (known, wanted) else { return Err(cx.unsupported_dtype(0)) };
    // Of a repeated key the last value counts.
    let table: HashMap<Key, usize> = known.into_iter().enumerate().map(|(at, key)| (key, at)).collect();
    let picks = wanted.iter().map(|key| table.get(key).map_or((1, 0), |&at| (0, at)));
    cx.give(movement::pick(&[&to, &default], input.dims(), picks))
}

// ---- Binarizer -------------------------------------------------------------------------------------------------

fn copy_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn binarize(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let threshold = f64::from(cx.attrs().float("threshold", 0.0)?);
    let out: Vec<f64> = cx.f64s(0)?.into_iter().map(|v| f64::from(u8::from(v > threshold))).collect();
    match input.dtype().is_float() {
        true => cx.give(array::from_f64s(input.dtype(), input.dims(), &out)),
        false => {
            let out: Vec<i64> = out.into_iter().map(|v| v as i64).collect();
            cx.give(array::from_i64s(input.dtype(), input.dims(), &out))
        }
    }
}

// ---- TfIdfVectorizer: counts of n-grams ------------------------------------------------------------------------

fn width(attrs: Attributes<'_>) -> Result<i64> {
    let indexes = attrs.need_ints("ngram_indexes")?;
    let highest = indexes.iter().copied().max().unwrap_or(-1);
    let in_range = highest < i64::MAX && indexes.iter().all(|&at| at >= 0);
    if in_range {
        Ok(highest + 1)
    } else {
        Err(attrs.wrong("ngram_indexes", "positions", &format!("{indexes:?}")))
    }
}

fn tf_idf_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let width = Dim::Known(width(cx.attrs())?);
    let dims = match cx.dims(0) {
        None => None,
        Some([_]) => Some(vec![width]),
        Some([rows, _]) => Some(vec![rows.clone(), width]),
        Some(_) => return Err(cx.wrong_input(0, "sizes [C] or [N, C]")),
    };
    cx.set(0, Some(DType::F32), dims);
    Ok(())
}

/// The n-grams of the pool: for each, its number.
fn pool(cx: &EvalCx) -> Result<HashMap<Vec<Key>, usize>> {
    let attrs = cx.attrs();
    let items: Vec<Key> = match (attrs.opt_strings("pool_strings")?, attrs.opt_ints("pool_int64s")?) {
        (Some(strings), None) => strings.iter().cloned().map(Key::Text).collect(),
        (None, Some(ints)) => ints.iter().copied().map(Key::Int).collect(),
        _ => return Err(cx.invalid("it has not exactly one pool")),
    };
    let counts = attrs.need_ints("ngram_counts")?;
    let mut table = HashMap::new();
    let mut number = 0;
    for (at, &start) in counts.iter().enumerate() {
        let end = counts.get(at + 1).copied().unwrap_or(items.len() as i64);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let grams = range.and_then(|(start, end)| items.get(start..end));
        let grams = grams
            .ok_or_else(|| attrs.wrong("ngram_counts", "positions in the pool", &format!("{counts:?}")))?;
        for gram in grams.chunks_exact(at + 1) {
            table.entry(gram.to_vec()).or_insert(number);
            number += 1;
        }
    }
    Ok(table)
}

fn tf_idf(cx: &EvalCx) -> Result<Outputs> {
    let (input, attrs) = (cx.tensor(0)?, cx.attrs());
    let width = usize::try_from(width(attrs)?).unwrap_or(usize::MAX);
    let (rows, columns, dims) = match *input.dims() {
        [columns] => (1, columns, vec![width]),
        [rows, columns] => (rows, columns, vec![rows, width]),
        _ => return Err(cx.wrong_input(0, "sizes [C] or [N, C]")),
    };
    let elements = cx.reserve(DType::F32, &dims)?;
    let (pool, indexes) = (pool(cx)?, attrs.need_ints("ngram_indexes")?);
    let length = |name: &str| -> Result<usize> {
        let value = attrs.need_int(name)?;
        usize::try_from(value).map_err(|_| attrs.wrong(name, "a count", &value.to_string()))
    };
    let (shortest, longest, skips) =
        (length("min_gram_length")?, length("max_gram_length")?, length("max_skip_count")?);
    let items = keys(input).ok_or_else(|| cx.unsupported_dtype(0))?;
    let mut found = vec![0f32; elements];
    let weights = attrs.opt_floats("weights")?;
    for row in (0..rows).take(if elements == 0 { 0 } else { rows }) {
        let line = &items[row * columns..(row + 1) * columns];
        for size in shortest.max(1)..=longest.min(columns) {
            // Single items have nothing to skip between them.
            for step in 1..=if size == 1 { 1 } else { (skips + 1).min(columns) } {
                let reach = (size - 1) * step;
                for start in 0..columns.saturating_sub(reach) {
                    let gram: Vec<Key> = (0..size).map(|at| line[start + at * step].clone()).collect();
                    let Some(&number) = pool.get(&gram) else { continue };
                    let at = indexes.get(number).copied().and_then(|at| usize::try_from(at).ok());
                    if let Some(count) = at.and_then(|at| found.get_mut(row * width + at)) {
                        *count += 1.0;
                    }
                }
            }
        }
    }
    let weight_of = |column: usize| {
        let number = indexes.iter().position(|&at| at == column as i64);
        number.zip(weights).and_then(|(number, weights)| weights.get(number).copied()).unwrap_or(1.0)
    };
    let scale: Vec<f32> = (0..width.min(elements)).map(weight_of).collect();
    let scale = |at: usize| scale.get(at % width.max(1)).copied().unwrap_or(1.0);
    match attrs.need_str("mode")? {
        "TF" => {}
        "IDF" => found.iter_mut().enumerate().for_each(|(at, count)| *count = count.min(1.0) * scale(at)),
        "TFIDF" => found.iter_mut().enumerate().for_each(|(at, count)| *count *= scale(at)),
        other => return Err(attrs.wrong("mode", "TF, IDF or TFIDF", other)),
    }
    cx.make(&dims, &found)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("TfIdfVectorizer", 9, tf_idf_infer).eval(tf_idf),
    &Table::new("LabelEncoder", 2, encode_infer).domain("ai.onnx.ml", 5).eval(encode),
    &Table::new("Binarizer", 1, copy_infer).domain("ai.onnx.ml", 5).eval(binarize),
];
