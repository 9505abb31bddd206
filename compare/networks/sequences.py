"""Networks on sequences: attention, recurrence, positions, masks."""

import numpy as np
from onnx import TensorProto, helper

from .images import image
from .net import Net, network


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
