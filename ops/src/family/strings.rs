//! Strings: StringConcat, StringSplit, StringNormalizer, RegexFullMatch.
//!
//! RegexFullMatch takes RE2 syntax; the `regex` crate reads the same language but for a few escapes, and a pattern it does
//! not read is not supported. StringNormalizer changes case as Unicode says, whatever the locale: another locale than an
//! English one is not supported.

use bytes::Bytes;
use ir::{DType, Dim, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::broadcast;
use crate::rule::{OpRule, Table};

fn strings<'a>(cx: &EvalCx<'a>, at: usize) -> Result<&'a [Bytes]> {
    array::to_strings(cx.tensor(at)?).ok_or_else(|| cx.wrong_input(at, "strings"))
}

fn text<'a>(cx: &EvalCx, bytes: &'a Bytes) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| cx.wrong_input(0, "UTF-8 strings"))
}

fn concat_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let dims = cx.broadcast(0..2)?;
    cx.set(0, Some(DType::String), dims);
    Ok(())
}

fn concat(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims());
    let dims = shape::broadcast_sizes(a, b).ok_or_else(|| cx.wrong_input(1, "sizes that broadcast"))?;
    cx.reserve(DType::String, &dims)?;
    let x: Vec<&Bytes> = strings(cx, 0)?.iter().collect();
    let y: Vec<&Bytes> = strings(cx, 1)?.iter().collect();
    let joined = broadcast::zip((&x, a), (&y, b), &dims, |x, y| Bytes::from([&x[..], &y[..]].concat()));
    cx.give(Tensor::strings(dims, joined))
}

fn split_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dims = cx.dims(0).map(<[_]>::to_vec);
    let parts = cx.fresh("parts");
    cx.set(1, Some(DType::I64), dims.clone());
    let dims = dims.map(|mut dims| {
        dims.push(parts);
        dims
    });
    cx.set(0, Some(DType::String), dims);
    Ok(())
}

/// The parts of a string; runs of white space separate where the delimiter is empty.
fn parts<'a>(text: &'a str, delimiter: &str, limit: Option<usize>) -> Vec<&'a str> {
    if !delimiter.is_empty() {
        return match limit {
            Some(limit) => text.splitn(limit.saturating_add(1), delimiter).collect(),
            None => text.split(delimiter).collect(),
        };
    }
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let full = limit.is_some_and(|limit| all.len() >= limit);
        match rest.split_once(char::is_whitespace).filter(|_| !full) {
            Some((part, tail)) => {
                all.push(part);
                rest = tail.trim_start();
            }
            None => {
                all.push(rest);
                break;
            }
        }
    }
    all
}

fn split(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let delimiter = cx.attrs().str("delimiter", "")?;
    let limit = cx.attrs().opt_int("maxsplit")?.and_then(|limit| usize::try_from(limit).ok());
    let split = strings(cx, 0)?.iter().map(|bytes| Ok(parts(text(cx, bytes)?, delimiter, limit)));
    let split = split.collect::<Result<Vec<Vec<&str>>>>()?;
    let width = split.iter().map(Vec::len).max().unwrap_or(0);
    let counts: Vec<i64> = split.iter().map(|parts| parts.len() as i64).collect();
    let dims = [input.dims(), &[width]].concat();
    cx.reserve(DType::String, &dims)?;
    let cells =
        split.iter().flat_map(|parts| (0..width).map(|at| parts.get(at).copied().unwrap_or_default()));
    let cells: Vec<Bytes> = cells.map(|part| Bytes::copy_from_slice(part.as_bytes())).collect();
    let mut outputs = cx.give(Tensor::strings(dims, cells))?;
    outputs.extend(cx.make(input.dims(), &counts)?);
    Ok(outputs)
}

fn normalize_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let removes = cx.attrs().opt_strings("stopwords")?.is_some_and(|words| !words.is_empty());
    let dims = cx.dims(0).map(|dims| match dims {
        [first] if !removes => vec![first.clone()],
        [batch, first] if !removes => vec![batch.clone(), first.clone()],
        [_] => vec![cx.fresh("kept")],
        _ => vec![Dim::Known(1), cx.fresh("kept")],
    });
    // What is left of nothing is one empty string.
    let dims = dims.map(|mut dims| {
        if let Some(last) = dims.last_mut().filter(|last| last.known().is_none_or(|size| size == 0)) {
            *last = cx.fresh("kept");
        }
        dims
    });
    cx.set(0, Some(DType::String), dims);
    Ok(())
}

fn normalize(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let attrs = cx.attrs();
    let locale = attrs.str("locale", "en_US")?;
    if !locale.is_empty() && !locale.starts_with("en") && locale != "C" {
        return Err(cx.unsupported(format!("locale {locale}")));
    }
    if !matches!(input.dims(), [_] | [1, _]) {
        return Err(cx.wrong_input(0, "sizes [C] or [1, C]"));
    }
    let sensitive = attrs.flag("is_case_sensitive", false)?;
    let stop = attrs.opt_strings("stopwords")?.unwrap_or_default();
    let fold = |bytes: &Bytes| {
        Ok(if sensitive { text(cx, bytes)?.to_string() } else { text(cx, bytes)?.to_lowercase() })
    };
    let stop = stop.iter().map(fold).collect::<Result<Vec<String>>>()?;
    let mut kept = Vec::new();
    for bytes in strings(cx, 0)? {
        if stop.contains(&fold(bytes)?) {
            continue;
        }
        kept.push(match attrs.str("case_change_action", "NONE")? {
            "LOWER" => Bytes::from(text(cx, bytes)?.to_lowercase()),
            "UPPER" => Bytes::from(text(cx, bytes)?.to_uppercase()),
            "NONE" => bytes.clone(),
            other => return Err(attrs.wrong("case_change_action", "LOWER, UPPER or NONE", other)),
        });
    }
    if kept.is_empty() {
        kept.push(Bytes::new());
    }
    let mut dims = input.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = kept.len();
    }
    cx.give(Tensor::strings(dims, kept))
}

fn regex_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.set(0, Some(DType::Bool), cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

fn regex_match(cx: &EvalCx) -> Result<Outputs> {
    let pattern = cx.attrs().need_str("pattern")?;
    let regex =
        regex::Regex::new(&format!("^(?:{pattern})$")).map_err(|error| cx.unsupported(error.to_string()))?;
    let matches = strings(cx, 0)?.iter().map(|bytes| Ok(regex.is_match(text(cx, bytes)?)));
    cx.make(cx.tensor(0)?.dims(), &matches.collect::<Result<Vec<bool>>>()?)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("StringConcat", 20, concat_infer).eval(concat),
    &Table::new("StringSplit", 20, split_infer).eval(split),
    &Table::new("StringNormalizer", 10, normalize_infer).eval(normalize),
    &Table::new("RegexFullMatch", 20, regex_infer).eval(regex_match),
];
