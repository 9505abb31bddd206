//! What TensorRT's importer and builder ask of a quantized model; where roundings should stand is in `tensorrt_place.rs`.

use ir::DType;

use super::Severity::{Error, Information, Performance, Wrong};
use super::shared::{PRODUCTS, bad_scale, channel_axis, needed_opset, type_name, weights, wrong_sizes};
use super::tensorrt_place as place;
use super::view::{Link, View};
use super::{Found, Rule, rule};
use crate::target::tensorrt::REFUSED;

const PARSER: &str = "onnx-tensorrt, QuantDequantLinearHelper and operators.md";
const DOCS: &str = "TensorRT documentation, Working with Quantized Types";
const MODELOPT: &str = "NVIDIA Model Optimizer, modelopt.onnx.quantization";

pub(super) const RULES: &[Rule] = &[
    rule(
        "TRT01",
        Error,
        "every zero point is 0 and known when the engine is built",
        "quantize symmetrically, with a constant zero point of 0",
        PARSER,
        zero_points,
    ),
    rule(
        "TRT02",
        Error,
        "codes and zero point have one type, and that is not uint8",
        "use int8 codes and int8 zero points",
        PARSER,
        types,
    ),
    rule(
        "TRT03",
        Error,
        "all scales are positive and finite",
        "give every range a positive width; a channel of zeros takes the scale of another channel",
        PARSER,
        scales,
    ),
    rule(
        "TRT04",
        Error,
        "scales are one number, one a channel, or one a block, with as many zero points",
        "write as many scales as the axis has indices, and as many zero points",
        PARSER,
        sizes,
    ),
    rule(
        "TRT05",
        Error,
        "only weights have a scale a channel",
        "give activations one scale",
        DOCS,
        activations,
    ),
    rule(
        "TRT06",
        Error,
        "the scales of a weight lie along its output channels, and the axis is written",
        "quantize along the output channels and write the axis attribute",
        DOCS,
        axes,
    ),
    rule(
        "TRT07",
        Error,
        "codes are int8, float8e4m3fn, or for weights int4 and float4e2m1",
        "use int8 or float8e4m3fn; leave the bias float",
        "NvInfer.h, DataType",
        codes,
    ),
    rule(
        "TRT08",
        Error,
        "scales are float32, float16 or bfloat16, and of the data's type; float32 below opset 19",
        "store the scale in the type of the data",
        PARSER,
        scale_types,
    ),
    rule(
        "TRT09",
        Error,
        "no integer operators: quantization is Q/DQ with constant parameters",
        "emit Q/DQ (--format qdq, --mode static)",
        "onnx-tensorrt, operators.md",
        operators,
    ),
    rule(
        "TRT10",
        Error,
        "blocks: int4 of 64 or 128, float8 of 32, float4 of 16, along one of the last two axes, which they divide",
        "choose a block size that divides the axis and that the type allows",
        "NvInfer.h, IDequantizeLayer",
        blocks,
    ),
    rule(
        "TRT11",
        Error,
        "int4 weights go from a constant through DequantizeLinear straight into MatMul or Gemm",
        "fold what stands between into the codes",
        MODELOPT,
        int4,
    ),
    rule(
        "TRT12",
        Error,
        "the operator set has the form: 13 for channels, 19 for float8, 21 for int4 and blocks, 23 for float4",
        "raise the operator set",
        "ONNX, QuantizeLinear",
        opsets,
    ),
    rule(
        "TRT13",
        Performance,
        "no rounding between a product and the activation function or normalization behind it",
        "round behind the activation function; fold the normalization first",
        "TensorRT developer guide, Q/DQ placement",
        place::after_products,
    ),
    rule(
        "TRT14",
        Performance,
        "data and weight of a product are both quantized, or neither",
        "quantize both or none",
        "TensorRT developer guide, Q/DQ placement",
        place::half_products,
    ),
    rule(
        "TRT15",
        Performance,
        "of a residual addition only the skip is rounded",
        "remove the rounding of the branch that ends in a convolution, round the skip",
        "Model Optimizer, pull requests 425 and 450; TensorRT issues 3861, 3270",
        place::residuals,
    ),
    rule(
        "TRT16",
        Performance,
        "concatenated values share one scale, and a value is rounded one way for all its readers",
        "give all inputs of the Concat one scale",
        "Model Optimizer, concat elimination; TensorRT issue 1602",
        place::concats,
    ),
    rule(
        "TRT17",
        Performance,
        "the bias stays float",
        "remove DequantizeLinear and store the bias as float",
        MODELOPT,
        place::biases,
    ),
    rule(
        "TRT18",
        Performance,
        "convolutions of fewer than 16 channels, products with a vector or depth below 16 and int8 attention over 512 steps stay float",
        "leave the operator in float16",
        MODELOPT,
        place::small,
    ),
    rule(
        "TRT19",
        Performance,
        "one network does not mix int8 and float8",
        "use one of both",
        "NVIDIA developer blog",
        mixed,
    ),
    rule(
        "TRT20",
        Wrong,
        "models that enlarge images give other numbers in the engine than in ONNX Runtime",
        "compare the engine's output on the device",
        "TensorRT issues 2103, 2527; PPQ issue 173",
        place::enlarging,
    ),
    rule(
        "TRT21",
        Error,
        "TensorRT 11 has no implicit int8: without Q/DQ the network is float",
        "quantize with Q/DQ",
        "TensorRT 11.0 documentation",
        explicit,
    ),
    rule(
        "TRT22",
        Performance,
        "a first convolution of few channels stays float",
        "leave the first convolution in float16",
        MODELOPT,
        place::first,
    ),
    rule(
        "TRT23",
        Wrong,
        "the zero point is written: ONNX takes a missing one for uint8, TensorRT for int8",
        "write an int8 zero point with as many elements as the scale",
        PARSER,
        missing_zero,
    ),
];

fn zero_points(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        let Some(zero) = link.zero() else { continue };
        match link.zero_tensor(view) {
            None if !view.is_fixed(link.node, zero) => {
                found.at(link.node, Some(zero), "the zero point is computed");
            }
            Some(tensor) if tensor.bytes().iter().any(|&byte| byte != 0) => {
                let shown = match link.zeros(view).as_deref() {
                    Some([one]) => format!("zero point {one}"),
                    _ => "zero points other than 0".into(),
                };
                found.at(link.node, Some(zero), shown);
            }
            _ => {}
        }
    }
}

fn types(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        let (code, zero) = (link.code(view), link.zero().and_then(|zero| view.dtype(link.node, zero)));
        // A missing zero point is TRT23's business.
        let written =
            link.zero().is_some() || !link.quantizes || link.node.attrs().int("output_dtype").is_some();
        if code == Some(DType::U8) && written {
            found.at(link.node, link.zero(), "uint8 codes");
        } else if let (Some(code), Some(zero)) = (code, zero)
            && code != zero
        {
            found.at(link.node, link.zero(), format!("{code} codes and a zero point of {zero}"));
        }
    }
}

fn scales(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        if let Some(what) = bad_scale(*link, view) {
            found.at(link.node, link.scale(), what);
        }
    }
}

fn sizes(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        if let Some(what) = wrong_sizes(*link, view) {
            found.at(link.node, link.scale(), what);
        }
    }
}

fn activations(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        let dynamic_blocks = link.block() != 0 && link.code(view).is_some_and(DType::is_float);
        let several = link.scale_count(view).is_some_and(|count| count > 1);
        if several && !dynamic_blocks && !reads_constant(*link, view) {
            found.at(link.node, link.scale(), format!("{} scales", link.scale_count(view).unwrap_or(0)));
        }
    }
}

/// What is quantized or dequantized is a constant in the end.
fn reads_constant<'a>(link: Link<'a>, view: &View<'a>) -> bool {
    match link.quantizes {
        true => link.input().is_some_and(|value| view.tensor(link.node, value).is_some()),
        false => link.weight(view).is_some(),
    }
}

fn axes(view: &View<'_>, found: &mut Found<'_>) {
    for (node, link) in weights(view) {
        if !link.per_channel(view) {
            continue;
        }
        let Some(rank) = link.shape(view).map(|shape| shape.rank()) else { continue };
        let wanted = channel_axis(node, rank);
        match (link.axis(), wanted) {
            (None, Some(wanted)) => found.at(
                link.node,
                link.scale(),
                format!("no axis, which ONNX reads as 1 and TensorRT as 0; the channels are axis {wanted}"),
            ),
            (Some(axis), wanted) if link.axis_of(rank) != wanted => found.at(
                link.node,
                link.scale(),
                match wanted {
                    Some(wanted) => format!("axis {axis}, the channels are axis {wanted}"),
                    None => format!("axis {axis}, and there is no channel axis"),
                },
            ),
            _ => {}
        }
    }
}

fn codes(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        let Some(code) = link.code(view) else { continue };
        let constant = reads_constant(*link, view);
        match code {
            DType::I8 | DType::F8E4M3FN | DType::F4E2M1 => {}
            // Reported by TRT02 and TRT23.
            DType::U8 => {}
            DType::I4 if constant => {}
            DType::I4 => found.at(link.node, link.input(), "int4 activations"),
            code => found.at(link.node, link.input(), format!("{code} codes")),
        }
    }
}

fn scale_types(view: &View<'_>, found: &mut Found<'_>) {
    for link in &view.links {
        let Some(dtype) = link.scale().and_then(|scale| view.dtype(link.node, scale)) else { continue };
        let opset = link.node.opset();
        let blocked = link.block() != 0 && matches!(dtype, DType::F8E8M0 | DType::F8E4M3FN);
        let data = if link.quantizes { link.input() } else { None };
        let data = data.and_then(|value| view.dtype(link.node, value));
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && !blocked {
            found.at(link.node, link.scale(), format!("{dtype} scale"));
        } else if opset < 19 && dtype != DType::F32 {
            found.at(link.node, link.scale(), format!("{dtype} scale in opset {opset}"));
        } else if let Some(data) = data.filter(|&data| data != dtype && !blocked) {
            found.at(link.node, link.scale(), format!("{dtype} scale for {data} data"));
        }
    }
}

fn operators(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| REFUSED.contains(&node.key())) {
        found.at(node, None, format!("operator {}", node.key().1));
    }
}

fn blocks(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| link.block() != 0) {
        let (block, code) = (link.block(), link.code(view));
        let wrong = match code {
            Some(DType::I4) => !matches!(block, 64 | 128),
            Some(DType::F8E4M3FN) => block != 32,
            Some(DType::F4E2M1) => block != 16,
            _ => true,
        };
        if wrong {
            found.at(link.node, link.input(), format!("{} in blocks of {block}", type_name(code)));
            continue;
        }
        let Some(shape) = link.shape(view) else { continue };
        let Some(axis) = link.axis_of(shape.rank()) else { continue };
        let size = shape.dims[axis].known();
        let last = shape.dims.last().and_then(|dim| dim.known());
        if axis + 2 < shape.rank() {
            found.at(link.node, link.input(), format!("blocks along axis {axis} of {}", shape.rank()));
        } else if let Some(size) = size.filter(|&size| size as i64 % block != 0) {
            found.at(link.node, link.input(), format!("blocks of {block} do not divide {size}"));
        } else if code == Some(DType::I4) && last.is_some_and(|last| last % 2 != 0) {
            found.at(link.node, link.input(), format!("an odd last axis of {}", last.unwrap_or(0)));
        }
    }
}

fn int4(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.quantizes && link.code(view) == Some(DType::I4)) {
        if link.weight(view).is_none() {
            found.at(link.node, link.input(), "int4 codes that are not constant");
            continue;
        }
        if link.block() == 0 {
            found.at(link.node, link.input(), "int4 codes without blocks");
        }
        let Some(output) = link.output() else { continue };
        for (reader, _) in link.node.readers(output) {
            if !matches!(reader.name(), "MatMul" | "Gemm") {
                found.at(link.node, Some(output), format!("{} reads the weight", reader.cite()));
            }
        }
    }
}

fn opsets(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.contrib) {
        let (needed, what) = needed_opset(*link, view);
        let opset = link.node.opset();
        if opset < needed {
            found.at(link.node, None, format!("{what} in opset {opset}, needs {needed}"));
        }
    }
}

fn mixed(view: &View<'_>, found: &mut Found<'_>) {
    let count = |wanted: DType| view.links.iter().filter(|link| link.code(view) == Some(wanted)).count();
    let (int8, float8) = (count(DType::I8), count(DType::F8E4M3FN));
    if int8 > 0 && float8 > 0 {
        found.model(Performance, format!("{int8} int8 and {float8} float8 roundings"));
    }
}

fn explicit(view: &View<'_>, found: &mut Found<'_>) {
    let old = view.at_least(&[11]) == Some(false);
    if view.links.is_empty() && !old && view.named(PRODUCTS).next().is_some() {
        found.model(Information, "no Q/DQ in the model; calibration tables are not read any more");
    }
}

fn missing_zero(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| link.zero().is_none()) {
        let code = link.code(view);
        let typed = link.node.attrs().int("output_dtype").is_some_and(|code| code != 0);
        if matches!(code, Some(DType::I8 | DType::U8)) && !typed {
            found.at(link.node, link.input(), format!("no zero point beside {} codes", type_name(code)));
        }
    }
}
