#!/usr/bin/env python3
"""Writes tests/ort_cases.jsonl: forms of operators that neither the ONNX node cases nor the reference evaluator have, with
onnxruntime's answers. Same form as ops/tests/data/contrib.jsonl. Needs onnx, onnxruntime, numpy."""

import base64
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import helper
from onnx.helper import np_dtype_to_tensor_dtype as code

RNG = np.random.default_rng(7)
CASES = []


def tensor(array):
    if array is None:
        return None
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"t": code(array.dtype), "d": list(array.shape), "x": data}


def attr(value):
    if isinstance(value, list):
        return {{str: "ss", float: "fs", int: "is"}[type(value[0])]: value}
    return {"i": value} if isinstance(value, int) else {"s": value} if isinstance(value, str) else {"f": value}


def case(name, op, inputs, opset=18, kind=None, **attrs):
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(inputs)]
    given = [(n, x) for n, x in zip(names, inputs) if n]
    kinds = [helper.make_tensor_value_info(n, code(x.dtype), x.shape) for n, x in given]
    # The sizes of the output follow; its type is the input's, unless said.
    out = helper.make_tensor_value_info("o0", code(np.dtype(kind or inputs[0].dtype)), None)
    graph = helper.make_graph([helper.make_node(op, names, ["o0"], **attrs)], name, kinds, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(given))
    line = {"name": name, "domain": "", "op": op, "opset": opset, "attrs": {k: attr(v) for k, v in attrs.items()}}
    CASES.append(line | {"inputs": [tensor(x) for x in inputs], "outputs": [tensor(result)]})


def resize():
    pictures = {
        "nhwc": RNG.integers(0, 256, (1, 12, 10, 3), dtype=np.uint8),
        "nchw": RNG.integers(0, 256, (1, 1, 12, 10), dtype=np.uint8),
    }
    for layout, picture in pictures.items():
        for way, (h, w) in {"down": (0.5, 0.6), "up": (2.0, 1.5), "same": (1.0, 1.0)}.items():
            scales = np.array([1, h, w, 1] if layout == "nhwc" else [1, 1, h, w], np.float32)
            for mode in ("linear", "nearest"):
                for smooth in (0, 1) if mode == "linear" else (0,):
                    name = f"resize_{layout}_{way}_{mode}_{smooth}"
                    extra = {"antialias": 1} if smooth else {}
                    case(name, "Resize", [picture, None, scales], mode=mode, nearest_mode="floor", **extra)


def recurrent():
    """Activations that are spelled out, as exporters of Keras do, other ones, and clipping."""
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
    other = {"LSTM": ["HardSigmoid", "Tanh", "Relu"], "GRU": ["HardSigmoid", "Relu"], "RNN": ["Relu"]}
    for op, gates in {"LSTM": 4, "GRU": 3, "RNN": 1}.items():
        for direction, count in {"forward": 1, "reverse": 1, "bidirectional": 2}.items():
            def draw(*dims):
                return RNG.normal(size=dims).astype(np.float32)

            fed = [draw(3, 1, 2), draw(count, gates * 4, 2), draw(count, gates * 4, 4), draw(count, 2 * gates * 4), None]
            fed += [draw(count, 1, 4)] * (2 if op == "LSTM" else 1)
            for name, extra in {
                "usual": {"activations": usual[op] * count},
                "other": {"activations": other[op] * count},
                "clipped": {"clip": 0.5},
            }.items():
                case(f"{op.lower()}_{direction}_{name}", op, fed, opset=14, hidden_size=4, direction=direction, **extra)


def spelled_out():
    """Attributes as exporters write them, defaults among them, and where they stood in older operator sets."""

    def draw(*dims):
        return RNG.normal(size=dims).astype(np.float32)

    x, channels = draw(1, 4, 6, 5), [draw(4), draw(4), draw(4), np.abs(draw(4))]
    case("bn_momentum", "BatchNormalization", [x, *channels], opset=15, epsilon=1e-5, momentum=0.9, training_mode=0)
    case("bn_spatial", "BatchNormalization", [x, *channels], opset=8, epsilon=1e-5, momentum=0.9, spatial=1)
    case("ln_stash", "LayerNormalization", [draw(2, 3, 4), draw(4), draw(4)], axis=-1, epsilon=1e-5, stash_type=1)
    case("gn_stash", "GroupNormalization", [x, draw(4), draw(4)], opset=21, epsilon=1e-5, num_groups=2, stash_type=1)
    case("dropout_ratio", "Dropout", [x], opset=10, ratio=0.5)
    for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
        numbers, axes = np.abs(draw(2, 3, 4)) + np.float32(0.1), np.array([1, -1])
        case(f"reduce_{kind}_axes", f"Reduce{kind}", [numbers], opset=11, axes=[1, -1], keepdims=0)
        case(f"reduce_{kind}_noop", f"Reduce{kind}", [numbers, axes], keepdims=1, noop_with_empty_axes=0)
    case("squeeze_axes", "Squeeze", [draw(1, 3, 1)], opset=11, axes=[0])
    case("unsqueeze_axes", "Unsqueeze", [draw(3)], opset=11, axes=[0, 2])
    case("clip_bounds", "Clip", [x], opset=7, min=-0.5, max=0.5)
    case("slice_axes", "Slice", [x], opset=9, starts=[1, -3], ends=[4, 100], axes=[1, 2])
    case("split_sizes", "Split", [draw(6, 1)], opset=11, axis=0, split=[6])
    case("pad_pads", "Pad", [x], opset=10, mode="constant", pads=[0, 0, 1, 2, 0, 0, 2, 1], value=1.5)
    case("upsample_scales", "Upsample", [x], opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    case("upsample_mode", "Upsample", [x, np.array([1, 1, 2, 2], np.float32)], opset=9, mode="nearest")
    rois = [np.array([[0, 0, 3, 4], [1, 0.5, 4, 4.5]], np.float32), np.array([0, 0])]
    size = {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 1.0}
    case("roi_align", "RoiAlign", [x, *rois], opset=16, mode="avg", coordinate_transformation_mode="half_pixel", **size)
    codes, kernel = RNG.integers(0, 256, (1, 2, 5, 5), dtype=np.uint8), RNG.integers(-9, 9, (4, 1, 3, 3)).astype(np.int8)
    shape = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 2}
    case("conv_integer", "ConvInteger", [codes, kernel, np.array(7, np.uint8), np.array(0, np.int8)], kind=np.int32, **shape)


resize()
recurrent()
spelled_out()
Path(__file__).with_name("ort_cases.jsonl").write_text("".join(json.dumps(c, separators=(",", ":")) + "\n" for c in CASES))

print(len(CASES), "cases")
