#!/usr/bin/env python3
"""The text form against ONNX's own printer and parser, on every development model and node case.

    cargo build -p onnxq-ir --example reprint

Each model is printed by onnx.printer, read and printed again by the `reprint` example of the ir crate, and both texts
are read by onnx.parser: the two models must be equal, whatever the order of their constants and value types. Models
whose text onnx.parser itself refuses, and those over 8 MB, are counted apart.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import onnx.parser
import onnx.printer
from onnx import GraphProto, ModelProto

import common
from common import Named

LARGEST = 8_000_000  #: bytes of a model; ONNX's parser takes minutes beyond


def sort_lists(graph: GraphProto) -> None:
    for field in (graph.initializer, graph.value_info):
        entries = sorted(field, key=lambda entry: entry.name)
        del field[:]
        field.extend(entries)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                sort_lists(inner)


def comparable(model: ModelProto) -> bytes:
    sort_lists(model.graph)
    # Written as empty or not at all: the same.
    for field in ("model_version", "doc_string"):
        if not getattr(model, field):
            model.ClearField(field)
    return model.SerializeToString(deterministic=True)


def verdict(reprint: Path, model: Named) -> str:
    loaded = onnx.load(model.path, load_external_data=False)
    if loaded.ByteSize() > LARGEST:
        return "too large"
    text = onnx.printer.to_text(loaded)
    try:
        wanted = onnx.parser.parse_model(text)
    except onnx.parser.ParseError:
        wanted = None
    done = subprocess.run([reprint], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        # External data have no place in a text that stands alone.
        return "external data" if "external data" in done.stderr else f"wrong: {done.stderr.strip()}"
    if wanted is None:
        return "read by us alone"
    try:
        found = onnx.parser.parse_model(done.stdout)
    except onnx.parser.ParseError as error:
        return f"wrong: onnx.parser: {common.brief(str(error))}"
    return "equal" if comparable(found) == comparable(wanted) else "wrong: not equal"


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--reprint", type=Path, default=common.ROOT / "target/debug/examples/reprint", metavar="PATH")
    args = parser.parse_args()
    reprint = common.need_program(args.reprint)
    common.need_shared()
    counts: Counter[str] = Counter()
    problems = []
    for model in common.chosen([*common.shared_models(), *common.node_cases()], args.only):
        found = verdict(reprint, model)
        counts[found.split(":")[0]] += 1
        if found.startswith("wrong"):
            problems.append(f"- {model.name}: {found}")
    text = common.table(["verdict", "models"], sorted(counts.items()))
    common.report("text", "Text form", "\n\n".join([text, "\n".join(problems)]).strip(), args.save, ["onnx"])
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
