"""A builder of small networks, what feeds them, and the list that the other files of this folder add theirs to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import common

#: What a caller gives for a named size.
SIZES = {"batch": 2, "seq": 5, "height": 12, "width": 10}

#: function, least and most operator set.
NETWORKS: list[tuple[Callable, int, int]] = []


def network(least: int = 11, most: int = 20) -> Callable:
    def add(function: Callable) -> Callable:
        NETWORKS.append((function, least, most))
        return function

    return add


@dataclass
class Net:
    """A graph being written. Calling it adds a node and gives its output's name, or a list of names."""

    opset: int
    seed: int = 0
    nodes: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    outer: "Net | None" = None

    def __post_init__(self):
        self.random = np.random.default_rng(self.seed)

    def fresh(self, hint: str) -> str:
        root = self.outer or self
        count = len(root.nodes) + len(root.weights) + len(self.nodes) + len(self.weights) + 1000 * bool(self.outer)
        return f"{hint}_{count}"

    def input(self, name: str, dims: list, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def weight(self, *dims: int, scale: float = 0.3) -> str:
        return self.const((self.random.standard_normal(dims) * scale).astype(np.float32))

    def const(self, value, kind=None) -> str:
        """An initializer; lists of integers are int64."""
        array = np.asarray(value, kind or (np.int64 if np.asarray(value).dtype.kind in "iu" else None))
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = self.fresh("w")
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, value, kind=None) -> str:
        """A Constant node, as tracing exporters write it."""
        array = np.asarray(value, kind or (np.int64 if np.asarray(value).dtype.kind in "iu" else np.float32))
        return self("Constant", value=numpy_helper.from_array(array))

    def __call__(self, kind: str, *inputs: str, outs: int = 1, domain: str = "", **attrs):
        names = [self.fresh(kind.lower()) + (f"_{at}" if outs > 1 else "") for at in range(outs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"n_{names[0]}", domain=domain, **attrs))
        return names[0] if outs == 1 else names

    # Operators whose attributes became inputs.

    def axes(self, kind: str, x: str, axes: list[int], **attrs) -> str:
        since = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}.get(kind, 18)
        if self.opset < since:
            return self(kind, x, axes=axes, **attrs)
        return self(kind, x, self.constant(axes), **attrs)

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        if self.opset < 13:
            return self("Split", x, outs=len(sizes), axis=axis, split=sizes)
        return self("Split", x, self.constant(sizes), outs=len(sizes), axis=axis)

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self("Slice", x, *(self.constant([v]) for v in (start, end, axis, step)))

    def size(self, x: str, axis: int) -> str:
        """x.size(axis) as tracing writes it: a scalar."""
        return self("Gather", self("Shape", x), self.constant(axis), axis=0)

    def dims(self, *parts) -> str:
        """A shape of scalars and numbers, put together by Unsqueeze and Concat."""
        scalars = [self.constant(part) if isinstance(part, int) else part for part in parts]
        return self("Concat", *(self.axes("Unsqueeze", s, [0]) for s in scalars), axis=0)

    def view(self, x: str, *parts) -> str:
        return self("Reshape", x, self.dims(*parts))

    def linear(self, x: str, inside: int, outside: int) -> str:
        return self("Add", self.weight(outside), self("MatMul", x, self.weight(inside, outside)))

    def conv(self, x: str, inside: int, outside: int, k: int = 3, bias: bool = True, **attrs) -> str:
        attrs = {"kernel_shape": [k, k], "pads": [k // 2] * 4} | attrs
        wanted = [self.weight(outside)] if bias else []
        return self("Conv", x, self.weight(outside, inside // attrs.get("group", 1), k, k), *wanted, **attrs)

    def norm(self, x: str, channels: int) -> str:
        var = self.const(self.random.uniform(0.5, 2, channels))
        return self("BatchNormalization", x, *(self.weight(channels) for _ in range(3)), var, epsilon=1e-3)

    def body(self) -> "Net":
        return Net(self.opset, self.seed + 1, outer=self.outer or self)

    def graph(self, outputs: list, inputs: list | None = None) -> onnx.GraphProto:
        ends = [helper.make_empty_tensor_value_info(o) if isinstance(o, str) else o for o in outputs]
        return helper.make_graph(self.nodes, "g", self.inputs if inputs is None else inputs, ends, self.weights)


def build(function: Callable, opset: int) -> onnx.ModelProto:
    net = Net(opset)
    outputs = function(net)
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    model = helper.make_model(
        net.graph(outputs),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    declare_outputs(model)
    return model


def declare_outputs(model: onnx.ModelProto) -> None:
    """Gives outputs the types that exporters write, who have run the network: two runs of different sizes tell what is
    a number and what has a name."""
    runs = []
    for sizes in (SIZES, {name: size + 2 for name, size in SIZES.items()}):
        got = common.ort_run(model, feeds(model, sizes), "disable")
        runs.append((sizes, got))
    for at, output in enumerate(model.graph.output):
        arrays = [got[at] for _, got in runs]
        dims = []
        for axis, pair in enumerate(zip(*(a.shape for a in arrays), strict=True)):
            named = (name for name in SIZES if tuple(sizes[name] for sizes, _ in runs) == pair)
            dims.append(pair[0] if pair[0] == pair[1] else next(named, f"{output.name}_dim_{axis}"))
        kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind, dims))


def feeds(model: onnx.ModelProto, sizes: dict[str, int] | None = None, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs; whole numbers are small, as indices and masks are."""
    random = np.random.default_rng(seed)
    weights = {w.name for w in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else (sizes or SIZES)[d.dim_param] for d in tensor.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(kind, np.floating):
            found[value.name] = random.standard_normal(dims).astype(kind)
        elif kind == np.bool_:
            found[value.name] = random.integers(0, 2, dims).astype(bool)
        else:
            found[value.name] = random.integers(0, 2, dims).astype(kind)
    return found
