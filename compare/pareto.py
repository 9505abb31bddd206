#!/usr/bin/env python3
"""Mixed precision side by side: accuracy against size on the development models that have a task metric.

- `onnxq --auto`: at several budgets, chosen on calibration data alone.
- `onnxq` uniform INT8.
- `exclude k worst`: uniform INT8 with the k layers of the worst local SQNR in float: what users do by hand.
- `onnxsim`: its mixed precision (4- and 8-bit weights of matrix products), by the share of layers that get 8 bits.
- `nncf`: its accuracy-aware loop, on the agreement with the float model's choices (it sees no labels either).

Files and numbers are kept in $ONNXQ_CACHE/pareto, so that a long run can be cut into slices (--only, --tools); --save
writes results/pareto.md and pareto.svg from everything that is there and runs nothing, --fresh TOOL makes a tool's
again.
`--peer NAME MODEL CALIB OUT` is one peer's process.
"""

import json
import re
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

#: Development models with a task metric.
MODELS = (
    "resnet20_cifar10",
    "squeezenet1.1",
    "mobilenet_v1_0.25_224",
    "magika_v3_3",
    "minilm_l6_v2",
    "stories260K",
    "dtln",
    "superres_rgb",
    "yolox_nano",
    "mnist_cntk",
)
SAMPLES = 64  #: calibration samples that every tool gets, at most
BUDGETS = (0.7, 0.85, 1.0, 1.15, 1.5, 2.0)  #: sizes of --auto, as multiples of uniform INT8's
WORST = (1, 2, 4, 8)  #: layers to exclude
FRACTIONS = (0.0, 0.5, 1.0)  #: onnxsim's share of 8-bit layers
PATIENCE = 240.0  #: seconds a tool may take on one file
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

Command = Callable[[Path, Path, Path], list]


def quantize_command(program: Path, *more: str) -> Command:
    return lambda model, calib, out: [
        program, "quantize", model, "-o", out, "--data", calib, "--samples", str(SAMPLES), *more
    ]  # fmt: skip


def file(subject: Subject, name: str, at: int = 0) -> Path:
    return FOLDER / f"{subject.name}-{name.replace(' ', '-')}.{at}.onnx"


def auto_command(program: Path, subject: Subject, budget: float) -> Command:
    """--auto at a multiple of the size of uniform INT8, file by file."""

    def command(model: Path, calib: Path, out: Path) -> list:
        size = model_bytes(file(subject, "int8", subject.files.index(model)))
        return quantize_command(program, "--auto", "--max-size", str(int(budget * size)))(model, calib, out)

    return command


def worst_layers(program: Path, model: Path, calib: Path) -> list[str]:
    """Layers by local SQNR, the worst first."""
    out = FOLDER / f"{model.parent.name}-sensitivity.txt"
    if not out.exists():
        scores = out.with_suffix(".scores")
        command = [program, "sensitivity", model, "--data", calib, "--samples", "16", "--precisions", "int8"]
        done = common.call([*command, "--json", scores])
        if not done.ok:
            sys.exit(f"error: {model.parent.name}: {done.reason()}")
        changes = json.loads(scores.read_text())["changes"]
        order = sorted(changes, key=lambda change: change["score"]["local_db"])
        out.write_text("\n".join(change["group"] for change in order))
    return out.read_text().splitlines()


def worst_command(program: Path, count: int) -> Command:
    def command(model: Path, calib: Path, out: Path) -> list:
        worst = worst_layers(program, model, calib)[:count]
        # Patterns: what is special in them stands for itself in brackets.
        plain = [re.sub(r"[][*?{}]", lambda found: f"[{found.group()}]", name) for name in worst]
        excluded = [argument for layer in plain for argument in ("--exclude", layer)]
        return quantize_command(program, *excluded)(model, calib, out)

    return command


def settings(program: Path, subject: Subject, tools: set[str], budgets: tuple[float, ...]) -> dict[str, Command]:
    found: dict[str, Command] = {}
    if "auto" in tools:
        found |= {"auto": quantize_command(program, "--auto")} if 1.0 in budgets else {}
        found |= {f"auto {budget:g}": auto_command(program, subject, budget) for budget in budgets}
    if "worst" in tools:
        found |= {f"exclude {count} worst": worst_command(program, count) for count in WORST}
    for name in PEERS:
        if name.split("-")[0] in tools:
            found[name] = lambda *paths, name=name: [sys.executable, __file__, "--peer", name, *paths]
    return found


def row_of(subject: Subject, name: str, command: Command, fresh: bool) -> Row:
    stored = FOLDER / f"{subject.name}-{name.replace(' ', '-')}.json"
    if stored.exists() and not fresh:
        return Row(**json.loads(stored.read_text()))
    common.progress(f"{subject.name}: {name}")
    outs, seconds, peak, error = [], 0.0, 0.0, ""
    for at, (model, calib) in enumerate(zip(subject.files, subject.calib, strict=True)):
        outs.append(file(subject, name, at))
        outs[-1].unlink(missing_ok=True)
        cost = common.run(command(model, calib, outs[-1]), timeout=PATIENCE)
        seconds, peak = seconds + cost.seconds, max(peak, cost.peak_bytes)
        if not cost.ok or not outs[-1].exists():
            error = cost.reason()
            break
    row = Row(name, error=error) if error else measure(subject, name, outs, None)
    row.seconds, row.peak_bytes = seconds, peak
    stored.write_text(json.dumps(asdict(row)))
    return row


# The table


def verdict(rows: list[Row], higher: bool, items: int) -> str:
    """For each rival the most accurate of ours that is no larger (within 1 %): its lead in the metric and in SQNR.

    Ours is chosen by SQNR, not by the metric that is compared: no plan is picked for its luck. A lead within two
    standard errors (of the decisions in which either differs from float) counts as equal; where there are no decisions,
    a hundredth of the metric.
    """
    ours = [row for row in rows if row.tool.startswith("auto") and not row.error]
    lines = []
    for rival in rows:
        if rival.tool.startswith("auto") or rival.tool == "float" or rival.error:
            continue
        if rival.sqnr == float("inf") or rival.sqnr > 100:
            lines.append([rival.tool, f"{rival.size / 1e6:.3f}", None, None, None, "nothing was quantized"])
            continue
        within = [row for row in ours if row.size <= 1.01 * rival.size]
        if not within:
            lines.append([rival.tool, f"{rival.size / 1e6:.3f}", None, None, None, "none of ours is as small"])
            continue
        best = max(within, key=lambda row: row.sqnr)
        lead = (best.value - rival.value) * (1 if higher else -1)
        changed = [1 - row.agreement for row in (best, rival) if row.agreement == row.agreement]
        error = 2 * (max(sum(changed), 1 / items) / items) ** 0.5 if changed else 0.01 * abs(rival.value)
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


def drawing(panels: list[tuple[str, list[Row]]]) -> str:
    """Size against SQNR: the front of --auto as a line, everything else as marks."""
    wide, high, pad = 380, 250, 42
    marks = []
    kinds = {"auto": "#2563c9", "int8": "#b3261e", "exclude": "#c2610c", "onnxsim": "#0f8a7e", "nncf": "#7a4fd0"}
    for at, (name, rows) in enumerate(panels):
        left, top = at % 3 * wide, at // 3 * high + 30
        rows = [row for row in rows if row.tool != "float" and not row.error and row.sqnr == row.sqnr]
        sizes, levels = [row.size / 1e6 for row in rows], [min(row.sqnr, 60.0) for row in rows]
        if not rows:
            continue
        ends = [f(values) for values in (sizes, levels) for f in (min, max)]
        across = lambda v: left + pad + (v - ends[0]) / ((ends[1] - ends[0]) or 1) * (wide - pad - 20)  # noqa: B023, E731
        up = lambda v: top + high - pad - (v - ends[2]) / ((ends[3] - ends[2]) or 1) * (high - pad - 30)  # noqa: B023, E731
        marks.append(f'<text x="{left + pad}" y="{top + 8}" font-weight="600">{name}</text>')
        box = f'width="{wide - pad - 16}" height="{high - pad - 12}" fill="none" stroke="#ccc"'
        marks.append(f'<rect x="{left + pad}" y="{top + 16}" {box}/>')
        for value, anchor in ((ends[0], "start"), (ends[1], "end")):
            marks.append(
                f'<text x="{across(value)}" y="{top + high - pad + 22}" text-anchor="{anchor}">{value:.2f} MB</text>'
            )
        for value in ends[2:]:
            marks.append(f'<text x="{left + pad - 4}" y="{up(value) + 4}" text-anchor="end">{value:.0f} dB</text>')
        points = sorted((row.size / 1e6, min(row.sqnr, 60.0)) for row in rows if row.tool.startswith("auto"))
        front = [p for k, p in enumerate(points) if all(p[1] > q[1] for q in points[:k])]
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in front)
        marks.append(f'<polyline points="{line}" fill="none" stroke="{kinds["auto"]}" stroke-opacity=".6"/>')
        for row in rows:
            fill = next((colour for kind, colour in kinds.items() if row.tool.startswith(kind)), "#666")
            x, y = across(row.size / 1e6), up(min(row.sqnr, 60.0))
            marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"><title>{row.tool}</title></circle>')
    legend = "".join(
        f'<circle cx="{20 + 130 * k}" cy="14" r="5" fill="{colour}"/><text x="{30 + 130 * k}" y="18">{kind}</text>'
        for k, (kind, colour) in enumerate(kinds.items())
    )
    tall = (len(panels) + 2) // 3 * high + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * wide} {tall}" width="{3 * wide}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{legend}{''.join(marks)}</svg>\n"
    )


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:
        name, model, calib, out = sys.argv[2:]
        PEERS[name](Path(model), Path(calib), Path(out))
        return
    parser = common.arguments(__doc__)
    parser.add_argument("--tools", default="onnxq,auto,worst,onnxsim,nncf", help="onnxq, auto, worst, onnxsim, nncf")
    parser.add_argument("--fresh", action="append", default=[], metavar="TOOL", help="make this tool's files again")
    parser.add_argument(
        "--budgets", default=",".join(map(str, BUDGETS)), help="sizes of --auto, as multiples of INT8's"
    )
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    budgets = tuple(map(float, args.budgets.split(",")))
    FOLDER.mkdir(parents=True, exist_ok=True)
    tools = set(args.tools.split(","))
    sections, pictures = [], []
    for subject in subjects(None if args.save else args.only):
        if subject.name not in MODELS:
            continue
        stored = FOLDER / f"{subject.name}-task.json"
        if args.save and not stored.exists():
            continue
        if not stored.exists():
            common.progress(f"{subject.name}: float")
            task = evaluate(subject, subject.files)
            task["row"] = asdict(measure(subject, "float", subject.files, None))
            stored.write_text(json.dumps(task))
        task = json.loads(stored.read_text())
        rows = {"float": Row(**task["row"])}
        if not args.save:
            # Budgets are multiples of the uniform plan's size: it comes first.
            rows["int8"] = row_of(subject, "int8", quantize_command(program), "onnxq" in args.fresh)
            for name, command in settings(program, subject, tools, budgets).items():
                tool = name.replace("exclude", "worst").split()[0].split("-")[0]
                rows[name] = row_of(subject, name, command, tool in args.fresh)
        for kept in FOLDER.glob(f"{subject.name}-*.json"):
            content = json.loads(kept.read_text())
            if "tool" in content:
                rows.setdefault(content["tool"], Row(**content))
        if len(rows) > 1:
            sections.append(render(subject, task, list(rows.values())))
            pictures.append((subject.name, list(rows.values())))
    if args.save:
        (common.HERE / "results/pareto.svg").write_text(drawing(pictures))
        sections.insert(0, "![Size against signal to noise, a panel a model](pareto.svg)")
    packages = ["onnx", "onnxruntime", "onnxsim", "nncf"]
    common.report("pareto", "Mixed precision side by side", "\n\n".join(sections), args.save, packages)


if __name__ == "__main__":
    main()
