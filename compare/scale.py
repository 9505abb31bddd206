#!/usr/bin/env python3
"""Scale: long chains through `onnxq simplify`, and a 4 GB model through `onnxq opt --passes ""`.

Chains of MatMul and Relu nodes with 8 x 8 weights: CPU time should grow linearly. The 4 GB model has external data and
is made in a temporary folder (twice its size of disk is needed): peak anonymous memory, and wall time against `cp` of
the same files, in turns, the best of three.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import common

CHAINS = [1_600, 10_000, 100_000]
SIDE = 4096  #: one weight of the large model: 4096 x 4096 float32, 64 MiB
BLOCK = SIDE * SIDE * 4


def chain(nodes: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((nodes // 2, 8, 8)) / 3).astype(np.float32)
    layers, initializers = [], []
    for k, weight in enumerate(weights):
        initializers.append(helper.make_tensor(f"w{k}", TensorProto.FLOAT, (8, 8), weight.tobytes(), raw=True))
        layers.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"m{k}"], f"matmul{k}"))
        layers.append(helper.make_node("Relu", [f"m{k}"], [f"x{k + 1}"], f"relu{k}"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in ("x0", f"x{len(weights)}")]
    graph = helper.make_graph(layers, "chain", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def large(folder: Path, gigabytes: float) -> Path:
    """A chain of MatMuls whose weights lie in one external file, written block by block."""
    count = max(1, round(gigabytes * 1e9 / BLOCK))
    block = np.random.default_rng(0).integers(0, 256, BLOCK, np.uint8)
    block[3::4] = 0x3C  # the high byte of a float near 0.01: no NaN
    nodes, initializers = [], []
    with open(folder / "weights.bin", "wb") as file:
        for k in range(count):
            block[:8] = np.frombuffer(np.int64(k).tobytes(), np.uint8)
            block.tofile(file)
            tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=(SIDE, SIDE))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", str(k * BLOCK)), ("length", str(BLOCK))):
                tensor.external_data.add(key=key, value=value)
            initializers.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"], f"matmul{k}"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", SIDE]) for n in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def measure_chains(program: Path, work: Path) -> str:
    rows = []
    for nodes in CHAINS:
        model, out = work / "chain.onnx", work / "out.onnx"
        onnx.save(chain(nodes), model)
        done = common.run([program, "simplify", model, "-o", out])
        if not done.ok:
            rows.append([nodes, f"fails: {done.reason()}", None, None, None])
            continue
        each = 1e6 * done.cpu_seconds / nodes
        costs = [f"{done.cpu_seconds:.2f}", f"{each:.1f}", common.megabytes(done.peak_bytes)]
        rows.append([nodes, common.megabytes(model.stat().st_size), *costs])
    return common.table(["nodes", "file MB", "CPU s", "µs per node", "peak MB"], rows)


def clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def measure_large(program: Path, work: Path, gigabytes: float) -> str:
    source, out = work / "source", work / "out"
    source.mkdir()
    out.mkdir()
    model = large(source, gigabytes)
    commands = {
        "cp": ["cp", "--reflink=never", model, source / "weights.bin", out],
        "onnxq": [program, "opt", model, "-o", out / "model.onnx", "--passes", ""],
    }
    best = {}
    for _ in range(3):
        for tool, command in commands.items():
            clear(out)
            os.sync()  # nobody pays for writing out what the one before left
            done = common.run(command)
            if not done.ok:
                return f"{tool} fails: {done.reason()}"
            written = sum(file.stat().st_size for file in out.iterdir())
            if tool not in best or done.seconds < best[tool][0].seconds:
                best[tool] = done, written
    rows = []
    for tool, (done, written) in best.items():
        ratio = f"{done.seconds / best['cp'][0].seconds:.2f}"
        costs = [f"{done.seconds:.1f}", ratio, common.megabytes(done.anon_bytes), common.megabytes(done.peak_bytes)]
        rows.append([tool, common.megabytes(written), *costs])
    return common.table(["tool", "written MB", "s", "of cp", "peak anonymous MB", "peak resident MB"], rows)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the large model; 0: leave it out")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the temporary files go")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        parts = ["## Chains\n\n" + measure_chains(program, Path(folder))]
        if args.gigabytes > 0:
            parts.append(
                "## A large model with external data\n\n" + measure_large(program, Path(folder), args.gigabytes)
            )
    common.report("scale", "Scale", "\n\n".join(parts), args.save)
    sys.exit(1 if any("fails" in part for part in parts) else 0)


if __name__ == "__main__":
    main()
