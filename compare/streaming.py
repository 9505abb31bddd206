#!/usr/bin/env python3
"""A large fp16 decoder with external data through `onnxq quantize --mode weight-only`, without data.

The decoder is made here: embedding, layers of RMS norm, attention and gated products, head; weights are one block of
random numbers, read from a different place for each tensor. What is looked at: peak anonymous memory against 1 GB and
four times the largest tensor; wall time against `cp` of the input's files, once as the system does it (into the page
cache) and once until the disk has everything; whether the output's external data start at multiples of 4 KiB.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import common

PAGE = 4096
BLOCK = 1 << 22  #: random numbers that all weights are cut from


class Decoder:
    """Nodes in the graph, weights straight into a file."""

    def __init__(self, folder: Path, hidden: int, inner: int, words: int, heads: int):
        self.hidden, self.inner, self.words, self.heads = hidden, inner, words, heads
        self.file = open(folder / "weights.bin", "wb")  # noqa: SIM115 (closed with the model)
        self.noise = (np.random.default_rng(0).standard_normal(BLOCK) * 0.02).astype(np.float16)
        self.nodes, self.initializers, self.largest = [], [], 0

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], out, **attributes))
        return out

    def small(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(onnx.numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, *dims: int) -> str:
        offset = self.file.seek(-(-self.file.tell() // PAGE) * PAGE)
        left, at = int(np.prod(dims)), len(self.initializers) * 7919 % BLOCK
        self.largest = max(self.largest, 2 * left)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", 2 * left)):
            tensor.external_data.add(key=key, value=str(value))
        while left:
            piece = self.noise[at : at + left]
            piece.tofile(self.file)
            left, at = left - len(piece), 0
        self.initializers.append(tensor)
        return name

    def norm(self, x: str, name: str) -> str:
        square = self.op("Mul", x, x)
        mean = self.op("ReduceMean", square, "last_axis", keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, "eps"))
        return self.op("Mul", self.op("Div", x, root), self.small(f"{name}.weight", np.ones(self.hidden, np.float16)))

    def split(self, x: str) -> str:
        return self.op("Transpose", self.op("Reshape", x, "by_head"), perm=[0, 2, 1, 3])

    def layer(self, x: str, name: str) -> str:
        d, f = self.hidden, self.inner
        h = self.norm(x, f"{name}.attention_norm")
        q, k, v = (self.split(self.op("MatMul", h, self.weight(f"{name}.{n}.weight", d, d))) for n in "qkv")
        scores = self.op("Mul", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2])), "scale")
        mixed = self.op("Transpose", self.op("MatMul", self.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        out = self.op("MatMul", self.op("Reshape", mixed, "joined"), self.weight(f"{name}.o.weight", d, d))
        x = self.op("Add", x, out)
        h = self.norm(x, f"{name}.mlp_norm")
        gate = self.op("MatMul", h, self.weight(f"{name}.gate.weight", d, f))
        up = self.op("MatMul", h, self.weight(f"{name}.up.weight", d, f))
        act = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
        return self.op("Add", x, self.op("MatMul", act, self.weight(f"{name}.down.weight", f, d)))

    def build(self, layers: int) -> onnx.ModelProto:
        d = self.hidden
        self.small("last_axis", np.array([-1], np.int64))
        self.small("eps", np.array(1e-5, np.float16))
        self.small("scale", np.array((d // self.heads) ** -0.5, np.float16))
        self.small("by_head", np.array([0, 0, self.heads, d // self.heads], np.int64))
        self.small("joined", np.array([0, 0, d], np.int64))
        x = self.op("Gather", self.weight("embedding.weight", self.words, d), "tokens")
        for k in range(layers):
            x = self.layer(x, f"layers.{k}")
        logits = self.op("MatMul", self.norm(x, "norm"), self.weight("head.weight", d, self.words))
        self.nodes[-1].output[0] = "logits"
        del logits
        self.file.close()
        inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", "length", self.words])]
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def make(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """The model, and the bytes of its largest tensor."""
    hidden, inner, words = (2048, 5632, 32000) if gigabytes > 1 else (1024, 2816, 16000)
    decoder = Decoder(folder, hidden, inner, words, hidden // 64)
    fixed, layer = 4 * hidden * words, 2 * (4 * hidden * hidden + 3 * hidden * inner)
    model = decoder.build(max(1, round((gigabytes * 1e9 - fixed) / layer)))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx", decoder.largest


def aligned(model: Path) -> str:
    """How many external tensors start at a multiple of 4 KiB."""
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    offsets = [
        int(next((e.value for e in t.external_data if e.key == "offset"), 0))
        for t in tensors
        if t.data_location == TensorProto.EXTERNAL
    ]
    return f"{sum(offset % PAGE == 0 for offset in offsets)} of {len(offsets)}"


def flushed(work) -> tuple[object, float]:
    """What work() returns, and the seconds until the disk has what it wrote."""
    os.sync()
    start = time.perf_counter()
    done = work()
    os.sync()
    return done, time.perf_counter() - start


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the model")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the temporary files go")
    parser.add_argument("--methods", nargs="+", default=["rtn", "rtn-search"], metavar="METHOD")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2, metavar="N", help="the best of N runs")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    rows, failed = [], False
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source.mkdir()
        out.mkdir()
        model, largest = make(source, args.gigabytes)
        common.progress(f"{size(source) / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB")
        bound = 1e9 + 4 * largest
        commands = {"cp": ["cp", "--reflink=never", model, source / "weights.bin", out]}
        for method in args.methods:
            options = ["--mode", "weight-only", "--bits", "4", "--block", "32", "--weight-method", method]
            commands[method] = [program, "quantize", model, "-o", out / "model.onnx", *options]
        best = {}
        for _ in range(args.repeat):
            for tool, command in commands.items():
                for file in out.iterdir():
                    file.unlink()
                done, to_disk = flushed(lambda command=command: common.run(command))
                if not done.ok:
                    common.progress(f"{tool} fails: {done.error}")
                    rows.append([tool, "fails: " + done.reason()] + [None] * 8)
                    failed = True
                    continue
                facts = (done, to_disk, size(out), "" if tool == "cp" else aligned(out / "model.onnx"))
                if tool not in best or done.seconds < best[tool][0].seconds:
                    best[tool] = facts
        for tool, (done, to_disk, written, pages) in best.items():
            copy, copy_to_disk = best["cp"][:2]
            rows.append(
                [
                    tool,
                    f"{written / 1e6:.0f}",
                    f"{done.seconds:.1f}",
                    f"{done.seconds / copy.seconds:.1f}",
                    f"{to_disk:.1f}",
                    f"{to_disk / copy_to_disk:.1f}",
                    f"{size(source) / 2e6 / done.seconds:.0f}",
                    common.megabytes(done.anon_bytes),
                    common.megabytes(bound),
                    pages or None,
                ]
            )
    header = ["tool", "written MB", "s", "of cp", "s to disk", "of cp to disk", "million weights/s"]
    header += ["peak anonymous MB", "bound MB", "tensors at 4 KiB"]
    text = f"{args.gigabytes:g} GB, {args.threads} threads.\n\n" + common.table(header, rows)
    common.report("streaming", "A large decoder, without data", text, args.save, ["onnx"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
