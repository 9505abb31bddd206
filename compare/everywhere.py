#!/usr/bin/env python3
"""Does what onnxq writes run where it says: every trained model, mode and target, with the default recipe.

Each file is quantized with a few calibration samples (accuracy is measured elsewhere), then read by onnx.checker, by
`onnxq check --target`, and run in onnxruntime at the levels basic and all; files for openvino in OpenVINO too. SQNR is
against the float model on one sample that calibration did not see. A cell says what failed, or how good it is.
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

import common
from common import Named
from quantize import calibration, model_bytes

MODES = ["static", "dynamic"]
TARGETS = ["ort-cpu", "tensorrt", "openvino", "qnn", "tract"]
SAMPLES = 8
#: At level all, onnxruntime computes products in the accumulator's integers instead of float: the codes it writes may
#: differ by one step, and more behind many layers. Beyond this many dB below level basic something is wrong.
LEVELS_APART_DB = 6.0
FLOOR_DB = 30.0  #: where level all is at least this good, a distance between the levels says nothing


@dataclass
class Cell:
    """One file. `problems` is empty if it runs everywhere it says."""

    name: str
    mode: str
    target: str
    size: float = float("nan")  #: of the float file's
    sqnr: dict[str, float] = field(default_factory=dict)
    share: float | None = None  #: of multiplications predicted to run on integers
    problems: list[str] = field(default_factory=list)
    remark: str = ""


def sqnr(wanted: list, got: list) -> float:
    """Of the worst float output, in dB; infinite if all are equal."""
    worst = float("inf")
    for a, b in zip(wanted, got, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind != "f" or a.size == 0:
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("-inf")
        noise, signal = float(((a - b) ** 2).sum()), float((a**2).sum())
        if noise > 0 and signal > 0:
            worst = min(worst, 10 * np.log10(signal / noise))
    return worst


def feeds_of(model: Path, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = {value.name for value in onnx.load(model, load_external_data=False).graph.input}
    return {name: value for name, value in sample.items() if name in wanted}


def fitting_sample(path: Path, calib: Path) -> dict[str, np.ndarray]:
    """A sample of sizes that the emitted file takes: some targets have them fixed."""
    fixed = {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        for value in onnx.load(path, load_external_data=False).graph.input
    }
    files = sorted(calib.glob("*.npz"))
    for file in files[3:] + files[:3]:
        with np.load(file) as archive:
            sample = dict(archive)
        sizes = [(sample[name].shape, dims) for name, dims in fixed.items() if name in sample]
        if all(want in (None, have) for shape, dims in sizes for have, want in zip(shape, dims, strict=False)):
            return sample
    return sample


def in_openvino(path: Path, feeds: dict[str, np.ndarray]) -> list:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU")
    values = compiled(feeds)
    return [values[output] for output in compiled.outputs]


def run(cell: Cell, what: str, float_outputs: list, call) -> None:
    try:
        cell.sqnr[what] = sqnr(float_outputs, call())
        if cell.sqnr[what] == float("-inf"):
            cell.problems.append(f"{what}: other sizes, or not finite")
    except Exception as error:  # every runtime raises its own
        cell.problems.append(f"{what}: {common.brief(str(error))}")


def examine(program: Path, model: Named, mode: str, target: str, work: Path) -> Cell:
    cell = Cell(model.name, mode, target)
    out = work / f"{model.name}-{mode}-{target}.onnx"
    calib = calibration(model.name)
    command = [program, "quantize", model.path, "-o", out, "--mode", mode, "--target", target, "--data", calib]
    done = common.call([*command, "--samples", str(SAMPLES), "--json", f"{out}.json", "--runtime", "auto"])
    if not done.ok:
        cell.problems.append(f"quantize: {done.reason()}")
        return cell
    report = json.loads(Path(f"{out}.json").read_text())
    cell.share, cell.size = report["integer_share"], model_bytes(out) / model_bytes(model.path)
    try:
        onnx.checker.check_model(str(out), full_check=False)
    except onnx.checker.ValidationError as error:
        cell.problems.append(f"onnx.checker: {common.brief(str(error))}")
    checked = common.call([program, "check", out, "--target", target])
    if checked.code not in (0,):
        errors = [line for line in checked.out.splitlines() if line.startswith("  error")]
        cell.problems.append(f"check: {common.brief((errors or [checked.reason()])[0])} ({len(errors)} errors)")
    feeds = feeds_of(model.path, fitting_sample(out, calib))
    outputs = common.ort_run(model.path, feeds)
    for level in ("basic", "all"):
        run(cell, level, outputs, lambda level=level: common.ort_run(out, feeds, level))
    basic, best = cell.sqnr.get("basic", float("nan")), cell.sqnr.get("all", float("nan"))
    if best < min(FLOOR_DB, basic - LEVELS_APART_DB):
        cell.problems.append(f"level all is {best:.1f} dB, basic {basic:.1f} dB")
    if target == "openvino":
        try:
            in_openvino(model.path, feeds)
        except Exception:  # every runtime raises its own
            cell.remark = "OpenVINO does not run the float model"
        else:
            run(cell, "openvino", outputs, lambda: in_openvino(out, feeds))
    out.unlink()
    return cell


def render(cells: list[Cell]) -> str:
    header = ["model", "mode", "target", "size", "integer", "ort basic dB", "ort all dB", "OpenVINO dB", "problems"]
    show = lambda value: None if value is None else f"{value:.1f}"  # noqa: E731
    rows = [
        [
            cell.name,
            cell.mode,
            cell.target,
            f"{cell.size:.2f}",
            None if cell.share is None else f"{cell.share:.0%}",
            *[show(cell.sqnr.get(what)) for what in ("basic", "all", "openvino")],
            "; ".join(cell.problems) or cell.remark or "none",
        ]
        for cell in cells
    ]
    good = sum(not cell.problems for cell in cells)
    text = f"{good} of {len(cells)} files run everywhere they should.\n\n"
    text += f"Size is of the float file's. {SAMPLES} calibration samples: the figures say that a file computes what it "
    text += "should, not how accurate onnxq is.\n\n"
    return text + common.table(header, rows)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--mode", choices=MODES, help="only this mode")
    parser.add_argument("--target", choices=TARGETS, help="only this target")
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    models = [m for m in common.shared_models() if not m.name.startswith("q_")]
    jobs = [
        (model, mode, target)
        for model in common.chosen(models, args.only)
        for mode in MODES
        for target in TARGETS
        if args.mode in (None, mode) and args.target in (None, target)
    ]
    for model in {model.name for model, _, _ in jobs}:
        calibration(model)
    cells = []
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(1) as pool:
        for cell in pool.map(lambda job: examine(program, *job, Path(work)), jobs):
            cells.append(cell)
            common.progress(f"{cell.name} {cell.mode} {cell.target}: {'; '.join(cell.problems) or 'good'}")
    common.report("everywhere", "Every model, mode and target", render(cells), args.save)
    sys.exit(1 if any(cell.problems for cell in cells) else 0)


if __name__ == "__main__":
    main()
