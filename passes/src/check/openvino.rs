//! What OpenVINO's importer and its low precision transformations ask of a quantized model.

use ir::DType;

use super::Severity::{Error, Information, Performance, Wrong};
use super::shared::{PRODUCTS, channel_axis, type_name, weights, wrong_sizes};
use super::view::{Link, View};
use super::{Found, Rule, rule};
use crate::target::openvino::REFUSED;

const IMPORT: &str = "openvino, src/frontends/onnx/frontend/src/op/dequantize_linear.cpp";
const LPT: &str = "OpenVINO documentation, Low Precision Transformations";

/// The release that computes blocks along other axes than the first right (pull request 32918).
const BLOCKS_FIXED: &[u32] = &[2025, 4];

pub(super) const RULES: &[Rule] = &[
    rule(
        "OV01",
        Error,
        "up to opset 12 scale and zero point are single numbers, the scale float32",
        "raise the operator set to 13 or use one scale",
        IMPORT,
        single,
    ),
    rule(
        "OV02",
        Error,
        "from opset 13 to 20 scale and zero point have rank 0 or 1 and the axis's length, and the data a known rank",
        "write as many scales as the axis has indices",
        IMPORT,
        per_axis,
    ),
    rule(
        "OV03",
        Error,
        "blocks divide an axis of known size; before 2025.4 blocks along another axis than the first are computed wrong",
        "choose a block size that divides the axis; use OpenVINO 2025.4 or later",
        "openvino, pull request 32918",
        blocks,
    ),
    rule(
        "OV04",
        Error,
        "codes are integers of 4, 8 or 16 bits",
        "use int8 or uint8 codes",
        "openvino, quantize_linear.cpp",
        codes,
    ),
    rule(
        "OV05",
        Performance,
        "the data of a convolution have one scale",
        "give the activation one scale",
        LPT,
        conv_data,
    ),
    rule(
        "OV06",
        Performance,
        "data and weight of a convolution are both quantized or neither, and all parameters are constant",
        "quantize both or none, with constant parameters",
        LPT,
        half,
    ),
    rule(
        "OV07",
        Performance,
        "concatenated values share one scale; weights are symmetric, one scale a channel, without -128; attention is symmetric",
        "unify the scales; quantize weights symmetrically a channel on the narrow grid",
        "NNCF, CPU preset",
        preset,
    ),
    rule(
        "OV08",
        Error,
        "no quantized operator that the importer does not know, and one scale a weight of QLinearMatMul",
        "emit Q/DQ (--format qdq)",
        "openvino, src/frontends/onnx/docs/supported_ops.md",
        operators,
    ),
    rule(
        "OV09",
        Error,
        "quantization needs opset 10, scales a channel 13, float8 and blocks 21",
        "raise the operator set",
        "NNCF, ONNX backend",
        opsets,
    ),
];

/// ONNX's own links; Microsoft's have no operator set.
fn own<'v, 'a>(view: &'v View<'a>) -> impl Iterator<Item = Link<'a>> + use<'v, 'a> {
    view.links.iter().copied().filter(|link| !link.contrib)
}

fn single(view: &View<'_>, found: &mut Found<'_>) {
    for link in own(view).filter(|link| link.node.opset() <= 12) {
        let dtype = link.scale().and_then(|scale| view.dtype(link.node, scale));
        if let Some(count) = link.scale_count(view).filter(|&count| count != 1) {
            found.at(link.node, link.scale(), format!("{count} scales in opset {}", link.node.opset()));
        } else if dtype.is_some_and(|dtype| dtype != DType::F32) {
            found.at(link.node, link.scale(), format!("{} scale", type_name(dtype)));
        }
    }
}

fn per_axis(view: &View<'_>, found: &mut Found<'_>) {
    for link in own(view).filter(|link| (13..=20).contains(&link.node.opset()) && link.block() == 0) {
        if let Some(what) = wrong_sizes(link, view) {
            found.at(link.node, link.scale(), what);
        } else if link.per_channel(view) && link.shape(view).is_none() {
            found.at(link.node, link.input(), "several scales for data of unknown rank");
        }
    }
}

fn blocks(view: &View<'_>, found: &mut Found<'_>) {
    for link in own(view).filter(|link| link.block() != 0) {
        let Some(shape) = link.shape(view).filter(|_| link.block() > 0) else {
            found.at(link.node, link.input(), format!("blocks of {} on unknown sizes", link.block()));
            continue;
        };
        let axis = link.axis_of(shape.rank());
        let size = axis.and_then(|axis| shape.dims[axis].known());
        match (axis, size) {
            (Some(_), Some(size)) if size as i64 % link.block() != 0 => {
                found.at(link.node, link.input(), format!("blocks of {} do not divide {size}", link.block()));
            }
            (Some(axis), Some(_)) if axis >= 1 => match view.at_least(BLOCKS_FIXED) {
                Some(true) => {}
                Some(false) => {
                    found.graded(Wrong, link.node, link.input(), format!("blocks along axis {axis}"));
                }
                None => found.graded(
                    Information,
                    link.node,
                    link.input(),
                    format!("blocks along axis {axis}: needs OpenVINO 2025.4"),
                ),
            },
            (Some(_), Some(_)) => {}
            _ => found.at(link.node, link.input(), "blocks along an axis of unknown size"),
        }
    }
}

fn codes(view: &View<'_>, found: &mut Found<'_>) {
    const KNOWN: &[DType] = &[DType::U4, DType::I4, DType::U8, DType::I8, DType::U16, DType::I16];
    for link in view.links.iter().filter(|link| link.quantizes) {
        if let Some(code) = link.code(view).filter(|code| !KNOWN.contains(code)) {
            found.at(link.node, link.zero(), format!("{code} codes"));
        }
    }
}

fn conv_data(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Conv", "ConvTranspose"]) {
        let Some(link) = view.dequantized_input(node, 0) else { continue };
        if link.scale_count(view).is_some_and(|count| count > 1) {
            found.at(node, link.output(), format!("{} scales", link.scale_count(view).unwrap_or(0)));
        }
    }
}

fn half(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(PRODUCTS) {
        match (view.dequantized_input(node, 0), view.dequantized_input(node, 1)) {
            (Some(_), None) => found.at(node, node.input(1), "quantized data and a float weight"),
            // A matrix product with a compressed weight has a kernel of its own.
            (None, Some(_)) if node.name().starts_with("Conv") => {
                found.at(node, node.input(0), "a quantized weight and float data");
            }
            _ => {}
        }
    }
    for link in &view.links {
        for value in [link.scale(), link.zero()].into_iter().flatten() {
            if !view.is_fixed(link.node, value) {
                found.at(link.node, Some(value), "a computed scale or zero point");
            }
        }
    }
}

fn preset(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Concat"]) {
        let links: Vec<Link<'_>> = node.inputs().filter_map(|(_, v)| view.dequantized(node, v)).collect();
        if let Some(pair) = links.windows(2).find(|pair| !pair[0].same(pair[1], view)) {
            found.at(node, pair[1].output(), "concatenated values of different scales");
        }
    }
    for (node, link) in weights(view) {
        let Some(codes) = link.weight(view) else {
            activations(view, node, found);
            continue;
        };
        let channels = channel_axis(node, codes.rank()).and_then(|axis| codes.dims().get(axis).copied());
        let middle = if codes.dtype() == DType::U8 { 128 } else { 0 };
        if link.zeros(view).is_some_and(|zeros| zeros.iter().any(|&zero| zero != middle)) {
            found.at(node, link.input(), "an asymmetric weight");
        }
        if link.scale_count(view) == Some(1) && channels.is_some_and(|count| count > 1) {
            found.at(node, link.input(), format!("one scale for {} channels", channels.unwrap_or(0)));
        }
        if codes.dtype() == DType::I8 && codes.bytes().contains(&0x80) {
            found.at(node, link.input(), "the code -128");
        }
    }
}

/// The product of two activations: of attention, if a softmax stands on either side.
fn activations<'a>(view: &View<'a>, node: super::Node<'a>, found: &mut Found<'_>) {
    for slot in [0, 1] {
        let Some(link) = view.dequantized_input(node, slot) else { continue };
        let middle = if link.code(view) == Some(DType::U8) { 128 } else { 0 };
        // The output of a softmax is positive: its range has one sign whatever the grid.
        let share = || {
            let quantize = node.producer(link.input()?)?;
            Some(node.producer(quantize.input(0)?)?.name() == "Softmax")
        };
        if share() != Some(true) && link.zeros(view).is_some_and(|zeros| zeros.iter().any(|&z| z != middle)) {
            found.at(node, link.output(), "an asymmetric operand of a product of activations");
        }
    }
}

fn operators(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| REFUSED.contains(&node.key())) {
        found.at(node, None, format!("operator com.microsoft.{}", node.key().1));
    }
    for node in view.named(&["QLinearMatMul"]) {
        // Scales of both operands and of the output.
        for scale in [1, 4, 6].into_iter().filter_map(|slot| node.input(slot)) {
            let count = view.shape(node, scale).and_then(|shape| shape.elements());
            if let Some(count) = count.filter(|&count| count != 1) {
                found.at(node, Some(scale), format!("{count} scales of a QLinearMatMul"));
            }
        }
    }
}

fn opsets(view: &View<'_>, found: &mut Found<'_>) {
    for link in own(view) {
        let float8 = link.code(view).is_some_and(|code| code.is_float() && code.bits() == 8);
        let (needed, what) = if link.block() != 0 || float8 {
            (21, "float8 codes or blocks")
        } else if link.per_channel(view) {
            (13, "one scale a channel")
        } else {
            (10, "quantization")
        };
        let opset = link.node.opset();
        if opset < needed {
            found.at(link.node, None, format!("{what} in opset {opset}, needs {needed}"));
        }
    }
}
