#!/usr/bin/env python3
"""INT8 side by side: onnxq and other quantizers on the development models.

Per model and tool: task metric, agreement and SQNR against the float model (../shared/eval/evaluate.py), file size, the
tool's time and peak memory, how much faster than float the emitted model runs in onnxruntime and in OpenVINO (one
thread, paired runs, median ratio; above 1 is faster), and how many of its convolutions, matrix products and recurrent
layers onnxruntime really runs as integers (read from the graph it optimized).

The peers' outputs and numbers are kept in $ONNXQ_CACHE; --fresh makes them again. `--tools peers --save` writes
results/peers.md, otherwise --save writes results/quantize.md.
"""

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx

import common
from common import CACHE, SHARED, Run
from peers import SETTINGS

EVAL = SHARED / "eval"
INTEGER_KERNELS = {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "QAttention",
}
FLOAT_KERNELS = {"Conv", "ConvTranspose", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU"}
PAIR_SECONDS = 3.0  #: time spent on a pair of models, float and quantized
MIN_PAIRS = 15


@dataclass(frozen=True)
class Subject:
    """A development model with a task; two files where two stages are evaluated together."""

    name: str
    files: list[Path]
    calib: list[Path]


@dataclass
class Row:
    """One tool on one model. NaN: not measured, `error` says why."""

    tool: str
    value: float = float("nan")
    agreement: float = float("nan")
    sqnr: float = float("nan")
    size: int = 0
    seconds: float = float("nan")
    peak_bytes: float = float("nan")
    speed: dict[str, float | str] = field(default_factory=dict)  #: runtime -> ratio, or why there is none
    integer: str = ""
    error: str = ""


def subjects(only: str | None) -> list[Subject]:
    sys.path.insert(0, str(EVAL))
    from onnxeval import models

    found = []
    for name in models.TABLE:
        if only is None or only in name:
            files = [common.with_weights(path) for path in models.task(name).models]
            members = [name] if len(files) == 1 else [path.parent.name for path in files]
            found.append(Subject(name, files, [calibration(member) for member in members]))
    return found


def calibration(name: str) -> Path:
    folder = CACHE / "calib" / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = common.call([sys.executable, EVAL / "make_calib.py", name, folder])
        if not done.ok:
            sys.exit(f"error: no calibration data for {name}: {done.reason()}")
    return folder


def emit(subject: Subject, command, out: Path) -> tuple[list[Path], Run]:
    """Quantizes every file of the subject; costs add up, peak memory is that of the larger."""
    files, runs = [], []
    for k, (model, calib) in enumerate(zip(subject.files, subject.calib, strict=True)):
        files.append(out.parent / f"{out.name}.{k}.onnx")
        runs.append(common.run(command(model, calib, files[-1]), timeout=900))
        if not runs[-1].ok or not files[-1].exists():
            return files, Run(runs[-1].code or 1, "", runs[-1].error)
    return files, Run(0, "", "", sum(r.seconds for r in runs), 0.0, max(r.peak_bytes for r in runs))


def model_bytes(path: Path) -> int:
    """The file and its external data."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    names = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in names)


def evaluate(subject: Subject, files: list[Path]) -> dict:
    command = [sys.executable, EVAL / "evaluate.py", subject.name, "--json"]
    for file, reference in zip(files, subject.files, strict=True):
        command += ["--model", file, "--reference", reference]
    done = common.call(command)
    return json.loads(done.out) if done.ok else {"error": done.reason()}


def middle_sample(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.npz"))
    with np.load(files[len(files) // 2]) as archive:
        return dict(archive)


def speed(subject: Subject, files: list[Path], runtime: str) -> float | str:
    """Median over pairs of runs of time(float) / time(quantized); a reason where one of the two does not run."""
    from onnxeval.runtimes import open_session

    feeds = [middle_sample(folder) for folder in subject.calib]
    try:
        both = [[open_session(file, runtime, 1) for file in group] for group in (subject.files, files)]
        for group in both:
            for session, feed in zip(group, feeds, strict=True):
                session.run(feed)
                session.run(feed)
    except Exception as error:  # a runtime refuses a model with any type of error
        return common.brief(str(error))
    ratios, end = [], time.perf_counter() + PAIR_SECONDS
    while len(ratios) < MIN_PAIRS or time.perf_counter() < end:
        seconds = []
        for group in both:
            before = sum(session.seconds for session in group)
            for session, feed in zip(group, feeds, strict=True):
                session.run(feed)
            seconds.append(sum(session.seconds for session in group) - before)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def census(files: list[Path]) -> str:
    """Integer kernels of all heavy operators in onnxruntime's optimized graph, subgraphs included."""

    def count(graph: onnx.GraphProto) -> tuple[int, int]:
        integer = sum(node.op_type in INTEGER_KERNELS for node in graph.node)
        total = integer + sum(node.op_type in FLOAT_KERNELS for node in graph.node)
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    integer, total = (a + b for a, b in zip((integer, total), count(inner), strict=True))
        return integer, total

    integer, total = 0, 0
    with tempfile.TemporaryDirectory() as work:
        for file in files:
            optimized = Path(work) / "optimized.onnx"
            common.ort_session(file, "all", save=optimized)
            found = count(onnx.load(optimized, load_external_data=False).graph)
            integer, total = integer + found[0], total + found[1]
    return f"{integer}/{total}"


def measure(subject: Subject, tool: str, files: list[Path], cost: Run | None) -> Row:
    row = Row(tool)
    if cost is not None:
        row.seconds, row.peak_bytes = cost.seconds, cost.peak_bytes
        if not cost.ok:
            row.error = cost.reason()
            return row
    row.size = sum(model_bytes(file) for file in files)
    result = evaluate(subject, files)
    if "error" in result:
        row.error = common.brief(result["error"])
        return row
    agreement = result["agreement"]
    row.value = float(result["value"])
    row.agreement = agreement.get("decision_agreement", float("nan"))
    row.sqnr = float(agreement["sqnr_db"])
    if cost is not None:
        row.speed = {runtime: speed(subject, files, runtime) for runtime in ("ort", "openvino")}
        row.integer = census(files)
    return row


def peer_commands() -> dict[str, Callable[[Path, Path, Path], list]]:
    """How each peer is called. quantize-rs (cargo install quantize-rs) is left out where it is not installed."""
    script = Path(__file__).with_name("peers.py")
    commands = {name: lambda m, c, o, name=name: [sys.executable, script, name, m, c, o] for name in SETTINGS}
    folders = os.pathsep.join([str(CACHE / "quantize-rs/bin"), os.environ.get("PATH", "")])
    if program := shutil.which("quantize-rs", path=folders):
        options = ["--per-channel", "--symmetric"]
        commands["quantize-rs-weights"] = lambda m, c, o: [program, "quantize", m, "-o", o, *options]
    return commands


def peer(subject: Subject, setting: str, command: Callable[[Path, Path, Path], list], fresh: bool) -> Row:
    """A peer's row, from the cache if it was made with the same peers.py."""
    source = hashlib.sha256(Path(__file__).with_name("peers.py").read_bytes()).hexdigest()[:12]
    out = CACHE / "quantized" / source / f"{subject.name}-{setting}"
    stored = out.parent / f"{out.name}.json"
    if stored.exists() and not fresh:
        return Row(**json.loads(stored.read_text()))
    out.parent.mkdir(parents=True, exist_ok=True)
    files, cost = emit(subject, command, out)
    row = measure(subject, setting, files, cost)
    stored.write_text(json.dumps(asdict(row)))
    return row


def ours_command(program: Path, model: Path, calib: Path, out: Path) -> list:
    """The default recipe."""
    command = [program, "quantize", model, "-o", out, "--data", calib, "--target", "ort-cpu"]
    return [*command, "--ort-lib", common.ort_library(), "--json", f"{out}.json"]


def ours(subject: Subject, program: Path, out: Path) -> Row:
    def command(model: Path, calib: Path, target: Path):
        return ours_command(program, model, calib, target)

    files, cost = emit(subject, command, out / subject.name)
    row = measure(subject, "onnxq", files, cost)
    if row.integer:
        row.integer += f" ({sum(predicted(Path(f'{file}.json')) for file in files)} predicted)"
    return row


def predicted(report: Path) -> int:
    """Heavy operators that onnxq expects onnxruntime to run as integers."""
    ops = json.loads(report.read_text())["plan"]["ops"].values()
    return sum(op["kernel"] == "integer" and op["kind"] in FLOAT_KERNELS for op in ops)


def number(value: float, digits: int) -> str | None:
    return None if value != value else f"{value:.{digits}f}"


def render(subject: Subject, metric: str, better: str, rows: list[Row]) -> str:
    def ratio(row: Row, runtime: str) -> str | None:
        value = row.speed.get(runtime)
        return f"{value:.2f}" if isinstance(value, float) else ("fails" if value else None)

    header = [metric, "agreement", "SQNR dB", "MB", "tool s", "tool MB", "ORT ×", "OpenVINO ×", "integer"]
    lines = []
    for row in rows:
        numbers = [number(row.value, 4), number(row.agreement, 4), number(row.sqnr, 1)]
        costs = [number(row.size / 1e6 if row.size else float("nan"), 2), number(row.seconds, 1)]
        costs += [number(row.peak_bytes / 1e6, 0), ratio(row, "ort"), ratio(row, "openvino"), row.integer or None]
        lines.append([row.tool, *numbers, *costs])
    notes = [f"- {row.tool}: {row.error}" for row in rows if row.error]
    notes += [f"- {row.tool} in {r}: {v}" for row in rows for r, v in row.speed.items() if isinstance(v, str)]
    text = f"## {subject.name}\n\n{metric}, {better} is better.\n\n" + common.table(["tool", *header], lines)
    return text + ("\n\n" + "\n".join(notes) if notes else "")


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tools", choices=["all", "peers", "onnxq"], default="all")
    parser.add_argument("--fresh", action="store_true", help="make the peers' files again")
    args = parser.parse_args()
    common.need_shared()
    program = None if args.tools == "peers" else common.need_program(args.onnxq)
    sections = []
    with tempfile.TemporaryDirectory() as work:
        for subject in subjects(args.only):
            task = evaluate(subject, subject.files)
            rows = [measure(subject, "float", subject.files, None)]
            if program:
                common.progress(f"{subject.name}: onnxq")
                rows.append(ours(subject, program, Path(work)))
            if args.tools != "onnxq":
                for setting, command in peer_commands().items():
                    common.progress(f"{subject.name}: {setting}")
                    rows.append(peer(subject, setting, command, args.fresh))
            sections.append(render(subject, task["metric"], task["better"], rows))
    name = "peers" if args.tools == "peers" else "quantize"
    packages = ["onnx", "onnxruntime", "openvino", "onnxsim", "nncf"]
    common.report(name, "Quantizers side by side", "\n\n".join(sections), args.save, packages)


if __name__ == "__main__":
    main()
