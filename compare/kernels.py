#!/usr/bin/env python3
"""Predicted against actual kernels: what onnxq says of every operator, and what onnxruntime makes of it.

Each model is quantized for ort-cpu and loaded in onnxruntime at level all, which writes the graph that it really runs.
An operator of the plan that is said to run on integers must be there as an integer kernel under its output's name, and
one that is said to run in float must be there in float. Operators that move data, and those that disappeared into
another kernel, are not compared.
"""

import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx

import common
from common import Named
from quantize import calibration

SAMPLES = 8
MODES = ["static", "dynamic"]
INTEGER = {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "QLinearAdd",
    "QLinearMul",
    "QLinearConcat",
    "QLinearWhere",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearSoftmax",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QLinearReduceMean",
}
#: Names that onnxruntime gives to what it fused, and the operator that was the heart of it.
FLOAT_FORMS = {
    "Conv": {"Conv", "FusedConv"},
    "MatMul": {"MatMul", "FusedMatMul", "MatMulNBits", "Gemm", "FusedGemm"},
    "Gemm": {"Gemm", "FusedGemm", "MatMul", "MatMulNBits", "FusedMatMul"},
}
#: What may stand between an integer kernel and the value that the plan names: rounding, its other half, a function that
#: the codes imply, a change of layout, a scale and a bias.
BETWEEN = {
    "QuantizeLinear",
    "DequantizeLinear",
    "Relu",
    "Clip",
    "Transpose",
    "ReorderOutput",
    "Cast",
    "Mul",
    "Add",
    "Reshape",
}


#: What onnxruntime moves through its neighbours, merges and drops: whose value is named there then is no matter.
MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Expand", "Slice", "Split", "Concat"}


@dataclass
class Row:
    name: str
    mode: str
    compared: int = 0
    integer: int = 0
    wrong: list[str] = field(default_factory=list)
    error: str = ""


def graphs(graph: onnx.GraphProto):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs(inner)


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in graph.node for output in node.output if output}


def by_name(model: onnx.ModelProto) -> dict[str, str]:
    """Kinds by the name of the node, without what onnxruntime appends to it."""
    suffix = re.compile(r"(_token_\d+|_nhwc|/duplicated)+$")
    return {suffix.sub("", node.name): node.op_type for graph in graphs(model.graph) for node in graph.node}


def actual(makes: dict[str, onnx.NodeProto], names: list[str], kind: str) -> str | None:
    """Kind of the kernel that computes the value which goes by one of these names; none if it is in no graph any more."""
    name = next((name for name in names if name in makes), None)
    for _ in range(8):
        node = makes.get(name)
        if node is None:
            return None
        if node.op_type in INTEGER or node.op_type == kind or node.op_type in FLOAT_FORMS.get(kind, ()):
            return node.op_type
        if node.op_type not in BETWEEN:
            return node.op_type
        inputs = [value for value in node.input if value in makes]
        if not inputs:
            return None
        name = inputs[0]
    return None


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            found.setdefault(value, []).append(node)
    return found


def names_of(key: str, reads: dict[str, list[onnx.NodeProto]], depth: int = 3) -> list[str]:
    """The value itself and what our file makes of it next: behind a fusion only the last of them is left."""
    names, front = [key], [key]
    for _ in range(depth):
        following = [node for name in front for node in reads.get(name, []) if node.op_type in BETWEEN and len(reads[name]) == 1]
        front = [output for node in following for output in node.output]
        names += front
    return names


def compare(program: Path, model: Named, mode: str, work: Path) -> Row:
    row = Row(model.name, mode)
    out = work / f"{model.name}-{mode}.onnx"
    command = [program, "quantize", model.path, "-o", out, "--mode", mode, "--data", calibration(model.name)]
    done = common.call([*command, "--samples", str(SAMPLES), "--json", f"{out}.json"])
    if not done.ok:
        row.error = done.reason()
        return row
    plan = json.loads(Path(f"{out}.json").read_text())["plan"]["ops"]
    optimized = work / "optimized.onnx"
    common.ort_session(out, "all", save=optimized)
    after = onnx.load(optimized, load_external_data=False)
    makes, reads, kinds = {}, {}, by_name(after)
    for graph in graphs(onnx.load(out, load_external_data=False).graph):
        reads |= readers(graph)
    for graph in graphs(after.graph):
        makes |= makers(graph)
    for key, op in plan.items():
        if op["kernel"] not in ("integer", "float") or "/" in key and key.split("/")[-1] not in makes and op["kernel"] == "float":
            continue
        name = key if key in makes or key in reads else key.split("/")[-1]
        names = names_of(f"{name}_float", reads) + names_of(name, reads)
        # A kernel goes by the name of the operator, or of the first of those that it was made of.
        own = [op["node"], f"{name}_sums"]
        found = next((kinds[known] for known in own if known in kinds), None) or actual(makes, names, op["kind"])
        if op["kernel"] == "float":
            # A float operator that was fused or folded is gone under any name: only a wrong kernel counts.
            same = found == op["kind"] or found in FLOAT_FORMS.get(op["kind"], ())
            if found is None or (not same and (found not in INTEGER or op["kind"] in MOVES)):
                continue
            good = same or name not in makes
        else:
            good = found in INTEGER
        row.compared += 1
        row.integer += op["kernel"] == "integer"
        if not good:
            row.wrong.append(f"{name} ({op['kind']}): said {op['kernel']}, is {found}")
    return row


def render(rows: list[Row]) -> str:
    compared, wrong = sum(row.compared for row in rows), sum(len(row.wrong) for row in rows)
    share = 1 - wrong / compared if compared else 0.0
    text = f"{share:.1%} of {compared} operators run as predicted.\n\n"
    lines = [[r.name, r.mode, r.compared, r.integer, len(r.wrong), r.error or "; ".join(r.wrong[:3]) or None] for r in rows]
    return text + common.table(["model", "mode", "compared", "said integer", "not so", "which"], lines)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--mode", choices=MODES, help="only this mode")
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        models = [model for model in common.shared_models() if not model.name.startswith("q_")]
        for model in common.chosen(models, args.only):
            for mode in MODES:
                if args.mode in (None, mode):
                    rows.append(compare(program, model, mode, Path(work)))
                    row = rows[-1]
                    common.progress(f"{row.name} {row.mode}: {row.error or f'{len(row.wrong)} of {row.compared} not as predicted'}")
                    for wrong in row.wrong:
                        common.progress(f"  {wrong}")
    rows = [Row(**row) for row in common.slices("kernels", program, [asdict(row) for row in rows], ["name", "mode"])]
    common.report("kernels", "Predicted and actual kernels", render(rows), args.save)
    sys.exit(1 if any(row.error for row in rows) else 0)


if __name__ == "__main__":
    main()
