"""Small networks as exporters write them: what simplify.py --generated counts and runs.

Each is one function of a builder that names the habit it stands for: how torch.onnx (both exporters), tf2onnx, keras,
paddle and hand-written converters spell shapes, attention, normalizations, activations, padding and control flow.
Weights are random, of fixed seeds. `networks()` gives every function under each operator set that it can be written
for.
"""

from collections.abc import Callable, Iterator
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


def networks() -> Iterator[tuple[str, onnx.ModelProto]]:
    for function, least, most in NETWORKS:
        for opset in (11, 13, 17, 18, 20):
            if least <= opset <= most and not (opset == 18 and most > 18 and least < 18):
                yield f"{function.__name__}_{opset}", build(function, opset)


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


# Images


def image(n: Net, channels: int = 4) -> str:
    return n.input("x", ["batch", channels, 8, 8])


@network()
def conv_norm_act(n):
    x = image(n)
    for act in ("Relu", "LeakyRelu", "Sigmoid"):
        x = n(act, n.norm(n.conv(x, 4, 4, bias=False), 4))
    return x


@network()
def norm_before_conv(n):
    """Pre-activation blocks without padding, with it, and with a 1x1."""
    x = image(n)
    x = n.conv(n.norm(x, 4), 4, 6, k=1)
    x = n.conv(n.norm(x, 6), 6, 4)
    return n.conv(n("Relu", n.norm(x, 4)), 4, 4, pads=[0, 0, 0, 0])


@network()
def flatten_by_shape(n):
    """x.view(x.size(0), -1)."""
    x = n("GlobalAveragePool", n.conv(image(n), 4, 6))
    return n("Gemm", n.view(x, n.size(x, 0), -1), n.weight(6, 5), n.weight(5))


@network()
def flatten_squeeze(n):
    x = n("GlobalAveragePool", n.conv(image(n), 4, 6))
    x = n.axes("Squeeze", n.axes("Squeeze", x, [3]), [2])
    return n.linear(x, 6, 5)


@network()
def mean_pool(n):
    x = n.axes("ReduceMean", n.conv(image(n), 4, 6), [2, 3], keepdims=1)
    return n.linear(n("Flatten", x), 6, 5)


@network()
def mean_twice(n):
    x = n.axes("ReduceMean", n.conv(image(n), 4, 6), [3], keepdims=0)
    return n.axes("ReduceMean", x, [2], keepdims=0)


@network()
def channel_shuffle(n):
    x = image(n, 8)
    for _ in range(2):
        left, right = n.split(x, [4, 4], 1)
        right = n("Relu", n.norm(n.conv(right, 4, 4, bias=False), 4))
        x = n("Concat", left, right, axis=1)
        batch, height, width = n.size(x, 0), n.size(x, 2), n.size(x, 3)
        x = n("Transpose", n.view(x, batch, 2, 4, height, width), perm=[0, 2, 1, 3, 4])
        x = n.view(x, batch, -1, height, width)
    return x


@network()
def upsample_by_shape(n):
    """F.interpolate to the size of another map."""
    x = n.input("x", ["batch", 4, "height", "width"])
    low = n("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    size = n("Slice", n("Shape", x), n.constant([2]), n.constant([4]), n.constant([0]))
    front = n("Slice", n("Shape", low), n.constant([0]), n.constant([2]), n.constant([0]))
    sizes = n("Concat", front, n("Cast", size, to=TensorProto.INT64), axis=0)
    empty = n.constant([], np.float32)
    high = n("Resize", low, empty, empty, sizes, mode="nearest", nearest_mode="floor")
    return n.conv(n("Concat", high, x, axis=1), 8, 4)


@network()
def upsample_by_scale(n):
    """size * 2 in floats, as torch before 1.13 and detectron wrote it."""
    x = image(n)
    parts = []
    for axis in (2, 3):
        size = n("Cast", n.size(x, axis), to=TensorProto.FLOAT)
        size = n("Floor", n("Mul", size, n.constant(2.0)))
        parts.append(n.axes("Unsqueeze", n("Cast", size, to=TensorProto.INT64), [0]))
    front = n("Slice", n("Shape", x), n.constant([0]), n.constant([2]), n.constant([0]))
    sizes = n("Concat", front, *parts, axis=0)
    empty = n.constant([], np.float32)
    return n("Resize", x, empty, empty, sizes, mode="linear", coordinate_transformation_mode="asymmetric")


@network()
def pad_by_arithmetic(n):
    """F.pad: ConstantOfShape, Concat, Reshape, Slice with step -1, Transpose."""
    x = image(n)
    pads = n.constant([1, 1, 1, 1])
    extra = n("ConstantOfShape", n.constant([4]), value=helper.make_tensor("v", TensorProto.INT64, [1], [0]))
    full = n("Reshape", n("Concat", pads, extra, axis=0), n.constant([-1, 2]))
    full = n("Slice", full, n.constant([-1]), n.constant([-(2**63) + 1]), n.constant([0]), n.constant([-1]))
    full = n("Reshape", n("Transpose", full, perm=[1, 0]), n.constant([-1]))
    x = n("Pad", x, n("Cast", full, to=TensorProto.INT64), n.constant(0.0), mode="constant")
    return n.conv(x, 4, 6, pads=[0, 0, 0, 0])


@network()
def pad_then_pool(n):
    x = n("Pad", n("Relu", image(n)), n.constant([0, 0, 0, 0, 0, 0, 1, 1]), n.constant(0.0))
    x = n("Pad", x, n.constant([0, 0, 1, 1, 0, 0, 0, 0]))
    return n.conv(n("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 4, 4)


@network()
def tf_same_conv(n):
    """NHWC around everything: tf2onnx."""
    x = n.input("x", ["batch", 8, 8, 4])
    for _ in range(2):
        x = n("Transpose", x, perm=[0, 3, 1, 2])
        x = n.norm(n.conv(x, 4, 4, bias=False, pads=[0, 0, 1, 1], strides=[1, 1]), 4)
        x = n("Transpose", x, perm=[0, 2, 3, 1])
        x = n("Clip", x, n.const(0.0), n.const(6.0))
    x = n.axes("ReduceMean", x, [1, 2], keepdims=0)
    return n.linear(x, 4, 3)


@network()
def tf_bias_after_transpose(n):
    x = n.input("x", ["batch", 8, 8, 4])
    x = n("Transpose", n.conv(n("Transpose", x, perm=[0, 3, 1, 2]), 4, 6, bias=False), perm=[0, 2, 3, 1])
    x = n("Add", x, n.weight(6))
    x = n("Mul", x, n("Sigmoid", x))
    x = n("Transpose", n.conv(n("Transpose", x, perm=[0, 3, 1, 2]), 6, 4), perm=[0, 2, 3, 1])
    return n("Add", n("Mul", x, n.weight(4)), n.weight(4))


@network()
def conv_scaled(n):
    """Layer scale and shifts per channel behind convolutions."""
    x = n.conv(image(n), 4, 4)
    x = n("Mul", x, n.weight(4, 1, 1))
    x = n("Add", x, n.weight(1, 4, 1, 1))
    x = n("Relu", n("Sub", n("Div", x, n.const(2.0)), n.const(0.5)))
    return n("Mul", n.const(3.0), n.conv(x, 4, 4, bias=False))


@network()
def squeeze_excite(n):
    x = n.conv(image(n), 4, 4)
    s = n.axes("ReduceMean", x, [2, 3], keepdims=0)
    s = n("Sigmoid", n.linear(n("Relu", n.linear(s, 4, 2)), 2, 4))
    s = n.view(s, n.size(x, 0), n.size(x, 1), 1, 1)
    return n("Mul", x, n("Expand", s, n("Shape", x)))


@network()
def hard_activations(n):
    x = image(n)
    y = n("Clip", n("Add", x, n.constant(3.0)), n.constant(0.0), n.constant(6.0))
    x = n.conv(n("Mul", x, n("Div", y, n.constant(6.0))), 4, 4)
    y = n("Div", n("Clip", n("Add", x, n.constant(3.0)), n.constant(0.0), n.constant(6.0)), n.constant(6.0))
    x = n.conv(n("Mul", x, y), 4, 4)
    return n("Div", n("Mul", x, n("Clip", n("Add", x, n.const(3.0)), n.const(0.0), n.const(6.0))), n.const(6.0))


@network()
def relu6_as_min_max(n):
    x = n("Min", n("Max", n.conv(image(n), 4, 4), n.const(0.0)), n.const(6.0))
    x = n("Clip", n("Relu", n.conv(x, 4, 4)), n.const(-1.0), n.const(6.0))
    return n("Relu", n("Relu", n.conv(x, 4, 4)))


@network()
def instance_norm_parts(n):
    x = n.conv(image(n), 4, 4)
    mean = n.axes("ReduceMean", x, [2, 3], keepdims=1)
    d = n("Sub", x, mean)
    var = n.axes("ReduceMean", n("Mul", d, d), [2, 3], keepdims=1)
    y = n("Div", d, n("Sqrt", n("Add", var, n.const(1e-5))))
    return n("Add", n("Mul", y, n.weight(1, 4, 1, 1)), n.weight(1, 4, 1, 1))


@network()
def group_norm_reshaped(n):
    """nn.GroupNorm before opset 18: InstanceNormalization between reshapes."""
    x = n.conv(image(n), 4, 4)
    shape = n("Shape", x)
    y = n("Reshape", x, n.constant([0, 2, -1]))
    y = n("InstanceNormalization", y, n.const(np.ones(2)), n.const(np.zeros(2)), epsilon=1e-5)
    y = n("Reshape", y, shape)
    y = n("Add", n("Mul", y, n.weight(4, 1, 1)), n.weight(4, 1, 1))
    return n.conv(n("Mul", y, n("Sigmoid", y)), 4, 4)


@network()
def pixel_shuffle(n):
    x = n.conv(image(n), 4, 16)
    x = n("Reshape", x, n.constant([-1, 4, 2, 2, 8, 8]))
    x = n("Transpose", x, perm=[0, 1, 4, 2, 5, 3])
    return n("Reshape", x, n.constant([-1, 4, 16, 16]))


@network()
def focus_slices(n):
    x = n.input("x", ["batch", 3, 8, 8])
    parts = []
    for row in (0, 1):
        for column in (0, 1):
            y = n.slice(x, 2, row, 2**63 - 1, 2)
            parts.append(n.slice(y, 3, column, 2**63 - 1, 2))
    return n.conv(n("Concat", *parts, axis=1), 12, 4)


@network()
def crop_by_slices(n):
    x = n.conv(image(n), 4, 4)
    x = n.slice(n.slice(x, 2, 1, -1), 3, 1, -1)
    x = n.slice(x, 2, 1, 2**31 - 1)
    return n.slice(x, 0, 0, 2**63 - 1)


@network()
def split_and_join(n):
    x = image(n)
    a, b = n.split(x, [2, 2], 1)
    x = n.conv(n("Concat", a, b, axis=1), 4, 6)
    a, b, c = n.split(x, [2, 2, 2], 1)
    y = n("Concat", n("Concat", a, b, axis=1), n("Relu", c), axis=1)
    return n("Concat", y, n("Concat", x, axis=1), axis=1)


@network()
def yolo_head(n):
    outs = []
    x = n.conv(image(n), 4, 8)
    for feature in (x, n("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])):
        y = n.conv(feature, 8, 14, k=1)
        batch, height, width = n.size(y, 0), n.size(y, 2), n.size(y, 3)
        y = n.view(y, batch, 2, 7, height, width)
        y = n("Sigmoid", n("Transpose", y, perm=[0, 1, 3, 4, 2]))
        xy, wh, rest = n.split(y, [2, 2, 3], 4)
        xy = n("Mul", n("Add", n("Mul", xy, n.constant(2.0)), n.constant(-0.5)), n.constant(8.0))
        wh = n("Mul", n("Pow", n("Mul", wh, n.constant(2.0)), n.constant(2.0)), n.weight(1, 2, 1, 1, 2))
        outs.append(n.view(n("Concat", xy, wh, rest, axis=4), batch, -1, 7))
    return n("Concat", *outs, axis=1)


@network()
def anchors_by_range(n):
    """meshgrid of arange(size): Range, Reshape, Expand, Concat."""
    x = n.conv(image(n), 4, 4)
    grids = []
    height, width = n.size(x, 2), n.size(x, 3)
    for axis, (size, _) in enumerate(((height, width), (width, height))):
        steps = n("Cast", n("Range", n.constant(0), size, n.constant(1)), to=TensorProto.FLOAT)
        steps = n("Add", steps, n.constant(0.5))
        steps = n("Reshape", steps, n.constant([-1, 1] if axis == 0 else [1, -1]))
        shape = n.dims(height, width)
        grids.append(n.axes("Unsqueeze", n("Expand", steps, shape), [2]))
    grid = n("Reshape", n("Concat", *grids, axis=2), n.constant([1, -1, 2]))
    y = n("Transpose", n("Reshape", x, n.constant([0, 4, -1])), perm=[0, 2, 1])
    a, b = n.split(y, [2, 2], 2)
    return n("Concat", n("Add", a, grid), n("Exp", b), axis=2)


@network()
def conv_transpose_norm(n):
    x = image(n)
    x = n("ConvTranspose", x, n.weight(4, 6, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    return n("Relu", n.norm(x, 6))


@network()
def shared_weights(n):
    """One tower on two inputs; equal constants written twice."""
    w = n.random.standard_normal((4, 4, 3, 3)).astype(np.float32)
    ends = []
    for name in ("x", "y"):
        x = n.input(name, ["batch", 4, 8, 8])
        ends.append(n("Relu", n("Conv", x, n.const(w), kernel_shape=[3, 3], pads=[1, 1, 1, 1])))
    a, b = ends
    return n("Sub", n("Add", a, b), n("Mul", n("Add", a, b), n.const(0.5)))


# Sequences


def tokens(n: Net, width: int = 8) -> str:
    return n.input("x", ["batch", "seq", width])


def attention(n: Net, x: str, heads: int = 2, width: int = 8, by_shape: bool = True) -> str:
    batch, length = n.size(x, 0), n.size(x, 1)
    inside = width // heads

    def part(perm):
        y = n.linear(x, width, width)
        y = n.view(y, batch, length, heads, inside) if by_shape else n("Reshape", y, n.constant([0, 0, heads, inside]))
        return n("Transpose", y, perm=perm)

    q, k, v = part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3])
    scores = n("Div", n("MatMul", q, k), n("Sqrt", n.constant(float(inside))))
    y = n("Transpose", n("MatMul", n("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return n.linear(n.view(y, batch, length, width), width, width)


def layer_norm(n: Net, x: str, width: int = 8) -> str:
    d = n("Sub", x, n.axes("ReduceMean", x, [-1], keepdims=1))
    var = n.axes("ReduceMean", n("Pow", d, n.constant(2.0)), [-1], keepdims=1)
    y = n("Div", d, n("Sqrt", n("Add", var, n.constant(1e-5))))
    return n("Add", n("Mul", y, n.weight(width)), n.weight(width))


def gelu(n: Net, x: str) -> str:
    y = n("Add", n("Erf", n("Div", x, n.constant(2**0.5))), n.constant(1.0))
    return n("Mul", n("Mul", x, y), n.constant(0.5))


@network()
def transformer_encoder(n):
    x = tokens(n)
    for _ in range(2):
        x = n("Add", x, attention(n, layer_norm(n, x)))
        x = n("Add", x, n.linear(gelu(n, n.linear(layer_norm(n, x), 8, 16)), 16, 8))
    return x


@network()
def attention_zeros(n):
    return attention(n, tokens(n), by_shape=False)


@network()
def attention_packed(n):
    """qkv in one product: reshape to five axes, permute, three Gathers or a Split and Squeezes."""
    x = tokens(n)
    batch, length = n.size(x, 0), n.size(x, 1)
    y = n("Transpose", n.view(n.linear(x, 8, 24), batch, length, 3, 2, 4), perm=[2, 0, 3, 1, 4])
    q, k, v = (n("Gather", y, n.constant(at), axis=0) for at in range(3))
    scores = n("Mul", n("MatMul", q, n("Transpose", k, perm=[0, 1, 3, 2])), n.constant(0.5))
    y = n("MatMul", n("Softmax", scores, axis=-1), v)
    return n.linear(n.view(n("Transpose", y, perm=[0, 2, 1, 3]), batch, length, 8), 8, 8)


@network()
def attention_packed_split(n):
    x = tokens(n)
    q, k, v = n.split(n.linear(x, 8, 24), [8, 8, 8], 2)
    shape = n("Concat", n("Slice", n("Shape", q), n.constant([0]), n.constant([2])), n.constant([2, 4]), axis=0)
    q, k, v = (n("Transpose", n("Reshape", part, shape), perm=[0, 2, 1, 3]) for part in (q, k, v))
    scores = n("MatMul", n("Mul", q, n.constant(0.5)), n("Transpose", k, perm=[0, 1, 3, 2]))
    y = n("Transpose", n("MatMul", n("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    shape = n("Concat", n("Slice", n("Shape", y), n.constant([0]), n.constant([2])), n.constant([8]), axis=0)
    return n("Reshape", y, shape)


@network(14)
def attention_sdpa(n):
    """torch 2's scaled_dot_product_attention: the square root of the scale on both sides, from the shape."""
    x = tokens(n)
    batch, length = n.size(x, 0), n.size(x, 1)
    q, k, v = (n("Transpose", n.view(n.linear(x, 8, 8), batch, length, 2, 4), perm=[0, 2, 1, 3]) for _ in range(3))
    last = n("Slice", n("Shape", q), n.constant([-1]), n.constant([2**63 - 1]))
    scale = n("Div", n.constant([1.0]), n("Sqrt", n("Cast", last, to=TensorProto.FLOAT)))
    scale = n("Sqrt", n("Cast", scale, to=TensorProto.FLOAT))
    k = n("Transpose", k, perm=[0, 1, 3, 2])
    scores = n("MatMul", n("Mul", q, scale), n("Mul", k, scale))
    y = n("MatMul", n("Softmax", scores, axis=-1), v)
    return n.view(n("Transpose", y, perm=[0, 2, 1, 3]), batch, length, 8)


@network(14)
def attention_causal(n):
    """A mask by ConstantOfShape, Trilu and Where."""
    x = tokens(n)
    length = n.size(x, 1)
    scores = n("MatMul", x, n("Transpose", x, perm=[0, 2, 1]))
    one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    mask = n("Trilu", n("ConstantOfShape", n.dims(length, length), value=one), upper=0)
    mask = n("Equal", mask, n.constant(0.0))
    scores = n("Where", mask, n.constant(-1e9), scores)
    return n("MatMul", n("Softmax", scores, axis=-1), x)


@network()
def attention_masked(n):
    """BERT's mask: unsqueeze, cast, 1 - m, times a large number."""
    x = tokens(n)
    mask = n.input("mask", ["batch", "seq"], TensorProto.INT64)
    m = n.axes("Unsqueeze", n.axes("Unsqueeze", mask, [1]), [2])
    m = n("Cast", n("Cast", m, to=TensorProto.FLOAT), to=TensorProto.FLOAT)
    m = n("Mul", n("Sub", n.constant(1.0), m), n.constant(-10000.0))
    m = n.axes("Squeeze", m, [1])
    scores = n("Add", n("MatMul", x, n("Transpose", x, perm=[0, 2, 1])), m)
    return n("MatMul", n("Softmax", scores, axis=2), x)


@network()
def attention_expanded_mask(n):
    """mask.expand(batch, 1, seq, seq), with the -1 of torch turned to ones by Equal and Where."""
    x = tokens(n)
    mask = n.input("mask", ["batch", "seq"], TensorProto.INT64)
    batch, length = n.size(mask, 0), n.size(mask, 1)
    m = n.axes("Unsqueeze", n.axes("Unsqueeze", mask, [1]), [2])
    shape = n.dims(batch, 1, length, length)
    one = helper.make_tensor("v", TensorProto.INT64, [1], [1])
    minus = n("Mul", n("ConstantOfShape", n.constant([4]), value=one), n.constant(-1))
    shape = n("Where", n("Equal", shape, minus), n("ConstantOfShape", n.constant([4]), value=one), shape)
    m = n("Sub", n.constant(1.0), n("Cast", n("Expand", m, shape), to=TensorProto.FLOAT))
    hidden = n("Cast", m, to=TensorProto.BOOL)
    m = n("Where", hidden, n.constant(-3e38), m)
    scores = n("MatMul", x, n("Transpose", x, perm=[0, 2, 1]))
    scores = n("Add", n.axes("Unsqueeze", scores, [1]), m)
    y = n("MatMul", n("Softmax", scores, axis=-1), n.axes("Unsqueeze", x, [1]))
    return n.axes("Squeeze", y, [1])


@network()
def rotary_halves(n):
    x = n.input("x", ["batch", 2, "seq", 8])
    length = n.size(x, 2)
    steps = n("Cast", n("Range", n.constant(0), length, n.constant(1)), to=TensorProto.FLOAT)
    angles = n("Mul", n.axes("Unsqueeze", steps, [1]), n.weight(1, 4))
    angles = n("Concat", angles, angles, axis=1)
    cos, sin = n("Cos", angles), n("Sin", angles)
    ends = []
    for y in (x, n("Neg", x)):
        half = n("Div", n.size(y, 3), n.constant(2))
        first = n("Slice", y, n.constant([0]), n.axes("Unsqueeze", half, [0]), n.constant([3]))
        second = n("Slice", y, n.axes("Unsqueeze", half, [0]), n.constant([2**63 - 1]), n.constant([3]))
        turned = n("Concat", n("Neg", second), first, axis=3)
        ends.append(n("Add", n("Mul", y, cos), n("Mul", turned, sin)))
    return n("MatMul", ends[0], n("Transpose", ends[1], perm=[0, 1, 3, 2]))


@network()
def repeat_kv(n):
    """Grouped queries: unsqueeze, expand to a shape that Where and Equal made, reshape."""
    x = n.input("x", ["batch", 2, "seq", 4])
    batch, heads, length = n.size(x, 0), n.size(x, 1), n.size(x, 2)
    y = n.axes("Unsqueeze", x, [2])
    y = n("Expand", y, n.dims(batch, heads, 3, length, 4))
    return n.view(y, batch, n("Mul", heads, n.constant(3)), length, 4)


@network()
def rms_norm(n):
    x = tokens(n)
    y = n("Cast", x, to=TensorProto.FLOAT)
    var = n.axes("ReduceMean", n("Pow", y, n.constant(2.0)), [-1], keepdims=1)
    y = n("Mul", y, n("Div", n.constant(1.0), n("Sqrt", n("Add", var, n.constant(1e-6)))))
    y = n("Mul", n.weight(8), n("Cast", y, to=TensorProto.FLOAT))
    return n.linear(y, 8, 8)


@network()
def swiglu(n):
    x = tokens(n)
    gate = n("MatMul", x, n.weight(8, 12))
    gate = n("Mul", gate, n("Sigmoid", gate))
    return n("MatMul", n("Mul", gate, n("MatMul", x, n.weight(8, 12))), n.weight(12, 8))


@network()
def gelu_forms(n):
    x = tokens(n)
    y = n.linear(x, 8, 8)
    cube = n("Pow", y, n.constant(3.0))
    inside = n("Mul", n("Add", y, n("Mul", cube, n.constant(0.044715))), n.constant((2 / np.pi) ** 0.5))
    y = n("Mul", n("Mul", y, n.constant(0.5)), n("Add", n("Tanh", inside), n.constant(1.0)))
    y = n.linear(y, 8, 8)
    half = n("Mul", n.constant(0.5), y)
    y = n("Mul", half, n("Add", n("Erf", n("Mul", y, n.constant(2**-0.5))), n.constant(1.0)))
    y = n.linear(y, 8, 8)
    return n("Mul", y, n("Sigmoid", n("Mul", y, n.constant(1.702))))


@network()
def softmax_parts(n):
    x = tokens(n)
    e = n("Exp", n("Sub", x, n.axes("ReduceMax", x, [-1], keepdims=1)))
    x = n.linear(n("Div", e, n.axes("ReduceSum", e, [-1], keepdims=1)), 8, 8)
    return n("Log", n("Softmax", x, axis=-1))


@network()
def layer_norm_forms(n):
    """Variance by a product; by the mean of squares less the square of the mean; the root as a power."""
    x = tokens(n)
    d = n("Sub", x, n.axes("ReduceMean", x, [-1], keepdims=1))
    var = n.axes("ReduceMean", n("Mul", d, d), [-1], keepdims=1)
    y = n("Mul", d, n("Reciprocal", n("Sqrt", n("Add", var, n.constant(1e-5)))))
    x = n.linear(n("Add", n("Mul", n.weight(8), y), n.weight(8)), 8, 8)
    mean = n.axes("ReduceMean", x, [-1], keepdims=1)
    d = n("Sub", x, mean)
    e = n("Sub", x, mean)
    var = n.axes("ReduceMean", n("Pow", e, n.constant(2.0)), [-1], keepdims=1)
    y = n("Div", d, n("Pow", n("Add", var, n.constant(1e-5)), n.constant(0.5)))
    return n("Add", n("Mul", y, n.weight(8)), n.weight(8))


@network()
def embeddings(n):
    ids = n.input("ids", ["batch", "seq"], TensorProto.INT64)
    x = n("Gather", n.weight(11, 8), ids)
    length = n.size(ids, 1)
    positions = n(
        "Slice", n.constant(np.arange(16)[None]), n.constant([0]), n.axes("Unsqueeze", length, [0]), n.constant([1])
    )
    kinds = n("ConstantOfShape", n("Shape", ids), value=helper.make_tensor("v", TensorProto.INT64, [1], [0]))
    x = n("Add", n("Add", x, n("Gather", n.weight(2, 8), kinds)), n("Gather", n.weight(16, 8), positions))
    return layer_norm(n, x)


@network()
def class_token(n):
    """ViT: conv patches, flatten, a token by Expand, positions, the first token."""
    x = n.conv(image(n, 3), 3, 8, k=4, strides=[4, 4], pads=[0, 0, 0, 0])
    shape = n("Shape", x)
    front = n("Slice", shape, n.constant([0]), n.constant([2]), n.constant([0]))
    x = n("Transpose", n("Reshape", x, n("Concat", front, n.constant([-1]), axis=0)), perm=[0, 2, 1])
    token = n("Expand", n.weight(1, 1, 8), n.dims(n.size(x, 0), 1, 8))
    x = n("Add", n("Concat", token, x, axis=1), n.weight(1, 5, 8))
    x = layer_norm(n, n("Add", x, attention(n, x)))
    return n.linear(n("Gather", x, n.constant(0), axis=1), 8, 3)


@network()
def window_partition(n):
    """Swin: views and permutations, a roll as two slices and a Concat, and back."""
    x = n.input("x", ["batch", 8, 8, 4])
    a = n.slice(x, 1, 2, 2**63 - 1)
    x = n("Concat", a, n.slice(x, 1, 0, 2), axis=1)
    batch = n.size(x, 0)
    y = n("Transpose", n.view(x, batch, 2, 4, 2, 4, 4), perm=[0, 1, 3, 2, 4, 5])
    y = n("Reshape", n("Reshape", y, n.constant([-1, 4, 4, 4])), n.constant([-1, 16, 4]))
    y = n.linear(y, 4, 4)
    y = n("Reshape", n("Reshape", y, n.constant([-1, 4, 4, 4])), n.constant([-1, 2, 2, 4, 4, 4]))
    return n("Reshape", n("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), n.constant([-1, 8, 8, 4]))


@network(12)
def einsums(n):
    x = n.input("x", ["batch", "seq", 2, 4])
    scores = n("Einsum", x, x, equation="bqhd,bkhd->bhqk")
    y = n("Einsum", n("Softmax", scores, axis=-1), x, equation="bhqk,bkhd->bqhd")
    y = n("Einsum", y, n.weight(2, 4, 8), equation="bqhd,hdo->bqo")
    y = n("Einsum", y, n.weight(8, 8), equation="bqo,op->bqp")
    return n("Einsum", y, equation="bqp->bpq")


@network()
def lstm_states(n):
    x = n.input("x", ["seq", "batch", 4])
    batch = n.size(x, 1)
    state = n("ConstantOfShape", n.dims(1, batch, 3))
    y, h, _ = n(
        "LSTM", x, n.weight(1, 12, 4), n.weight(1, 12, 3), n.weight(1, 24), "", state, state, outs=3, hidden_size=3
    )
    y = n.axes("Squeeze", y, [1])
    last = n("Gather", y, n.constant(-1), axis=0)
    return n.linear(n("Add", last, n.axes("Squeeze", h, [0])), 3, 2)


@network()
def gru_batch_first(n):
    x = n("Transpose", n.input("x", ["batch", "seq", 4]), perm=[1, 0, 2])
    h = n("Expand", n.constant(np.zeros((2, 1, 3))), n.dims(2, n.size(x, 1), 3))
    y, _ = n(
        "GRU",
        x,
        n.weight(2, 9, 4),
        n.weight(2, 9, 3),
        n.weight(2, 18),
        "",
        h,
        outs=2,
        hidden_size=3,
        direction="bidirectional",
    )
    y = n("Reshape", n("Transpose", y, perm=[0, 2, 1, 3]), n.constant([0, 0, -1]))
    return n.linear(n("Transpose", y, perm=[1, 0, 2]), 6, 2)


@network()
def conv1d_by_unsqueeze(n):
    """tf and old torch: 1-D convolutions as 2-D ones between Unsqueeze and Squeeze."""
    x = n.input("x", ["batch", 4, 16])
    for _ in range(2):
        x = n.axes("Unsqueeze", x, [2])
        x = n("Conv", x, n.weight(4, 4, 1, 3), n.weight(4), kernel_shape=[1, 3], pads=[0, 1, 0, 1])
        x = n("Relu", n.axes("Squeeze", x, [2]))
    return x


# Parts


@network()
def reshapes_in_a_row(n):
    x = tokens(n)
    x = n("Reshape", n("Reshape", x, n.constant([0, 0, 2, 4])), n.constant([0, 0, 8]))
    x = n("Relu", n("Flatten", n("Reshape", x, n.constant([-1, 8])), axis=1))
    return n("Reshape", n.axes("Unsqueeze", x, [0]), n.constant([-1, 2, 4]))


@network()
def transposes_around(n):
    x = n("Transpose", tokens(n), perm=[0, 2, 1])
    x = n("Mul", n("Sigmoid", n("Add", x, n.const(1.0))), n.const(2.0))
    x = n("Transpose", x, perm=[0, 2, 1])
    return n.linear(n("Transpose", n("Transpose", x, perm=[1, 0, 2]), perm=[1, 0, 2]), 8, 3)


@network()
def transposed_branches(n):
    x = n("Transpose", tokens(n), perm=[0, 2, 1])
    a, b = n("Relu", x), n("Tanh", x)
    return n("Transpose", n("Add", a, b), perm=[0, 2, 1])


@network()
def casts_in_a_row(n):
    x = tokens(n)
    y = n("Cast", n("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    ids = n("Cast", n("Cast", n("Shape", x), to=TensorProto.FLOAT), to=TensorProto.INT64)
    y = n("Reshape", n("Relu", y), ids)
    flag = n("Cast", n("Cast", n("Greater", y, n.constant(0.0)), to=TensorProto.INT32), to=TensorProto.BOOL)
    return n("Where", flag, y, n("Cast", n("Cast", y, to=TensorProto.FLOAT), to=TensorProto.FLOAT))


@network()
def constant_arithmetic(n):
    x = tokens(n)
    a = n("Mul", n("Add", n.constant(1.0), n.constant(2.0)), n.constant(np.ones(8)))
    b = n("Div", n("Sqrt", n.constant(16.0)), n("Exp", n.constant(0.0)))
    x = n("Mul", n("Mul", x, a), b)
    x = n("Add", n("Sub", x, n.constant(0.0)), n("Neg", n.constant(1.0)))
    return n("Pow", n("Div", x, n.constant(1.0)), n.constant(1.0))


@network()
def selections(n):
    """Conditions that do not depend on data."""
    x = tokens(n)
    yes = n("Greater", n.size(x, 2), n.constant(3))
    y = n("Where", yes, x, n("Neg", x))
    y = n("Where", n.constant([True] * 8, np.bool_), y, n.constant(0.0))
    y = n("Add", y, n("Where", n.constant(False, np.bool_), x, y))
    return n("Identity", n("Identity", y))


@network()
def branches(n):
    """An If on a size that is known, and one with equal branches."""
    x = tokens(n)
    one, two = n.body(), n.body()
    condition = n("Equal", n.size(x, 2), n.constant(1))
    a, b = one("Neg", x), two("Identity", x)
    y = n("If", condition, then_branch=one.graph([a], []), else_branch=two.graph([b], []))
    return n("Relu", y)


@network()
def squeeze_if_one(n):
    """torch's x.squeeze(1) of an axis whose size is not in the file, but is known."""
    x = n.conv(image(n), 4, 1)
    one, two = n.body(), n.body()
    size = n("Gather", n("Shape", x), n.constant([1]), axis=0)
    condition = n("Equal", size, n.constant([1]))
    a, b = one.axes("Squeeze", x, [1]), two("Identity", x)
    y = n("If", condition, then_branch=one.graph([a], []), else_branch=two.graph([b], []))
    return n("Sigmoid", y)


@network()
def loop_of_three(n):
    """A Loop with a constant trip count that adds up."""
    x = tokens(n)
    body = n.body()
    ins = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
    ]
    keep = helper.make_tensor_value_info(body("Identity", "c"), TensorProto.BOOL, [])
    out = helper.make_tensor_value_info(body("Add", body("Mul", "v", body.constant(0.5)), x), TensorProto.FLOAT, None)
    return n("Loop", n.constant(3), n.constant(True, np.bool_), x, body=body.graph([keep, out], ins))


@network()
def expands(n):
    x = n.input("x", ["batch", 1, 8])
    y = n("Expand", x, n("Shape", x))
    y = n("Add", n("Expand", y, n.constant([1, 4, 8])), n.weight(1, 4, 8))
    return n("Mul", y, n("Expand", n.weight(1, 1, 8), n("Shape", y)))


@network()
def tiles(n):
    x = n("Tile", tokens(n), n.constant([1, 1, 1]))
    x = n("Tile", n.axes("Unsqueeze", x, [1]), n.constant([1, 2, 1, 1]))
    x = n("Reshape", x, n.constant([0, 0, -1, 8]))
    return n("Concat", x, n("Tile", n.weight(1, 1, 1, 8), n("Shape", x)), axis=3)


@network()
def gathers(n):
    """Selections written as Gathers that are Slices, Identities or Squeezes."""
    x = tokens(n)
    y = n("Gather", x, n.constant(list(range(8))), axis=2)
    a = n("Gather", y, n.constant([0, 1, 2, 3]), axis=2)
    b = n("Gather", y, n.constant([4, 5, 6, 7]), axis=2)
    y = n("Concat", n("Neg", b), a, axis=2)
    return n("Gather", n.axes("Unsqueeze", y, [0]), n.constant(0), axis=0)


@network()
def gemm_forms(n):
    x = n.input("x", ["batch", 8])
    x = n("Gemm", x, n.weight(5, 8), n.weight(5), transB=1)
    x = n("Gemm", n("Relu", x), n("Transpose", n.weight(6, 5), perm=[1, 0]), n.weight(6))
    x = n("Add", n("Mul", n("Gemm", x, n.weight(6, 4)), n.const(2.0)), n.weight(4))
    x = n("Add", n("MatMul", x, n.weight(4, 3)), n.weight(3))
    return n.norm(x, 3)


@network()
def dense_norm(n):
    """keras: Dense, BatchNormalization on matrices, activations."""
    x = n.input("x", ["batch", 8])
    x = n("Relu", n.norm(n("Add", n("MatMul", x, n.weight(8, 6)), n.weight(6)), 6))
    x = n("LeakyRelu", n.norm(n("MatMul", x, n.weight(6, 5)), 5))
    return n("Softmax", n("Add", n("MatMul", x, n.weight(5, 3)), n.weight(3)), axis=1)


@network()
def norm_by_arithmetic(n):
    """keras: BatchNormalization written out as Mul and Add of constants, before and behind a product."""
    x = n.input("x", ["batch", 8])
    x = n("Mul", n("Sub", x, n.weight(8)), n.weight(8))
    x = n("MatMul", x, n.weight(8, 6))
    x = n("Add", n("Mul", x, n.weight(6)), n.weight(6))
    return n("Relu", x)


@network()
def preprocessing(n):
    """Pictures as bytes: cast, scale, mean and deviation, layout, in the graph."""
    x = n.input("x", ["batch", 8, 8, 3], TensorProto.UINT8)
    x = n("Div", n("Cast", x, to=TensorProto.FLOAT), n.constant(255.0))
    x = n("Div", n("Sub", x, n.weight(3)), n.const([0.2, 0.3, 0.4]))
    return n.conv(n("Transpose", x, perm=[0, 3, 1, 2]), 3, 4, pads=[0, 0, 0, 0])


@network()
def dropouts(n):
    x = n.linear(tokens(n), 8, 8)
    if n.opset >= 12:
        x = n("Dropout", x, n.constant(0.3), n.constant(False, np.bool_))
    x = n("Dropout", x)
    return n("Identity", n.linear(x, 8, 2))


@network()
def dead_ends(n):
    x = tokens(n)
    n("Softmax", n("Exp", x), axis=-1)
    parts = n.split(x, [4, 4], 2)
    n("TopK", x, n.constant([2]), outs=2, axis=-1)
    return n("Relu", parts[0])


@network()
def same_twice(n):
    x = tokens(n)
    a = n("Exp", n("Mul", x, n.constant(2.0)))
    b = n("Exp", n("Mul", x, n.constant(2.0)))
    c = n("Exp", n("Mul", n.constant(2.0), x))
    return n("Add", n("Sub", a, n("Sqrt", b)), c)


@network(12)
def powers(n):
    x = tokens(n)
    a = n("Pow", x, n.constant(2.0))
    b = n("Pow", n("Abs", x), n.constant(0.5))
    return n("Add", n("Mul", a, n("Reciprocal", n("Add", b, n.constant(1.0)))), n("Pow", x, n.constant([2], np.int64)))


@network()
def reductions(n):
    x = tokens(n)
    y = n.axes("Unsqueeze", n.axes("ReduceSum", x, [-1], keepdims=0), [-1])
    z = n.axes("Squeeze", n.axes("ReduceMax", x, [1], keepdims=1), [1])
    w = n("Sqrt", n.axes("ReduceSum", n("Mul", x, x), [2], keepdims=1))
    x = n("Div", x, n("Clip", n("Expand", w, n("Shape", x)), n.const(1e-12)))
    return n("Add", n("Mul", x, y), n.axes("Unsqueeze", z, [1]))


@network()
def arg_max_cast(n):
    x = tokens(n)
    best = n("ArgMax", x, axis=2, keepdims=0)
    return n("Cast", n("Cast", best, to=TensorProto.INT32), to=TensorProto.FLOAT)


@network()
def scatter_mask(n):
    """Writing into a slice: Range, Expand, ScatterND with constant indices."""
    x = n.input("x", ["batch", 6])
    y = n("Transpose", x, perm=[1, 0])
    part = n("Slice", y, n.constant([0]), n.constant([2]), n.constant([0]))
    y = n("ScatterND", y, n.constant([[0], [1]]), n("Relu", part))
    return n("Transpose", y, perm=[1, 0])


@network()
def sliced_positions(n):
    """Arithmetic on sizes: ceil by floor and negation, halves, a padding to a multiple."""
    x = n.input("x", ["batch", 4, "seq"])
    length = n.size(x, 2)
    four = n.constant(4)
    missing = n("Mod", n("Sub", four, n("Mod", length, four)), four)
    pads = n("Concat", n.constant([0, 0, 0, 0, 0]), n.axes("Unsqueeze", missing, [0]), axis=0)
    y = n("Pad", x, pads, n.constant(0.0))
    y = n("Reshape", y, n.constant([0, 4, -1, 4]))
    y = n("Reshape", n("Relu", y), n.constant([0, 4, -1]))
    return n("Slice", y, n.constant([0]), n.axes("Unsqueeze", length, [0]), n.constant([2]))


@network(13)
def quantized_block(n):
    """QDQ around a convolution: left alone, and what stands beside it simplified."""
    x = image(n)

    def qdq(v, scale):
        s, z = n.const(scale), n.const(3, np.uint8)
        return n("DequantizeLinear", n("QuantizeLinear", v, s, z), s, z)

    w = n.const(n.random.integers(-100, 100, (4, 4, 3, 3)), np.int8)
    w = n("DequantizeLinear", w, n.const(0.01), n.const(0, np.int8))
    y = n("Conv", qdq(n("Identity", x), 0.05), w, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return n("Flatten", n("Reshape", qdq(n("Relu", y), 0.1), n.constant([0, 0, 8, 8])))


@network()
def detection_post(n):
    """Boxes of a head: sizes by Shape, TopK, GatherElements, a constant threshold."""
    x = n.input("x", ["batch", 20, 6])
    score = n.axes("Squeeze", n.slice(x, 2, 4, 5), [2])
    best, where = n("TopK", score, n("Reshape", n.constant(5), n.constant([-1])), outs=2, axis=1)
    where = n("Expand", n.axes("Unsqueeze", where, [2]), n.dims(n.size(x, 0), 5, 4))
    boxes = n("GatherElements", n.slice(x, 2, 0, 4), where, axis=1)
    return n("Concat", boxes, n.axes("Unsqueeze", best, [2]), axis=2)


@network()
def masked_pooling(n):
    """Sentence embeddings: the mask expanded to the tokens, sums, a clamp, a norm."""
    x = tokens(n)
    mask = n.input("mask", ["batch", "seq"], TensorProto.INT64)
    m = n.axes("Unsqueeze", mask, [-1])
    m = n("Cast", n("Expand", m, n.dims(n.size(x, 0), n.size(x, 1), n.size(x, 2))), to=TensorProto.FLOAT)
    total = n.axes("ReduceSum", n("Mul", x, m), [1], keepdims=0)
    count = n("Clip", n.axes("ReduceSum", m, [1], keepdims=0), n.constant(1e-9))
    y = n("Div", total, count)
    length = n("ReduceL2", y, axes=[1], keepdims=1) if n.opset < 18 else n.axes("ReduceL2", y, [1], keepdims=1)
    return n("Div", y, n("Expand", n("Clip", length, n.constant(1e-12)), n("Shape", y)))


@network(13)
def keras_tensordot(n):
    """Dense on three axes: the shape taken apart by Gather, multiplied by ReduceProd, and put together again."""
    x = tokens(n)
    shape = n("Shape", x)
    free, inner = n("Gather", shape, n.constant([0, 1])), n("Gather", shape, n.constant([2]))
    rows = n("ReduceProd", free, keepdims=1) if n.opset < 18 else n("ReduceProd", free, n.constant([0]), keepdims=1)
    columns = (
        n("ReduceProd", inner, keepdims=1) if n.opset < 18 else n("ReduceProd", inner, n.constant([0]), keepdims=1)
    )
    y = n("Reshape", n("Transpose", x, perm=[0, 1, 2]), n("Concat", rows, columns, axis=0))
    y = n("MatMul", y, n("Reshape", n.weight(8, 6), n.constant([8, 6])))
    y = n("Reshape", y, n("Concat", free, n.constant([6]), axis=0))
    return n("Relu", n("Add", y, n.weight(6)))


@network()
def tf_strided_slices(n):
    """x[:, 0], x[..., 1:], stack and unstack as tf2onnx writes them."""
    x = n.input("x", ["batch", 4, 8])
    first = n.axes(
        "Squeeze",
        n(
            "Slice",
            x,
            n.constant([0, 0, 0]),
            n.constant([2**31 - 1, 1, 2**31 - 1]),
            n.constant([0, 1, 2]),
            n.constant([1, 1, 1]),
        ),
        [1],
    )
    rest = n("Slice", x, n.constant([0, 0, 1]), n.constant([2**31 - 1, 2**31 - 1, 2**31 - 1]), n.constant([0, 1, 2]))
    parts = [n.axes("Squeeze", part, [1]) for part in n.split(rest, [1, 1, 1, 1], 1)]
    y = n("Concat", *(n.axes("Unsqueeze", n("Tanh", part), [1]) for part in parts), axis=1)
    return n("Add", n.axes("ReduceMean", y, [1], keepdims=0), n.slice(first, 1, 0, 7))


@network()
def tf_bias_reshaped(n):
    """BiasAdd of NCHW convolutions as a reshaped constant; relu6; depth to space with transposes around."""
    x = n.conv(image(n), 4, 16, bias=False)
    x = n("Add", x, n("Reshape", n.weight(16), n.constant([1, 16, 1, 1])))
    x = n("Transpose", n("Min", n("Relu", x), n.const(6.0)), perm=[0, 2, 3, 1])
    x = n("DepthToSpace", n("Transpose", x, perm=[0, 3, 1, 2]), blocksize=2)
    return n("Transpose", n("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])


@network()
def paddle_scales(n):
    """scale = x * a + b with tensors of one element; shapes by Slice and Cast; a flattened product."""
    x = image(n)
    x = n("Add", n("Mul", x, n.constant([2.0], np.float32)), n.constant([0.0], np.float32))
    x = n("Mul", n.conv(x, 4, 4), n.constant([1.0], np.float32))
    shape = n("Cast", n("Shape", x), to=TensorProto.INT32)
    batch = n("Slice", shape, n.constant([0]), n.constant([1]), n.constant([0]))
    shape = n("Concat", n("Cast", batch, to=TensorProto.INT64), n.constant([256]), axis=0)
    x = n("Reshape", x, shape)
    return n("Add", n("MatMul", x, n.weight(256, 3)), n("Reshape", n.weight(3), n.constant([1, 3])))


@network(15)
def dynamo_likes(n):
    """torch's second exporter: CastLike, scalars expanded, shapes with allowzero, constants of one integer."""
    x = tokens(n)
    half = n("CastLike", n("Constant", value_float=0.5), x)
    y = n("Mul", x, half)
    shape = n(
        "Concat", n("Shape", x, start=0, end=1), n("Constant", value_ints=[-1]), n("Constant", value_ints=[8]), axis=0
    )
    y = n("Reshape", y, shape, allowzero=1)
    low = n("CastLike", n("Constant", value_float=-1.0), y)
    y = n("Clip", y, low, n("CastLike", n("Constant", value_int=1), y))
    scale = n("Expand", n("Constant", value_float=2.0), n("Shape", y))
    return n("Reshape", n("Div", y, scale), n("Shape", x))


@network()
def chunks_by_sequence(n):
    """chunk and unbind before operators for it: SplitToSequence, SequenceAt, SequenceConstruct, ConcatFromSequence."""
    x = tokens(n)
    parts = n("SplitToSequence", x, n.constant(4), axis=2)
    a, b = n("SequenceAt", parts, n.constant(0)), n("SequenceAt", parts, n.constant(1))
    return n("ConcatFromSequence", n("SequenceConstruct", n("Sigmoid", a), b), axis=2)


@network()
def single_operands(n):
    x = tokens(n)
    x = n("Concat", n("Sum", n("Max", x)), axis=1)
    x = n("Sum", n("Mean", x, x), n("Min", x))
    return n("Identity", n("Relu", x))


@network()
def moments(n):
    """tf.nn.moments and batch normalization at inference written out."""
    x = n.conv(image(n), 4, 4)
    scale = n(
        "Mul", n("Reciprocal", n("Sqrt", n("Add", n.const(n.random.uniform(0.5, 2, 4)), n.const(1e-3)))), n.weight(4)
    )
    scale = n("Reshape", scale, n.constant([1, 4, 1, 1]))
    mean, beta = (n("Reshape", n.weight(4), n.constant([1, 4, 1, 1])) for _ in range(2))
    shift = n("Sub", beta, n("Mul", mean, scale))
    return n("Relu", n("Add", n("Mul", x, scale), shift))


@network()
def loop_once(n):
    """A Loop that runs once, and one that never does."""
    x = tokens(n)

    def loop(count, v):
        body = n.body()
        ins = [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ]
        keep = helper.make_tensor_value_info(body("Identity", "c"), TensorProto.BOOL, [])
        out = helper.make_tensor_value_info(body("Tanh", "v"), TensorProto.FLOAT, None)
        return n("Loop", n.constant(count), n.constant(True, np.bool_), v, body=body.graph([keep, out], ins))

    return n("Neg", loop(0, loop(1, x)))


@network()
def norms_between(n):
    """A normalization behind an addition, and one behind a product with a residual."""
    x = image(n)
    y = n.conv(x, 4, 4)
    z = n.norm(n("Add", x, y), 4)
    z = n("Add", n.norm(n.conv(n("Relu", z), 4, 4), 4), z)
    return n.norm(n("Relu", z), 4)


@network()
def linear_in_a_row(n):
    """Products of constants, and a product of a product with constants between."""
    x = tokens(n)
    w = n("MatMul", n.weight(8, 4), n.weight(4, 8))
    x = n("MatMul", x, n("Transpose", w, perm=[1, 0]))
    return n("Mul", n("Mul", n("MatMul", x, n.weight(8, 3)), n.const(0.5)), n.const(4.0))


@network()
def group_norm_parts(n):
    """GroupNorm by reshape and arithmetic, SiLU behind."""
    x = n.conv(image(n), 4, 4)
    y = n("Reshape", x, n.constant([0, 2, -1]))
    d = n("Sub", y, n.axes("ReduceMean", y, [2], keepdims=1))
    var = n.axes("ReduceMean", n("Mul", d, d), [2], keepdims=1)
    y = n("Reshape", n("Div", d, n("Sqrt", n("Add", var, n.const(1e-5)))), n("Shape", x))
    y = n("Add", n("Mul", y, n.weight(1, 4, 1, 1)), n.weight(1, 4, 1, 1))
    return n("Mul", y, n("Sigmoid", y))


@network()
def upsample_nearest_by_expand(n):
    """Nearest upsampling as reshape, expand, reshape; keras' UpSampling2D on some paths."""
    x = n.conv(image(n), 4, 4)
    y = n("Reshape", x, n.constant([-1, 4, 8, 1, 8, 1]))
    y = n("Expand", y, n.constant([1, 1, 1, 2, 1, 2]))
    return n("Reshape", y, n.constant([-1, 4, 16, 16]))


@network()
def where_masks(n):
    """Masks of booleans: Not, And with constants, Where of equal branches."""
    x = tokens(n)
    mask = n.input("mask", ["batch", "seq", 8], TensorProto.BOOL)
    m = n("And", n("Not", n("Not", mask)), n.constant(True, np.bool_))
    y = n("Where", m, x, n.constant(0.0))
    return n("Where", n("Or", m, n.constant(False, np.bool_)), y, y)
