#!/usr/bin/env python3
"""Lossless reading and writing: `onnxq opt MODEL -o OUT --passes ""` on every development model and node case.

The two files must be equal field by field (see protobuf.py for what is allowed), the copy must pass onnx.checker where
the original does, and its outputs in onnxruntime must be those of the original, bit for bit. Where the two files are
equal byte for byte, the last two hold by themselves and are run with --everything only.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import common
from common import Named
from protobuf import differences, load_comparable


@dataclass
class Verdict:
    model: Named
    identical: bool = False
    problem: str = ""


def same_bits(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and (
            a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()
        )
    return a == b


def copy_problem(model: Named, out: Path) -> str:
    """What the copy got wrong, or nothing."""
    difference = next(differences(load_comparable(model.path), load_comparable(out)), None)
    if difference:
        return f"not equal: {difference}"
    try:
        onnx.checker.check_model(str(model.path))
    except onnx.checker.ValidationError:
        pass  # the original does not pass either
    else:
        try:
            onnx.checker.check_model(str(out))
        except onnx.checker.ValidationError as error:
            return f"checker: {common.brief(str(error))}"
    for folder in model.data:
        feeds, _ = common.read_data(onnx.load(model.path), folder)
        try:
            wanted = common.ort_run(model.path, feeds, "basic")
        except Exception:  # onnxruntime does not run the original, with any type of error
            continue
        for got, expected in zip(common.ort_run(out, feeds, "basic"), wanted, strict=True):
            if not same_bits(got, expected):
                return "onnxruntime: outputs differ"
    return ""


def check(program: Path, model: Named, work: Path, everything: bool = False) -> Verdict:
    out = work / "copy.onnx"
    for old in work.iterdir():
        old.unlink()
    done = common.call([program, "opt", model.path, "-o", out, "--passes", ""])
    if not done.ok:
        return Verdict(model, problem=done.reason())
    identical = out.read_bytes() == model.path.read_bytes()
    return Verdict(model, identical, "" if identical and not everything else copy_problem(model, out))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument(
        "--fixtures", action="store_true", help="the repository's own models instead of the shared ones"
    )
    parser.add_argument("--everything", action="store_true", help="check and run also what is the same byte for byte")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    if args.fixtures:
        groups = {"fixtures": common.fixture_models()}
    else:
        common.need_shared()
        groups = {
            "models": common.shared_models(),
            "node cases": common.node_cases(),
            "the package's models": common.package_models(),
        }
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as work:
        for group, models in groups.items():
            verdicts = [check(program, model, Path(work), args.everything) for model in common.chosen(models, args.only)]
            wrong = [v for v in verdicts if v.problem]
            rows.append(
                [group, len(verdicts), sum(v.identical for v in verdicts), len(verdicts) - len(wrong), len(wrong)]
            )
            problems += [f"- {v.model.name}: {v.problem}" for v in wrong]
    text = common.table(["", "models", "same bytes", "lossless", "wrong"], rows)
    common.report(
        "lossless", "Lossless round trip", "\n\n".join([text, *(["\n".join(problems)] if problems else [])]), args.save
    )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
