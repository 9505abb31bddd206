#!/usr/bin/env python3
"""Type and shape inference side by side: `onnxq opt MODEL -o OUT --passes infer_shapes`, onnx.shape_inference with data
propagation, and onnxruntime's symbolic_shape_infer.

The models lose their stored shapes first (all but the inputs'), so that every tool starts from nothing. Counted are the
values (outputs of nodes, subgraphs included): with a type, with a rank, with all dimensions known. A contradiction is a
type, rank or dimension that differs from what another tool or an actual run in onnxruntime says.
"""

import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TypeProto

import common
from common import Named


@dataclass(frozen=True)
class Known:
    """What is known of a tensor: element type (0: nothing) and dimensions (None: not even the rank; a None within: one
    that is not a number)."""

    element: int
    dims: tuple[int | None, ...] | None

    def contradicts(self, other: "Known") -> bool:
        if self.element and other.element and self.element != other.element:
            return True
        if self.dims is None or other.dims is None:
            return False
        if len(self.dims) != len(other.dims):
            return True
        return any(a is not None and b is not None and a != b for a, b in zip(self.dims, other.dims, strict=True))

    def __str__(self) -> str:
        name = onnx.TensorProto.DataType.Name(self.element)
        return name if self.dims is None else f"{name}[{','.join('?' if d is None else str(d) for d in self.dims)}]"


Table = dict[str, Known]

#: What a tool may know of a value.
MEASURES: dict[str, Callable[[Known], bool]] = {
    "typed": lambda what: what.element != 0,
    "ranked": lambda what: what.dims is not None,
    "sized": lambda what: what.dims is not None and None not in what.dims,
}


def subgraphs(graph: GraphProto, path: str = "") -> Iterator[tuple[str, GraphProto]]:
    """Every graph of a model under a path that no rewriting of values changes."""
    yield path, graph
    for k, node in enumerate(graph.node):
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for i, body in enumerate(bodies):
                yield from subgraphs(body, f"{path}/{node.name or k}.{attribute.name}{i}")


def known(value: TypeProto) -> Known | None:
    """None for what is no tensor."""
    which = value.WhichOneof("value")
    if which == "sparse_tensor_type" or which not in (None, "tensor_type"):
        return None
    tensor = value.tensor_type
    if not tensor.HasField("shape"):
        return Known(tensor.elem_type, None)
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Known(tensor.elem_type, dims)


def produced(model: ModelProto) -> set[str]:
    return {
        f"{path}:{name}"
        for path, graph in subgraphs(model.graph)
        for node in graph.node
        for name in node.output
        if name
    }


def table_of(model: ModelProto) -> Table:
    table = {}
    for path, graph in subgraphs(model.graph):
        for value in [*graph.value_info, *graph.output]:
            if (what := known(value.type)) is not None:
                table[f"{path}:{value.name}"] = what
    return table


def stripped(model: ModelProto) -> ModelProto:
    """Without stored shapes of intermediate values and outputs; outputs keep their element type."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for path, graph in subgraphs(bare.graph):
        del graph.value_info[:]
        for output in graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
                if path:
                    output.type.Clear()
    return bare


def with_onnx(model: ModelProto, path: Path) -> Table:
    return table_of(onnx.shape_inference.infer_shapes(model, data_prop=True))


def with_symbolic(model: ModelProto, path: Path) -> Table:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    with contextlib.chdir(path.parent):  # it leaves a file where it stands when it fails
        return table_of(SymbolicShapeInference.infer_shapes(model, auto_merge=True))


def with_onnxq(program: Path) -> Callable[[ModelProto, Path], Table]:
    def infer(model: ModelProto, path: Path) -> Table:
        out = path.with_name("inferred.onnx")
        done = common.call([program, "opt", path, "-o", out, "--passes", "infer_shapes"])
        if not done.ok:
            raise RuntimeError(done.reason())
        return table_of(onnx.load(out, load_external_data=False))

    return infer


def actual(model: ModelProto, named: Named) -> Table:
    """Types and shapes of the main graph's values in a run on stored inputs; empty if it cannot be run."""
    declared = {i.name: known(i.type) for i in model.graph.input}
    tapped = ModelProto()
    tapped.CopyFrom(model)
    outputs = {o.name for o in tapped.graph.output}
    for node in tapped.graph.node:
        tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n and n not in outputs)
    for folder in named.data:
        feeds, _ = common.read_data(model, folder)
        arrays = {name: Known(0, value.shape) for name, value in feeds.items() if isinstance(value, np.ndarray)}
        if any(declared[name] and what.contradicts(declared[name]) for name, what in arrays.items()):
            continue  # onnxruntime takes a vector of one for a scalar; inference cannot know
        try:
            session = common.ort_session(tapped, "disable")
            values = session.run(None, feeds)
        except Exception:  # onnxruntime refuses with any type of error
            return {}
        pairs = zip(session.get_outputs(), values, strict=True)
        tensors = {f":{o.name}": (o.type, value) for o, value in pairs if o.type.startswith("tensor(")}
        return {name: Known(element_type(kind), value.shape) for name, (kind, value) in tensors.items()}
    return {}


def element_type(kind: str) -> int:
    """Of onnxruntime's spelling: tensor(float16)."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    return onnx.TensorProto.DataType.Value({"FLOAT8E8M0FN": "FLOAT8E8M0"}.get(name, name))


@dataclass
class Score:
    counts: Counter
    contradictions: list[str]
    failures: list[str]
    shortfalls: list[str]  #: models of which a peer knows more


def compare(named: Named, tools: dict[str, Callable], scores: dict[str, Score], work: Path) -> None:
    model = onnx.load(named.path)
    values = produced(model)
    bare = stripped(model)
    path = work / "bare.onnx"
    onnx.save(bare, path)
    tables: dict[str, Table] = {}
    for tool, infer in tools.items():
        try:
            found = infer(bare, path)
            tables[tool] = {name: what for name, what in found.items() if name in values}
        except Exception as error:  # a tool fails with any type of error, and then knows nothing
            scores[tool].failures.append(f"{named.name}: {type(error).__name__}: {common.brief(str(error))}")
            tables[tool] = {}
    references = {"a run": actual(model, named), "onnx": tables.get("onnx", {}), "the model": table_of(model)}
    if "onnxq" in tables:
        for what, has in MEASURES.items():
            known = {tool: sum(map(has, table.values())) for tool, table in tables.items()}
            ours, best = known["onnxq"], max(known.values())
            if ours < best:
                scores["onnxq"].shortfalls.append(f"{named.name}: {ours} values {what}, a peer {best}")
    for tool, table in tables.items():
        counts = scores[tool].counts
        counts["values"] += len(values)
        for what, has in MEASURES.items():
            counts[what] += sum(map(has, table.values()))
        for name, what in table.items():
            for reference, other in references.items():
                if reference != tool and name in other and what.contradicts(other[name]):
                    scores[tool].contradictions.append(f"{named.name}, {name}: {what}; {reference}: {other[name]}")


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--peers", action="store_true", help="the peers alone, without onnxq")
    args = parser.parse_args()
    common.need_shared()
    tools: dict[str, Callable] = {} if args.peers else {"onnxq": with_onnxq(common.need_program(args.onnxq))}
    tools |= {"onnx": with_onnx, "symbolic_shape_infer": with_symbolic}
    parts, failed = [], False
    groups = {
        "models": common.shared_models(),
        "node cases": common.node_cases(),
        "the package's models": common.package_models(),
    }
    for group, models in groups.items():
        scores = {tool: Score(Counter(), [], [], []) for tool in tools}
        with tempfile.TemporaryDirectory() as work:
            for named in common.chosen(models, args.only):
                compare(named, tools, scores, Path(work))
        rows = []
        for tool, score in scores.items():
            numbers = [score.counts[k] for k in ("values", "typed", "ranked", "sized")]
            rows.append([tool, *numbers, len(score.contradictions), len(score.failures)])
        header = ["tool", "values", "typed", "ranked", "fully sized", "contradictions", "failures"]
        parts.append(f"## {group}\n\n" + common.table(header, rows))
        if "onnxq" in scores:
            ours = scores["onnxq"]
            lines = ours.contradictions + ours.failures + ours.shortfalls
            parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
            failed |= bool(scores["onnxq"].contradictions)
        elif scores["onnx"].contradictions:
            parts.append("\n".join(f"- onnx: {line}" for line in scores["onnx"].contradictions[:10]))
    name = "shapes"
    common.report(name, "Shape inference side by side", "\n\n".join(parts), args.save, ["onnx", "onnxruntime", "sympy"])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
