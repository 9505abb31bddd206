//! What QNN's provider of ONNX Runtime asks of a quantized model (HTP backend).

use ir::{DType, Role as Origin};
use ops::{Role, Work, scheme};

use super::Severity::{Accuracy, Error, Information, Wrong};
use super::shared::{is_float, rounded_behind, type_name, weights};
use super::view::{Link, Node, View};
use super::{Found, Rule, rule};

const CONFIG: &str = "onnxruntime, quantization/execution_providers/qnn/quant_config.py";

/// Bits of a type of 16-bit codes.
fn is_wide(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::U16 | DType::I16))
}

pub(super) const RULES: &[Rule] = &[
    rule(
        "QNN01",
        Error,
        "all shapes are fixed",
        "fix the sizes of the inputs: onnxq opt --passes fix_shapes",
        "onnxruntime, pull request 22066",
        shapes,
    ),
    rule(
        "QNN02",
        Wrong,
        "every float input of an operator comes from DequantizeLinear, every output goes into QuantizeLinear",
        "quantize every input and output, or the operator runs in float16 or on the CPU",
        "onnxruntime, qdq_selectors.cc",
        units,
    ),
    rule(
        "QNN03",
        Error,
        "Cast is not quantized; data movement has one scale on both sides",
        "remove the roundings around Cast; share scale and zero point across data movement",
        CONFIG,
        movement,
    ),
    rule(
        "QNN04",
        Error,
        "16-bit Sigmoid and Tanh write the scales that are built in",
        "Sigmoid: uint16 1/65536 and 0, int16 1/32768 and 0; Tanh: uint16 1/32768 and 32768, int16 1/32768 and 0",
        CONFIG,
        functions,
    ),
    rule(
        "QNN05",
        Error,
        "scales a channel only for weights of Conv along axis 0 and of ConvTranspose along axis 1",
        "use one scale",
        CONFIG,
        channels,
    ),
    rule(
        "QNN06",
        Wrong,
        "with 16-bit activations weights of MatMul and normalizations have 8 bits",
        "use 8-bit weights",
        CONFIG,
        wide_weights,
    ),
    rule(
        "QNN07",
        Error,
        "below opset 21 roundings to 16 and 4 bits are Microsoft's operators",
        "raise the operator set to 21",
        CONFIG,
        domains,
    ),
    rule("QNN08", Accuracy, "a range is at least 1e-4 wide", "widen the range", CONFIG, narrow),
    rule(
        "QNN09",
        Error,
        "activations that an operator reads and writes have one type",
        "convert between 8 and 16 bits with DequantizeLinear and QuantizeLinear between operators",
        "onnxruntime, issue 19925",
        islands,
    ),
    rule(
        "QNN10",
        Error,
        "4-bit codes are int4, constant, with one scale or one a channel",
        "use int4 weights without blocks",
        "Qualcomm, HTP operator definitions",
        four_bits,
    ),
    rule(
        "QNN11",
        Wrong,
        "float16 islands between integers need QAIRT 2.37",
        "use QAIRT 2.37 or later",
        "AIMET issues 4102, 4090",
        float16,
    ),
];

fn shapes(view: &View<'_>, found: &mut Found<'_>) {
    let main = view.model.main();
    for &input in main.inputs() {
        let value = main.value(input);
        let open = value.shape().and_then(|shape| shape.known()).is_none();
        if open && value.role() == Origin::Input {
            let shape = value.shape().map_or("?".into(), |shape| {
                shape.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
            });
            found.value(value.name(), format!("an input of {shape}"));
        }
    }
    // Behind an open input everything is open: only where openness begins is worth a line.
    let open =
        |node: Node<'_>, value| is_tensor(view, node, value) && view.shape_known(node, value).is_none();
    for node in view.nodes() {
        let begins = !node.inputs().any(|(_, value)| open(node, value));
        if let Some(output) = node.outputs().find(|&value| open(node, value)).filter(|_| begins) {
            found.at(node, Some(output), "an output of unknown size");
        }
    }
}

fn is_tensor(view: &View<'_>, node: Node<'_>, value: ir::ValueId) -> bool {
    view.dtype(node, value).is_none_or(|dtype| dtype != DType::String)
}

/// Operators that hold no numbers of their own, or whose bodies do.
const APART: &[&str] = &["Constant", "Shape", "Size", "If", "Loop", "Scan", "Cast", "ConstantOfShape"];

fn units(view: &View<'_>, found: &mut Found<'_>) {
    if view.links.is_empty() {
        return;
    }
    for node in view.nodes().filter(|node| view.link(*node).is_none() && !APART.contains(&node.name())) {
        let Some(output) = node.outputs().find(|&value| is_float(view, node, value)) else {
            continue;
        };
        // A function within its producer's unit.
        let inside = || {
            let input = node.input(0)?;
            let producer = node.producer(input)?;
            rounded_behind(view, producer, input)
        };
        if matches!(node.name(), "Relu" | "Clip") && inside().is_some() {
            continue;
        }
        let Some(scheme) = scheme(node.scope.graph(), node.op) else {
            found.at(node, Some(output), "an operator without a quantized form");
            continue;
        };
        let data = |slot: usize| matches!(scheme.input(slot), Role::Data | Role::Weight { .. } | Role::Bias);
        let float = node.inputs().find(|&(slot, value)| {
            data(slot) && is_float(view, node, value) && view.dequantized(node, value).is_none()
        });
        let open = node.outputs().enumerate().find(|&(slot, value)| {
            scheme.output(slot) != Role::Keep
                && is_float(view, node, value)
                && rounded_behind(view, node, value).is_none()
                && (node.is_graph_output(value) || !node.readers(value).is_empty())
        });
        if let Some((slot, value)) = float {
            found.at(node, Some(value), format!("input {slot} is float"));
        } else if let Some((slot, value)) = open {
            found.at(node, Some(value), format!("output {slot} is not rounded"));
        }
    }
}

fn movement(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes() {
        let (Some(input), Some(output)) = (node.input(0), node.output()) else { continue };
        let (from, to) = (view.dequantized(node, input), view.only_rounded(node, output));
        if node.name() == "Cast" {
            if from.is_some() || to.is_some() {
                found.at(node, Some(input), "a rounded Cast");
            }
            continue;
        }
        let (Some(from), Some(to)) = (from, to) else { continue };
        let scheme = scheme(node.scope.graph(), node.op);
        let moves = scheme.is_some_and(|s| s.work == Work::Movement && matches!(s.output(0), Role::Moves(0)));
        if moves && view.link(node).is_none() && !from.same(to, view) {
            found.at(node, Some(output), "another scale behind than before");
        }
    }
}

fn functions(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.named(&["Sigmoid", "Tanh"]) {
        let Some(link) = node.output().and_then(|value| view.only_rounded(node, value)) else { continue };
        let Some(code) = link.code(view).filter(|&code| is_wide(Some(code))) else { continue };
        let (scale, zero) = match (node.name(), code) {
            ("Sigmoid", DType::U16) => (1.0 / 65536.0, 0),
            (_, DType::U16) => (1.0 / 32768.0, 32768),
            _ => (1.0 / 32768.0, 0),
        };
        let (scales, zeros) = (link.scales(view).unwrap_or_default(), link.zeros(view).unwrap_or_default());
        if scales != [scale] || zeros != [zero] {
            let shown = format!("{code} scale {scales:?} and zero point {zeros:?}");
            found.at(node, link.scale(), shown);
        }
    }
}

fn channels(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.quantizes && link.per_channel(view)) {
        let Some(output) = link.output() else { continue };
        let rank = link.shape(view).map_or(0, |shape| shape.rank());
        for (reader, slot) in link.node.readers(output) {
            let fits = match (reader.name(), slot) {
                ("Conv", Some(1)) => link.axis_of(rank) == Some(0),
                ("ConvTranspose", Some(1)) => link.axis_of(rank) == Some(1),
                ("Conv" | "ConvTranspose", Some(2)) => true,
                _ => false,
            };
            if !fits {
                let axis = link.axis().unwrap_or(1);
                found.at(reader, Some(output), format!("a scale an index of axis {axis}"));
            }
        }
    }
}

fn wide_weights(view: &View<'_>, found: &mut Found<'_>) {
    for node in
        view.named(&["MatMul", "Gemm", "LayerNormalization", "InstanceNormalization", "RMSNormalization"])
    {
        for slot in [0, 1] {
            let Some(link) = view.dequantized_input(node, slot).filter(|link| link.weight(view).is_some())
            else {
                continue;
            };
            if is_wide(link.code(view)) {
                found.at(node, link.output(), format!("a weight of {}", type_name(link.code(view))));
            }
        }
    }
}

fn domains(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.contrib && link.node.opset() < 21) {
        let code = link.code(view);
        if is_wide(code) || matches!(code, Some(DType::I4 | DType::U4)) {
            found.at(link.node, None, format!("{} in opset {}", type_name(code), link.node.opset()));
        }
    }
}

fn narrow(view: &View<'_>, found: &mut Found<'_>) {
    /// Least width of a range.
    const WIDTH: f64 = 1e-4;
    for link in view.links.iter().filter(|link| link.quantizes) {
        let Some(code) = link.code(view).filter(|code| code.is_int()) else { continue };
        let steps = 2f64.powi(code.bits() as i32) - 1.0;
        // A range of just the least width comes back a rounding of the scale narrower.
        let width = |scale: &f64| scale * steps * 1.001;
        if let Some(scale) = link.scales(view).unwrap_or_default().iter().find(|scale| width(scale) < WIDTH) {
            found.at(link.node, link.scale(), format!("a range of {:e}", scale * steps));
        }
    }
}

fn islands(view: &View<'_>, found: &mut Found<'_>) {
    for node in view.nodes().filter(|node| view.link(*node).is_none()) {
        let activation = |link: &Link<'_>| link.weight(view).is_none() && link.code(view) != Some(DType::I32);
        let read: Vec<DType> = node
            .inputs()
            .filter_map(|(_, value)| view.dequantized(node, value))
            .filter(activation)
            .filter_map(|link| link.code(view))
            .collect();
        let Some(&first) = read.first() else { continue };
        let written = node.outputs().filter_map(|value| rounded_behind(view, node, value)?.code(view));
        if let Some(other) = read.iter().copied().chain(written).find(|&code| code != first) {
            found.at(node, None, format!("{first} and {other} activations"));
        }
    }
}

fn four_bits(view: &View<'_>, found: &mut Found<'_>) {
    for link in view.links.iter().filter(|link| !link.quantizes) {
        match link.code(view) {
            Some(DType::U4) => found.at(link.node, link.input(), "uint4 codes"),
            Some(DType::I4) if link.weight(view).is_none() => {
                found.at(link.node, link.input(), "int4 activations");
            }
            Some(DType::I4) if link.block() != 0 => {
                found.at(link.node, link.input(), format!("blocks of {}", link.block()));
            }
            _ => {}
        }
    }
}

fn float16(view: &View<'_>, found: &mut Found<'_>) {
    let half = |node: Node<'_>| node.outputs().any(|value| view.dtype(node, value) == Some(DType::F16));
    if weights(view).is_empty() || view.at_least(&[2, 37]) == Some(true) {
        return;
    }
    if let Some(node) = view.nodes().find(|&node| view.link(node).is_none() && half(node)) {
        let severity = if view.at_least(&[2, 37]).is_some() { Wrong } else { Information };
        found.graded(severity, node, node.output(), "a float16 operator in a quantized model");
    }
}
