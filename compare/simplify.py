#!/usr/bin/env python3
"""Simplification side by side: onnxq, onnxsim and onnxslim on every development model.

Per model and tool: nodes left (subgraphs included), largest difference of the outputs in onnxruntime relative to the
largest value, time and peak memory of the whole process (the best of --repeat runs). Outputs may differ by rounding
where weights were fused: RELATIVE of the output's largest value, wider for float16.

The memory of onnxq is compared with the size of the file, over what the program takes for a model of one node.

With --generated the models are the networks of networks/, under several operator sets, and with --package those that
ship inside the onnx package: nodes and outputs only, the peers called as libraries.
"""

import contextlib
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper

import common
from common import Named, Run
from networks import feeds, networks
from protobuf import tensors

#: A handful of float32 roundings (6e-8 each) amplified by up to a hundred layers; float16 has 5e-4 each.
RELATIVE = {TensorProto.FLOAT: 1e-4, TensorProto.FLOAT16: 2e-2}

#: Anonymous memory over the program's own, as a multiple of the file.
MEMORY = 1.5

HEAD = """Seconds and MB are of the whole process, the best of {repeat}; MB is peak resident memory.

The second table is about the memory of onnxq. A model of one node takes {own} MB resident, {own_anon} MB of it
anonymous: that is the program itself. What a model takes beyond it is in two columns. *Anonymous* memory (heap and
stacks, sampled) is what the program asks for; at most {memory} x the file is allowed. *Resident* memory counts pages of
files besides: those of the model that were looked at, at most 1 x the file, and those of the program's code that a
model of one node does not need (up to 5 MB). Both belong to the page cache; the system can take them back."""


def commands(program: Path) -> dict[str, list]:
    scripts = Path(sys.executable).parent
    return {
        "onnxq": [program, "simplify", "IN", "-o", "OUT"],
        "onnxsim": [scripts / "onnxsim", "IN", "OUT"],
        "onnxslim": [scripts / "onnxslim", "IN", "OUT"],
    }


def count_nodes(graph: GraphProto) -> int:
    bodies = [g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    return len(graph.node) + sum(count_nodes(body) for body in bodies)


def relative_difference(before: list, after: list) -> float:
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return worst


def stored_feeds(model: Named) -> list[dict]:
    original = onnx.load(model.path)
    return [common.read_data(original, folder)[0] for folder in model.data]


def output_difference(before: Path, after: Path, inputs: list[dict]) -> float:
    """The basic level leaves the arithmetic of both files as it is."""
    sessions = [common.ort_session(path, "basic") for path in (before, after)]
    return max(relative_difference(*(session.run(None, feeds) for session in sessions)) for feeds in inputs)


def size_of(model: Named) -> int:
    """Bytes of the file and of what it refers to."""
    source = onnx.load(model.path, load_external_data=False)
    stored = (entry.value for t in tensors(source) for entry in t.external_data if entry.key == "location")
    return model.path.stat().st_size + sum((model.path.parent / name).stat().st_size for name in set(stored))


def floor_of(program: Path, repeat: int) -> Run:
    """What the program itself costs: simplifying a model of one node."""
    end = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("y", 1, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", end[:1], end[1:])
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / "one.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), model)
        return best_of([program, "simplify", model, "-o", Path(work) / "out.onnx"], repeat)


def missed(model: Named, counts: dict[str, int], runs: dict[str, Run], floor: Run) -> list[str]:
    """The bars that onnxq misses."""
    peers = [tool for tool in counts if tool != "onnxq"]
    if "onnxq" not in counts or not peers:
        return []
    fewest, fastest = min(counts[p] for p in peers), min(runs[p].seconds for p in peers)
    ours, size = runs["onnxq"], size_of(model)
    lines = []
    if counts["onnxq"] > fewest:
        lines.append(f"{counts['onnxq']} nodes, a peer {fewest}")
    if ours.seconds > fastest / 5:
        lines.append(f"{ours.seconds:.2f} s, a peer {fastest:.2f} s")
    above = ours.anon_bytes - floor.anon_bytes
    if above > MEMORY * size:
        lines.append(f"{common.megabytes(above)} MB of anonymous memory, the file has {common.megabytes(size)}")
    return [f"- onnxq, {model.name}: {line}" for line in lines]


def memory_row(model: Named, ours: Run, floor: Run) -> list:
    size = size_of(model)
    anonymous, resident = ours.anon_bytes - floor.anon_bytes, ours.peak_bytes - floor.peak_bytes
    cells = [common.megabytes(count) for count in (size, ours.anon_bytes, ours.peak_bytes, anonymous, resident)]
    return [model.name, *cells, f"{anonymous / size:.2f}", f"{resident / size:.2f}"]


def best_of(command: list, repeat: int) -> Run:
    """The fastest run, with the least memory of all."""
    runs = [common.run(command) for _ in range(repeat)]
    best = min(runs, key=lambda r: (not r.ok, r.seconds))
    if not best.ok:
        return best
    good = [run for run in runs if run.ok]
    least = {field: min(getattr(run, field) for run in good) for field in ("peak_bytes", "anon_bytes")}
    return replace(best, **least)


# Many small models: nodes and outputs


def by_onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(model)[0]


def by_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def by_onnxq(model: onnx.ModelProto, program: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as work:
        before, after = Path(work) / "in.onnx", Path(work) / "out.onnx"
        onnx.save(model, before)
        done = common.call([program, "simplify", before, "-o", after])
        if not done.ok:
            raise RuntimeError(done.reason())
        return onnx.load(after)


def judged(item: tuple[str, onnx.ModelProto], tool: str, program: Path) -> tuple[int, str | None]:
    """Nodes left, and what is wrong with the result: it is run beside the original."""
    _, model = item
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with contextlib.redirect_stdout(sys.stderr):
        peers = {"onnxsim": by_onnxsim, "onnxslim": by_onnxslim}
        result = by_onnxq(copy, program) if tool == "onnxq" else peers[tool](copy)
    nodes = count_nodes(result.graph)
    new = {node.domain for node in result.graph.node} - {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if new:
        return nodes, f"operators of {', '.join(sorted(new))}, which the original does not need"
    try:
        before = common.ort_run(model, feeds(model), "disable")
    except Exception:  # a model that onnxruntime does not run: only counted
        return nodes, None
    try:
        after = common.ort_run(result, feeds(model), "disable")
    except Exception as error:  # onnxruntime refuses a broken file with any type of error
        return nodes, common.brief(str(error))
    for a, b in zip(before, after, strict=True):
        if isinstance(a, np.ndarray) and np.issubdtype(a.dtype, np.floating):
            # The sums of a fused product are rounded in another order.
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
                return nodes, "outputs differ"
        elif why := common.mismatch(b, a, exact=True):
            return nodes, why
    return nodes, None


def side_by_side(name: str, title: str, items: list[tuple[str, onnx.ModelProto]], args) -> None:
    program = common.need_program(args.onnxq)
    tools = ("onnxq", "onnxsim", "onnxslim")
    found: dict[str, dict[str, tuple]] = {label: {} for label, _ in items}
    for tool in tools:
        common.progress(tool)
        for (label, _), result, reason in common.isolated(partial(judged, tool=tool, program=program), items):
            found[label][tool] = (result[0], result[1]) if result else (None, reason)
    above, wrong, rows = [], [], []
    totals = dict.fromkeys(("fewer", "equal", "more"), 0)
    for label, model in items:
        ours, problem = found[label]["onnxq"]
        if problem:
            wrong.append(f"- onnxq, {label}: {problem}")
        peers = [count for tool in tools[1:] for count, why in [found[label][tool]] if count is not None and not why]
        if ours is None or not peers:
            continue
        best = min(peers)
        kind = "fewer" if ours < best else "equal" if ours == best else "more"
        totals[kind] += 1
        if kind == "more":
            counts = [found[label][tool][0] for tool in tools]
            rows.append([label, count_nodes(model.graph), *counts])
            above.append(f"- onnxq, {label}: {ours} nodes, a peer {best}")
    failed = {tool: sum(bool(found[label][tool][1]) for label, _ in items) for tool in tools}
    text = (
        f"{len(items)} models. Against the better of the two peers whose result computes the same and runs where the "
    )
    text += "original does, onnxq leaves "
    text += f"fewer nodes in {totals['fewer']}, as many in {totals['equal']}, more in {totals['more']}.\n\n"
    text += common.table(["", *tools], [["fails, computes something else, or for one runtime only", *failed.values()]])
    if rows:
        text += "\n\n" + common.table(["model", "nodes", *tools], rows)
    text += "\n\n" + "\n".join(wrong + above) if wrong or above else ""
    common.report(name, title, text, args.save, ["onnx", "onnxruntime", "onnxsim", "onnxslim"])
    sys.exit(1 if wrong or above else 0)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--generated", action="store_true", help="the networks of networks/ instead")
    parser.add_argument("--package", action="store_true", help="the models of the onnx package instead")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--peers", action="store_true", help="the peers alone, without onnxq")
    args = parser.parse_args()
    if args.generated:
        items = [(label, model) for label, model in networks() if args.only is None or args.only in label]
        side_by_side("simplify_generated", "Simplification of generated networks", items, args)
    if args.package:
        items = [(m.name, onnx.load(m.path)) for m in common.chosen(common.package_models(), args.only)]
        side_by_side("simplify_package", "Simplification of the models of the onnx package", items, args)
    common.need_shared()
    tools = commands(args.onnxq if args.peers else common.need_program(args.onnxq))
    if args.peers:
        del tools["onnxq"]
    rows, memory, problems = [], [], []
    floor = None if args.peers else floor_of(args.onnxq.resolve(), args.repeat)
    for model in common.chosen(common.shared_models(), args.only):
        common.progress(model.name)
        source = onnx.load(model.path, load_external_data=False)
        kinds = {o.type.tensor_type.elem_type for o in source.graph.output}
        limit = max(RELATIVE.get(kind, 0.0) for kind in kinds)
        counts, runs, row = {}, {}, [model.name, count_nodes(source.graph)]
        for tool, template in tools.items():
            with tempfile.TemporaryDirectory() as work:
                out = Path(work) / "out.onnx"
                done = best_of([{"IN": model.path, "OUT": out}.get(part, part) for part in template], args.repeat)
                if not done.ok or not out.exists():
                    row += ["fails", None, None, None]
                    problems.append(f"- {tool}, {model.name}: {done.reason()}")
                    continue
                runs[tool] = done
                counts[tool] = count_nodes(onnx.load(out, load_external_data=False).graph)
                try:
                    difference = output_difference(model.path, out, stored_feeds(model))
                except Exception as error:  # onnxruntime refuses a broken file with any type of error
                    difference = float("inf")
                    problems.append(f"- {tool}, {model.name}: {common.brief(str(error))}")
            row += [counts[tool], f"{difference:.1e}", f"{done.seconds:.2f}", common.megabytes(done.peak_bytes)]
            if difference > limit:
                problems.append(f"- {tool}, {model.name}: outputs differ by {difference:.2g}, allowed {limit}")
        rows.append(row)
        if floor and "onnxq" in runs:
            problems += missed(model, counts, runs, floor)
            memory.append(memory_row(model, runs["onnxq"], floor))
    header = ["model", "nodes"] + [f"{tool} {what}" for tool in tools for what in ("nodes", "difference", "s", "MB")]
    text = common.table(header, rows)
    if floor:
        own, own_anon = common.megabytes(floor.peak_bytes), common.megabytes(floor.anon_bytes)
        text = HEAD.format(repeat=args.repeat, own=own, own_anon=own_anon, memory=MEMORY) + "\n\n" + text
        columns = ["file MB", "anonymous MB", "resident MB", "anonymous above", "resident above"]
        text += "\n\n" + common.table(["model", *columns, "anonymous / file", "resident / file"], memory)
    text += "\n\n" + "\n".join(problems) if problems else ""
    packages = ["onnx", "onnxruntime", "onnxsim", "onnxslim"]
    common.report("simplify", "Simplification side by side", text, args.save, packages)
    sys.exit(1 if any(p.startswith("- onnxq") for p in problems) else 0)


if __name__ == "__main__":
    main()
