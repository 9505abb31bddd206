//! What tract 0.23.9 cannot run, or runs wrong without a word: refused here, never guessed.
//!
//! The lists come from running the ONNX node cases through tract and comparing (`runtime/tests/support.rs` does it again
//! and fails when this table and tract disagree).

use ir::{DType, Graph, Model, Op, OpId};

use super::convert::datum_type;
use crate::Unsupported;

/// Operators of ONNX's own domain that tract has not.
const MISSING: &[&str] = &[
    "AffineGrid",
    "Bernoulli",
    "BitCast",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "CumProd",
    "DeformConv",
    "Det",
    "FlexAttention",
    "ImageDecoder",
    "LabelEncoder",
    "LinearAttention",
    "Loop",
    "LpPool",
    "MaxRoiPool",
    "MaxUnpool",
    "NegativeLogLikelihoodLoss",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "RegexFullMatch",
    "ReverseSequence",
    "RoiAlign",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "ConcatFromSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "SwiGLU",
    "TensorScatter",
    "TfIdfVectorizer",
    "Unique",
    "Upsample",
];

/// Operators of other domains that tract runs as their own domain defines them (checked against ONNX Runtime).
const FOREIGN: &[(&str, &str)] = &[
    ("onnxq", "FakeQuant"),
    ("com.microsoft", "Gelu"),
    ("com.microsoft", "FastGelu"),
    ("com.microsoft", "QuickGelu"),
    ("com.microsoft", "BiasGelu"),
    ("com.microsoft", "SkipLayerNormalization"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"),
    ("com.microsoft", "MultiHeadAttention"),
    ("com.microsoft", "RotaryEmbedding"),
    ("com.microsoft", "GroupQueryAttention"),
];

/// Everything in the model that tract cannot run right.
pub(super) fn check(model: &Model) -> Result<(), Vec<Unsupported>> {
    let mut found = Vec::new();
    for id in model.graph_ids() {
        let graph = model.graph(id);
        for op in graph.ops() {
            if let Some(why) = reason(graph, op) {
                found.push(Unsupported { op: graph.op(op).to_string(), why });
            }
        }
        for value in graph.values() {
            let value = graph.value(value);
            if let Some(dtype) = value.dtype().filter(|&dtype| datum_type(dtype).is_none()) {
                found.push(Unsupported {
                    op: format!("value \"{}\"", value.name()),
                    why: format!("{dtype} elements"),
                });
            }
        }
    }
    if !model.functions.is_empty() {
        found.push(Unsupported { op: "model".into(), why: "local functions".into() });
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn reason(graph: &Graph, id: OpId) -> Option<String> {
    let op = graph.op(id);
    let (domain, name) = op.kind.key();
    if !domain.is_empty() {
        let known = FOREIGN.contains(&(domain, name));
        return (!known).then(|| format!("the domain {domain:?} is ignored by tract"));
    }
    if MISSING.contains(&name) {
        return Some("not implemented".into());
    }
    match name {
        "LSTM" | "GRU" | "RNN" => recurrent(op),
        "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" => {
            Some("must be lowered first: tract miscompiles it around Softmax".into())
        }
        "Attention" => attention(op),
        "Pad" if op.attrs.str("mode") == Some("wrap") => Some("mode wrap".into()),
        "BitShift" => Some("wrong for shifts by the width".into()),
        "Celu" => half_precision(graph, id),
        "MatMul" => {
            let ranks = [graph.input(id, 0), graph.input(id, 1)];
            let vector = |v: &Option<ir::ValueId>| {
                v.and_then(|v| graph.value(v).shape()).is_some_and(|s| s.rank() == 1)
            };
            ranks.iter().all(vector).then(|| "vector times vector".into())
        }
        _ => None,
    }
}

fn recurrent(op: &Op) -> Option<String> {
    match op.attrs.str("direction") {
        Some("reverse") => Some("direction reverse is ignored".into()),
        _ => None,
    }
}

fn attention(op: &Op) -> Option<String> {
    let windowed = ["left_window_size", "right_window_size", "window_size"]
        .iter()
        .any(|name| op.attrs.get(name).is_some());
    windowed.then(|| "window attributes are ignored".into())
}

fn half_precision(graph: &Graph, id: OpId) -> Option<String> {
    let dtype = graph.input(id, 0).and_then(|value| graph.value(value).dtype());
    (dtype == Some(DType::F16)).then(|| "wrong in float16".into())
}
