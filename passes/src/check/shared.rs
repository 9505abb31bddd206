//! Questions that the rules of several targets ask.

use ir::{DType, ValueId};

use super::view::{Link, Node, View};

/// Operators that sum products of data (slot 0) and a weight (slot 1).
pub(super) const PRODUCTS: &[&str] = &["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// The axis of the output channels of the weight in slot 1; none if the operator has none.
pub(super) fn channel_axis(node: Node<'_>, rank: usize) -> Option<usize> {
    match node.name() {
        "Conv" => Some(0),
        "ConvTranspose" => Some(1),
        "Gemm" if node.attrs().int("transB").unwrap_or(0) != 0 => Some(0),
        "Gemm" => Some(1),
        "MatMul" => rank.checked_sub(1).filter(|_| rank > 1),
        _ => None,
    }
}

/// The operator set that the link's type and form need.
pub(super) fn needed_opset(link: Link<'_>, view: &View<'_>) -> (i64, &'static str) {
    let scale = link.scale().and_then(|scale| view.dtype(link.node, scale));
    let by_type = match link.code(view) {
        Some(DType::I2 | DType::U2) => (25, "2-bit codes"),
        Some(DType::F4E2M1) => (23, "float4 codes"),
        Some(DType::I4 | DType::U4) => (21, "4-bit codes"),
        Some(DType::I16 | DType::U16) => (21, "16-bit codes"),
        Some(DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ) => (19, "float8 codes"),
        _ => (10, "quantization"),
    };
    let by_form = if link.block() != 0 {
        (21, "blocks")
    } else if link.per_channel(view) {
        (13, "one scale a channel")
    } else {
        (10, "quantization")
    };
    let by_scale = match scale {
        Some(DType::F8E8M0) => (24, "float8e8m0 scales"),
        Some(DType::F16 | DType::BF16) => (19, "16-bit scales"),
        _ => (10, "quantization"),
    };
    [by_form, by_type, by_scale].into_iter().max_by_key(|(opset, _)| *opset).unwrap_or(by_type)
}

/// What is wrong with the sizes of scale and zero point, as ONNX defines them.
pub(super) fn wrong_sizes(link: Link<'_>, view: &View<'_>) -> Option<String> {
    let scale = view.shape(link.node, link.scale()?)?;
    if let Some(zero) = link.zero()
        && let (Some(zeros), Some(scales)) =
            (view.shape(link.node, zero).and_then(|s| s.elements()), scale.elements())
        && zeros != scales
    {
        return Some(format!("{zeros} zero points for {scales} scales"));
    }
    let data = link.shape(view);
    if link.block() != 0 {
        let data = data?;
        return (data.rank() != scale.rank())
            .then(|| format!("blocked scales of rank {} for data of rank {}", scale.rank(), data.rank()));
    }
    match scale.rank() {
        0 => None,
        1 => {
            let count = scale.dims[0].known()?;
            let data = data?;
            if count == 1 {
                return None;
            }
            let Some(axis) = link.axis_of(data.rank()) else {
                return Some(format!("axis {:?} of data of rank {}", link.axis().unwrap_or(1), data.rank()));
            };
            let size = data.dims[axis].known()?;
            (size != count).then(|| format!("{count} scales for {size} indices of axis {axis}"))
        }
        rank => Some(format!("scales of rank {rank}")),
    }
}

/// A scale that is not positive and finite, or no scale at all.
pub(super) fn bad_scale(link: Link<'_>, view: &View<'_>) -> Option<String> {
    let scales = link.scales(view)?;
    if scales.is_empty() {
        return Some("no scale at all".into());
    }
    let at = scales.iter().position(|&scale| !(scale > 0.0 && scale.is_finite()))?;
    Some(match scales.len() {
        1 => format!("scale {}", scales[0]),
        count => format!("scale {} at {at} of {count}", scales[at]),
    })
}

/// The int32 bias in slot 2 whose scale is not that of data times weight, with what was found.
pub(super) fn wrong_bias_scale(node: Node<'_>, view: &View<'_>) -> Option<String> {
    let bias = view.dequantized_input(node, 2)?.scales(view)?;
    let data = *view.dequantized_input(node, 0)?.scales(view)?.first()?;
    let weights = view.dequantized_input(node, 1)?.scales(view)?;
    // Products of two float32 numbers, rounded once or computed in double: a few units in the last place apart.
    let far = |found: f64, wanted: f64| (found - wanted).abs() > 1e-5 * wanted.abs();
    for at in 0..bias.len().max(weights.len()) {
        let scale = |of: &[f64]| of.get(if of.len() == 1 { 0 } else { at }).copied();
        let (Some(found), Some(weight)) = (scale(&bias), scale(&weights)) else {
            return Some(format!("{} bias scales for {} weight scales", bias.len(), weights.len()));
        };
        if far(found, data * weight) {
            return Some(format!("bias scale {found:e}, data times weight {:e}", data * weight));
        }
    }
    None
}

/// A value of a type that models compute in.
pub(super) fn is_float(view: &View<'_>, node: Node<'_>, value: ValueId) -> bool {
    view.dtype(node, value).is_some_and(DType::is_compute_float)
}

/// The QuantizeLinear behind a value, also behind a Relu or Clip that alone reads it.
pub(super) fn rounded_behind<'a>(view: &View<'a>, node: Node<'a>, value: ValueId) -> Option<Link<'a>> {
    if let Some(link) = view.only_rounded(node, value) {
        return Some(link);
    }
    let reader = node.with(node.scope.graph().sole_use(value)?.op);
    if !matches!(reader.name(), "Relu" | "Clip") {
        return None;
    }
    view.only_rounded(reader, reader.output()?)
}

/// Known sizes as text, for findings.
pub(super) fn list(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// The type's name, or a question mark.
pub(super) fn type_name(dtype: Option<DType>) -> &'static str {
    dtype.map_or("?", DType::name)
}

/// Every DequantizeLinear that is read as a weight (slot 1 of a product), with the product.
pub(super) fn weights<'a>(view: &View<'a>) -> Vec<(Node<'a>, Link<'a>)> {
    let products = view.named(PRODUCTS);
    products.filter_map(|node| Some((node, view.dequantized_input(node, 1)?))).collect()
}
