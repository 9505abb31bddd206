#!/usr/bin/env python3
"""What a sensitivity analysis costs: `onnxq sensitivity` against the naive loop.

The naive loop rebuilds and runs a whole model for every layer on every sample (`--naive --exhaustive`). The model is a
chain of 60 convolutions and a head with made-up weights and 32 made-up pictures, on one thread. Processor time counts,
which other work on the machine hardly changes; what both do first (reading, the plan) is measured apart and taken off.
Prints the ratio and how well the rankings agree (Spearman). Exit code 1 above a quarter or below 0.95.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import common

LAYERS, CHANNELS, SIZE, SAMPLES = 60, 16, 32, 32
MOST, LEAST = 0.25, 0.95  #: ratio of the costs, agreement of the rankings


def chain() -> onnx.ModelProto:
    """Layers differ in how much they spread their weights, as trained ones do."""
    random = np.random.default_rng(5)
    nodes, weights, value = [], [], "x"
    for layer in range(LAYERS):
        spread = 1 + layer * 7 % 5
        draw = random.uniform(-1, 1, (CHANNELS, CHANNELS, 3, 3))
        weight = np.sign(draw) * np.abs(draw) ** spread * (1 + 0.5 * spread) * (3 / (CHANNELS * 9)) ** 0.5
        bias = 0.1 * random.uniform(-1, 1, CHANNELS)
        for name, numbers in ((f"w{layer}", weight), (f"b{layer}", bias)):
            weights.append(numpy_helper.from_array(numbers.astype(np.float32), name))
        names = [value, f"w{layer}", f"b{layer}"]
        nodes.append(
            helper.make_node("Conv", names, [f"conv{layer}"], f"conv{layer}", pads=[1] * 4, kernel_shape=[3, 3])
        )
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"], f"relu{layer}"))
        value = f"relu{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["flat", "hw", "hb"], ["y"], "head"))
    weights.append(numpy_helper.from_array(random.uniform(-1, 1, (CHANNELS, 10)).astype(np.float32), "hw"))
    weights.append(numpy_helper.from_array(np.zeros(10, np.float32), "hb"))
    inputs = [helper.make_tensor_value_info("x", 1, [1, CHANNELS, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("y", 1, [1, 10])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def pictures() -> np.ndarray:
    """Waves of different strength and pace, so that samples differ."""
    random = np.random.default_rng(7)
    count = CHANNELS * SIZE * SIZE
    waves = [
        (0.5 + 1.5 * random.random()) * (np.sin(np.arange(count) * (0.05 + 0.2 * random.random())))
        + 0.3 * random.uniform(-1, 1, count)
        for _ in range(SAMPLES)
    ]
    return np.stack(waves).reshape(SAMPLES, CHANNELS, SIZE, SIZE).astype(np.float32)


def processor_seconds(command: list) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(path: Path) -> dict[str, float]:
    return {change["group"]: change["score"]["global_db"] for change in json.loads(path.read_text())["changes"]}


def spearman(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        onnx.save(chain(), folder / "chain.onnx")
        np.savez(folder / "data.npz", x=pictures())
        shared = ["--data", folder / "data.npz", "--threads", "1"]
        table = folder / "table.json"
        processor_seconds([program, "calibrate", folder / "chain.onnx", "-o", table, *shared])
        base = [program, "sensitivity", folder / "chain.onnx", "--table", table, "--precisions", "int8", *shared]
        common_part = processor_seconds([*base, "--shard", "999/1000"])
        seconds = {}
        ways = {"replay": [], "exhaustive": ["--exhaustive"], "naive": ["--exhaustive", "--naive"]}
        for way, more in ways.items():
            common.progress(way)
            seconds[way] = processor_seconds([*base, *more, "--json", folder / f"{way}.json"]) - common_part
        found = {way: scores(folder / f"{way}.json") for way in ways}
    names = sorted(found["naive"])
    truth = [found["naive"][name] for name in names]
    rows = []
    for way in ways:
        agreement = spearman([found[way][name] for name in names], truth)
        rows.append([way, f"{seconds[way]:.2f}", f"{seconds[way] / seconds['naive']:.3f}", f"{agreement:.3f}"])
    text = common.table(["way", "processor s", "of the naive loop", "Spearman"], rows)
    common.report(
        "sensitivity", f"Cost of sensitivity: {len(names)} groups, {SAMPLES} samples", text, args.save, ["onnx"]
    )
    agreement = spearman([found["replay"][name] for name in names], truth)
    sys.exit(seconds["replay"] > MOST * seconds["naive"] or agreement < LEAST)


if __name__ == "__main__":
    main()
