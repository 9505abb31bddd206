#!/usr/bin/env python3
"""Constant folding: every node case becomes a model whose inputs are initializers, and a simplifier should fold it.

Per case: right (the output became a constant, equal to the expected one), wrong (it became another one, or what is
left computes something else than before in onnxruntime), not folded, or error. Training and random operators are not
counted, nor cases whose inputs are no tensors. Tolerances: common.TOLERANCE, exact for all types not listed there.
"""

import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, numpy_helper

import common
from common import Named

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
TRAINING_DOMAIN = "ai.onnx.preview.training"
#: Quantization stays visible in a simplified model: not folding these is the intended result.
KEPT = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class Case:
    name: str
    operator: str
    model: ModelProto  #: inputs are initializers
    expected: list


def is_training(model: ModelProto) -> bool:
    def trains(node: onnx.NodeProto) -> bool:
        mode = next((a.i for a in node.attribute if a.name == "training_mode"), 0)
        dropout = node.op_type == "Dropout" and len(node.input) == 3 and node.input[2] != ""
        return node.domain == TRAINING_DOMAIN or node.op_type in RANDOM or bool(mode) or dropout

    bodies = [model.graph.node, *(f.node for f in model.functions)]
    return any(trains(node) for body in bodies for node in body) or any(
        o.domain == TRAINING_DOMAIN for o in model.opset_import
    )


def operator_of(case: Named, model: ModelProto, by_name: dict[str, str]) -> str:
    """The operator a case tests; of an expanded function, the function's."""
    base = re.sub(r"(_expanded.*)$", "", case.name)
    if base != case.name and base in by_name:
        return by_name[base]
    nodes = [node for node in model.graph.node if node.op_type != "Constant"] or list(model.graph.node)
    return nodes[0].op_type


def folded_in(model: ModelProto, feeds: dict[str, object]) -> ModelProto | None:
    """The model with its inputs given as initializers; None if one is not a tensor."""
    frozen = ModelProto()
    frozen.CopyFrom(model)
    frozen.ir_version = max(frozen.ir_version, 4)  # from 4 on, an initializer need not be an input
    for name, value in feeds.items():
        if value is None or isinstance(value, list):
            return None
        frozen.graph.initializer.append(numpy_helper.from_array(value, name))
    kept = [i for i in frozen.graph.input if i.name not in feeds]
    del frozen.graph.input[:]
    frozen.graph.input.extend(kept)
    return frozen


def cases(only: str | None) -> tuple[list[Case], Counter]:
    """The cases that count, and how many do not and why."""
    found, left_out, by_name = [], Counter(), {}
    for named in common.node_cases():
        model = onnx.load(named.path)
        by_name[named.name] = operator_of(named, model, by_name)
        if only is not None and only not in named.name:
            continue
        if is_training(model):
            left_out["training or random"] += 1
            continue
        feeds, expected = common.read_data(model, named.data[0])
        frozen = folded_in(model, feeds)
        if frozen is None or len(feeds) < len(model.graph.input):
            left_out["inputs are not tensors"] += 1
        elif any(value is None or isinstance(value, list) for value in expected):
            left_out["outputs are not tensors"] += 1
        else:
            found.append(Case(named.name, by_name[named.name], frozen, expected))
    return found, left_out


def constant_value(model: ModelProto, name: str):
    """The value of a graph output, if the model holds it as a constant."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if name in node.output:
            if node.op_type == "Identity":
                return constant_value(model, node.input[0])
            if node.op_type == "Constant":
                return common.ort_run(only_constant(node, model), {})[0]
    return None


def only_constant(node: onnx.NodeProto, model: ModelProto) -> ModelProto:
    output = onnx.helper.make_empty_tensor_value_info(node.output[0])
    output = next((o for o in model.graph.output if o.name == node.output[0]), output)
    graph = onnx.helper.make_graph([node], "constant", [], [output])
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def verdict(case: Case, simplified: ModelProto) -> tuple[str, str]:
    for output, wanted in zip(simplified.graph.output, case.expected, strict=True):
        got = constant_value(simplified, output.name)
        if got is None:
            return residue_verdict(case, simplified)
        if difference := common.mismatch(got, wanted):
            return "wrong", f"{output.name}: {difference}"
    return "right", ""


def residue_verdict(case: Case, simplified: ModelProto) -> tuple[str, str]:
    """What was not folded must still compute the same."""
    try:
        before = common.ort_run(case.model, {}, "disable")
    except Exception:  # onnxruntime cannot say, with any type of error
        return "not folded", ""
    try:
        after = common.ort_run(simplified, {}, "disable")
    except Exception as error:
        return "wrong", f"does not run any more: {common.brief(str(error))}"
    difference = next((d for a, b in zip(after, before, strict=True) if (d := common.mismatch(a, b))), None)
    return ("wrong", f"not folded, and {difference}") if difference else ("not folded", "")


def with_onnxq(program: Path) -> Callable[[Case], ModelProto]:
    def simplify(case: Case) -> ModelProto:
        with tempfile.TemporaryDirectory() as work:
            source, out = Path(work) / "in.onnx", Path(work) / "out.onnx"
            onnx.save(case.model, source)
            done = common.call([program, "simplify", source, "-o", out], timeout=30)
            if not done.ok:
                raise RuntimeError(done.reason())
            return onnx.load(out)

    return simplify


def with_onnxsim(case: Case) -> ModelProto:
    import onnxsim

    return onnxsim.simplify(case.model)[0]


def with_onnxslim(case: Case) -> ModelProto:
    import onnxslim

    model = ModelProto()
    model.CopyFrom(case.model)
    return onnxslim.slim(model)


@dataclass
class Tally:
    counts: Counter
    by_operator: dict[str, Counter]
    problems: list[str]


def tally(tool: str, simplify: Callable[[Case], ModelProto], todo: list[Case]) -> Tally:
    result = Tally(Counter(), defaultdict(Counter), [])
    for case, outcome, reason in common.isolated(lambda case: verdict(case, simplify(case)), todo):
        kind, detail = outcome or ("error", reason)
        result.counts[kind] += 1
        result.by_operator[case.operator][kind] += 1
        if kind in ("wrong", "error"):
            result.problems.append(f"- {tool}, {case.name} ({case.operator}): {kind}: {detail}")
    return result


KINDS = ["right", "not folded", "wrong", "error"]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tool", action="append", choices=["onnxq", "onnxsim", "onnxslim"], help="default: onnxq")
    args = parser.parse_args()
    common.need_shared()
    tools = args.tool or ["onnxq"]
    program = common.need_program(args.onnxq) if "onnxq" in tools else args.onnxq
    simplifiers = {"onnxq": with_onnxq(program), "onnxsim": with_onnxsim, "onnxslim": with_onnxslim}
    todo, left_out = cases(args.only)
    tallies = {}
    for tool in tools:
        common.progress(f"{tool}: {len(todo)} cases")
        tallies[tool] = tally(tool, simplifiers[tool], todo)
    rows = []
    for tool, result in tallies.items():
        numbers = [result.counts[kind] for kind in KINDS]
        kept = sum(result.by_operator[op]["not folded"] for op in KEPT)
        rows.append([tool, len(todo), *numbers, kept, f"{100 * numbers[0] / max(len(todo), 1):.1f} %"])
    header = ["tool", "cases", *KINDS, "of not folded: Q/DQ", "right"]
    parts = [
        common.table(header, rows),
        "Not counted: " + (", ".join(f"{n} {why}" for why, n in left_out.items()) or "none") + ".",
    ]
    for tool, result in tallies.items():
        poor = {op: c for op, c in sorted(result.by_operator.items()) if c["right"] < c.total()}
        lines = [[op, *(c[kind] for kind in KINDS)] for op, c in poor.items()]
        parts.append(
            f"## {tool}, operators with cases that are not right\n\n" + common.table(["operator", *KINDS], lines)
        )
        if tool == "onnxq" and result.problems:
            parts.append("\n".join(result.problems))
    packages = ["onnx", "onnxruntime", "onnxsim", "onnxslim"]
    common.report("folding", "Constant folding on the ONNX node cases", "\n\n".join(parts), args.save, packages)
    sys.exit(1 if "onnxq" in tallies and tallies["onnxq"].counts["wrong"] else 0)


if __name__ == "__main__":
    main()
