"""Writes grids.json: values of all small-float codes (ml_dtypes), rounding of chosen numbers to them, and scales and
zero points as onnxruntime.quantization computes them.

Run with numpy, ml_dtypes and onnxruntime 1.31 installed:  python make_grids.py
Floats are written as the 8 hex digits of their bits.
"""

import json
import pathlib

import ml_dtypes
import numpy as np
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType
from onnx import TensorProto as T

bits32 = lambda x: f"{np.asarray(x, np.float32).view(np.uint32):08x}"

FLOATS = {
    "float8e4m3fn": (ml_dtypes.float8_e4m3fn, 256),
    "float8e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, 256),
    "float8e5m2": (ml_dtypes.float8_e5m2, 256),
    "float8e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, 256),
    "float6e2m3": (ml_dtypes.float6_e2m3fn, 64),
    "float6e3m2": (ml_dtypes.float6_e3m2fn, 64),
    "float4e2m1": (ml_dtypes.float4_e2m1fn, 16),
}

rng = np.random.default_rng(1)
decode, encode = {}, {}
for name, (dt, n) in FLOATS.items():
    values = np.arange(n, dtype=np.uint8).view(dt).astype(np.float32)
    decode[name] = [bits32(v) for v in values]
    finite = np.unique(np.abs(values[np.isfinite(values)]))
    mids = (finite[1:] + finite[:-1]) / 2  # ties
    x = np.concatenate([
        rng.choice(mids, 24), -rng.choice(mids, 12), np.nextafter(rng.choice(mids, 12), np.float32(0)),
        rng.standard_normal(16) * finite[-1] / 3, [0.0, -0.0, finite[-1], -finite[-1], 1e-30, -1e-45],
        finite[-1] * np.array([1.02, 1.04, 1.2, 100]),
    ]).astype(np.float32)
    q = x.astype(dt).view(np.uint8)
    encode[name] = [[bits32(v), int(c)] for v, c in zip(x, q)]

TYPES = {
    "int8": T.INT8, "uint8": T.UINT8, "int16": T.INT16, "uint16": T.UINT16, "int4": T.INT4, "uint4": T.UINT4,
}
ranges = [
    (0, 0), (-1, 1), (0, 6), (-3, 0), (0.5, 1), (-1, -0.5), (-0.1, 12.7), (-12.7, 0.1), (1e-40, 2e-40), (-1e-37, 1e-37),
    (0, 1e-36), (-3e38, 3e37), (0, 255), (-128, 127), (0, 3e38), (-0.5, 254.5), (-1.5, 253.5),
]
ranges += [tuple(sorted(r)) for r in (rng.standard_normal((10, 2)) * 10.0 ** rng.integers(-4, 5, (10, 1))).tolist()]
scales = []
for name, t in TYPES.items():
    for symmetric in (False, True):
        for reduced in (False, True):
            qmin, qmax = get_qmin_qmax_for_qType(t, reduce_range=reduced, symmetric=symmetric)
            for i, (lo, hi) in enumerate(ranges):
                for dt, label in ((np.float32, "f32"), (np.float16, "f16")):
                    if label == "f16" and (abs(lo) > 6e4 or abs(hi) > 6e4):
                        continue
                    if i % 3 and label == "f16":
                        continue
                    least = 0.01 if i % 4 == 3 else None
                    a, b = np.array(lo, dt), np.array(hi, dt)
                    if not np.isfinite(np.asarray(max(b, 0) - min(a, 0))):
                        continue
                    zp, s = compute_scale_zp(a, b, qmin, qmax, symmetric=symmetric, min_real_range=least)
                    scales.append([name, symmetric, reduced, label, least is not None, bits32(a), bits32(b), bits32(s), int(zp)])

path = pathlib.Path(__file__).with_name("grids.json")
with path.open("w") as f:
    f.write('{"decode": ' + json.dumps(decode) + ',\n"encode": ' + json.dumps(encode) + ',\n"scales": [\n')
    f.write(",\n".join(json.dumps(s) for s in scales) + "\n]}\n")
print(path, path.stat().st_size, len(scales))
