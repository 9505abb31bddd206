//! Which patterns around DequantizeLinear and QuantizeLinear become integer kernels of ONNX Runtime's CPU provider.

use ir::DType;
use ops::{Role, Work, scheme};

use super::Found;
use super::shared::{PRODUCTS, is_float, rounded_behind, type_name, weights, wrong_bias_scale};
use super::view::{Link, Node, View, integers};
use crate::target::ort_cpu::{ARITHMETIC, MOVEMENT};

/// Equal roundings around the operator disappear. The position of the greatest is the same among codes.
pub(super) fn moves(name: &str) -> bool {
    MOVEMENT.contains(&name) || name == "ArgMax"
}

/// The operator has an integer kernel that ONNX Runtime fuses. A transposed convolution has none.
pub(super) fn has_kernel(name: &str) -> bool {
    name != "ConvTranspose" && (PRODUCTS.contains(&name) || ARITHMETIC.contains(&name))
}

/// Data inputs: those that a scheme allows to be quantized.
fn data_inputs(node: Node<'_>) -> Vec<(usize, ir::ValueId)> {
    let Some(scheme) = scheme(node.scope.graph(), node.op) else { return Vec::new() };
    let data = |slot: usize| matches!(scheme.input(slot), Role::Data | Role::Weight { .. });
    node.inputs().filter(|(slot, _)| data(*slot)).collect()
}

/// Some activation of the operator comes from DequantizeLinear.
fn reads_codes<'a>(view: &View<'a>, node: Node<'a>) -> bool {
    let inputs = data_inputs(node).into_iter();
    inputs.filter_map(|(_, value)| view.dequantized(node, value)).any(|link| link.weight(view).is_none())
}

pub(super) fn units(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| has_kernel(node.name()) && reads_codes(view, *node)) {
        let float = data_inputs(node).into_iter().find(|&(slot, value)| {
            // A constant weight is quantized when loaded: ORT11.
            let weight = slot == 1 && PRODUCTS.contains(&node.name()) && view.tensor(node, value).is_some();
            !weight && is_float(view, node, value) && view.dequantized(node, value).is_none()
        });
        if let Some((slot, value)) = float {
            found.at(node, Some(value), format!("input {slot} is float"));
            continue;
        }
        // Matrix products may write float.
        let Some(output) = node.output().filter(|_| !matches!(node.name(), "MatMul" | "Gemm")) else {
            continue;
        };
        if rounded_behind(view, node, output).is_some() {
            continue;
        }
        let readers = node.readers(output).len();
        let what = match (node.is_graph_output(output), view.roundings(node, output).is_empty()) {
            (true, false) => "the output is rounded and an output of the graph as well".to_string(),
            (true, true) => "the output is a float output of the graph".into(),
            (false, true) => "the output is not rounded".into(),
            (false, false) => {
                format!("the output is rounded and {} others read it", readers.saturating_sub(1))
            }
        };
        found.at(node, Some(output), what);
    }
}

pub(super) fn biases(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Conv", "Gemm"]).filter(|node| reads_codes(view, *node)) {
        let beta = node.attrs().float("beta").unwrap_or(1.0);
        if node.name() == "Gemm" && beta != 1.0 && node.input(2).is_some() {
            found.at(node, node.input(2), format!("beta {beta}"));
            continue;
        }
        let Some(bias) = view.dequantized_input(node, 2) else { continue };
        if bias.code(view) != Some(DType::I32) {
            found.at(node, node.input(2), format!("a bias of {}", type_name(bias.code(view))));
        } else if node.name() == "Conv"
            && let Some(what) = wrong_bias_scale(node, view)
        {
            found.at(node, node.input(2), what);
        }
    }
}

pub(super) fn gemm_biases(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Gemm"]).filter(|node| reads_codes(view, *node)) {
        if let Some(what) = wrong_bias_scale(node, view) {
            found.at(node, node.input(2), what);
        }
    }
}

pub(super) fn movement(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| moves(node.name())) {
        let Some(from) = view.dequantized_input(node, 0) else { continue };
        let Some(output) = node.output() else { continue };
        let Some(to) = view.only_rounded(node, output) else {
            // An index needs no rounding; what nobody rounds behind is an ordinary float operator.
            continue;
        };
        if !from.same(to, view) {
            found.at(node, Some(output), "another scale behind than before");
        } else if from.scale_count(view) != Some(1) || from.scale_tensor(view).is_none() {
            found.at(node, from.scale(), "a scale that is not one constant number");
        }
    }
}

/// Why a weight-only product keeps dequantizing its weight on every run.
fn stays_float(node: Node<'_>, link: Link<'_>, view: &View<'_>) -> Option<String> {
    let attrs = node.attrs();
    let weight = link.weight(view)?;
    let code = weight.dtype();
    if !matches!(code.bits(), 2 | 4 | 8) || !code.is_int() {
        return Some(format!("{code} codes"));
    }
    if link.scale_tensor(view).is_none() || (link.zero().is_some() && link.zero_tensor(view).is_none()) {
        return Some("a computed scale or zero point".into());
    }
    if weight.rank() != 2 {
        return Some(format!("a weight of rank {}", weight.rank()));
    }
    if link.output().is_some_and(|output| link.node.scope.graph().use_count(output) != 1) {
        return Some("the dequantized weight is read more than once".into());
    }
    let axis = link.axis_of(2);
    match link.block() {
        0 if link.per_channel(view) && axis != Some(1) => return Some("scales along axis 0".into()),
        0 => {}
        block if axis != Some(0) => return Some(format!("blocks of {block} along axis 1")),
        block if block < 16 || block & (block - 1) != 0 => return Some(format!("blocks of {block}")),
        _ => {}
    }
    if node.name() == "Gemm" {
        let is = |name: &str, wanted: f32| attrs.float(name).unwrap_or(1.0) == wanted;
        let turned = ["transA", "transB"].iter().any(|name| attrs.int(name).unwrap_or(0) != 0);
        if turned || !is("alpha", 1.0) || !is("beta", 1.0) {
            return Some("a Gemm with transposition or factors".into());
        }
    }
    let rounded = node.output().is_some_and(|output| !view.roundings(node, output).is_empty());
    rounded.then(|| "its output is rounded".into())
}

pub(super) fn weight_only(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["MatMul", "Gemm"]) {
        let Some(weight) = node.input(1) else { continue };
        let data = view.dequantized_input(node, 0);
        if let Some(link) = view.dequantized(node, weight) {
            let small = link.code(view).is_some_and(|code| code.bits() < 8);
            if data.is_some() && small {
                found.at(node, Some(weight), "quantized data and a weight below 8 bits: computed in float");
            } else if data.is_none()
                && link.weight(view).is_some()
                && let Some(why) = stays_float(node, link, view)
            {
                found.at(node, Some(weight), why);
            }
        } else if let Some(between) = node.producer(weight)
            && matches!(between.name(), "Transpose" | "Cast")
            && view.dequantized_input(between, 0).is_some_and(|link| link.weight(view).is_some())
        {
            found.at(node, Some(weight), format!("{} between the weight and its product", between.name()));
        }
    }
}

pub(super) fn product_axes(view: &View<'_>, found: &mut Found<'_>) {
    for (node, link) in weights(view).into_iter().filter(|(node, _)| node.name() == "MatMul") {
        // With float data the product is not fused to an integer one.
        let Some(weight) = link.weight(view).filter(|_| view.dequantized_input(node, 0).is_some()) else {
            continue;
        };
        let eight = weight.dtype().bits() == 8 || weight.dtype().is_compute_float();
        let (rank, several) = (weight.rank(), link.scale_count(view).is_some_and(|count| count > 1));
        if !several {
            continue;
        }
        if link.block() != 0 && eight {
            found.at(node, node.input(1), format!("8-bit codes in blocks of {}", link.block()));
        } else if link.block() == 0 && rank > 2 {
            found.at(node, node.input(1), format!("a scale a channel of a weight of rank {rank}"));
        } else if link.block() == 0 && rank == 2 && link.axis_of(rank) == Some(0) {
            found.at(node, node.input(1), "scales along axis 0, which is summed over");
        }
    }
}

pub(super) fn float_weights(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Conv", "Gemm", "MatMul"]).filter(|node| reads_codes(view, *node)) {
        let Some(weight) = node.input(1) else { continue };
        let constant = view.tensor(node, weight).is_some_and(|tensor| tensor.dtype().is_compute_float());
        let rounded = node.output().is_some_and(|output| rounded_behind(view, node, output).is_some());
        if constant && rounded {
            found.at(node, Some(weight), "a float weight between quantized values");
        }
    }
}

pub(super) fn no_kernel(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes() {
        let known = has_kernel(node.name()) || moves(node.name()) || matches!(node.name(), "Relu" | "Clip");
        if known || view.link(node).is_some() || node.name() == "Identity" {
            continue;
        }
        let scheme = scheme(node.scope.graph(), node.op);
        let computes = scheme.is_none_or(|scheme| scheme.work != Work::Movement);
        let written = node.output().and_then(|value| view.only_rounded(node, value));
        if computes && view.dequantized_input(node, 0).is_some() && written.is_some() {
            found.at(node, node.output(), "rounded on both sides, computed in float");
        }
    }
}

pub(super) fn activations(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Relu", "Clip"]) {
        let Some(input) = node.input(0) else { continue };
        let product = node.producer(input).filter(|p| p.name() == "Conv" && reads_codes(view, *p));
        let rounding = node.output().and_then(|value| view.only_rounded(node, value));
        let (Some(_), Some(rounding)) = (product, rounding) else { continue };
        let Some((low, high)) = code_range(rounding, view) else { continue };
        let (least, greatest) = bounds(view, node);
        // Half a step beyond the bound rounds to it.
        if least.is_some_and(|least| low < least - 1e-6 * least.abs().max(1e-6))
            || greatest.is_some_and(|greatest| high > greatest + 1e-3 * greatest.abs())
        {
            let shown = format!("{} before codes of {low:.4} to {high:.4}", node.name());
            found.at(node, node.output(), shown);
        }
    }
}

/// Least and greatest number that the codes of a rounding stand for.
fn code_range(link: Link<'_>, view: &View<'_>) -> Option<(f64, f64)> {
    let ([scale], [zero]) = (&link.scales(view)?[..], &link.zeros(view)?[..]) else { return None };
    let (scale, zero) = (*scale, *zero);
    let (low, high) = match link.code(view)? {
        DType::U8 => (0, 255),
        DType::I8 => (-128, 127),
        DType::U16 => (0, 65535),
        DType::I16 => (-32768, 32767),
        _ => return None,
    };
    Some(((low - zero) as f64 * scale, (high - zero) as f64 * scale))
}

/// What a Relu or Clip lets through.
fn bounds(view: &View<'_>, node: Node<'_>) -> (Option<f64>, Option<f64>) {
    if node.name() == "Relu" {
        return (Some(0.0), None);
    }
    let bound = |name: &str, slot: usize| -> Option<f64> {
        if let Some(value) = node.attrs().float(name) {
            return Some(f64::from(value));
        }
        let tensor = view.tensor(node, node.input(slot)?)?;
        let numbers = crate::numbers::floats(tensor);
        numbers
            .and_then(|numbers| numbers.first().copied())
            .or_else(|| integers(tensor)?.first().map(|&v| v as f64))
    };
    (bound("min", 1), bound("max", 2))
}
