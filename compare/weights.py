"""The weight quantizers as Python functions: a client of the `quantize_weight` example of the `quant` crate."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import common

PROGRAM = common.ROOT / "target/release/examples/quantize_weight"


@dataclass
class Answer:
    weight: np.ndarray  #: what the codes stand for, [N, K]
    facts: dict  #: bits_per_weight, provenance, seconds, gram_seconds, layout
    tensors: dict[str, bytes]  #: codes, scales, zeros of a layout


class Quantizers:
    """One process; call the object once per weight."""

    def __init__(self, threads: int | None = None):
        if not PROGRAM.is_file():
            raise SystemExit(f"error: {PROGRAM} does not exist: cargo build --release -p onnxq-quant --examples")
        self.folder = tempfile.TemporaryDirectory()
        environment = {"RAYON_NUM_THREADS": str(threads)} if threads else None
        self.process = subprocess.Popen(
            [PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def cpu_seconds(self) -> float:
        """What the process has computed for so far, all threads together (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def file(self, name: str, values: np.ndarray | None) -> str | None:
        if values is None:
            return None
        path = Path(self.folder.name) / name
        np.ascontiguousarray(values, np.float32).tofile(path)
        return str(path)

    def __call__(
        self,
        weight: np.ndarray,
        method: str,
        bits: int = 4,
        block: int | None = 32,
        zero: str = "per_block",
        scale: str = "f32",
        layout: str | None = None,
        importance: np.ndarray | None = None,
        inputs: np.ndarray | None = None,
        float_inputs: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        **options,
    ) -> Answer:
        """weight: [N, K]. block None: one a row. options: those of gptq."""
        folder = Path(self.folder.name)
        rows, cols = weight.shape
        job = {
            "method": method,
            "rows": rows,
            "cols": cols,
            "spec": {"bits": bits, "block": {"columns": block} if block else "row", "zero": zero, "scale": scale},
            "weight": self.file("weight", weight),
            "importance": self.file("importance", importance),
            "inputs": self.file("inputs", inputs),
            "float_inputs": self.file("float_inputs", float_inputs),
            "residual": self.file("residual", residual),
            "options": options or None,
            "out": str(folder / "out"),
            "packing": {"layout": layout, "prefix": f"{folder}/"} if layout else None,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        facts = json.loads(self.process.stdout.readline())
        if "error" in facts:
            raise ValueError(facts["error"])
        tensors = {}
        if layout:
            names = ["codes", "scales"] + ["zeros"] * facts["layout"]["has_zeros"]
            tensors = {name: (folder / name).read_bytes() for name in names}
        return Answer(np.fromfile(folder / "out", np.float32).reshape(rows, cols), facts, tensors)
