"""Writes encodings.onnx: every element type twice, as `NAME.raw` and as `NAME.typed`, made by the onnx package.

The values are awkward on purpose: odd element counts for packed types, negative numbers, NaN payloads, both zeros.
Before writing, both forms are decoded by onnx and compared bit by bit. Needs onnx >= 1.23. Run: python make_encodings.py
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto as T, helper, numpy_helper

rng = np.random.default_rng(7)
TYPED = {
    T.FLOAT: "float_data", T.COMPLEX64: "float_data", T.DOUBLE: "double_data", T.COMPLEX128: "double_data",
    T.INT64: "int64_data", T.UINT64: "uint64_data", T.UINT32: "uint64_data",
}
initializers = []
for name, code in T.DataType.items():
    if name in ("UNDEFINED", "STRING"):
        continue
    count, dims = 15, [5, 3]
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}.get(name)
    if bits is None:
        dtype = helper.tensor_dtype_to_np_dtype(code)
        data = rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
        if name == "BOOL":
            data &= 1
        raw = data.tobytes()
    else:
        codes = rng.integers(0, 1 << bits, count)
        stream = sum(int(c) << (bits * i) for i, c in enumerate(codes))
        raw = stream.to_bytes((bits * count + 7) // 8, "little")
    first = T(name=f"{name}.raw", data_type=code, dims=dims, raw_data=raw)
    second = T(name=f"{name}.typed", data_type=code, dims=dims)
    field = TYPED.get(code, "int32_data")
    width = {"float_data": "<f4", "double_data": "<f8", "int64_data": "<i8"}.get(field)
    if bits == 6:
        entries = [int(c) for c in codes]
    elif bits is not None:
        entries = list(raw)
    elif width:
        entries = np.frombuffer(raw, width)
    else:
        kind = "i" if name in ("INT8", "INT16", "INT32") else "u"
        entries = [int(v) for v in np.frombuffer(raw, f"<{kind}{dtype.itemsize}")]
    getattr(second, field).extend(entries)
    a, b = numpy_helper.to_array(first), numpy_helper.to_array(second)
    assert a.dtype == b.dtype and a.shape == b.shape == (5, 3) and a.tobytes() == b.tobytes(), name
    initializers += [first, second]
for code in (T.FLOAT, T.INT4):
    initializers.append(T(name=f"empty.{code}", data_type=code, dims=[0, 3]))
    initializers.append(T(name=f"empty_raw.{code}", data_type=code, dims=[0, 3], raw_data=b""))
initializers.append(T(name="strings", data_type=T.STRING, dims=[2], string_data=["é".encode(), b""]))
graph = helper.make_graph([], "encodings", [], [], initializers)
out = pathlib.Path(__file__).with_name("encodings.onnx")
onnx.save(helper.make_model(graph, ir_version=14), out)
print(out.stat().st_size, "bytes,", len(initializers), "tensors")
