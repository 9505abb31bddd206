//! Where roundings should stand for TensorRT: what breaks a fusion, and what is faster in float16.

use ir::DType;

use super::Found;
use super::shared::{PRODUCTS, list};
use super::view::{Link, Node, View};
use crate::target::skip_slot;
use crate::target::tensorrt::{POINTWISE, product_sizes, small_conv, small_product};

/// Longest sequence of int8 attention that has a fused kernel.
const LONGEST_ATTENTION: usize = 512;

/// The readers of a rounded value, behind every DequantizeLinear of it.
fn behind<'a>(view: &View<'a>, rounding: Link<'a>) -> Vec<(Node<'a>, Option<usize>)> {
    let Some(codes) = rounding.output() else { return Vec::new() };
    let links = rounding.node.readers(codes).into_iter().filter_map(|(reader, _)| view.link(reader));
    links.filter_map(|link| Some(link.node.readers(link.output()?))).flatten().collect()
}

pub(super) fn after_products(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(PRODUCTS) {
        let Some(output) = node.output() else { continue };
        for rounding in view.roundings(node, output) {
            let next = behind(view, rounding).into_iter().map(|(reader, _)| reader);
            let mut fused =
                next.filter(|r| r.name() == "BatchNormalization" || POINTWISE.contains(&r.name()));
            if let Some(reader) = fused.next() {
                found.at(node, Some(output), format!("its output is rounded before {}", reader.cite()));
            }
        }
    }
}

pub(super) fn half_products(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(PRODUCTS) {
        let (data, weight) = (view.dequantized_input(node, 0), view.dequantized_input(node, 1));
        match (data, weight) {
            (Some(_), None) => found.at(node, node.input(1), "quantized data and a float weight"),
            // 4-bit weights with float data are a form of their own.
            (None, Some(weight)) if !matches!(weight.code(view), Some(DType::I4 | DType::F4E2M1)) => {
                found.at(node, node.input(0), "a quantized weight and float data");
            }
            _ => {}
        }
    }
}

pub(super) fn residuals(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Add"]) {
        let Some(skip) = skip_slot(node.scope.graph(), node.op) else { continue };
        let fused = 1 - skip;
        if view.dequantized_input(node, fused).is_some() {
            found.at(node, node.input(fused), "the branch with the convolution is rounded before the sum");
        } else if view.dequantized_input(node, skip).is_none() && !view.links.is_empty() {
            // Only where the block is quantized at all: the convolution behind the other input tells.
            let product = node.input(fused).and_then(|value| node.producer(value));
            if product.is_some_and(|p| PRODUCTS.contains(&p.name()) && view.dequantized_input(p, 0).is_some())
            {
                found.at(node, node.input(skip), "the skip is not rounded");
            }
        }
    }
}

pub(super) fn concats(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Concat"]) {
        let links: Vec<Link<'_>> = node.inputs().filter_map(|(_, v)| view.dequantized(node, v)).collect();
        let differs = links.windows(2).find(|pair| !pair[0].same(pair[1], view));
        if let Some(pair) = differs {
            let scales = pair.iter().map(|link| link.scales(view).and_then(|s| s.first().copied()));
            let scales: Vec<String> = scales.map(|s| s.map_or("?".into(), |s| s.to_string())).collect();
            found.at(node, pair[1].output(), format!("scales {}", scales.join(" and ")));
        }
    }
    for node in view.nodes() {
        for output in node.outputs() {
            let roundings = view.roundings(node, output);
            if roundings.windows(2).any(|pair| !pair[0].same(pair[1], view)) {
                found.at(node, Some(output), format!("rounded in {} ways", roundings.len()));
            }
        }
    }
}

pub(super) fn biases(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Conv", "ConvTranspose", "Gemm"]) {
        if view.dequantized_input(node, 2).is_some() {
            found.at(node, node.input(2), "a quantized bias");
        }
    }
}

/// Both operands are dequantized.
fn is_quantized(view: &View<'_>, node: Node<'_>) -> bool {
    let from_link = |slot| {
        let input = node.input(slot).and_then(|value| node.producer(value));
        input.is_some_and(|producer| matches!(producer.key().1, "DequantizeLinear"))
    };
    !view.links.is_empty() && from_link(0) && from_link(1)
}

/// The data come from an input of the graph, only rounded on the way.
fn reads_input(view: &View<'_>, node: Node<'_>) -> bool {
    let source = || {
        let dequantize = node.producer(node.input(0)?)?;
        let quantize = dequantize.producer(dequantize.input(0)?)?;
        quantize.input(0)
    };
    source().is_some_and(|value| {
        node.scope.id == view.model.main_id() && node.scope.graph().value(value).role() == ir::Role::Input
    })
}

fn conv_dims(view: &View<'_>, node: Node<'_>) -> Option<Vec<usize>> {
    view.shape_known(node, node.input(1)?)
}

fn channels(node: Node<'_>, dims: &[usize]) -> Option<usize> {
    let group = usize::try_from(node.attrs().int("group").unwrap_or(1)).ok()?;
    dims.get(1)?.checked_mul(group)
}

pub(super) fn small(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(PRODUCTS).filter(|node| is_quantized(view, *node)) {
        if matches!(node.name(), "Conv" | "ConvTranspose") {
            let Some(dims) = conv_dims(view, node) else { continue };
            let group = node.attrs().int("group").unwrap_or(1);
            // The first layer is TRT22's business.
            let first = reads_input(view, node) && channels(node, &dims).is_some_and(|c| c < 16);
            if let Some(why) = small_conv(&dims, group).filter(|_| !first) {
                found.at(node, node.input(1), format!("{why}; weight of {}", list(&dims)));
            }
            continue;
        }
        let (m, k, n) = product_sizes(node.scope.graph(), node.op);
        // The data's sizes, too, are known before their rounding where no shapes were inferred.
        let plain = node.attrs().int("transA").unwrap_or(0) == 0;
        let data = node.input(0).filter(|_| plain).and_then(|value| view.shape_known(node, value));
        let rows = data.as_deref().and_then(|dims| dims.split_last()).map(|(_, lead)| lead.iter().product());
        let m = m.or(rows);
        // The weight's own sizes stand before its DequantizeLinear.
        let weight = node.input(1).and_then(|value| view.shape_known(node, value));
        let (k, n) = match (weight.as_deref(), node.attrs().int("transB").unwrap_or(0) != 0) {
            (Some([.., n, k]), true) | (Some([.., k, n]), false) => (Some(*k), Some(*n)),
            _ => (k, n),
        };
        if let Some(why) = small_product(m, k, n) {
            found.at(node, node.input(1), why);
        } else if attention_length(view, node).is_some_and(|length| length > LONGEST_ATTENTION) {
            found.at(node, node.input(1), "int8 attention over more than 512 steps");
        }
    }
}

/// The number of keys, if the product of two activations goes into a softmax.
fn attention_length(view: &View<'_>, node: Node<'_>) -> Option<usize> {
    let output = node.output()?;
    let mut readers = vec![output];
    for _ in 0..3 {
        let value = readers.pop()?;
        let (reader, _) = *node.readers(value).first()?;
        if reader.name() == "Softmax" {
            return view.shape(node, output)?.dims.last()?.known();
        }
        if !matches!(reader.name(), "Mul" | "Div" | "Add") {
            return None;
        }
        readers.push(reader.output()?);
    }
    None
}

pub(super) fn enlarging(view: &View<'_>, found: &mut Found<'_>) {
    if view.links.is_empty() {
        return;
    }
    if let Some(node) = view.named(&["ConvTranspose", "DepthToSpace"]).next() {
        found.verify(node, "this kind of model was seen to differ between engine and ONNX Runtime");
    }
}

pub(super) fn first(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Conv"]).filter(|node| is_quantized(view, *node) && reads_input(view, *node)) {
        let Some(dims) = conv_dims(view, node) else { continue };
        if let Some(channels) = channels(node, &dims).filter(|&channels| channels < 16) {
            found.at(node, node.input(0), format!("{channels} input channels"));
        }
    }
}
