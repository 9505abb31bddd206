//! A text file and a `tokenizer.json`: windows of tokens, and whatever else the model asks for beside them.
//!
//! What an input means is told by its name, as exporters write it (PyTorch's and TensorFlow's, the latter with `:0`); a model
//! whose only integer input has another name takes the tokens there. Where the model fixes the length and has a mask, the last
//! window is filled up behind, and the mask says so; without a mask a window that is too short is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ir::{DType, Dim, Tensor};
use runtime::Feed;
use tokenizers::Tokenizer;

use super::{InputSpec, Source};

/// How text becomes windows of tokens.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    /// `tokenizer.json`. Without one, the file must hold token numbers: one window a line.
    pub tokenizer: Option<PathBuf>,
    /// Tokens a window; 128 if absent and the model leaves it open.
    pub length: Option<usize>,
    /// Tokens from one window's start to the next; the length if absent.
    pub stride: Option<usize>,
}

/// Windows of tokens for a language model.
pub(super) struct Text {
    windows: Vec<Vec<i64>>,
    /// Inputs and what they mean.
    specs: Vec<(InputSpec, Role)>,
    /// What every window is filled up to, and with which token.
    fill: Option<(usize, i64)>,
}

impl Text {
    pub(super) fn open(path: &Path, specs: &[InputSpec], options: &TextOptions) -> Result<Text> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let specs = with_roles(specs);
        let Some((ids, _)) = specs.iter().find(|(_, role)| *role == Role::Ids) else {
            let names: Vec<&str> = specs.iter().map(|(spec, _)| spec.name.as_str()).collect();
            bail!(
                "no input of the model is known to take token numbers (input_ids); it has {}: use .npz data with these keys",
                names.join(", ")
            );
        };
        let declared = ids.dims.as_ref().and_then(|dims| dims.last()).and_then(Dim::known);
        let masked = specs.iter().any(|(_, role)| *role == Role::Mask);
        let exact = declared.is_some() && !masked;
        let (windows, pad) = match &options.tokenizer {
            Some(file) => {
                let words = Words::new(file)?;
                let length = options.length.or(declared).unwrap_or(128).max(1);
                let cut = words.windows(&text, length, options.stride, exact);
                (cut.with_context(|| path.display().to_string())?, words.pad)
            }
            None => {
                let lines = numbers(&text).with_context(|| {
                    format!(
                        "{} holds no token numbers; give --tokenizer tokenizer.json for plain text",
                        path.display()
                    )
                })?;
                (lines, 0)
            }
        };
        let fill = declared.filter(|_| masked).map(|length| (length, pad));
        Ok(Text { windows, specs, fill })
    }
}

/// A tokenizer, and the tokens that it puts around a text.
struct Words {
    tokenizer: Tokenizer,
    before: Vec<i64>,
    after: Vec<i64>,
    /// What fills a window up.
    pad: i64,
}

impl Words {
    fn new(file: &Path) -> Result<Words> {
        let wrong = |e: tokenizers::Error| anyhow!("{} is no tokenizer.json: {e}", file.display());
        let mut tokenizer = Tokenizer::from_file(file).map_err(wrong)?;
        let pad = tokenizer.get_padding().map_or(0, |padding| i64::from(padding.pad_id));
        // What it would do to one sentence: here a whole text is cut, and nothing but text is wanted.
        tokenizer.with_truncation(None).map_err(wrong)?.with_padding(None);
        let framed = tokenizer.encode("a", true).map_err(wrong)?;
        let frame: Vec<(u32, u32)> =
            framed.get_ids().iter().copied().zip(framed.get_special_tokens_mask().iter().copied()).collect();
        let inner = frame.iter().position(|&(_, special)| special == 0).unwrap_or(frame.len());
        let outer = frame.iter().rposition(|&(_, special)| special == 0).map_or(frame.len(), |at| at + 1);
        let ids = |part: &[(u32, u32)]| part.iter().map(|&(id, _)| i64::from(id)).collect();
        Ok(Words { before: ids(&frame[..inner]), after: ids(&frame[outer..]), pad, tokenizer })
    }

    /// Windows of at most `length` tokens that start `stride` tokens after each other (the length, if absent). What opens and closes
    /// (`[CLS]` and `[SEP]`) frames each window; what only opens or only closes (a beginning of text) stands once.
    fn windows(
        &self,
        text: &str,
        length: usize,
        stride: Option<usize>,
        exact: bool,
    ) -> Result<Vec<Vec<i64>>> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|e| anyhow!("cannot be tokenized: {e}"))?;
        let tokens: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        let frame = self.before.len() + self.after.len();
        if self.before.is_empty() || self.after.is_empty() || length <= frame {
            let tokens = [&self.before[..], &tokens, &self.after].concat();
            return Ok(cut(&tokens, length, stride.unwrap_or(length).max(1), exact));
        }
        let inner = length - frame;
        let windows = cut(&tokens, inner, stride.unwrap_or(inner).max(1), exact);
        Ok(windows.into_iter().map(|window| [&self.before[..], &window, &self.after].concat()).collect())
    }
}

/// Windows of `length` tokens; a shorter last one is kept unless the model wants exactly that length.
fn cut(tokens: &[i64], length: usize, stride: usize, exact: bool) -> Vec<Vec<i64>> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start < tokens.len() {
        let end = (start + length).min(tokens.len());
        if end - start == length || (!exact && end - start > 1) || windows.is_empty() {
            windows.push(tokens[start..end].to_vec());
        }
        if end == tokens.len() {
            break;
        }
        start += stride;
    }
    windows
}

fn numbers(text: &str) -> Result<Vec<Vec<i64>>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |word: &str| word.parse::<i64>().with_context(|| format!("{word:?} is not a number"));
    lines.map(|line| line.split([' ', ',', '\t']).filter(|w| !w.is_empty()).map(parse).collect()).collect()
}

/// What a language model's input means: the names that exporters use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Positions,
    Segments,
    Past,
    UseCache,
    Unknown,
}

fn role(name: &str) -> Role {
    let name = name.strip_prefix("serving_default_").unwrap_or(name);
    let bare = name.rsplit_once(':').filter(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match bare.map_or(name, |(name, _)| name) {
        "input_ids" | "input_tokens" | "token_ids" | "tokens" | "ids" | "input" => Role::Ids,
        "attention_mask" | "mask" | "input_mask" => Role::Mask,
        "position_ids" | "positions" | "cache_position" => Role::Positions,
        "token_type_ids" | "segment_ids" | "input_type_ids" => Role::Segments,
        "use_cache_branch" => Role::UseCache,
        name if name.starts_with("past") => Role::Past,
        _ => Role::Unknown,
    }
}

fn with_roles(specs: &[InputSpec]) -> Vec<(InputSpec, Role)> {
    let mut found: Vec<(InputSpec, Role)> =
        specs.iter().map(|spec| (spec.clone(), role(&spec.name))).collect();
    let is_integer = |spec: &InputSpec| matches!(spec.dtype, Some(DType::I64 | DType::I32));
    if found.iter().all(|(_, role)| *role != Role::Ids) {
        let mut open = found.iter_mut().filter(|(spec, role)| *role == Role::Unknown && is_integer(spec));
        if let (Some((_, role)), None) = (open.next(), open.next()) {
            *role = Role::Ids;
        }
    }
    found
}

/// An input of this name takes token numbers.
pub fn is_token_input(name: &str) -> bool {
    role(name) == Role::Ids
}

impl Source for Text {
    fn len(&self) -> usize {
        self.windows.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let window = self.windows.get(at).with_context(|| format!("there is no window {at}"))?;
        let known = window.len();
        let (count, pad) = self.fill.filter(|(length, _)| *length > known).unwrap_or((known, 0));
        let filled = |with: i64| -> Vec<i64> {
            let rest = std::iter::repeat_n(with, count - known);
            window.iter().copied().chain(rest).collect()
        };
        let mut feed = Feed::new();
        for (spec, role) in &self.specs {
            let values: Vec<i64> = match role {
                Role::Ids => filled(pad),
                Role::Mask => (0..count).map(|at| i64::from(at < known)).collect(),
                Role::Positions => (0..count as i64).collect(),
                Role::Segments => vec![0; count],
                Role::Past => {
                    feed.push((spec.name.clone(), empty_past(spec)?));
                    continue;
                }
                Role::UseCache => {
                    feed.push((spec.name.clone(), Tensor::from_slice(&[1], &[false])?));
                    continue;
                }
                Role::Unknown => bail!("input {:?} cannot be made from text: use .npz data", spec.name),
            };
            feed.push((spec.name.clone(), integers(spec, &[1, count], &values)?));
        }
        Ok(feed)
    }
}

fn integers(spec: &InputSpec, dims: &[usize], values: &[i64]) -> Result<Tensor> {
    // Some exports take one window without a batch dimension.
    let dims = if spec.dims.as_ref().is_some_and(|dims| dims.len() == 1) { &dims[1..] } else { dims };
    Ok(match spec.dtype.unwrap_or(DType::I64) {
        DType::I32 => Tensor::from_slice(dims, &values.iter().map(|&v| v as i32).collect::<Vec<_>>())?,
        DType::I64 => Tensor::from_slice(dims, values)?,
        DType::F32 => Tensor::from_slice(dims, &values.iter().map(|&v| v as f32).collect::<Vec<_>>())?,
        DType::F16 => {
            let values: Vec<_> = values.iter().map(|&v| half::f16::from_f32(v as f32)).collect();
            Tensor::from_slice(dims, &values)?
        }
        DType::Bool => Tensor::from_slice(dims, &values.iter().map(|&v| v != 0).collect::<Vec<_>>())?,
        other => bail!("input {:?} is {other}; token numbers are int64 or int32", spec.name),
    })
}

/// A cache that holds nothing: `[batch, heads, 0, size]`, batch 1.
fn empty_past(spec: &InputSpec) -> Result<Tensor> {
    let dims = spec.dims.as_deref().unwrap_or(&[]);
    let past = dims.len().checked_sub(2).with_context(|| format!("input {:?} is no cache", spec.name))?;
    let size = |(at, dim): (usize, &Dim)| match dim.known() {
        Some(size) if at != past => size,
        _ if at == 0 => 1,
        _ => 0,
    };
    let dims: Vec<usize> = dims.iter().enumerate().map(size).collect();
    let dtype = spec.dtype.unwrap_or(DType::F32);
    let bytes = dtype.storage_bytes(ir::checked_elements(&dims)?).unwrap_or(0);
    Ok(Tensor::new(dtype, &dims[..], vec![0u8; bytes])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_by_the_stride_and_the_rest_is_kept() {
        assert_eq!(cut(&[1, 2, 3, 4, 5], 2, 2, false), [vec![1, 2], vec![3, 4]]);
        assert_eq!(cut(&[1, 2, 3, 4, 5], 3, 2, false), [vec![1, 2, 3], vec![3, 4, 5]]);
        assert_eq!(cut(&[1, 2, 3, 4], 3, 2, false), [vec![1, 2, 3], vec![3, 4]]);
        assert_eq!(cut(&[1, 2, 3, 4], 3, 2, true), [vec![1, 2, 3]]);
    }

    /// Cuts to 4 tokens and pads to 6, as tokenizers of encoders do to sentences, and frames by `template`.
    fn words(template: &str) -> Words {
        let json = format!(
            r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "decoder": null,
            "truncation": {{"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
            "padding": {{"strategy": {{"Fixed": 6}}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "[PAD]"}},
            "pre_tokenizer": {{"type": "Whitespace"}},
            "post_processor": {{"type": "TemplateProcessing", "single": [{template}], "pair": [],
                "special_tokens": {{"[CLS]": {{"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}},
                    "[SEP]": {{"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}}}}},
            "model": {{"type": "WordLevel", "unk_token": "[UNK]",
                "vocab": {{"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5}}}}}}"#
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        std::fs::write(&file, json).unwrap();
        Words::new(&file).unwrap()
    }

    const OPEN: &str = r#"{"SpecialToken": {"id": "[CLS]", "type_id": 0}}"#;
    const TEXT: &str = r#"{"Sequence": {"id": "A", "type_id": 0}}"#;
    const CLOSE: &str = r#"{"SpecialToken": {"id": "[SEP]", "type_id": 0}}"#;

    #[test]
    fn each_window_of_an_encoder_is_framed_and_nothing_is_cut_off_or_padded() {
        let words = words(&[OPEN, TEXT, CLOSE].join(","));
        let windows = words.windows("a b a b b", 5, None, false).unwrap();
        assert_eq!(windows, [vec![1, 4, 5, 4, 2], vec![1, 5, 5, 2]]);
    }

    #[test]
    fn a_beginning_of_text_stands_once() {
        let words = words(&[OPEN, TEXT].join(","));
        let windows = words.windows("a b a b b", 4, None, false).unwrap();
        assert_eq!(windows, [vec![1, 4, 5, 4], vec![5, 5]]);
    }

    fn spec(name: &str, dtype: DType, dims: &[Option<usize>]) -> InputSpec {
        let dims =
            dims.iter().map(|dim| dim.map_or_else(|| Dim::symbol("n"), |size: usize| size.into())).collect();
        InputSpec { name: name.into(), dtype: Some(dtype), dims: Some(dims) }
    }

    fn opened(text: &str, specs: &[InputSpec]) -> Result<Text> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.txt");
        std::fs::write(&file, text).unwrap();
        Text::open(&file, specs, &TextOptions::default())
    }

    #[test]
    fn a_short_window_is_filled_up_where_a_mask_can_say_so() {
        let length = [None, Some(4)];
        let specs = [
            spec("input_ids:0", DType::I32, &length),
            spec("input_mask:0", DType::F16, &length),
            spec("cache_position", DType::I64, &[Some(4)]),
        ];
        let feed = opened("5 6 7\n", &specs).unwrap().sample(0).unwrap();
        assert_eq!(feed[0].1.to_vec::<i32>().unwrap(), [5, 6, 7, 0]);
        let mask: Vec<f32> = feed[1].1.to_vec::<half::f16>().unwrap().into_iter().map(f32::from).collect();
        assert_eq!(mask, [1.0, 1.0, 1.0, 0.0]);
        assert_eq!((feed[2].1.dims(), feed[2].1.to_vec::<i64>().unwrap()), (&[4][..], vec![0, 1, 2, 3]));
    }

    #[test]
    fn the_only_integer_input_takes_the_tokens_whatever_its_name() {
        let feed = opened("1 2\n", &[spec("x", DType::I64, &[None, None])]).unwrap().sample(0).unwrap();
        assert_eq!((feed[0].0.as_str(), feed[0].1.dims()), ("x", &[1, 2][..]));
        let two = [spec("x", DType::I64, &[None, None]), spec("y", DType::I64, &[None, None])];
        assert!(opened("1 2\n", &two).err().unwrap().to_string().contains("it has x, y"));
    }

    #[test]
    fn an_empty_cache_has_no_positions() {
        let dims = [Dim::symbol("batch"), Dim::Known(4), Dim::symbol("past"), Dim::Known(8)];
        let spec = InputSpec {
            name: "past_key_values.0.key".into(),
            dtype: Some(DType::F32),
            dims: Some(dims.to_vec()),
        };
        assert_eq!(empty_past(&spec).unwrap().dims(), [1, 4, 0, 8]);
    }
}
