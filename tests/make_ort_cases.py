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
    return {"i": value} if isinstance(value, int) else {"s": value} if isinstance(value, str) else {"f": value}


def case(name, op, inputs, opset=18, **attrs):
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(inputs)]
    given = [(n, x) for n, x in zip(names, inputs) if n]
    kinds = [helper.make_tensor_value_info(n, code(x.dtype), x.shape) for n, x in given]
    # The sizes of the output follow; only its type is the input's.
    out = helper.make_tensor_value_info("o0", code(inputs[0].dtype), None)
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


resize()
Path(__file__).with_name("ort_cases.jsonl").write_text("".join(json.dumps(c, separators=(",", ":")) + "\n" for c in CASES))

print(len(CASES), "cases")
