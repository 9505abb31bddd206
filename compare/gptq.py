#!/usr/bin/env python3
"""GPTQ of one layer: ours against a straightforward NumPy implementation, Gram matrix included, same threads; and against
the matrix products that it needs, where `cargo bench -p onnxq-quant --bench gptq` was run before.

The NumPy form is the usual one (Frantar et al.): H = X'X, Cholesky of its inverse, lazy blocks of 128 columns, one column at
a time, groups of 32 with min/max grids. Ours runs like that, with its own grids, as it comes, and with two improvement sweeps.
Both errors are printed: speed is only worth something at equal quality.
"""

import os

#: BLAS reads these when NumPy is loaded.
THREADS = int(os.environ.get("ONNXQ_THREADS", "1"))
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)

import json  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402

import common  # noqa: E402
from weights import Quantizers  # noqa: E402

GROUP, BITS, DAMPING, LAZY = 32, 4, 0.01, 128


def numpy_gptq(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    work = weight.copy()
    rows, cols = work.shape
    h = inputs.T @ inputs
    h[np.diag_indices(cols)] += DAMPING * np.diag(h).mean()
    lower = np.linalg.cholesky(h)
    inverse = np.linalg.inv(lower)
    upper = np.linalg.cholesky(inverse.T @ inverse).T
    top = 2**BITS - 1
    out = np.empty_like(work)
    for begin in range(0, cols, LAZY):
        end = min(begin + LAZY, cols)
        block = work[:, begin:end].copy()
        errors = np.zeros_like(block)
        for k in range(end - begin):
            if (begin + k) % GROUP == 0:
                group = block[:, k : k + GROUP]
                low, high = np.minimum(group.min(1), 0), np.maximum(group.max(1), 0)
                scale = np.maximum((high - low) / top, 1e-12)
                zero = np.clip(np.rint(-low / scale), 0, top)
            column = block[:, k]
            value = (np.clip(np.rint(column / scale) + zero, 0, top) - zero) * scale
            out[:, begin + k] = value
            error = (column - value) / upper[begin + k, begin + k]
            block[:, k:] -= np.outer(error, upper[begin + k, begin + k : end])
            errors[:, k] = error
        work[:, end:] -= errors @ upper[begin:end, end:]
    return out


def quotients() -> str:
    """What `cargo bench` measured: (gram + gptq) / raw products, the bar is 1.5 for 4096 x 4096."""
    found = []
    for folder in sorted((common.ROOT / "target/criterion").glob("* tokens")):
        figures = {
            path.parts[-3]: json.loads(path.read_text())["median"]["point_estimate"] / 1e9
            for path in folder.glob("*/new/estimates.json")
        }
        if {"raw products", "gram", "gptq"} <= set(figures):
            raw = figures["raw products"]
            for name in sorted(set(figures) - {"raw products", "gram"}):
                quotient = (figures["gram"] + figures[name]) / raw
                row = [folder.name, name, *(f"{s:.2f}" for s in (raw, figures["gram"], figures[name]))]
                found.append([*row, f"{quotient:.2f}"])
    if not found:
        return ""
    header = ["layer", "variant", "raw products, s", "Gram matrix, s", "GPTQ, s", "(Gram + GPTQ) / raw"]
    return f"\n\n{common.table(header, found)}\n\nOne thread; medians of `cargo bench --bench gptq`."


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[1024, 2048], metavar="K", help="layers of K x K")
    parser.add_argument("--tokens", type=int, default=16384)
    args = parser.parse_args()
    quantizers = Quantizers(threads=THREADS)
    rng = np.random.default_rng(0)
    rows = []
    for size in args.size:
        mix = rng.standard_normal((size, size), np.float32) / np.sqrt(size) + 0.3 * np.eye(size, dtype=np.float32)
        inputs = rng.standard_normal((args.tokens, size), np.float32) @ mix
        weight = rng.standard_normal((size, size), np.float32)

        def error(quantized, inputs=inputs, weight=weight):
            sample = inputs[:2048]
            return float(np.linalg.norm(sample @ (weight - quantized).T) / np.linalg.norm(sample @ weight.T))

        start = time.perf_counter()
        theirs = numpy_gptq(weight, inputs)
        seconds = time.perf_counter() - start
        rows.append([size, "NumPy", f"{seconds:.2f}", "1.0", f"{error(theirs):.4f}"])
        for label, options in [
            ("ours, min/max grids, no sweeps", {"range": "min_max", "order": "natural", "sweeps": 0}),
            ("ours", {}),
            ("ours, two sweeps", {"sweeps": 2}),
        ]:
            answer = quantizers(weight, "gptq", BITS, GROUP, inputs=inputs, damping=DAMPING, **options)
            ours = answer.facts["seconds"]
            rows.append([size, label, f"{ours:.2f}", f"{seconds / ours:.1f}", f"{error(answer.weight):.4f}"])
    text = common.table(["K = N", f"GPTQ of {args.tokens} tokens", "seconds", "times faster", "output error"], rows)
    text += f"\n\n{THREADS} thread(s) each.{quotients()}"
    common.report("gptq", "GPTQ of one layer", text, args.save, ["numpy"])


if __name__ == "__main__":
    main()
