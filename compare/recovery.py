#!/usr/bin/env python3
"""Planted trouble: is it found by name, and does mixed precision repair it at the size of integers?

Into resnet20_cifar10 three kinds of trouble are planted, each in several places:

- `outlier`: one channel between two convolutions 300 times larger, the next layer divides: the function is the same;
- `ramp`: the channels there grow from once to 1,000 times their size: the function is the same;
- `head`: one channel that the head reads runs 50 above the others, and the head's bias takes it off again.

For each: top-1 on the 1,000 test pictures of float, of plain INT8 (without and with accuracy passes) and of
`--auto --max-drop 0.2% --min-sqnr 25` on labelled calibration pictures, within 1.1 times the size of plain INT8;
whether the worst group of `sensitivity` is one beside the trouble, and what precision it got. Rows of earlier calls
with the same program are kept (--only makes one).
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import common
from common import SHARED
from quantize import calibration, evaluate, model_bytes, subjects

MODEL = "resnet20_cifar10"
SAMPLES = 120  #: labelled calibration pictures


class Network:
    """A model whose weights are changed in place."""

    def __init__(self, path: Path):
        self.model = onnx.load(path)
        self.weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def change(self, name: str, work: Callable[[np.ndarray], np.ndarray]) -> None:
        array = work(numpy_helper.to_array(self.weights[name]).astype(np.float32))
        self.weights[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))

    def pairs(self) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """Convolutions with nothing but a Relu between them."""
        found = []
        for node in self.model.graph.node:
            after = self.readers.get(node.output[0], [])
            if node.op_type != "Conv" or [n.op_type for n in after] != ["Relu"]:
                continue
            last = self.readers.get(after[0].output[0], [])
            if [n.op_type for n in last] == ["Conv"] and len(node.input) == 3:
                found.append((node, last[0]))
        return found


def scaled(network: Network, at: int, factors: Callable[[int], np.ndarray]) -> list[str]:
    """Multiplies the channels between a pair of convolutions; returns the outputs beside the trouble."""
    first, second = network.pairs()[at]
    channels = numpy_helper.to_array(network.weights[first.input[1]]).shape[0]
    by = factors(channels).astype(np.float32)
    network.change(first.input[1], lambda w: w * by[:, None, None, None])
    network.change(first.input[2], lambda b: b * by)
    network.change(second.input[1], lambda w: w / by[None, :, None, None])
    return [first.output[0], second.output[0]]


def outlier(network: Network, at: int) -> list[str]:
    return scaled(network, at, lambda count: np.where(np.arange(count) == count // 2, 300.0, 1.0))


def ramp(network: Network, at: int) -> list[str]:
    return scaled(network, at, lambda count: 1000.0 ** (np.arange(count) / (count - 1)))


def head(network: Network, offset: int) -> list[str]:
    nodes = network.model.graph.node
    gemm = next(node for node in nodes if node.op_type == "Gemm")
    last = [node for node in nodes if node.op_type == "Conv"][-1]
    network.change(last.input[2], lambda b: b + np.where(np.arange(b.size) == 0, offset, 0))
    weight = numpy_helper.to_array(network.weights[gemm.input[1]])
    column = weight[:, 0] if weight.shape[0] == 10 else weight[0]
    network.change(gemm.input[2], lambda b: b - offset * column)
    return [last.output[0], gemm.output[0], *gemm.input[:1]]


CASES = {
    "outlier, first block": lambda network: outlier(network, 0),
    "outlier, middle": lambda network: outlier(network, 4),
    "outlier, last block": lambda network: outlier(network, 8),
    "ramp, second block": lambda network: ramp(network, 1),
    "ramp, middle": lambda network: ramp(network, 5),
    "head": lambda network: head(network, 50),
}


def labels(path: Path) -> None:
    data = np.fromfile(SHARED / "data/cifar10/calib.bin", np.uint8).reshape(-1, 3073)
    path.write_text("".join(f"{label}\n" for label in data[:SAMPLES, 0]))


def main() -> None:
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    subject = subjects(MODEL)[0]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        labels(folder / "labels.txt")
        (folder / "calib").mkdir()
        for at, file in enumerate(sorted(calibration(MODEL).glob("*.npz"))[:SAMPLES]):
            (folder / "calib" / f"{at:04}.npz").symlink_to(file)
        data = ["--data", folder / "calib"]

        def top1(file: Path) -> float:
            result = evaluate(subject, [file])
            return float(result["value"]) if "value" in result else float("nan")

        for name, plant in CASES.items():
            if args.only and args.only not in name:
                continue
            common.progress(name)
            network = Network(subject.files[0])
            beside = plant(network)
            model, out = folder / "planted.onnx", folder / "out.onnx"
            onnx.save(network.model, model)
            quantize = [program, "quantize", model, "-o", out, *data]
            found = {"float": top1(model)}
            size = 0
            for setting, more in (("int8", []), ("plain", ["--no-refine"])):
                done = common.call([*quantize, *more])
                found[setting] = top1(out) if done.ok else float("nan")
                size = model_bytes(out) if done.ok else 0
            json_file = folder / "sensitivity.json"
            common.call([program, "sensitivity", model, *data, "--precisions", "int8", "--json", json_file])
            changes = json.loads(json_file.read_text())["changes"]
            worst = min(changes, key=lambda change: change["score"]["global_db"])["group"]
            plan = folder / "plan.json"
            limits = ["--max-drop", "0.2%", "--min-sqnr", "25", "--max-size", str(int(1.1 * size))]
            done = common.call([*quantize, "--auto", *limits, "--labels", folder / "labels.txt", "--write-plan", plan])
            if done.ok:
                ops = json.loads(plan.read_text())["ops"]
                got = sorted({ops[worst]["precision"]} | {ops[key]["precision"] for key in beside if key in ops})
                auto, ratio = top1(out), f"{model_bytes(out) / size:.3f}"
            else:
                got, auto, ratio = [done.reason()], float("nan"), None
            numbers = [f"{found[setting]:.4f}" for setting in ("float", "plain", "int8")]
            near = "yes" if worst in beside else f"no: {worst}"
            rows.append([name, *numbers, f"{auto:.4f}", f"{auto - found['float']:+.4f}", ratio, near, ", ".join(got)])
    header = ["trouble", "float", "INT8", "with passes", "auto", "change", "size", "found by name", "there now"]
    kept = common.slices("recovery", program, [dict(zip(header, row, strict=True)) for row in rows], ["trouble"])
    text = common.table(header, [[row[key] for key in header] for row in kept])
    common.report("recovery", "Planted trouble, found and repaired", text, args.save, ["onnx", "onnxruntime"])


if __name__ == "__main__":
    main()
