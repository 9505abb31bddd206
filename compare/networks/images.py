"""Networks on images: convolutions, normalizations, resizing, padding, attention between pixels."""

import numpy as np
from onnx import TensorProto, helper

from .net import Net, network


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
