#!/usr/bin/env python3
"""GPTQ of one layer: ours against straightforward implementations, Gram matrix included, same threads; and against the matrix
products that it needs, where `cargo bench -p onnxq-quant --bench gptq` was run before.

The straightforward form is the published one (Frantar et al.): H = X'X, Cholesky of its inverse, lazy blocks of 128 columns,
one column at a time, groups of 32 with min/max grids; in PyTorch (where torch is installed) and in NumPy. onnxruntime's own
`gptq_quantize` is given a model of one MatMul. Ours runs like that, with its own grids, as it comes, and with two improvement
sweeps. All errors are printed: speed is only worth something at equal quality. Times are CPU seconds, which other work on the
machine disturbs least.
"""

import os

#: BLAS reads these when NumPy is loaded.
THREADS = int(os.environ.get("ONNXQ_THREADS", "1"))
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)

import json  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import onnx  # noqa: E402

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


def torch_gptq(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    import torch

    torch.set_num_threads(THREADS)
    with torch.no_grad():
        work, rows = torch.from_numpy(weight.copy()), torch.from_numpy(inputs)
        cols, top = work.shape[1], 2**BITS - 1
        h = torch.zeros(cols, cols)
        for batch in rows.split(2048):
            h += batch.t() @ batch
        dead = torch.diag(h) == 0
        h[dead, dead] = 1
        work[:, dead] = 0
        h += DAMPING * torch.diag(h).mean() * torch.eye(cols)
        upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
        out = torch.zeros_like(work)
        for begin in range(0, cols, LAZY):
            end = min(begin + LAZY, cols)
            block, local = work[:, begin:end].clone(), upper[begin:end, begin:end]
            errors = torch.zeros_like(block)
            for k in range(end - begin):
                if (begin + k) % GROUP == 0:
                    group = block[:, k : k + GROUP]
                    low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
                    scale = ((high - low) / top).clamp(min=1e-12)
                    zero = torch.round(-low / scale).clamp(0, top)
                column = block[:, k]
                value = scale * (torch.clamp(torch.round(column / scale) + zero, 0, top) - zero)
                out[:, begin + k] = value
                error = (column - value) / local[k, k]
                block[:, k:] -= error.unsqueeze(1).matmul(local[k, k:].unsqueeze(0))
                errors[:, k] = error
            work[:, end:] -= errors.matmul(upper[begin:end, end:])
    return out.numpy()


class Samples:
    """Batches of tokens, as onnxruntime asks for them."""

    batch_size = 1

    def __init__(self, inputs: np.ndarray):
        self.batches = np.array_split(inputs, max(1, len(inputs) // 2048))

    def __iter__(self):
        return (({"tokens": batch}, None) for batch in self.batches)


def onnxruntime_gptq(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """onnxruntime's own, on a model of one product; what its codes stand for."""
    import onnxruntime
    from onnxruntime.quantization.neural_compressor import gptq_quantize

    rows, cols = weight.shape
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    # The quantizer reads a node's input off a run, so it must be computed.
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["tokens"], ["x"]), node],
        "layer",
        [value("tokens", onnx.TensorProto.FLOAT, ["n", cols])],
        [value("y", onnx.TensorProto.FLOAT, ["n", rows])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    samples = Samples(inputs)
    made = gptq_quantize(model, samples, num_bits=BITS, group_size=GROUP, percdamp=DAMPING, n_samples=-1)
    session = onnxruntime.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"tokens": np.eye(cols, dtype=np.float32)})[0].T


PEERS = {"PyTorch": torch_gptq, "NumPy": numpy_gptq, "onnxruntime": onnxruntime_gptq}


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
        mix = rng.standard_normal((size, size), np.float32) / size**0.5 + 0.3 * np.eye(size, dtype=np.float32)
        inputs = rng.standard_normal((args.tokens, size), np.float32) @ mix
        weight = rng.standard_normal((size, size), np.float32)

        def error(quantized, inputs=inputs, weight=weight):
            sample = inputs[:2048]
            return float(np.linalg.norm(sample @ (weight - quantized).T) / np.linalg.norm(sample @ weight.T))

        peers: dict[str, float] = {}
        for name, peer in PEERS.items():
            if args.only and args.only not in name:
                continue
            try:
                peer(weight[:64, :64].copy(), inputs[:256, :64].copy())  # loads what it needs
                start = time.process_time()
                theirs = peer(weight, inputs)
                peers[name] = time.process_time() - start
                rows.append([size, name, f"{peers[name]:.2f}", *["-"] * len(PEERS), f"{error(theirs):.4f}"])
            except ImportError as missing:
                common.progress(f"{name}: {missing}")
        for label, options in [
            ("ours, min/max grids, no sweeps", {"range": "min_max", "order": "natural", "sweeps": 0}),
            ("ours", {}),
            ("ours, two sweeps", {"sweeps": 2}),
        ]:
            start = quantizers.cpu_seconds()
            answer = quantizers(weight, "gptq", BITS, GROUP, inputs=inputs, damping=DAMPING, **options)
            ours = quantizers.cpu_seconds() - start
            faster = [f"{peers[name] / ours:.1f}" if name in peers else "-" for name in PEERS]
            rows.append([size, label, f"{ours:.2f}", *faster, f"{error(answer.weight):.4f}"])
    faster = [f"times as fast as {name}" for name in PEERS]
    text = common.table(["K = N", f"GPTQ of {args.tokens} tokens", "CPU seconds", *faster, "output error"], rows)
    text += f"\n\n{THREADS} thread(s) each; seconds are those that processors computed, reading the inputs included.{quotients()}"
    common.report("gptq", "GPTQ of one layer", text, args.save, ["numpy", "onnxruntime", "torch"])


if __name__ == "__main__":
    main()
