"""Habits of exporters one by one: arithmetic, shapes, constants, control flow."""

import numpy as np
from onnx import TensorProto, helper

from .images import image
from .net import network
from .sequences import tokens


def counted(body):
    """Inputs of a Loop's body that carries one value `v`, and the condition that it hands on."""
    ins = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
    ]
    return ins, helper.make_tensor_value_info(body("Identity", "c"), TensorProto.BOOL, [])


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
    ins, keep = counted(body)
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
        ins, keep = counted(body)
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
