//! What ONNX Runtime's CPU provider asks of a quantized model: types, versions, processors. Which patterns become integer
//! kernels is in `ort_fuse.rs`.

use ir::{DType, Encoding};
use quant::saturation::bound;

use super::Severity::{Accuracy, Error, Information, Performance, Wrong};
use super::ort_fuse as fuse;
use super::shared::{PRODUCTS, bad_scale, list, needed_opset, type_name, weights, wrong_sizes};
use super::view::{Link, Node, View};
use super::{Cpu, Found, Rule, rule};

const SELECTORS: &str = "onnxruntime, qdq_transformer/selectors_actions/qdq_selectors.cc";
const MEASURED: &str = "measured with onnxruntime 1.31.1, optimized graphs of the CPU provider";

/// What onnxruntime 1.31 reads.
const NEWEST_IR: i64 = 13;
/// See [`NEWEST_IR`].
const NEWEST_OPSET: i64 = 26;
/// Where a protobuf file ends.
const LARGEST_FILE: usize = 1 << 31;

pub(super) const RULES: &[Rule] = &[
    rule(
        "ORT01",
        Performance,
        "an operator with an integer kernel has all float inputs from DequantizeLinear and all outputs into QuantizeLinear alone",
        "quantize every input and the output, which nothing else may read",
        SELECTORS,
        fuse::units,
    ),
    rule(
        "ORT02",
        Performance,
        "codes in and out have one type, and int8 activations have int8 weights",
        "use one type, or uint8 activations",
        SELECTORS,
        types,
    ),
    rule(
        "ORT03",
        Performance,
        "the bias is int32 with the scale of data times weight, and Gemm has beta 1",
        "store the bias as int32 with that scale; fold beta into the bias",
        SELECTORS,
        fuse::biases,
    ),
    rule(
        "ORT04",
        Performance,
        "16-bit codes only around data movement: no integer kernel computes on them",
        "use 8 bits, or float",
        SELECTORS,
        wide,
    ),
    rule(
        "ORT05",
        Performance,
        "data movement has one scale on both sides, a positive constant",
        "share scale and zero point across data movement",
        SELECTORS,
        fuse::movement,
    ),
    rule(
        "ORT06",
        Performance,
        "weight-only products become MatMulNBits: constant rank-2 weight of 2, 4 or 8 bits, read once, blocks of 16 or a power of two above along axis 0, or one scale (a column), no rounding behind; Gemm without transposition and factors",
        "write the weight in that form, or emit MatMulNBits",
        SELECTORS,
        fuse::weight_only,
    ),
    rule(
        "ORT07",
        Accuracy,
        "uint8 times int8 saturates in pairs on x86 without VNNI: weights of 7 bits there",
        "quantize for that processor (--cpu avx2), or with 7-bit weights for these layers",
        "x86 pmaddubsw; onnxruntime, quantization documentation",
        saturation,
    ),
    rule(
        "ORT08",
        Error,
        "channels need opset 13, 4 and 16 bits opset 21; files end at 2 GB without external data",
        "raise the operator set; store the weights outside of the file",
        "ONNX, QuantizeLinear; protobuf",
        forms,
    ),
    rule(
        "ORT09",
        Error,
        "scales of a MatMul weight lie along the output channels: others are fused all the same, and fail when run",
        "quantize along the last axis of a rank-2 weight, or with one scale",
        MEASURED,
        fuse::product_axes,
    ),
    rule(
        "ORT10",
        Wrong,
        "the bias of a Gemm has the scale of data times weight: another one is fused and computed wrong",
        "store the bias with that scale",
        MEASURED,
        fuse::gemm_biases,
    ),
    rule(
        "ORT11",
        Wrong,
        "a float weight between quantized values is quantized to int8 with one scale when loaded",
        "quantize the weight with a scale a channel, or leave the operator's data in float",
        "onnxruntime issues 22969, 24537; measured with 1.31.1",
        fuse::float_weights,
    ),
    rule(
        "ORT12",
        Performance,
        "no rounding around operators without an integer kernel",
        "leave the operator and what surrounds it in float",
        MEASURED,
        fuse::no_kernel,
    ),
    rule(
        "ORT13",
        Performance,
        "Relu and Clip in front of a rounding disappear only if the codes imply their bound",
        "round to a range that starts at the bound",
        MEASURED,
        fuse::activations,
    ),
    rule(
        "ORT14",
        Error,
        "scales are positive and finite, as many as the axis asks for",
        "quantize anew",
        "ONNX, QuantizeLinear",
        parameters,
    ),
    rule(
        "ORT15",
        Error,
        "IR version at most 13, operator set at most 26 (onnxruntime 1.31)",
        "write an older IR version; use a newer runtime",
        "onnxruntime 1.31.1",
        versions,
    ),
];

fn types(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| fuse::has_kernel(node.name())) {
        let data = view.dequantized_input(node, 0).filter(|link| link.weight(view).is_none());
        let Some(data) = data else { continue };
        let code = data.code(view);
        let written = node.output().and_then(|value| super::shared::rounded_behind(view, node, value));
        let written = written.and_then(|link| link.code(view));
        let weight = view.dequantized_input(node, 1).filter(|_| PRODUCTS.contains(&node.name()));
        let weight = weight.and_then(|link| link.code(view));
        if written.is_some() && written != code {
            found.at(node, None, format!("{} in, {} out", type_name(code), type_name(written)));
        } else if code == Some(DType::I8) && weight == Some(DType::U8) {
            found.at(node, node.input(1), "int8 activations and a uint8 weight");
        }
    }
}

fn wide(view: &View<'_>, found: &mut Found<'_>) {
    let is_wide = |link: &Link<'_>| matches!(link.code(view), Some(DType::I16 | DType::U16));
    for node in view.nodes().filter(|node| view.link(*node).is_none() && !fuse::moves(node.name())) {
        let mut links = node.inputs().filter_map(|(_, value)| view.dequantized(node, value));
        if let Some(link) = links.find(is_wide) {
            found.at(node, link.output(), format!("{} codes", type_name(link.code(view))));
        }
    }
}

fn saturation(view: &View<'_>, found: &mut Found<'_>) {
    if view.options.cpu == Some(Cpu::Vnni) {
        return;
    }
    for (node, link) in weights(view) {
        let data = view.dequantized_input(node, 0).and_then(|data| data.code(view));
        if !matches!(data, Some(DType::U8 | DType::I8)) {
            continue;
        }
        let Some((rows, length)) = rows(node, link, view) else { continue };
        let Ok(pairs) = bound(&rows, length, u8::MAX) else { continue };
        if pairs.can_saturate == 0 {
            continue;
        }
        let shown = format!("{} of {} pairs of weights can saturate", pairs.can_saturate, pairs.pairs);
        if view.options.cpu == Some(Cpu::Avx2) {
            found.at(node, node.input(1), shown);
        } else {
            let shown = format!("{shown} without VNNI, and perhaps those of further layers");
            found.graded(Information, node, node.input(1), shown);
            return;
        }
    }
}

/// The int8 codes of a weight, one row an output channel.
fn rows(node: Node<'_>, link: Link<'_>, view: &View<'_>) -> Option<(Vec<i8>, usize)> {
    let tensor = link.weight(view).filter(|tensor| tensor.dtype() == DType::I8 && tensor.elements() > 0)?;
    let codes: Vec<i8> = tensor.to_vec().ok()?;
    let dims = tensor.dims();
    let by_row = node.name() == "Conv" || (node.name() == "Gemm" && node.attrs().int("transB") == Some(1));
    match dims {
        [out, ..] if by_row => Some((codes, tensor.elements() / out)),
        [depth, out] if matches!(node.name(), "MatMul" | "Gemm") => {
            let column = |n: usize| (0..*depth).map(move |k| (k, n));
            let turned = (0..*out).flat_map(column).map(|(k, n)| codes[k * out + n]).collect();
            Some((turned, *depth))
        }
        _ => None,
    }
}

fn forms(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.contrib) {
        let (needed, what) = needed_opset(*link, view);
        if link.node.opset() < needed {
            found.at(link.node, None, format!("{what} in opset {}, needs {needed}", link.node.opset()));
        }
    }
    let mut inside = 0usize;
    for id in view.model.graph_ids() {
        let graph = view.model.graph(id);
        let data = graph.values().filter_map(|value| graph.value(value).data.as_ref());
        let stored = data.filter(|tensor| tensor.encoding != Encoding::External);
        inside = stored.fold(inside, |sum, tensor| sum.saturating_add(tensor.bytes().len()));
    }
    if inside >= LARGEST_FILE {
        found.model(Error, format!("{inside} bytes of weights within the file"));
    }
}

fn parameters(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        if let Some(what) = bad_scale(*link, view).or_else(|| wrong_sizes(*link, view)) {
            let sizes = link.shape(view).and_then(|shape| shape.known()).unwrap_or_default();
            found.at(link.node, link.scale(), format!("{what}; data of {}", list(&sizes)));
        }
    }
}

fn versions(view: &View<'_>, found: &mut Found<'_>) {
    let newer = view.at_least(&[1, 32]) == Some(true);
    if view.model.ir_version > NEWEST_IR && !newer {
        found.model(Error, format!("IR version {}", view.model.ir_version));
    }
    if let Some(opset) = view.model.opset("").filter(|&opset| opset > NEWEST_OPSET && !newer) {
        found.model(Error, format!("operator set {opset}"));
    }
}
