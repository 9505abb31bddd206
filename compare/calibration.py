#!/usr/bin/env python3
"""Calibration side by side.

1. The minimum and maximum of every value of the simplified model, as `onnxq calibrate --runtime ort` finds them,
   against a direct NumPy computation, bit for bit, and against onnxruntime.quantization's MinMax calibrator.
2. Peak memory at 40 and at 400 samples: it must not grow.
3. Time and memory growth against onnxruntime.quantization's Entropy and Percentile calibrators, 25 and 100 images.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import common
from peers import samples

EQUALITY_SAMPLES = 20
MEMORY_SAMPLES = (40, 400)
GROWTH_SAMPLES = (25, 100)
METHODS = ["MinMax", "Entropy", "Percentile"]
Ranges = dict[str, tuple[float, float]]


def peer_ranges(method: str, model: Path, data: Path, count: int, work: Path) -> Ranges:
    """By onnxruntime.quantization."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.samples = (sample for _, sample in zip(range(count), samples(data), strict=False))

        def get_next(self):
            return next(self.samples, None)

    calibrator = create_calibrator(
        str(model), augmented_model_path=str(work / "augmented.onnx"), calibrate_method=CalibrationMethod[method]
    )
    calibrator.collect_data(Reader())
    found = calibrator.compute_data().items()
    return {name: tuple(np.asarray(bound).item() for bound in data.range_value) for name, data in found}


def numpy_ranges(model: Path, data: Path, count: int) -> Ranges:
    """All float values of the main graph tapped, nothing optimized away."""
    tapped = onnx.load(model)
    outputs = {o.name for o in tapped.graph.output}
    for node in tapped.graph.node:
        tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n and n not in outputs)
    session = common.ort_session(tapped, "disable")
    names = [o.name for o in session.get_outputs()]
    ranges: Ranges = {}
    for _, feeds in zip(range(count), samples(data), strict=False):
        for name, value in [*feeds.items(), *zip(names, session.run(names, feeds), strict=True)]:
            if value.dtype == np.float32 and value.size:
                low, high = ranges.get(name, (math.inf, -math.inf))
                ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return ranges


def our_ranges(program: Path, model: Path, data: Path, work: Path) -> Ranges:
    table = work / "table.json"
    done = common.run([program, "calibrate", model, "--all", "--data", data, "--runtime", "ort", "-o", table])
    if not done.ok:
        sys.exit(f"error: onnxq calibrate: {done.reason()}")
    sketches = json.loads(table.read_text())["values"].items()
    # The table writes each float32 with the fewest digits that mean it: read as a double it is another number.
    extents = ((name, sketch["extent"]) for name, sketch in sketches)
    return {name: tuple(float(np.float32(end)) for end in extent) for name, extent in extents if extent}


def simplified(program: Path, model: Path, work: Path) -> Path:
    """Calibration observes the simplified model: the others must look at the same."""
    out = work / "simplified.onnx"
    done = common.run([program, "simplify", model, "-o", out])
    if not done.ok:
        sys.exit(f"error: onnxq simplify: {done.reason()}")
    return out


def agreement(ours: Ranges, other: Ranges) -> list:
    shared = ours.keys() & other.keys()
    different = sum(ours[name] != other[name] for name in shared)
    return [len(ours), len(other), len(shared), different]


def equality(program: Path, subjects: list[tuple[str, Path, Path]], work: Path) -> tuple[str, bool]:
    rows = []
    for name, model, data in subjects:
        data = repeated(data, EQUALITY_SAMPLES, work, name)
        model = simplified(program, model, work)
        ours = our_ranges(program, model, data, work)
        against = {
            "NumPy": numpy_ranges(model, data, EQUALITY_SAMPLES),
            "onnxruntime MinMax": peer_ranges("MinMax", model, data, EQUALITY_SAMPLES, work),
        }
        rows += [[name, other, *agreement(ours, ranges)] for other, ranges in against.items()]
    header = ["model", "against", "values", "its values", "in both", "different"]
    return common.table(header, rows), not any(row[-1] for row in rows)


def repeated(data: Path, count: int, work: Path, name: str) -> Path:
    """A folder of `count` samples: links to those of `data`, over and over."""
    folder = work / f"{name}{count}"
    folder.mkdir()
    files = sorted(data.glob("*.npz"))
    for k in range(count):
        (folder / f"{k:05}.npz").symlink_to(files[k % len(files)].resolve())
    return folder


def our_cost(program: Path, model: Path, data: Path, work: Path) -> common.Run:
    """Of all values, as the others do, not only of those that a plan may round."""
    command = [program, "calibrate", model, "--all", "--data", data, "--runtime", "ort", "-o", work / "table.json"]
    return common.run(command)


def memory(program: Path, model: Path, data: Path, work: Path) -> str:
    rows = []
    for count in MEMORY_SAMPLES:
        done = our_cost(program, model, repeated(data, count, work, "memory"), work)
        rows.append(
            [count, f"{done.seconds:.1f}", common.megabytes(done.peak_bytes)]
            if done.ok
            else [count, done.reason(), None]
        )
    return common.table(["samples", "s", "peak MB"], rows)


def growth(program: Path | None, model: Path, data: Path, work: Path) -> str:
    rows = []
    for tool in ([] if program is None else ["onnxq"]) + METHODS:
        runs = []
        for count in GROWTH_SAMPLES:
            if tool == "onnxq":
                runs.append(our_cost(program, model, repeated(data, count, work, "growth"), work))
            else:
                worker = [sys.executable, __file__, "--worker", tool, model, data, str(count)]
                runs.append(common.run(worker, timeout=1800))
        if all(run.ok for run in runs):
            each = (runs[1].peak_bytes - runs[0].peak_bytes) / (GROWTH_SAMPLES[1] - GROWTH_SAMPLES[0])
            costs = [f"{runs[1].seconds:.1f}", *(common.megabytes(run.peak_bytes) for run in runs), f"{each / 1e6:.2f}"]
            rows.append([tool, *costs])
        else:
            rows.append([tool, next(run.reason() for run in runs if not run.ok), None, None, None])
    low, high = GROWTH_SAMPLES
    return common.table(["", f"s ({high})", f"MB ({low})", f"MB ({high})", "MB per sample"], rows)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        method, model, data, count = sys.argv[2:]
        with tempfile.TemporaryDirectory() as work:
            peer_ranges(method, Path(model), Path(data), int(count), Path(work))
        return
    parser = common.arguments(__doc__)
    parser.add_argument("--peers", action="store_true", help="part 3 for the peers alone")
    args = parser.parse_args()
    common.need_shared()
    from quantize import calibration

    folder = common.SHARED / "models"
    names = [n for n in ("squeezenet1.1", "mobilenet_v1_0.25_224", "magika_v3_3") if not args.only or args.only in n]
    subjects = [(name, folder / name / "model.onnx", calibration(name)) for name in names]
    _, model, data = subjects[0]
    program = None if args.peers else common.need_program(args.onnxq)
    parts, ok = [], True
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if program:
            text, ok = equality(program, subjects, work)
            parts.append(f"## Minimum and maximum, {EQUALITY_SAMPLES} samples\n\n{text}")
            parts.append(f"## Peak memory of onnxq, {names[0]}\n\n" + memory(program, model, data, work))
        parts.append(f"## Cost, {names[0]}\n\n" + growth(program, model, data, work))
    common.report("calibration", "Calibration side by side", "\n\n".join(parts), args.save)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
