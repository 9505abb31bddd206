#!/usr/bin/env python3
"""Writes contrib.jsonl: small cases of com.microsoft operators (and of ONNX operators whose forms the ONNX node cases
do not cover), with the outputs of ONNX Runtime on the CPU, graph optimizations off.

    $ONNXQ_VENV/bin/python ops/tests/data/make_contrib.py     # needs onnx, onnxruntime, numpy; versions: compare/requirements.txt

A line is one case: operator, opset, attributes, inputs and outputs (element type code, sizes, raw_data in base 64),
rtol and atol. Integer outputs are compared exactly unless atol is at least 1 (steps).
"""
import base64
import json
import pathlib

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

MS = "com.microsoft"
rng = np.random.default_rng(20240607)
lines = []


def packed(values, kind):
    """A 4-bit tensor: (kind, values)."""
    return ("packed", kind, np.asarray(values))


def proto(value, name=""):
    if isinstance(value, tuple):
        _, kind, values = value
        return h.make_tensor(name, kind, values.shape, values.ravel().tolist())
    return nh.from_array(np.asarray(value), name)


def tensor(value):
    p = proto(value)
    raw = p.raw_data
    if isinstance(value, tuple) and not raw:
        nibbles = [int(v) & 15 for v in value[2].ravel()]
        nibbles += [0] * (len(nibbles) % 2)
        raw = bytes(a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2]))
    return {"t": p.data_type, "d": list(p.dims), "x": base64.b64encode(raw).decode()}


def attribute(value):
    if isinstance(value, float):
        return {"f": float(np.float32(value))}
    if isinstance(value, (int, np.integer)):
        return {"i": int(value)}
    if isinstance(value, str):
        return {"s": value}
    if isinstance(value[0], float):
        return {"fs": [float(np.float32(v)) for v in value]}
    return {"is": [int(v) for v in value]} if isinstance(value[0], int) else {"ss": list(value)}


def case(name, op, inputs, outputs=1, domain=MS, version=21, rtol=1e-5, atol=1e-6, compared=9, **attrs):
    """Runs one operator. `outputs` is a count, or a list of booleans that says which are asked for; the first `compared`
    of them are kept."""
    wanted = outputs if isinstance(outputs, list) else [True] * outputs
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    outs = [f"o{k}" if w else "" for k, w in enumerate(wanted)]
    node = h.make_node(op, names, outs, domain=domain, **attrs)
    # Every input is an initializer: some kernels insist on constant weights.
    inits = [proto(v, n) for n, v in zip(names, inputs) if v is not None]
    graph = h.make_graph([node], "g", [], [h.make_empty_tensor_value_info(o) for o in outs if o], inits)
    ops = [h.make_opsetid("", version), h.make_opsetid(MS, 1)]
    model = h.make_model(graph, opset_imports=ops, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = iter(session.run(None, {}))
    results = [next(found) if w else None for w in wanted]
    line = {
        "name": name, "domain": domain, "op": op, "opset": 1 if domain == MS else version,
        "attrs": {k: attribute(v) for k, v in attrs.items()},
        "inputs": [None if v is None else tensor(v) for v in inputs],
        "outputs": [tensor(r) if w and k < compared else None for k, (w, r) in enumerate(zip(wanted, results))],
        "rtol": rtol, "atol": atol,
    }
    # What the reader assumes is not written.
    assumed = {"domain": MS, "opset": 1, "rtol": 1e-5, "atol": 1e-6, "attrs": {}}
    lines.append(json.dumps({k: v for k, v in line.items() if assumed.get(k) != v}, separators=(",", ":")))


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def i8(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def s(x):
    return np.array(x, np.float32)


def z(x, kind=np.uint8):
    return np.array(x, kind)


def weights():
    for bits, k, n, block in [(4, 40, 3, 16), (4, 32, 2, 32), (8, 24, 3, 16), (2, 48, 3, 16)]:
        blocks = -(-k // block)
        b = u8(n, blocks, block * bits // 8)
        scale = rng.uniform(-0.2, 0.2, (n, blocks)).astype(np.float32)
        zero = u8(n, -(-blocks * bits // 8))
        common = dict(K=k, N=n, bits=bits, block_size=block, rtol=1e-5, atol=1e-4)
        case(f"nbits{bits}_{k}", "MatMulNBits", [f32(2, k), b, scale], **common)
        case(f"nbits{bits}_{k}_zero_bias", "MatMulNBits", [f32(1, 2, k), b, scale, zero, None, f32(n)], **common)
        if bits < 8:
            floats = rng.uniform(0, 2**bits, (n, blocks)).astype(np.float32)
            case(f"nbits{bits}_{k}_float_zero", "MatMulNBits", [f32(2, k), b, scale, floats], **common)
    half = lambda a: a.astype(np.float16)
    case("nbits4_f16", "MatMulNBits", [half(f32(2, 32)), u8(3, 2, 8), half(f32(3, 2) / 8)], K=32, N=3, bits=4,
         block_size=16, rtol=2e-3, atol=1e-3)  # one rounding to f16
    groups = np.array([1, 0] * 16, np.int32)
    case("nbits4_groups", "MatMulNBits", [f32(2, 32), u8(3, 2, 8), f32(3, 2), None, groups], K=32, N=3, bits=4,
         block_size=16, atol=1e-4)
    for kind in (0, 1):
        case(f"bnb4_{kind}", "MatMulBnb4", [f32(2, 20), u8(30), rng.uniform(0.1, 1, 4).astype(np.float32)], K=20, N=3,
             block_size=16, quant_type=kind, atol=1e-5)
    ids = np.array([[3, 0], [2, -1]], np.int64)
    table = rng.integers(-8, 8, (4, 32))
    scale = f32(4, 2)
    case("gather_int4", "GatherBlockQuantized", [packed(table, T.INT4), ids, scale], block_size=16)
    unsigned = packed(table + 8, T.UINT4)
    case("gather_uint4_zero", "GatherBlockQuantized", [unsigned, ids, scale, packed(rng.integers(0, 16, (4, 2)), T.UINT4)],
         block_size=16)
    case("gather_int4_axis1", "GatherBlockQuantized", [packed(rng.integers(-8, 8, (16, 3)), T.INT4), ids[:, :1] % 3, f32(1, 3)],
         gather_axis=1, quantize_axis=0, block_size=16)
    for bits in (4, 8):
        data = u8(4, 32 * bits // 8)
        case(f"gather_uint8_{bits}", "GatherBlockQuantized", [data, ids, scale], block_size=16, bits=bits)
        case(f"gather_uint8_{bits}_zero", "GatherBlockQuantized", [data, ids, scale, u8(4, 2 * bits // 8)], block_size=16,
             bits=bits)


def quantized():
    for kind, make in ((np.uint8, u8), (np.int8, i8)):
        zero = lambda v: z(v if kind == np.uint8 else v - 128, kind)
        tag = kind.__name__
        a, b = make(2, 3, 5), make(3, 1)
        # The kernels may take the factors in another order: one step.
        grids = [s(0.1), zero(120), b, s(0.07), zero(130), s(0.2), zero(100)]
        case(f"qadd_{tag}", "QLinearAdd", [a, *grids], atol=1)
        case(f"qmul_{tag}", "QLinearMul", [a, *grids[:5], s(5.0), zero(110)], atol=1)
        case(f"qsigmoid_{tag}", "QLinearSigmoid", [a, s(0.05), zero(128), s(1 / 256), zero(0)])
        case(f"qleaky_{tag}", "QLinearLeakyRelu", [a, s(0.05), zero(128), s(0.04), zero(30)], alpha=0.1)
        # The kernel sums a table of exponentials in f32.
        case(f"qsoftmax_{tag}", "QLinearSoftmax", [a, s(0.03), zero(128), s(1 / 256), zero(0)], axis=1, opset=13, atol=1)
        x = make(1, 2, 5, 5)
        case(f"qavg_{tag}", "QLinearAveragePool", [x, s(0.05), zero(128), s(0.03), zero(120)], kernel_shape=[3, 2],
             strides=[2, 1], pads=[1, 1, 1, 0], atol=1)
        case(f"qavg_pad_{tag}", "QLinearAveragePool", [x, s(0.05), zero(128), s(0.03), zero(120)], kernel_shape=[3, 3],
             pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1, strides=[2, 2], atol=1)
        case(f"qgap_{tag}", "QLinearGlobalAveragePool", [x, s(0.05), zero(128), s(0.02), zero(120)], atol=1)
        case(f"qgap_last_{tag}", "QLinearGlobalAveragePool", [make(2, 3, 3, 4), s(0.05), zero(128), s(0.02), zero(120)],
             channels_last=1, atol=1)
        case(f"qwhere_{tag}", "QLinearWhere", [rng.integers(0, 2, (2, 3, 1)).astype(bool), a, s(0.1), zero(120), b, s(0.07),
             zero(130), s(0.11), zero(128)], atol=1)
        case(f"qconcat_{tag}", "QLinearConcat", [s(0.1), zero(128), make(2, 3), s(0.1), zero(128), make(2, 2), s(0.13),
             zero(120)], axis=1, atol=1)
        w = i8(3, 2, 3, 3)
        for bias in (None, rng.integers(-2000, 2000, 3).astype(np.int32)):
            case(f"qconv_{tag}_{bias is not None}", "QLinearConv", [x, s(0.05), zero(120), w, rng.uniform(0.01, 0.02, 3).astype(
                np.float32), np.zeros(3, np.int8), s(0.4), zero(100), bias], domain="", pads=[1, 0, 1, 1], strides=[2, 1])
        A, B = make(4, 6), i8(6, 5)
        case(f"qmatmul_{tag}", "QLinearMatMul", [make(2, 4, 6), s(0.05), zero(120), B, rng.uniform(0.01, 0.02, 5).astype(np.float32),
             np.zeros(5, np.int8), s(0.1), zero(128)], domain="")
        C = rng.integers(-3000, 3000, (1, 5)).astype(np.int32)
        case(f"qgemm_{tag}", "QGemm", [A, s(0.05), zero(120), B, s(0.02), z(0, np.int8), C, s(0.1), zero(128)], alpha=0.5,
             atol=1)
        case(f"qgemm_float_{tag}", "QGemm", [A, s(0.05), zero(120), B.T.copy(), s([.02, .01, .03, .02, .01]),
             np.zeros(5, np.int8), C], transB=1, atol=1e-4)
        case(f"mm_integer_{tag}", "MatMulInteger", [A, B, zero(120), np.array([1, 0, -3, 2, 5], np.int8)], domain="")
        case(f"mm_to_float_{tag}", "MatMulIntegerToFloat", [make(2, 4, 6), B, s(0.05), s([.02, .01, .03, .02, .01]), zero(120),
             np.zeros(5, np.int8), f32(5)], atol=1e-4)
        case(f"conv_integer_{tag}", "ConvInteger", [x, w if kind == np.uint8 else w, zero(120)], domain="", pads=[1, 1, 0, 0])
    case("dyn_matmul", "DynamicQuantizeMatMul", [f32(2, 4, 6), i8(6, 5), s([.02, .01, .03, .02, .01]), np.zeros(5, np.int8), f32(5)],
         atol=1e-5)
    case("dyn_matmul_plain", "DynamicQuantizeMatMul", [f32(4, 6), u8(6, 5), s(.02), z(100)], atol=1e-5)
    case("dyn_quantize_zeros", "DynamicQuantizeLinear", [np.zeros((2, 2), np.float32)], 3, domain="")
    case("dyn_quantize", "DynamicQuantizeLinear", [f32(3, 4) + 2], 3, domain="")
    for kind in (np.uint16, np.int16, np.uint8, np.int8):
        zero = np.array([3, 4, 5], kind)
        ms = [f32(2, 3) * 20, s([0.5, 0.25, 0.1]), zero]
        case(f"ms_quantize_{kind.__name__}", "QuantizeLinear", ms, axis=1)
        case(f"ms_dequantize_{kind.__name__}", "DequantizeLinear", [(f32(2, 3) * 50).astype(kind), ms[1], zero], axis=1)
    case("quantize_halves", "QuantizeLinear", [s([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e9, -1e9]), s(1.0), z(0, np.int8)], domain="")
    case("dequantize_blocked", "DequantizeLinear", [packed(rng.integers(-8, 8, (5, 3)), T.INT4), f32(3, 3),
         packed(rng.integers(-8, 8, (3, 3)), T.INT4)], domain="", axis=0, block_size=2)
    case("quantize_f16", "QuantizeLinear", [f32(3, 4).astype(np.float16), np.float16(0.02), z(128)], domain="")


def fused():
    case("fused_matmul", "FusedMatMul", [f32(2, 3, 4), f32(2, 5, 4)], alpha=0.5, transB=1)
    case("fused_matmul_ta", "FusedMatMul", [f32(2, 4, 3), f32(4, 5)], transA=1)
    case("fused_matmul_tba", "FusedMatMul", [f32(3, 2, 4), f32(2, 4, 5)], transBatchA=1)
    case("fused_matmul_tba_ta", "FusedMatMul", [f32(4, 2, 3), f32(2, 4, 5)], transBatchA=1, transA=1)
    case("fused_matmul_tbb_tb", "FusedMatMul", [f32(2, 3, 4), f32(5, 2, 4)], transBatchB=1, transB=1)
    x, w = f32(1, 2, 4, 4), f32(3, 2, 3, 3)
    case("fused_conv_relu", "FusedConv", [x, w, f32(3), f32(1, 3, 2, 2)], activation="Relu", kernel_shape=[3, 3])
    case("fused_conv_clip", "FusedConv", [x, w, f32(3)], activation="Clip", activation_params=[-0.5, 0.5], pads=[1, 1, 1, 1])
    case("fused_conv_leaky", "FusedConv", [x, w], activation="LeakyRelu", activation_params=[0.1])
    case("fused_conv_hard", "FusedConv", [x, w], activation="HardSigmoid", activation_params=[0.1, 0.4])
    case("fused_gemm", "FusedGemm", [f32(3, 4), f32(4, 5), f32(5)], activation="LeakyRelu", activation_alpha=0.2, alpha=0.5)
    for op in ("Gelu", "FastGelu", "QuickGelu"):
        case(op.lower(), op, [f32(3, 7) * 3], rtol=1e-4, atol=1e-6)
    case("bias_gelu", "BiasGelu", [f32(3, 7), f32(7)], rtol=1e-4, atol=1e-6)
    case("fast_gelu_bias", "FastGelu", [f32(3, 7), f32(7)], rtol=1e-4, atol=1e-6)
    x, g, b = f32(2, 3, 8), f32(8), f32(8)
    case("skip_layer", "SkipLayerNormalization", [x, f32(2, 3, 8), g, b, f32(8)], [True, False, False, True], epsilon=1e-5)
    case("skip_layer_broadcast", "SkipLayerNormalization", [x, f32(1, 3, 8), g], epsilon=1e-5)
    case("skip_layer_2d", "SkipLayerNormalization", [x, f32(3, 8), g], epsilon=1e-5)
    case("skip_simplified", "SkipSimplifiedLayerNormalization", [x, f32(2, 3, 8), g, b], [True, False, False, True], epsilon=1e-5)
    case("simplified", "SimplifiedLayerNormalization", [x, g], 2, domain="", axis=-1, epsilon=1e-5)
    ids = np.array([[1, 3, 2], [4, 0, 0]], np.int32)
    seg = np.array([[0, 0, 1], [1, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.int32)
    tables = [f32(5, 8), f32(4, 8), f32(2, 8), g, b]
    case("embed", "EmbedLayerNormalization", [ids, seg, *tables, mask], 3, epsilon=1e-5)
    case("embed_plain", "EmbedLayerNormalization", [ids, None, tables[0], tables[1], None, g, b], 2)
    case("embed_positions", "EmbedLayerNormalization", [ids, seg, *tables, None, np.array([[2, 1, 0]], np.int32)], 2)


def early():
    """What ONNX took over later, and small linear algebra."""
    case("early_trilu", "Trilu", [f32(2, 3, 4), np.int64(1)], upper=0)
    case("early_expand", "ExpandDims", [f32(3, 2), np.int32(-1)])
    case("early_expand_first", "ExpandDims", [f32(3, 2), np.array([0], np.int32)])
    case("early_pad", "Pad", [f32(2, 2), np.array([1, 0, 0, 1], np.int64)], mode="constant")
    case("early_pad_rows", "Pad", [f32(2, 3), np.array([[1, 2, 0, 1]], np.int64), s([2])], mode="reflect")
    case("early_range", "Range", [s(1), s(5.5), s(1.5)])
    case("early_gather_nd", "GatherND", [f32(2, 3), np.array([[1], [-1]], np.int32)])
    case("early_grid", "GridSample", [f32(1, 2, 3, 3), f32(1, 2, 4, 2)], mode="bilinear", atol=1e-5)
    case("early_grid_nearest", "GridSample", [f32(1, 1, 3, 3), f32(1, 2, 4, 2)], mode="nearest", padding_mode="border",
         align_corners=1)
    # The kernel inverts in f32, and takes distances by |a|^2 - 2ab + |b|^2.
    case("inverse", "Inverse", [f32(2, 3, 3) + 3 * np.eye(3, dtype=np.float32)], rtol=1e-4, atol=1e-5)
    for metric in ("euclidean", "sqeuclidean"):
        case(f"distance_{metric}", "CDist", [f32(3, 5), f32(4, 5)], metric=metric, rtol=1e-4, atol=1e-5)
    case("distance", "CDist", [f32(3, 5), f32(4, 5)], rtol=1e-4, atol=1e-5)


def recurrent():
    seq, batch, size, hidden = 3, 2, 2, 3
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        def args(dirs, bias=True, lens=None, init=True):
            ins = [f32(seq, batch, size), f32(dirs, gates * hidden, size), f32(dirs, gates * hidden, hidden),
                   f32(dirs, 2 * gates * hidden) if bias else None, lens, f32(dirs, batch, hidden) if init else None]
            return ins + ([f32(dirs, batch, hidden) if init else None] if op == "LSTM" else [])
        lens = np.array([2, 3], np.int32)
        outs = 3 if op == "LSTM" else 2
        for direction, dirs in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            case(f"{op}_{direction}", op, args(dirs), outs, domain="", hidden_size=hidden, direction=direction, atol=1e-5)
            if dirs == 2:
                case(f"{op}_{direction}_lens", op, args(dirs, lens=lens), outs, domain="", hidden_size=hidden,
                     direction=direction, atol=1e-5)
        names = {"RNN": ["Affine"], "GRU": ["HardSigmoid", "ScaledTanh"], "LSTM": ["HardSigmoid", "LeakyRelu", "Elu"]}[op]
        params = dict(activation_alpha=[0.3, 0.7, 1.2][:len(names)], activation_beta=[0.4, 0.9][:len(names)])
        case(f"{op}_activations", op, args(1), outs, domain="", hidden_size=hidden, activations=names, clip=0.8, atol=1e-5,
             **params)
    case("GRU_reset", "GRU", args_gru(seq, batch, size, hidden), 2, domain="", hidden_size=hidden, linear_before_reset=1, atol=1e-5)
    x, w, r, b = f32(seq, batch, size), f32(1, 4 * hidden, size), f32(1, 4 * hidden, hidden), f32(1, 8 * hidden)
    case("LSTM_peephole", "LSTM", [x, w, r, b, None, None, None, f32(1, 3 * hidden)], 3, domain="", hidden_size=hidden, atol=1e-5)
    case("LSTM_coupled", "LSTM", [x, w, r, b], 3, domain="", hidden_size=hidden, input_forget=1, atol=1e-5)
    case("LSTM_clip", "LSTM", [x * 3, w, r, b], 3, domain="", hidden_size=hidden, clip=0.3, atol=1e-5)


def attention():
    B, S, H, D, L = 2, 3, 2, 4, 5
    hidden = H * D
    common = dict(num_heads=H, atol=1e-5)
    q, k, v = f32(B, S, hidden), f32(B, L, hidden), f32(B, L, hidden)
    mha = "MultiHeadAttention"
    case("mha", mha, [q, k, v], **common)
    case("mha_scale", mha, [q, k, v], scale=0.3, **common)
    case("mha_bias", mha, [q, k, v, f32(3 * hidden)], **common)
    case("mha_lengths", mha, [q, k, v, None, np.array([3, 5], np.int32)], **common)
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    case("mha_mask", mha, [q, k, v, None, mask], **common)
    case("mha_mask_3d", mha, [q, k, v, None, rng.integers(0, 2, (B, S, L)).astype(np.int32)], mask_filter_value=-500.0, **common)
    case("mha_added", mha, [q, k, v, None, None, f32(1, H, S, L)], **common)
    case("mha_past", mha, [q, f32(B, S, hidden), f32(B, S, hidden), None, None, None, f32(B, H, 2, D), f32(B, H, 2, D)], 3,
         unidirectional=1, **common)
    case("mha_kv_heads", mha, [q, f32(B, H, L, D), f32(B, H, L, D)], **common)
    x, w, b = f32(B, S, 6), f32(6, 3 * hidden), f32(3 * hidden)
    case("attention", "Attention", [x, w, b], **common)
    case("attention_causal", "Attention", [x, w, b], unidirectional=1, **common)
    case("attention_ends", "Attention", [x, w, b, np.array([2, 3], np.int32)], **common)
    case("attention_ends_starts", "Attention", [x, w, b, np.array([3, 3, 1, 0], np.int32)], **common)
    case("attention_mask", "Attention", [x, w, b, mask[:, :S].copy()], **common)
    case("attention_past", "Attention", [x, w, b, mask, f32(2, B, H, 2, D)], 2, unidirectional=1, **common)
    case("attention_sizes", "Attention", [x, f32(6, 2 * hidden + 6), f32(2 * hidden + 6)], qkv_hidden_sizes=[hidden, hidden, 6],
         **common)
    case("qattention", "QAttention", [u8(B, S, 6), i8(6, 3 * hidden), f32(3 * hidden), s(0.01), s(0.02), None, z(120), z(3, np.int8)],
         **common)
    case("qattention_past", "QAttention", [u8(B, S, 6), u8(6, 3 * hidden), f32(3 * hidden), s(0.01), s(0.02), None, z(120), z(130),
         f32(2, B, H, 2, D)], 2, unidirectional=1, **common)
    ids = np.array([[3, 1, 0], [2, 4, 5]], np.int64)
    cos, sin = f32(8, D // 2), f32(8, D // 2)
    rotary = "RotaryEmbedding"
    case("rotary", rotary, [q, ids, cos, sin], num_heads=H)
    case("rotary_start", rotary, [q, np.array([2], np.int64), cos, sin], num_heads=H, interleaved=1)
    case("rotary_4d", rotary, [f32(B, H, S, D), ids, cos, sin])
    case("rotary_partial", rotary, [q, ids, f32(8, 1), f32(8, 1)], num_heads=H, rotary_embedding_dim=2)

    def gqa(name, past, new, total, lens=None, batch=1, heads=1, shared=1, packed=False, extra=(), **attrs):
        D = 16
        q = f32(batch, new, (heads + 2 * shared if packed else heads) * D)
        k, v = (None, None) if packed else (f32(batch, new, shared * D), f32(batch, new, shared * D))
        cache = [f32(batch, shared, past, D), f32(batch, shared, past, D)] if past else [None, None]
        ends = np.array(lens or [total - 1] * batch, np.int32)
        # A cache longer than the sequence has no defined end: only what is written everywhere is compared.
        compared = 3 if past < total and not lens else 1
        case("gqa_" + name, "GroupQueryAttention", [q, k, v, *cache, ends, np.array(total, np.int32), *extra], 3,
             compared=compared, num_heads=heads, kv_num_heads=shared, atol=1e-5, **attrs)

    tables = (f32(9, 8), f32(9, 8))
    gqa("prompt", 0, 2, 2, heads=4, shared=2)
    gqa("prompt_rotary", 0, 2, 2, extra=tables, do_rotary=1)
    gqa("prompt_window", 0, 4, 4, local_window_size=2)
    gqa("prompt_softcap", 0, 2, 2, softcap=2.0, scale=0.7)
    gqa("prompt_smooth", 0, 2, 2, smooth_softmax=1)
    gqa("prompt_sink", 0, 2, 2, extra=(None, None, None, None, f32(2)), heads=2)
    gqa("prompt_bias", 0, 2, 2, extra=(None, None, None, f32(1, 2, 2, 2)), heads=2)
    gqa("prompt_packed", 0, 2, 2, packed=True, heads=2, extra=tables, do_rotary=1, rotary_interleaved=1)
    gqa("token", 5, 1, 6, extra=tables, do_rotary=1)
    gqa("token_window", 5, 1, 6, local_window_size=3)
    gqa("token_ragged", 6, 1, 7, lens=[6, 3], batch=2, extra=tables, do_rotary=1)
    gqa("token_shared", 8, 1, 6)
    gqa("later_prompt", 5, 2, 7, extra=tables, do_rotary=1)


def dynamic_lstm():
    seq, batch, size, hidden = 3, 1, 4, 3
    for dirs, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional")):
        w, r = i8(dirs, size, 4 * hidden), i8(dirs, hidden, 4 * hidden)
        ins = [f32(seq, batch, size), w, r, f32(dirs, 8 * hidden), None, f32(dirs, batch, hidden), f32(dirs, batch, hidden), None,
               np.full(dirs, 0.01, np.float32), np.zeros(dirs, np.int8), np.full(dirs, 0.02, np.float32), np.zeros(dirs, np.int8)]
        case(f"dynamic_lstm_{direction}", "DynamicQuantizeLSTM", ins, 3, hidden_size=hidden, direction=direction, atol=1e-4)
    w, r = u8(1, size, 4 * hidden), u8(1, hidden, 4 * hidden)
    per = rng.uniform(0.01, 0.02, (2, 1, 4 * hidden)).astype(np.float32)
    zeros = np.full((1, 4 * hidden), 128, np.uint8)
    case("dynamic_lstm_columns", "DynamicQuantizeLSTM", [f32(seq, 1, size), w, r, None, None, None, None, None, per[0], zeros, per[1],
         zeros], 3, hidden_size=hidden, atol=1e-4)


def images():
    def onnx(name, op, inputs, outputs=1, **attrs):
        case(name, op, inputs, outputs, domain="", **{"atol": 1e-5, **attrs})

    x = f32(1, 4, 5, 6)
    onnx("conv_grouped", "Conv", [x, f32(4, 2, 3, 2), f32(4)], group=2, strides=[2, 1], pads=[1, 0, 2, 1])
    onnx("conv_dilated", "Conv", [x, f32(2, 4, 2, 2)], dilations=[2, 3])
    onnx("conv_depthwise", "Conv", [x, f32(8, 1, 3, 3), f32(8)], group=4, strides=[2, 2], auto_pad="SAME_UPPER")
    onnx("conv_lower", "Conv", [x, f32(2, 4, 2, 2)], auto_pad="SAME_LOWER")
    onnx("conv_pointwise", "Conv", [x, f32(3, 4, 1, 1), f32(3)])
    onnx("conv_1d", "Conv", [f32(2, 3, 9), f32(2, 3, 4)], strides=[2], pads=[3, 0])
    onnx("conv_3d", "Conv", [f32(1, 2, 3, 4, 3), f32(2, 2, 2, 3, 2)], pads=[1, 0, 0, 0, 1, 1])
    small = f32(1, 4, 3, 3)
    up = "ConvTranspose"
    onnx("up_grouped", up, [small, f32(4, 1, 3, 2), f32(2)], group=2, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 1])
    onnx("up_same", up, [small, f32(4, 2, 3, 3)], auto_pad="SAME_LOWER", strides=[2, 2])
    onnx("up_shape", up, [small, f32(4, 2, 3, 3)], output_shape=[8, 7], strides=[2, 2])
    onnx("up_dilated_1d", up, [f32(1, 2, 4), f32(2, 3, 3)], dilations=[2], strides=[2])
    onnx("max_ceil", "MaxPool", [x], 2, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, dilations=[2, 1], pads=[1, 1, 0, 0])
    onnx("max_column_major", "MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2], storage_order=1)
    onnx("max_u8", "MaxPool", [u8(1, 1, 4, 4)], kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    onnx("average_pad", "AveragePool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, strides=[2, 2])
    onnx("average_inside", "AveragePool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1, strides=[2, 2])
    onnx("lp_pool", "LpPool", [x], kernel_shape=[2, 3], p=3, strides=[2, 1], atol=1e-4)
    pixels = f32(1, 1, 3, 4)
    for mode in ("linear", "nearest", "cubic"):
        for scale in (1.5, 0.6):
            onnx(f"resize_{mode}_{scale}", "Resize", [pixels, None, s([1, 1, scale, scale])], mode=mode)
    onnx("resize_sizes", "Resize", [pixels, None, None, np.array([1, 1, 7, 5])], mode="linear",
         coordinate_transformation_mode="align_corners")
    onnx("resize_floor", "Resize", [pixels, None, s([1, 1, 2, 2.3])], coordinate_transformation_mode="asymmetric",
         nearest_mode="floor")
    onnx("resize_outside", "Resize", [pixels, None, s([1, 1, 1.7, 1.7])], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
    onnx("resize_crop", "Resize", [pixels, s([0, 0, -0.1, 0.2, 1, 1, 0.8, 1.2]), None, np.array([1, 1, 4, 6])], mode="linear",
         coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0)
    onnx("resize_10", "Resize", [pixels, s([1, 1, 2, 0.5])], version=10)
    grid = rng.uniform(-1.3, 1.3, (1, 3, 2, 2)).astype(np.float32)
    for mode in ("linear", "nearest", "cubic"):
        for pad in ("zeros", "border", "reflection"):
            # Beyond the border cubic differs from the specification, and the rule refuses it.
            points = grid.clip(-1, 1) if (mode, pad) == ("cubic", "border") else grid
            onnx(f"grid_{mode}_{pad}", "GridSample", [pixels, points], mode=mode, padding_mode=pad)
    rois, batch = s([[0.2, 0.3, 3.1, 2.2], [-1, 0, 2, 5]]), np.array([0, 0])
    for mode in ("avg", "max"):
        onnx(f"align_{mode}", "RoiAlign", [pixels, rois, batch], mode=mode, output_height=2, output_width=2, sampling_ratio=2)
    onnx("align_adaptive", "RoiAlign", [pixels, rois, batch], output_height=2, output_width=2, spatial_scale=0.9,
         coordinate_transformation_mode="output_half_pixel")
    onnx("max_roi", "MaxRoiPool", [pixels, s([[0, 0, 0, 2, 2], [0, 1, 1, 3, 2]])], pooled_shape=[2, 2])
    boxes = rng.uniform(0, 1, (2, 8, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 2, 8)).astype(np.float32)
    onnx("boxes", "NonMaxSuppression", [boxes, scores, np.array([3]), s([0.3]), s([0.2])])
    onnx("boxes_centred", "NonMaxSuppression", [boxes, scores, np.array([4]), s([0.2])], center_point_box=1)
    onnx("instance", "InstanceNormalization", [x, f32(4), f32(4)])
    onnx("group_18", "GroupNormalization", [x, f32(2), f32(2)], num_groups=2, version=18)
    onnx("group_21", "GroupNormalization", [x, f32(4), f32(4)], num_groups=2)
    onnx("lrn", "LRN", [x], size=3, alpha=0.1)
    onnx("layer", "LayerNormalization", [x, f32(5, 6), f32(5, 6)], 3, axis=2)
    onnx("batch_train", "BatchNormalization", [x, f32(4), f32(4), f32(4), np.abs(f32(4))], 3, training_mode=1)
    onnx("dft", "DFT", [f32(1, 6, 2), np.array(8), np.array(1)])
    onnx("dft_onesided", "DFT", [f32(1, 7, 1)], onesided=1)
    onnx("stft", "STFT", [f32(1, 16, 1), np.array(4), f32(8)], version=17)


def args_gru(seq, batch, size, hidden):
    return [f32(seq, batch, size), f32(1, 3 * hidden, size), f32(1, 3 * hidden, hidden), f32(1, 6 * hidden)]


def main():
    weights()
    quantized()
    fused()
    recurrent()
    attention()
    dynamic_lstm()
    images()
    early()
    path = pathlib.Path(__file__).with_name("contrib.jsonl")
    path.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
