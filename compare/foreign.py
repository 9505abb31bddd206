#!/usr/bin/env python3
"""`onnxq check` on files that other tools wrote: right where nothing is wrong, and it finds what is seeded.

Each model is quantized by onnxruntime.quantization (Q/DQ, operators on codes, dynamic, each kind of codes; with --peers
also by onnxsim and NNCF) and checked for every target.

- Whether a file loads and runs is asked of the runtime itself: a finding of severity `error` for ort-cpu or openvino is
  false if the runtime takes the file, and its absence is if it does not. Rules that can be read straight off the file
  (an asymmetric zero point for TensorRT, an operator on codes) are counted here once more, without onnxq.
- A seeded fault is one edit of one node. The rule must be reported that was not before, at the node or value that was
  edited, with the value that was written and a remedy.
"""

import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

import common
import peers
import simplify
from common import Named

TARGETS = ["ort-cpu", "tensorrt", "openvino", "qnn", "tract"]
#: onnxruntime's settings: format, codes of activations and weights, scales per channel.
FORMS: dict[str, tuple[str, str, str, bool]] = {
    "qdq-u8s8-channel": ("QDQ", "QUInt8", "QInt8", True),
    "qdq-s8s8-channel": ("QDQ", "QInt8", "QInt8", True),
    "qdq-s8s8-symmetric": ("QDQ", "QInt8", "QInt8", True),
    "qdq-u8u8-tensor": ("QDQ", "QUInt8", "QUInt8", False),
    "qdq-u16s8-tensor": ("QDQ", "QUInt16", "QInt8", False),
    "codes-u8s8-channel": ("QOperator", "QUInt8", "QInt8", True),
    "codes-s8s8-tensor": ("QOperator", "QInt8", "QInt8", False),
    "dynamic-s8-channel": ("dynamic", "", "QInt8", True),
    "dynamic-u8-tensor": ("dynamic", "", "QUInt8", False),
}
PEERS = ["onnxsim-minmax", "onnxsim-full-auto", "nncf-performance", "nncf-mixed"]
#: What the tools' own documentation gives as the operators that TensorRT has not.
ON_CODES = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm"}


@dataclass
class Row:
    """One file, or one fault over all files."""

    name: str
    tried: int = 0
    wrong: list[str] = field(default_factory=list)


def ort_quantize(form: str, model: Path, calib: Path, out: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    kind, activation, weight, channel = FORMS[form]

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.samples = peers.samples(calib)

        def get_next(self):
            return next(self.samples, None)

    with tempfile.TemporaryDirectory() as work:
        source = str(peers.ort_preprocessed(model, Path(work)))
        if kind == "dynamic":
            quantize_dynamic(source, str(out), weight_type=QuantType[weight], per_channel=channel)
            return
        symmetric = {"ActivationSymmetric": True} if form.endswith("symmetric") else {}
        quantize_static(
            source,
            str(out),
            Reader(),
            quant_format=QuantFormat[kind],
            activation_type=QuantType[activation],
            weight_type=QuantType[weight],
            per_channel=channel,
            extra_options=symmetric,
        )


def makers(with_peers: bool) -> dict[str, Callable[[Path, Path, Path], None]]:
    made = {form: lambda m, c, o, form=form: ort_quantize(form, m, c, o) for form in FORMS}
    return made | ({name: peers.SETTINGS[name] for name in PEERS} if with_peers else {})


def feeds(model: Named) -> list[dict]:
    """Stored inputs; pictures of noise for models without."""
    if model.data:
        return simplify.stored_feeds(model)
    made = np.random.default_rng(0)
    inputs = common.model_inputs(onnx.load(model.path, load_external_data=False))
    sizes = lambda value: [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]  # noqa: E731
    return [{value.name: made.uniform(-1, 1, sizes(value)).astype(np.float32) for value in inputs} for _ in range(4)]


def check(program: Path, path: Path, target: str, *flags: str) -> list[dict]:
    done = common.call([program, "check", path, "--target", target, "--json", *flags])
    if done.code not in (0, 1):
        raise RuntimeError(done.reason())
    findings = json.loads(done.out)
    if (done.code == 1) != any(finding["severity"] == "error" for finding in findings):
        raise RuntimeError(f"exit code {done.code} with {len(findings)} findings")
    return findings


# Healthy or not: what the runtimes say, and what can be counted


def runs(path: Path, feed: dict, target: str) -> str:
    """What the runtime says; empty if it runs the file."""
    try:
        if target == "ort-cpu":
            common.ort_run(path, feed)
        else:
            import openvino

            openvino.Core().compile_model(str(path), "CPU")(feed)
    except Exception as error:  # every runtime raises its own
        return common.brief(str(error)) or type(error).__name__
    return ""


def initializers(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def counted(model: ModelProto) -> dict[tuple[str, str], bool]:
    """Rules that are plain to see in a file: whether they are broken."""
    constants = initializers(model)
    links = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [constants[n.input[2]] for n in links if len(n.input) > 2 and n.input[2] in constants]
    kinds = {node.op_type for node in model.graph.node}
    return {
        ("tensorrt", "TRT01"): any(zero.any() for zero in zeros),
        ("tensorrt", "TRT02"): any(zero.dtype == np.uint8 for zero in zeros),
        ("tensorrt", "TRT09"): bool(kinds & ON_CODES),
        ("tensorrt", "TRT23"): any(len(n.input) < 3 or not n.input[2] for n in links),
        ("openvino", "OV08"): "QGemm" in kinds,
        ("ort-cpu", "ORT14"): any(not (constants[n.input[1]] > 0).all() for n in links if n.input[1] in constants),
    }


def judge(program: Path, path: Path, feed: dict, floats: Path) -> list[str]:
    """What is wrong about the findings in a file as its tool wrote it."""
    wrong = []
    model = onnx.load(path)
    found = {target: check(program, path, target) for target in TARGETS}
    for target in ("ort-cpu", "openvino"):
        if runs(floats, feed, target):
            continue
        errors = [finding for finding in found[target] if finding["severity"] == "error"]
        refused = runs(path, feed, target)
        if errors and not refused:
            wrong.append(f"{target} runs it, and {errors[0]['rule']} says: {errors[0]['node']} {errors[0]['found']}")
        elif refused and not errors:
            wrong.append(f"no error, and {target} says: {refused}")
    for (target, rule), broken in counted(model).items():
        if broken != any(finding["rule"] == rule for finding in found[target]):
            wrong.append(f"{rule} is {'not ' if broken else ''}found")
    return wrong


# Faults


@dataclass(frozen=True)
class Place:
    """What a fault touched: the finding names one of these."""

    names: list[str]


def attribute(node: NodeProto, name: str, value) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def store(model: ModelProto, near: str, values: np.ndarray) -> str:
    """A new constant."""
    name = f"{near}_seeded"
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


class File:
    """A quantized file that faults look around in."""

    def __init__(self, path: Path):
        self.model = onnx.load(path)
        self.constants = initializers(self.model)
        self.nodes = list(self.model.graph.node)
        self.makes = {output: node for node in self.nodes for output in node.output}
        self.reads: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for value in node.input:
                self.reads.setdefault(value, []).append(node)
        self.outputs = {value.name for value in self.model.graph.output}

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        return (node for node in self.nodes if node.op_type in kinds)

    def link(self, node: NodeProto, slot: int) -> NodeProto | None:
        """The DequantizeLinear that writes an input."""
        made = self.makes.get(node.input[slot]) if len(node.input) > slot else None
        return made if made is not None and made.op_type == "DequantizeLinear" else None

    def rounding(self, node: NodeProto) -> NodeProto | None:
        """The QuantizeLinear that alone reads the output."""
        readers = self.reads.get(node.output[0], [])
        alone = len(readers) == 1 and node.output[0] not in self.outputs
        return readers[0] if alone and readers[0].op_type == "QuantizeLinear" else None

    def products(self, *kinds: str) -> Iterator[tuple[NodeProto, NodeProto, NodeProto]]:
        """Products with the links of data and of a constant weight."""
        for node in self.of(*(kinds or ("Conv", "Gemm", "MatMul"))):
            data, weight = self.link(node, 0), self.link(node, 1)
            if data is not None and weight is not None and weight.input[0] in self.constants:
                yield node, data, weight

    def pair(self, link: NodeProto) -> list[NodeProto]:
        """Both halves of a rounding: the one that writes the codes, and every one that reads them."""
        writer = self.makes.get(link.input[0])
        return [writer] * (writer is not None) + self.reads.get(link.input[0], [])

    def rescale(self, link: NodeProto, change: Callable[[np.ndarray], np.ndarray], both: bool = False) -> str:
        """Gives a link (or both halves) other scales; returns the new constant's name."""
        name = store(self.model, link.input[1], change(self.constants[link.input[1]]))
        for node in self.pair(link) if both else [link]:
            node.input[1] = name
        return name


def activation(file: File) -> tuple[NodeProto, NodeProto]:
    return next((node, data) for node, data, _ in file.products() if data.input[0] in file.makes)


def single(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda old: np.full_like(old, value)


def bad_scale(value: float) -> Callable[[File], Place]:
    def seed(file: File) -> Place:
        _, data = activation(file)
        return Place([file.rescale(data, single(value), both=True)])

    return seed


def moved_zero(file: File) -> Place:
    _, data = activation(file)
    name = store(file.model, data.input[2], file.constants[data.input[2]] * 0 + 3)
    for link in file.pair(data):
        link.input[2] = name
    return Place([name])


def no_zero(file: File) -> Place:
    _, data = activation(file)
    writer = file.pair(data)[0]
    del writer.input[2:]
    return Place([writer.name, writer.input[0]])


def wrong_axis(axis: int, *kinds: str) -> Callable[[File], Place]:
    def seed(file: File) -> Place:
        square = lambda link: len(set(file.constants[link.input[0]].shape[:2])) == 1  # noqa: E731
        several = lambda link: file.constants[link.input[1]].size > 1  # noqa: E731
        found = ((n, w) for n, _, w in file.products(*kinds) if square(w) and several(w))
        node, weight = next(found)
        attribute(weight, "axis", axis)
        return Place([node.name, weight.name, weight.input[1], node.output[0]])

    return seed


def no_axis(file: File) -> Place:
    links = (w for _, _, w in file.products("Conv") if file.constants[w.input[1]].size > 1)
    weight = next(links)
    attribute(weight, "axis", None)
    return Place([weight.name, weight.input[1]])


def short_scales(file: File) -> Place:
    links = (w for _, _, w in file.products("Conv") if file.constants[w.input[1]].size > 2)
    weight = next(links)
    name = store(file.model, weight.input[1], file.constants[weight.input[1]][:2])
    zero = store(file.model, weight.input[2], file.constants[weight.input[2]][:2])
    weight.input[1], weight.input[2] = name, zero
    return Place([name, weight.name])


def wrong_bias(kind: str) -> Callable[[File], Place]:
    def seed(file: File) -> Place:
        node, bias = next((n, b) for n, _, _ in file.products(kind) if (b := file.link(n, 2)) is not None)
        file.rescale(bias, lambda old: old * 3)
        return Place([node.name, node.output[0]])

    return seed


def float_weight(file: File) -> Place:
    node, _, weight = next(p for p in file.products("Conv", "Gemm") if file.rounding(p[0]) is not None)
    codes, scale = file.constants[weight.input[0]], file.constants[weight.input[1]]
    node.input[1] = store(file.model, weight.output[0], (codes * scale.max()).astype(np.float32))
    return Place([node.name, node.input[1]])


def per_channel_data(file: File) -> Place:
    node, data, weight = next(p for p in file.products("Conv") if p[1].input[0] in file.makes)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    channels = file.constants[weight.input[0]].shape[1] * groups
    if channels == 1:
        raise StopIteration
    spread = lambda old: np.repeat(old.reshape(-1), channels)  # noqa: E731
    scale = file.rescale(data, spread, both=True)
    zero = store(file.model, data.input[2], spread(file.constants[data.input[2]]))
    for link in file.pair(data):
        link.input[2] = zero
        attribute(link, "axis", 1)
    return Place([node.name, scale, data.output[0]])


def lowest_code(file: File) -> Place:
    links = (w for _, _, w in file.products() if file.constants[w.input[0]].dtype == np.int8)
    weight = next(links)
    codes = file.constants[weight.input[0]].copy()
    codes.flat[0] = -128
    weight.input[0] = store(file.model, weight.input[0], codes)
    return Place([weight.input[0], weight.output[0]])


def rescaled_move(file: File) -> Place:
    for node in file.of("Reshape", "Transpose", "Flatten", "MaxPool", "Squeeze", "Unsqueeze"):
        rounding = file.rounding(node)
        if file.link(node, 0) is not None and rounding is not None:
            rounding.input[1] = store(file.model, rounding.input[1], file.constants[rounding.input[1]] * 2)
            return Place([node.name, node.output[0]])
    raise StopIteration


def other_codes(file: File) -> Place:
    """The output of a convolution in the other kind of 8 bits than its input."""
    for node, data, _ in file.products("Conv"):
        rounding, zero = file.rounding(node), file.constants[data.input[2]]
        if rounding is not None:
            other = np.int8 if zero.dtype == np.uint8 else np.uint8
            name = store(file.model, rounding.input[2], np.zeros(zero.shape, other))
            rounding.input[2] = name
            for reader in file.reads.get(rounding.output[0], []):
                reader.input[2] = name
            return Place([node.name, node.output[0]])
    raise StopIteration


def old_opset(file: File) -> Place:
    if not any(file.constants[w.input[1]].size > 1 for _, _, w in file.products()):
        raise StopIteration
    for entry in file.model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 12
    return Place([])


def new_version(file: File) -> Place:
    file.model.ir_version = 14
    return Place([])


def rounded_tanh(file: File) -> Place:
    """A function without an integer kernel within a rounding: Q, DQ, Tanh, and the old Q, DQ."""
    node, data = activation(file)
    writer = file.pair(data)[0]
    before, float_name = writer.input[0], f"{data.output[0]}_more"
    file.model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [before, *writer.input[1:]], [f"{before}_q2"], "seeded_q"),
            helper.make_node("DequantizeLinear", [f"{before}_q2", *writer.input[1:]], [f"{before}_d2"], "seeded_d"),
            helper.make_node("Tanh", [f"{before}_d2"], [float_name], "seeded_tanh"),
        ]
    )
    writer.input[0] = float_name
    return Place(["seeded_tanh"])


def open_size(file: File) -> Place:
    value = file.model.graph.input[0]
    value.type.tensor_type.shape.dim[0].dim_param = "some"
    return Place([value.name])


def narrow(file: File) -> Place:
    _, data = activation(file)
    return Place([file.rescale(data, single(1e-9), both=True)])


#: Rule, target, what its finding says, edit. A file in which an edit finds nothing to do is left out.
FAULTS: list[tuple[str, str, str, Callable[[File], Place]]] = [
    ("TRT01", "tensorrt", "zero point 3", moved_zero),
    ("TRT03", "tensorrt", "scale 0", bad_scale(0.0)),
    ("TRT03", "tensorrt", "scale NaN", bad_scale(float("nan"))),
    ("TRT04", "tensorrt", "2 scales", short_scales),
    ("TRT05", "tensorrt", "scales", per_channel_data),
    ("TRT06", "tensorrt", "axis 1", wrong_axis(1, "Conv")),
    ("TRT06", "tensorrt", "no axis", no_axis),
    ("TRT12", "tensorrt", "opset 12", old_opset),
    ("TRT14", "tensorrt", "a float weight", float_weight),
    ("TRT23", "tensorrt", "no zero point", no_zero),
    ("OV01", "openvino", "opset 12", old_opset),
    ("OV02", "openvino", "2 scales", short_scales),
    ("OV05", "openvino", "scales", per_channel_data),
    ("OV06", "openvino", "a float weight", float_weight),
    ("OV07", "openvino", "-128", lowest_code),
    ("QNN01", "qnn", "some", open_size),
    ("QNN02", "qnn", "input 1 is float", float_weight),
    ("QNN03", "qnn", "another scale", rescaled_move),
    ("QNN05", "qnn", "axis 1", wrong_axis(1, "Conv")),
    ("QNN08", "qnn", "a range of", narrow),
    ("QNN09", "qnn", "activations", other_codes),
    ("ORT02", "ort-cpu", " out", other_codes),
    ("ORT03", "ort-cpu", "bias scale", wrong_bias("Conv")),
    ("ORT05", "ort-cpu", "another scale", rescaled_move),
    ("ORT08", "ort-cpu", "opset 12", old_opset),
    ("ORT09", "ort-cpu", "axis 0", wrong_axis(0, "MatMul")),
    ("ORT10", "ort-cpu", "bias scale", wrong_bias("Gemm")),
    ("ORT11", "ort-cpu", "a float weight", float_weight),
    ("ORT12", "ort-cpu", "on both sides", rounded_tanh),
    ("ORT14", "ort-cpu", "scale -0.5", bad_scale(-0.5)),
    ("ORT14", "ort-cpu", "2 scales", short_scales),
    ("ORT15", "ort-cpu", "IR version 14", new_version),
]


def key(finding: dict) -> tuple:
    return finding["rule"], finding["node"], finding["value"], finding["found"]


def seed(program: Path, path: Path, fault: tuple, work: Path) -> str | None:
    """What is wrong about how the fault is found; None where it cannot be seeded."""
    rule, target, shows, edit = fault
    file = File(path)
    try:
        place = edit(file)
    except (StopIteration, IndexError):
        return None
    seeded = work / "seeded.onnx"
    onnx.save(file.model, seeded)
    before = {key(finding) for finding in check(program, path, target)}
    new = [f for f in check(program, seeded, target) if f["rule"] == rule and key(f) not in before]
    if not new:
        return "not found"
    named = [f for f in new if not place.names or any(n and n in f"{f['node']} {f['value']}" for n in place.names)]
    if not named:
        return f"found at {new[0]['node']} {new[0]['value']}, not at {place.names}"
    if not any(shows in finding["found"] and finding["mend"] for finding in named):
        return f"says {named[0]['found']!r}, not {shows!r}"
    return ""


def sarif_problem(program: Path, path: Path, target: str, work: Path) -> str:
    """What SARIF 2.1.0 requires of a log, a run, a rule and a result, and that it says what --json says."""
    log = work / "log.sarif"
    done = common.call([program, "check", path, "--target", target, "--sarif", log, "--json"])
    findings, written = json.loads(done.out), json.loads(log.read_text())
    run = written["runs"][0]
    driver, results = run["tool"]["driver"], run["results"]
    ids = [rule["id"] for rule in driver["rules"]]
    if written["version"] != "2.1.0" or not driver["name"] or len(set(ids)) != len(ids):
        return "no SARIF 2.1.0 log"
    for result in results:
        where = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        if result["ruleId"] not in ids or result["level"] not in ("error", "warning", "note"):
            return f"a result of {result['ruleId']}, {result['level']}"
        if result.get("ruleIndex") is not None and ids[result["ruleIndex"]] != result["ruleId"]:
            return f"ruleIndex of {result['ruleId']}"
        if not result["message"]["text"] or " " in where:
            return f"the place of {result['ruleId']}: {where!r}"
    counts = [Counter(rules) for rules in ((f["rule"] for f in findings), (r["ruleId"] for r in results))]
    return "" if counts[0] == counts[1] else "SARIF and JSON differ"


def examine(
    program: Path, models: list[Named], with_peers: bool, progress=common.progress
) -> tuple[list[Row], list[Row]]:
    healthy, faults = [], {fault: Row(f"{fault[0]} ({fault[1]}): {fault[2]}") for fault in FAULTS}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for model in models:
            samples = feeds(model)
            calib = work / f"{model.name}-calib"
            calib.mkdir()
            for k, sample in enumerate(samples):
                np.savez(calib / f"{k}.npz", **sample)
            for form, make in makers(with_peers).items():
                path = work / f"{model.name}-{form}.onnx"
                row = Row(f"{model.name}, {form}", 1)
                try:
                    make(model.path, calib, path)
                    row.wrong = judge(program, path, samples[0], model.path)
                    row.wrong += [p for t in TARGETS if (p := sarif_problem(program, path, t, work))]
                except Exception as error:  # the tools raise every type of error
                    if not path.exists():
                        progress(f"{row.name}: the tool fails: {common.brief(str(error))}")
                        continue
                    row.wrong.append(f"{type(error).__name__}: {common.brief(str(error))}")
                healthy.append(row)
                for fault in FAULTS:
                    try:
                        problem = seed(program, path, fault, work)
                    except Exception as error:  # an edit that the file does not allow
                        problem = f"{type(error).__name__}: {common.brief(str(error))}"
                    if problem is None:
                        continue
                    faults[fault].tried += 1
                    if problem:
                        faults[fault].wrong.append(f"{row.name}: {problem}")
                progress(f"{row.name}: {'; '.join(row.wrong) or 'good'}")
                path.unlink(missing_ok=True)
    return healthy, list(faults.values())


def render(healthy: list[Row], faults: list[Row]) -> str:
    good = sum(not row.wrong for row in healthy)
    tried, missed = sum(row.tried for row in faults), sum(len(row.wrong) for row in faults)
    text = f"Right about {good} of {len(healthy)} files as their tools wrote them, for five targets.\n\n"
    text += common.table(["file", "wrong"], [[row.name, "; ".join(row.wrong) or "nothing"] for row in healthy])
    text += f"\n\n{tried - missed} of {tried} seeded faults are found, by rule, place, value and remedy.\n\n"
    rows = [[r.name, r.tried, r.tried - len(r.wrong), "; ".join(r.wrong[:2]) or None] for r in faults]
    return text + common.table(["rule", "seeded", "found", "not so"], rows)


def main() -> None:
    logging.disable(logging.WARNING)  # the quantizers' own, one a tensor
    parser = common.arguments(__doc__)
    parser.add_argument("--peers", action="store_true", help="files of onnxsim and NNCF too")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    shared = common.shared_models() if (common.SHARED / "models").is_dir() else []
    known = {model.name for model in shared}
    models = [m for m in shared if not m.name.startswith("q_")]
    models += [model for model in common.fixture_models() if model.name not in known]
    healthy, faults = examine(program, common.chosen(models, args.only), args.peers)
    text = render(healthy, faults)
    common.report(
        "foreign", "Files of other tools", text, args.save, ["onnx", "onnxruntime", "onnxsim", "nncf", "openvino"]
    )
    sys.exit(1 if any(row.wrong for row in healthy + faults) else 0)


if __name__ == "__main__":
    main()
