#!/usr/bin/env python3
"""The reference evaluator on the ONNX node cases: `onnxq run MODEL --data DIR --runtime reference -o OUT`.

Per case: right, wrong, refused (exit code not 0: the operators it lacks are named) or crashed. Data movement, integers
and quantization must be exact, computed floats within common.TOLERANCE. Training and random operators are not counted.
"""

import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import onnx

import common
from common import Named
from folding import is_training, operator_of

#: Operators that move or choose values, or have bit-exact definitions: no tolerance for any type.
EXACT = set(
    """Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace DequantizeLinear DynamicQuantizeLinear Expand
    EyeLike Flatten Gather GatherElements GatherND Identity Max Min Neg NonZero OneHot Pad QuantizeLinear Range
    ReduceMax ReduceMin Relu Reshape ReverseSequence Scatter ScatterElements ScatterND Shape Size Slice SpaceToDepth
    Split Squeeze Tile TopK Transpose Trilu Unique Unsqueeze Where Abs Ceil Floor Round Sign Clip""".split()
)
CRASH = range(101, 256)  #: a Rust panic exits with 101, a signal with more than 128


def read_outputs(folder: Path, model: onnx.ModelProto) -> list:
    """output_0.pb, output_1.pb, ...: the form of the cases themselves."""
    return [common.read_value(folder / f"output_{k}.pb", o.type) for k, o in enumerate(model.graph.output)]


def verdict(program: Path, case: Named, model: onnx.ModelProto, exact: bool) -> tuple[str, str]:
    for data in case.data:
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "out"
            command = [program, "run", case.path, "--data", data, "--runtime", "reference", "-o", out]
            done = common.call(command, timeout=60)
            if not done.ok:
                kind = "crashed" if done.code in CRASH or done.code < 0 else "refused"
                return kind, done.reason()
            got = read_outputs(out / "test_data_set_0", model)
        _, wanted = common.read_data(model, data)
        for value, expected in zip(got, wanted, strict=True):
            if difference := common.mismatch(value, expected, exact):
                return "wrong", difference
    return "right", ""


KINDS = ["right", "wrong", "refused", "crashed"]


def main() -> None:
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    by_name: dict[str, str] = {}
    counts, by_operator, problems = Counter(), defaultdict(Counter), []
    for case in common.node_cases():
        model = onnx.load(case.path)
        operator = by_name[case.name] = operator_of(case, model, by_name)
        if (args.only is not None and args.only not in case.name) or is_training(model):
            continue
        kind, detail = verdict(program, case, model, exact=operator in EXACT and "expanded" not in case.name)
        counts[kind] += 1
        by_operator[operator][kind] += 1
        if kind != "right":
            problems.append(f"- {case.name} ({operator}): {kind}: {detail}")
    total = counts.total()
    text = common.table(
        ["cases", *KINDS, "right %"],
        [[total, *(counts[k] for k in KINDS), f"{100 * counts['right'] / max(total, 1):.1f}"]],
    )
    poor = [[op, *(c[k] for k in KINDS)] for op, c in sorted(by_operator.items()) if c["right"] < c.total()]
    parts = [
        text,
        "## Operators with cases that are not right\n\n" + common.table(["operator", *KINDS], poor),
        "\n".join(problems),
    ]
    common.report(
        "conformance", "The reference evaluator on the ONNX node cases", "\n\n".join(parts).strip(), args.save
    )
    sys.exit(1 if counts["wrong"] or counts["crashed"] else 0)


if __name__ == "__main__":
    main()
