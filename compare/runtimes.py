#!/usr/bin/env python3
"""Runtimes side by side: every model on its own test data in tract (embedded), in ONNX Runtime as the program loads it,
and in Python onnxruntime.

Per model: what tract does with it (runs it; runs some operators by their definitions; refuses it, naming the operators and
offering ONNX Runtime), how far tract's outputs are from Python onnxruntime's at level basic, and whether the program's ONNX
Runtime gives the same bits as Python's.

Bars: a float model's outputs differ by less than FLOAT_BAR of their largest number, ONNX Runtime's not at all. Quantized
models are compared by SQNR alone: rounding flips cascade, so two right runtimes differ by more than rounding.
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import common

FLOAT_BAR = 3e-4  #: sums in another order through up to a hundred layers, magnified by exponentials (the boxes of yolox)
HALF_BAR = 1e-2  #: float16 rounds every value in onnxruntime; here the model is widened
QUANTIZED_BAR = 25.0  #: dB
KINDS = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv"}


def outputs(program: Path, model: Path, data: Path, runtime: str, work: Path) -> tuple[list | None, common.Run]:
    out = work / runtime
    done = common.run([program, "run", model, "--data", data, "--runtime", runtime, "-o", out, "--threads", "1"])
    if not done.ok:
        return None, done
    proto = onnx.load(model, load_external_data=False)
    folder = out / "test_data_set_0"
    return [common.read_value(folder / f"output_{k}.pb", o.type) for k, o in enumerate(proto.graph.output)], done


def python_outputs(model: Path, data: Path) -> list:
    proto = onnx.load(model, load_external_data=False)
    feeds, _ = common.read_data(proto, data)
    session = common.ort_session(model, "basic")
    # Files often hold a scalar as a list of one.
    ranks = {i.name: len(i.shape) for i in session.get_inputs()}
    feeds = {n: x.reshape(()) if ranks[n] == 0 and getattr(x, "size", 0) == 1 else x for n, x in feeds.items()}
    return session.run(None, feeds)


def distance(got: list, wanted: list) -> tuple[float, float]:
    """The largest difference as a share of the largest number, and the smallest SQNR, over all outputs."""
    share, sqnr = 0.0, 200.0
    for a, b in zip(got, wanted, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return float("inf"), float("-inf")
        if not b.size:
            continue
        error, size = np.abs(a - b).max(), np.abs(b).max()
        share = max(share, error / size if size else error)
        noise, signal = np.sum((a - b) ** 2), np.sum(b**2)
        if noise:
            sqnr = min(sqnr, 10 * np.log10(signal / noise) if signal else -200.0)
    return share, sqnr


def kind(model: Path) -> str:
    proto = onnx.load(model, load_external_data=False)
    if any(n.op_type in KINDS for n in proto.graph.node):
        return "quantized"
    types = {t.data_type for t in proto.graph.initializer}
    return "half" if types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16} else "float"


def row(program: Path, named: common.Named, data: Path, work: Path) -> tuple[list, bool]:
    wanted = python_outputs(named.path, data)
    what = kind(named.path)
    tract, done = outputs(program, named.path, data, "tract", work)
    ort, ort_done = outputs(program, named.path, data, "ort", work)
    if ort is None:
        same, fine = ort_done.reason(), False
    else:
        different = [common.mismatch(a, b, exact=True) for a, b in zip(ort, wanted, strict=True)]
        same = next((d for d in different if d), "equal")
        fine = same == "equal"
    if tract is None:
        # A refusal must name an operator and the way out.
        fine &= "--runtime ort" in done.error and '"' in done.error
        return [named.name, what, "refused: " + refusal(done.error), None, None, same], fine
    share, sqnr = distance(tract, wanted)
    fine &= sqnr >= QUANTIZED_BAR if what == "quantized" else share <= (HALF_BAR if what == "half" else FLOAT_BAR)
    found = re.search(r"runs (\d+) operators? by definition", done.error)
    how = f"runs, {found[1]} operators by definition" if found else "runs"
    return [named.name, what, how, f"{share:.1e}", f"{sqnr:.0f}", same], fine


def refusal(error: str) -> str:
    lines = [line for line in error.splitlines() if "error" in line]
    return common.brief(lines[0] if lines else error).replace("error: ", "")[:150]


def main() -> None:
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    rows, failed = [], []
    for named in common.chosen(common.shared_models(), args.only):
        for data in named.data[:1]:
            common.progress(named.name)
            with tempfile.TemporaryDirectory() as work:
                found, fine = row(program, named, data, Path(work))
            rows.append(found)
            if not fine:
                failed.append(named.name)
    header = ["model", "kind", "tract", "largest difference", "SQNR dB", "ort against Python onnxruntime"]
    text = common.table(header, rows)
    bars = f"largest difference {FLOAT_BAR} (float), {HALF_BAR} (half precision); SQNR {QUANTIZED_BAR} dB (quantized)"
    text += f"\n\nTract against Python onnxruntime at level basic, test_data_set_0. Bars: {bars}; ort equal bit by bit.\n"
    text += f"\nMissed: {', '.join(failed)}." if failed else "\nAll bars are met."
    common.report("runtimes", "Runtimes side by side", text, args.save)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
