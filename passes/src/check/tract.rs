//! What tract asks of a quantized model that it reads itself. (onnxq hands it an equal float model instead.)

use std::collections::BTreeSet;

use ir::{DType, ValueId};

use super::Severity::{Accuracy, Error, Information, Performance, Wrong};
use super::view::{Node, View};
use super::{Found, Rule, rule};

const READ: &str = "tract-onnx 0.23.9, ops/quant.rs";

/// The first version whose scales a channel are verified.
const PER_CHANNEL: &[u32] = &[0, 23, 9];

pub(super) const RULES: &[Rule] = &[
    rule(
        "TR01",
        Error,
        "no tensors of 4 bits, float8, float4 or bfloat16, and no blocks",
        "use int8 codes, or MatMulNBits for 4 bits",
        READ,
        types,
    ),
    rule(
        "TR02",
        Error,
        "scales are float32 constants, zero points constants, codes int8 or uint8 (int32 to dequantize)",
        "store constant float32 scales and 8-bit codes",
        READ,
        parameters,
    ),
    rule(
        "TR03",
        Wrong,
        "scales a channel need tract 0.23.9: earlier ones used the first scale for all",
        "use tract 0.23.9 or later",
        "tract, pull request 2849",
        per_channel,
    ),
    rule(
        "TR04",
        Accuracy,
        "tract multiplies by the reciprocal of the scale: ties may round to the neighbouring code",
        "compare in codes and allow one",
        READ,
        ties,
    ),
    rule(
        "TR05",
        Error,
        "MatMulNBits has 2 or 4 bits and no g_idx; only blocks of 32 stay packed",
        "use 4 bits in blocks of 32",
        "tract-onnx 0.23.9, ops/nn/mat_mul_nbits.rs",
        nbits,
    ),
    rule(
        "TR06",
        Wrong,
        "no DequantizeLinear, Softmax, QuantizeLinear in a row: the optimizer rewrites them into something else",
        "leave Softmax in float",
        "measured with tract 0.23.9",
        softmax,
    ),
];

fn is_missing(dtype: DType) -> bool {
    let small = dtype.bits() < 8 && !matches!(dtype, DType::Bool | DType::String);
    small || dtype == DType::BF16 || (dtype.is_float() && dtype.bits() == 8)
}

fn types(view: &View<'_>, found: &mut Found<'_>) {
    let mut seen = BTreeSet::new();
    for node in view.nodes() {
        let values: Vec<ValueId> = node.inputs().map(|(_, value)| value).chain(node.outputs()).collect();
        for value in values {
            let missing = view.dtype(node, value).filter(|&dtype| is_missing(dtype));
            if let Some(dtype) = missing.filter(|_| seen.insert((node.scope.id, value))) {
                found.at(node, Some(value), format!("{dtype} elements"));
            }
        }
    }
    for link in view.links.iter().filter(|link| link.block() != 0) {
        found.at(link.node, None, format!("blocks of {}", link.block()));
    }
}

fn parameters(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        match link.scale_tensor(view) {
            None => found.at(link.node, link.scale(), "a computed scale"),
            Some(scale) if scale.dtype() != DType::F32 => {
                found.at(link.node, link.scale(), format!("{} scale", scale.dtype()));
            }
            _ => {}
        }
        if link.zero().is_some() && link.zero_tensor(view).is_none() {
            found.at(link.node, link.zero(), "a computed zero point");
        }
        let eight = |code| matches!(code, DType::I8 | DType::U8) || (!link.quantizes && code == DType::I32);
        // Types that tract lacks altogether are reported by TR01.
        if let Some(code) = link.code(view).filter(|&code| !eight(code) && !is_missing(code)) {
            found.at(link.node, link.input(), format!("{code} codes"));
        }
    }
}

fn per_channel(view: &View<'_>, found: &mut Found<'_>) {
    let Some(link) = view.links.iter().find(|link| link.per_channel(view)) else { return };
    match view.at_least(PER_CHANNEL) {
        Some(true) => {}
        Some(false) => found.at(link.node, link.scale(), "scales a channel"),
        None => found.verify(link.node, "scales a channel, from here on: needs tract 0.23.9"),
    }
}

fn ties(view: &View<'_>, found: &mut Found<'_>) {
    // The reciprocal of a power of two is exact.
    let exact = |scale: &f64| scale.to_bits() << 12 == 0;
    let inexact = |scales: Vec<f64>| scales.iter().any(|scale| !exact(scale));
    let mut links = view.links.iter().filter(|link| link.quantizes && !link.per_channel(view));
    if let Some(link) = links.find(|link| link.scales(view).is_some_and(inexact)) {
        found.graded(Information, link.node, link.scale(), "a scale without exact reciprocal, from here on");
    }
}

fn nbits(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| node.key() == ("com.microsoft", "MatMulNBits")) {
        let attrs = node.attrs();
        let bits = attrs.int("bits").unwrap_or(4);
        let (block, depth) = (attrs.int("block_size").unwrap_or(0), attrs.int("K").unwrap_or(0));
        if !matches!(bits, 2 | 4) {
            found.at(node, node.input(1), format!("{bits} bits"));
        } else if let Some(index) = node.input(4) {
            found.at(node, Some(index), "a g_idx");
        } else if block != 32 || depth % 32 != 0 {
            let shown = format!("blocks of {block} over {depth}: dequantized when loaded");
            found.graded(Performance, node, node.input(1), shown);
        }
    }
}

fn softmax(view: &View<'_>, found: &mut Found<'_>) {
    let rounded = |node: Node<'_>| {
        let written = node.output().map(|value| !view.roundings(node, value).is_empty());
        view.dequantized_input(node, 0).is_some() && written == Some(true)
    };
    for node in view.named(&["Softmax", "LogSoftmax"]).filter(|node| rounded(*node)) {
        found.at(node, node.output(), "rounded on both sides");
    }
}
