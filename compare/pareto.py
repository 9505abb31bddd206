#!/usr/bin/env python3
"""Mixed precision side by side: accuracy against size on the development models that have a task metric.

- `onnxq --auto`: at several budgets, chosen on calibration data alone.
- `onnxq` uniform INT8.
- `exclude k worst`: uniform INT8 with the k layers of the worst local SQNR in float: what users do by hand.
- `onnxsim`: its mixed precision (4- and 8-bit weights of matrix products), by the share of layers that get 8 bits.
- `nncf`: its accuracy-aware loop, on the agreement with the float model's choices (it sees no labels either).

Files and numbers are kept in $ONNXQ_CACHE/pareto, so that a long run can be cut into slices (--only, --tools); --save
writes results/pareto.md from everything that is there, --fresh TOOL makes a tool's again.
`--peer NAME MODEL CALIB OUT` is one peer's process.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

import common
import peers
from common import CACHE
from quantize import Row, Subject, evaluate, measure, model_bytes, number, subjects

MODELS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25_224", "magika_v3_3", "minilm_l6_v2", "mnist_cntk")
SAMPLES = 64  #: calibration samples that every tool gets
BUDGETS = (0.8, 0.9, 1.0, 1.05, 1.15, 1.3, 1.6)  #: sizes of --auto, as multiples of uniform INT8's
WORST = (1, 2, 4, 8)  #: layers to exclude
FRACTIONS = (0.0, 0.2, 0.5, 1.0)  #: onnxsim's share of 8-bit layers
FOLDER = CACHE / "pareto"


# Peers, each in a process of its own


def onnxsim_mixed(fraction: float) -> Callable[[Path, Path, Path], None]:
    def quantize(model: Path, calib: Path, out: Path) -> None:
        import onnxsim

        typed = onnx.shape_inference.infer_shapes(peers.per_axis_opset(onnx.load(model)), data_prop=True)
        data = list(peers.samples(calib))[:SAMPLES]
        onnx.save(onnxsim.apply_mixed_precision_quantization(typed, data, high_bits_fraction=fraction), out)

    return quantize


def nncf_aware(model: Path, calib: Path, out: Path) -> None:
    """Calibrates on two thirds of the samples and accepts by the share of unchanged first choices on the rest."""
    import nncf
    import onnxruntime as ort

    data = list(peers.samples(calib))[:SAMPLES]
    seen, held = data[: len(data) * 2 // 3], data[len(data) * 2 // 3 :]
    float_model = peers.per_axis_opset(onnx.load(model))

    def choices(candidate: onnx.ModelProto, items: list) -> list[np.ndarray]:
        session = ort.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        return [np.argmax(session.run(None, item)[0], axis=-1) for item in items]

    wanted = choices(float_model, held)

    def validate(candidate: onnx.ModelProto, items) -> tuple[float, list[float]]:
        found = choices(candidate, list(items))
        each = [float(np.mean(a == b)) for a, b in zip(found, wanted, strict=False)]
        return float(np.mean(each)), each

    quantized = nncf.quantize_with_accuracy_control(
        float_model, nncf.Dataset(seen), nncf.Dataset(held), validation_fn=validate, max_drop=0.005
    )
    onnx.save(quantized, out)


PEERS = {f"onnxsim-{fraction:g}": onnxsim_mixed(fraction) for fraction in FRACTIONS} | {"nncf-aware": nncf_aware}


# Tools: settings by name, each a command from (model, calibration folder, output)


def quantize_command(program: Path, *more: str) -> Callable[[Path, Path, Path], list]:
    return lambda model, calib, out: [
        program, "quantize", model, "-o", out, "--data", calib, "--samples", str(SAMPLES), *more
    ]  # fmt: skip


def worst_layers(program: Path, subject: Subject) -> list[str]:
    """Layers by local SQNR, the worst first."""
    out = FOLDER / f"{subject.name}-sensitivity.json"
    command = [program, "sensitivity", subject.files[0], "--data", subject.calib[0], "--samples", str(SAMPLES)]
    done = common.call([*command, "--precisions", "int8", "--json", out])
    if not done.ok:
        sys.exit(f"error: {subject.name}: {done.reason()}")
    changes = json.loads(out.read_text())["changes"]
    return [change["group"] for change in sorted(changes, key=lambda change: change["score"]["local_db"])]


def settings(program: Path, subject: Subject, tools: set[str]) -> dict[str, Callable[[Path, Path, Path], list]]:
    found: dict[str, Callable[[Path, Path, Path], list]] = {}
    uniform = FOLDER / f"{subject.name}-int8.onnx"
    if tools & {"onnxq", "auto", "worst"}:
        found["int8"] = quantize_command(program)
    if "auto" in tools:
        for budget in BUDGETS:
            more = ["--auto", "--max-size", str(int(budget * model_bytes(uniform)))] if uniform.exists() else []
            if more:
                found[f"auto {budget:g}"] = quantize_command(program, *more)
        found["auto"] = quantize_command(program, "--auto")
    if "worst" in tools:
        worst = worst_layers(program, subject)
        for count in WORST:
            excluded = [argument for layer in worst[:count] for argument in ("--exclude", layer)]
            found[f"exclude {count} worst"] = quantize_command(program, *excluded)
    for name in PEERS:
        if name.split("-")[0] in tools:
            found[name] = lambda model, calib, out, name=name: [
                sys.executable,
                __file__,
                "--peer",
                name,
                model,
                calib,
                out,
            ]
    return found


def row_of(subject: Subject, name: str, command, fresh: bool) -> Row:
    out = FOLDER / f"{subject.name}-{name.replace(' ', '-')}.onnx"
    stored = out.with_suffix(".json")
    if stored.exists() and not fresh:
        return Row(**json.loads(stored.read_text()))
    common.progress(f"{subject.name}: {name}")
    out.unlink(missing_ok=True)
    cost = common.run(command(subject.files[0], subject.calib[0], out))
    if cost.ok and out.exists():
        row = measure(subject, name, [out], None)
        row.seconds, row.peak_bytes = cost.seconds, cost.peak_bytes
    else:
        row = Row(name, seconds=cost.seconds, error=cost.reason())
    stored.write_text(json.dumps(asdict(row)))
    return row


# The table


def verdict(rows: list[Row], higher: bool, items: int) -> str:
    """For each rival the most accurate of ours that is no larger (within 1 %): its lead in the metric and in SQNR.

    Ours is chosen by SQNR, not by the metric that is compared: no plan is picked for its luck. A lead within a standard
    error (of the decisions in which either differs from float) counts as equal.
    """
    ours = [row for row in rows if row.tool.startswith("auto") and not row.error]
    lines = []
    for rival in rows:
        if rival.tool.startswith("auto") or rival.tool == "float" or rival.error:
            continue
        within = [row for row in ours if row.size <= 1.01 * rival.size]
        if not within:
            lines.append([rival.tool, f"{rival.size / 1e6:.3f}", None, None, None, "none of ours is as small"])
            continue
        best = max(within, key=lambda row: row.sqnr)
        lead = (best.value - rival.value) * (1 if higher else -1)
        changed = [1 - row.agreement for row in (best, rival) if row.agreement == row.agreement]
        error = (max(sum(changed), 1 / items) / items) ** 0.5 if changed else 0.0
        told = "more accurate" if lead > error else "less accurate" if lead < -error else "equal within its error"
        lines.append(
            [rival.tool, f"{rival.size / 1e6:.3f}", best.tool, f"{lead:+.4f}", f"{best.sqnr - rival.sqnr:+.1f}", told]
        )
    return common.table(["rival", "MB", "ours, no larger", "lead", "SQNR lead dB", ""], lines)


def render(subject: Subject, task: dict, rows: list[Row]) -> str:
    rows.sort(key=lambda row: (row.size == 0, row.size))
    metric, better = task["metric"], task["better"]
    lines = [
        [
            row.tool,
            f"{row.size / 1e6:.3f}" if row.size else None,
            number(row.value, 4),
            number(row.agreement, 4),
            number(row.sqnr, 1),
            number(row.seconds, 1),
        ]
        for row in rows
    ]
    text = f"## {subject.name}\n\n{metric}, {better} is better.\n\n"
    text += common.table(["plan", "MB", metric, "agreement", "SQNR dB", "tool s"], lines)
    text += "\n\nAt the size of each rival:\n\n" + verdict(rows, better == "higher", task["n"])
    notes = [f"- {row.tool}: {row.error}" for row in rows if row.error]
    return text + ("\n\n" + "\n".join(notes) if notes else "")


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:
        name, model, calib, out = sys.argv[2:]
        PEERS[name](Path(model), Path(calib), Path(out))
        return
    parser = common.arguments(__doc__)
    parser.add_argument("--tools", default="onnxq,auto,worst,onnxsim,nncf", help="onnxq, auto, worst, onnxsim, nncf")
    parser.add_argument("--fresh", action="append", default=[], metavar="TOOL", help="make this tool's files again")
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tools = set(args.tools.split(","))
    sections = []
    for subject in subjects(None if args.save else args.only):
        if subject.name not in MODELS:
            continue
        stored = FOLDER / f"{subject.name}-task.json"
        if not stored.exists():
            common.progress(f"{subject.name}: float")
            task = evaluate(subject, subject.files)
            task["row"] = asdict(measure(subject, "float", subject.files, None))
            stored.write_text(json.dumps(task))
        task = json.loads(stored.read_text())
        rows = {"float": Row(**task["row"])}
        if args.only is None or args.only in subject.name:
            # Budgets are multiples of the uniform plan's size: it comes first.
            row_of(subject, "int8", quantize_command(program), "onnxq" in args.fresh)
            for name, command in settings(program, subject, tools).items():
                tool = "onnxq" if name == "int8" else name.replace("exclude", "worst").split()[0].split("-")[0]
                rows[name] = row_of(subject, name, command, name != "int8" and tool in args.fresh)
        for file in FOLDER.glob(f"{subject.name}-*.json"):
            content = json.loads(file.read_text())
            if "tool" in content:
                rows.setdefault(content["tool"], Row(**content))
        sections.append(render(subject, task, list(rows.values())))
    packages = ["onnx", "onnxruntime", "onnxsim", "nncf"]
    common.report("pareto", "Mixed precision side by side", "\n\n".join(sections), args.save, packages)


if __name__ == "__main__":
    main()
