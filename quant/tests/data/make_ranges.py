"""Writes ranges.json: what the range methods must give on known distributions, computed with NumPy straight from the
numbers (percentiles, means, brute-force mean squared error) or from its own histogram (entropy, written as plainly as
its definition at the head of src/range/entropy.rs).

Run with numpy installed:  python make_ranges.py [FILE]      (compare/ci.py checks that the file here is what it writes)
The numbers themselves come from SplitMix64 and are generated again by tests/ranges.rs.
"""

import json
import pathlib
import sys

import numpy as np

N, SAMPLES = 20000, 50
HALF = 2048  # bins on a side


def uniform(stream, n=N):
    i = np.arange(n, dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))
    with np.errstate(over="ignore"):
        z = i + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2.0**24


def gaussian(stream):  # twelve uniform numbers less six: variance 1, exact in float64
    return sum(uniform(12 * stream + k) for k in range(12)) - 6.0


def distributions():
    g = gaussian(0)
    u, v = uniform(500), uniform(501)
    outlier = g.copy()
    outlier[N // 2] = 40.0
    return {
        "gaussian": g,
        "laplace": np.where(v < 0.5, np.log(1 - u), -np.log(1 - u)),
        "outlier": outlier,
        "relu": np.maximum(g, 0.0),
        "negative": -np.maximum(outlier, 0.0),
        "bimodal": gaussian(1) * 0.5 + np.where(v < 0.5, -4.0, 4.0),
        "skewed": u**3 * 10.0 - 0.5,
        "constant": np.full(N, 0.7),
        "zero": np.zeros(N),
    }


GRIDS = {  # name: least code, greatest code, symmetric
    "int8 symmetric": (-128, 127, True),
    "uint8": (0, 255, False),
    "int4 symmetric": (-8, 7, True),
    "uint4": (0, 15, False),
}


def params(lo, hi, grid):
    qlo, qhi, symmetric = GRIDS[grid]
    lo, hi = min(float(np.float32(lo)), 0.0), max(float(np.float32(hi)), 0.0)
    if lo == hi:
        return 1.0, 0
    if symmetric:
        return float(np.float32(max(hi / qhi, lo / qlo))), 0
    scale = float(np.float32((hi - lo) / (qhi - qlo)))
    return scale, int(np.clip(np.rint(qlo - lo / scale), qlo, qhi))


def noise(x, lo, hi, grid):
    scale, zp = params(lo, hi, grid)
    qlo, qhi, _ = GRIDS[grid]
    x = x.astype(np.float64)
    back = (np.clip(np.rint(x / scale) + zp, qlo, qhi) - zp) * scale
    return float(np.sum((back - x) ** 2))


def entropy(x, grid):
    lo, hi = float(x.min()), float(x.max())
    x = x[x != 0].astype(np.float64)
    if not len(x):
        return lo, hi
    width = 2.0 ** np.ceil(np.log2(np.nextafter(np.abs(x).max(), np.inf))) / HALF
    # bins by sign and magnitude: -1 - i and i
    key = np.trunc(x / width).astype(int) - (x < 0)
    first, last = key.min(), key.max()
    first, last = min(first, 0), max(last, -1)
    count = np.bincount(key - first, minlength=last - first + 1).astype(np.float64)
    keys = np.arange(first, last + 1)
    centre = (keys + 0.5) * width
    reach = max(-first, last + 1)
    qlo, qhi, _ = GRIDS[grid]
    best, result = np.inf, (lo, hi)
    for t in range(reach, 0, -1):
        edge = t * width
        a, b = max(lo, -edge), min(hi, edge)
        scale, zp = params(a, b, grid)
        inside = (keys >= -t) & (keys < t)
        q, c = count[inside], centre[inside]
        if q.sum() == 0:
            continue
        p = q.copy()
        p[0] += count[keys < -t].sum()
        p[-1] += count[keys >= t].sum()
        code = np.clip(np.floor(c / scale + 0.5), qlo - zp, qhi - zp).astype(int) - (qlo - zp)
        n = qhi - qlo + 1
        filled = np.bincount(code, p > 0, n)
        held = np.maximum(np.bincount(code, q, n), 0.5)
        spread = held[code] / np.maximum(filled[code], 1)
        m = p > 0
        kl = np.sum(p[m] / p.sum() * np.log(p[m] / spread[m]))
        if kl < best - 1e-12:
            best, result = kl, (a, b)
    return float(result[0]), float(result[1])


def mse(x, grid):
    """Brute force over a fine lattice of ranges: the least noise to be had."""
    lo, hi = float(x.min()), float(x.max())
    symmetric = GRIDS[grid][2]
    ratios = 2.0 ** (-np.arange(0, 200) / 40.0)
    if lo == hi:
        return noise(x, lo, hi, grid)
    if symmetric or lo >= 0 or hi <= 0:
        top = max(-lo, hi)
        ratios = 2.0 ** (-np.arange(0, 480) / 40.0)
        return min(noise(x, max(lo, -r * top), min(hi, r * top), grid) for r in ratios)
    y = x[::10]  # a coarse lattice on a tenth of the numbers, then a fine one on all
    _, a, b = min((noise(y, lo * r, hi * s, grid), r, s) for r in ratios[::8] for s in ratios[::8])
    near = 2.0 ** (np.arange(-8, 9) / 40.0)
    return min(noise(x, lo * min(a * r, 1), hi * min(b * s, 1), grid) for r in near for s in near)


def num(v):
    return float(np.float32(v))


out = {}
for name, x in distributions().items():
    x = x.astype(np.float32)
    per = x.reshape(SAMPLES, -1)
    los, his = per.min(1).astype(np.float64), per.max(1).astype(np.float64)
    ma = [los[0], his[0]]
    for a, b in zip(los[1:], his[1:]):
        ma = [ma[0] + 0.05 * (a - ma[0]), ma[1] + 0.05 * (b - ma[1])]
    lo, hi = float(x.min()), float(x.max())

    def percentile(v, p):  # the order statistic at rank floor(p/100·(n-1))
        return np.percentile(v, p, method="lower")

    def asym(p):
        rest = 100.0 - p
        if lo >= 0:
            return lo, num(percentile(x, p))
        if hi <= 0:
            return num(percentile(x, rest)), hi
        return num(percentile(x, rest / 2)), num(percentile(x, 100 - rest / 2))

    def sym(p):
        t = percentile(np.abs(x), p)
        return max(lo, -num(t)), min(hi, num(t))

    out[name] = {
        "minmax": [f"{v.view(np.uint32):08x}" for v in (x.min() + np.float32(0), x.max() + np.float32(0))],
        "mean": float(x.astype(np.float64).mean()),
        "mean_square": float((x.astype(np.float64) ** 2).mean()),
        "moving-average:0.05": [num(v) for v in ma],
        "mean-extrema": [num(los.mean()), num(his.mean())],
        "median-extrema": [num(np.median(los)), num(np.median(his))],
        "percentile:99.9": sym(99.9),
        "percentile:99": sym(99),
        "percentile-asymmetric:99.9": asym(99.9),
        "percentile-asymmetric:98": asym(98),
        "grids": {
            g: {"entropy": entropy(x, g), "minmax_noise": noise(x, lo, hi, g), "least_noise": mse(x, g)} for g in GRIDS
        },
    }
    print(name, out[name])

path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("ranges.json")
path.write_text(json.dumps(out, indent=1).replace("-0.0,", "0.0,").replace("-0.0\n", "0.0\n") + "\n")
print(path, path.stat().st_size)
