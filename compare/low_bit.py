#!/usr/bin/env python3
"""Low-bit weights of the development language models: `onnxq quantize --mode weight-only` next to other tools.

Every tool makes a model file; `onnxq eval perplexity` scores it against the float model, in ONNX Runtime (the file as it is)
and, with --tract, in tract too. Peers: onnxruntime's own weight-only tools, and the routines of the `gguf` package, whose
weights are put back as floats because ONNX Runtime reads no GGUF. Embeddings stay float everywhere, as in the peers, so that
rows differ in the quantizers alone (onnxruntime's HQQ and GPTQ need torch, and fail without); "as the program comes" also stores
the embedding in 8 bits. Bits a weight count everything a quantized weight takes in the file (MatMulNBits pads nothing here).

Behind ± is the standard error of the difference to the float perplexity on this text: a text of a few thousand tokens tells
little of the perplexities of 4-bit models, the divergence tells more.

Rows are kept in the cache, so a long run may be done in slices (--only, --models); --fresh makes those asked for anew.
"""

import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import common

#: folder of the model, evaluation and calibration token files, weights in float16?
MODELS = {
    "tinypep": ("tinypep", "tokens2048/tinypep_eval.txt", "tokens2048/tinypep_calib.txt", False),
    "tinypep fp16": ("tinypep", "tokens2048/tinypep_eval.txt", "tokens2048/tinypep_calib.txt", True),
    "stories260K": ("stories260K", "tokens512/tinystories_sample.txt", "tokens512/stories260K_generated.txt", False),
}
#: tokens of the first calibration samples that onnxruntime's GPTQ sees: it reads one sample after the other in Python
PEER_SAMPLES = 128
QUANTIZED_OPS = ("MatMul", "Gemm")


@dataclass
class Row:
    tool: str
    perplexity: float
    mean_kl: float
    kl_99: float
    same_top1: float
    megabytes: float
    bits_per_weight: float | None
    seconds: float
    runtime: str
    tract_kl: float | None = None
    error: float | None = None  #: standard error of the difference to the float perplexity


@dataclass
class Setting:
    """One model and its texts."""

    name: str
    model: Path
    evaluation: Path
    calibration: Path


def setting(name: str, work: Path) -> Setting:
    folder, evaluation, calibration, half = MODELS[name]
    source = model = common.SHARED / "models" / folder / "model.onnx"
    if half:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = work / f"{folder}_fp16.onnx"
        if not model.exists():
            onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), model)
    text = common.SHARED / "data/text"
    return Setting(name, model, text / evaluation, text / calibration)


# Ours


@dataclass
class Ours:
    program: Path
    arguments: list[str]

    def __call__(self, s: Setting, out: Path) -> float | None:
        report = out.with_suffix(".json")
        command = [self.program, "quantize", s.model, "--mode", "weight-only", "--restart", "-o", out, "--json", report]
        if {"gptq", "awq", "awq+gptq", "int8-outliers", "--write-imatrix"} & set(self.arguments):
            command += ["--data", s.calibration]
        named = {"IMATRIX": out.with_suffix(".npz"), "HEAD=8": f"{head(s.model)}=8"}
        run([*command, *(named.get(argument, argument) for argument in self.arguments)])
        return json.loads(report.read_text())["bits_per_weight"]


def head(model: Path) -> str:
    """What the last product computes: that of a language model's head, which patterns of weights know too."""
    return [n.output[0] for n in onnx.load(model).graph.node if n.op_type in QUANTIZED_OPS][-1]


def ours(program: Path, bits: int, block: int) -> Iterator[tuple[str, Ours]]:
    size = ["--bits", str(bits), "--block", str(block), "--embedding-bits", "float"]
    methods = ["rtn", "rtn-search", "hqq", "gptq", "awq", "awq+gptq"] if bits == 4 else ["rtn", "rtn-search", "gptq"]
    for method in methods:
        yield f"onnxq {method}", Ours(program, ["--weight-method", method, *size])
    if (bits, block) == (4, 32):
        yield "onnxq rtn-search, symmetric", Ours(program, ["--weight-method", "rtn-search", "--symmetric", *size])
        yield "onnxq rtn-search, as the program comes", Ours(program, [])
        yield "onnxq kquant (Q4_K, two terms)", Ours(program, ["--weight-method", "kquant", *size])
        floats = ["--embedding-bits", "float"]
        for label, arguments in {
            "rtn-search, scales of 8 bits": ["--scale-bits", "8"],
            "rtn-search, scales of 8 bits, block 16": ["--scale-bits", "8", "--block", "16"],
            "kquant (Q4_K), scales and offsets of 8 bits": ["--weight-method", "kquant", "--scale-bits", "8"],
            "--target-bpw 4.6": ["--target-bpw", "4.6"],
            "--mix q4_k_m": ["--mix", "q4_k_m"],
            "--mix q4_k_m, scales of 8 bits": ["--mix", "q4_k_m", "--scale-bits", "8"],
            "--bits-for HEAD=8": ["--bits-for", "HEAD=8"],
            "--write-imatrix": ["--write-imatrix", "IMATRIX"],
            "int8-outliers": ["--weight-method", "int8-outliers"],
        }.items():
            yield f"onnxq {label}", Ours(program, [*arguments, *floats])
    if bits == 4:
        yield "onnxq nf4", Ours(program, ["--weight-method", "nf4", *size])


# Peers


@dataclass
class OnnxRuntime:
    """onnxruntime.quantization.matmul_nbits_quantizer, settings as they come but for bits and block."""

    algorithm: str
    bits: int
    block: int

    def __call__(self, s: Setting, out: Path) -> float | None:
        from onnxruntime.quantization import matmul_nbits_quantizer as tool

        config = None
        if self.algorithm == "hqq":
            config = tool.HQQWeightOnlyQuantConfig(block_size=self.block, bits=self.bits)
        elif self.algorithm == "k_quant":
            config = tool.KQuantWeightOnlyQuantConfig()
        elif self.algorithm == "gptq":
            config = tool.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(s), block_size=self.block)
        symmetric = self.algorithm == "symmetric"
        quantizer = tool.MatMulNBitsQuantizer(
            onnx.load(s.model), bits=self.bits, block_size=self.block, is_symmetric=symmetric, algo_config=config
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(out))
        return stored_bits(onnx.load(out))


class Reader:
    """Calibration samples, as onnxruntime asks for them."""

    def __init__(self, s: Setting):
        lines = s.calibration.read_text().splitlines()[:PEER_SAMPLES]
        self.samples = [np.array([[int(t) for t in line.split()]], np.int64) for line in lines if line.strip()]
        self.input = onnx.load(s.model, load_external_data=False).graph.input[0].name

    def __iter__(self):
        return ({self.input: ids} for ids in self.samples)


def stored_bits(model: onnx.ModelProto) -> float:
    """Bits of codes, scales and zero points a weight, over all MatMulNBits."""
    constants = {t.name: t for t in model.graph.initializer}
    bits = elements = 0
    for node in (n for n in model.graph.node if n.op_type == "MatMulNBits"):
        attrs = {a.name: a.i for a in node.attribute}
        elements += attrs["K"] * attrs["N"]
        bits += sum(8 * numpy_helper.to_array(constants[i]).nbytes for i in node.input[1:] if i in constants)
    return bits / elements if elements else float("nan")


@dataclass
class Gguf:
    """A type of the gguf package: its writer, then its reader, and the floats back into the model."""

    kind: str

    def __call__(self, s: Setting, out: Path) -> float | None:
        import gguf

        kind = gguf.GGMLQuantizationType[self.kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        model = onnx.load(s.model)
        weights = {n.input[1] for n in model.graph.node if n.op_type in QUANTIZED_OPS}
        for tensor in model.graph.initializer:
            if tensor.name not in weights or len(tensor.dims) != 2:
                continue
            values = numpy_helper.to_array(tensor)
            rows = np.ascontiguousarray(values.T.astype(np.float32))
            # Rows of the smallest model are no multiple of the block: zeros behind them change no block's other values.
            padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % block)))
            back = gguf.quants.dequantize(gguf.quants.quantize(padded, kind), kind)[:, : rows.shape[1]]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(back.T.astype(values.dtype)), tensor.name))
        onnx.save(model, out)
        return 8 * size / block


def peers(bits: int, block: int) -> Iterator[tuple[str, Callable]]:
    if bits != 4:
        return
    for algorithm in ["default", "symmetric", "hqq", "gptq"]:
        yield f"onnxruntime {algorithm}", OnnxRuntime(algorithm, bits, block)
    if block == 32:
        yield "onnxruntime k_quant (blocks of 32)", OnnxRuntime("k_quant", bits, block)
        for kind in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
            yield f"gguf {kind}", Gguf(kind)


# Scoring


def run(command: list) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=common.TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(c) for c in command)}\n{done.stderr.strip()}")
    return done.stdout


def score(program: Path, s: Setting, model: Path, runtime: list[str]) -> dict:
    command = [program, "eval", "perplexity", model, "--text", s.evaluation, "--json", *runtime]
    return json.loads(run([*command, "--reference", s.model]))


def row(args, s: Setting, label: str, maker: Callable, bits: int, block: int) -> Row | None:
    what = maker.arguments if isinstance(maker, Ours) else maker
    key = hashlib.sha256(f"{s.name} {label} {bits} {block} {what} {args.tract}".encode()).hexdigest()[:20]
    kept = common.CACHE / "low_bit" / f"{key}.json"
    if kept.exists() and not args.fresh:
        return Row(**json.loads(kept.read_text()))
    if args.kept:
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    out = kept.with_suffix(".onnx")
    start = time.perf_counter()
    stored = maker(s, out)
    seconds = time.perf_counter() - start
    found = score(args.onnxq, s, out, ["--runtime", "ort", "--ort-lib", common.ort_library()])
    against = found["figures"]["reference"]
    made = Row(
        label, found["figures"]["perplexity"], against["mean_kl"], against["kl_99"], against["same_top1"],
        out.stat().st_size / 1e6, stored, seconds, found["runtime"], None, against.get("difference_error"),
    )  # fmt: skip
    if args.tract:
        made.tract_kl = score(args.onnxq, s, out, ["--runtime", "tract"])["figures"]["reference"]["mean_kl"]
    out.unlink()
    kept.write_text(json.dumps(asdict(made)))
    return made


HEADER = ["tool", "perplexity", "to float", "of rtn's gap closed", "mean KL", "99 % KL", "same top-1", "MB", "bits a weight", "s"]  # noqa: E501


def cells(found: Row, exact: float, base: Row | None) -> list[str]:
    if np.isnan(found.perplexity):
        return [found.tool, *["-"] * (len(HEADER) - 1)]
    gap = base and base.perplexity - exact
    closed = f"{100 * (1 - (found.perplexity - exact) / gap):.0f} %" if gap and gap > 0 else "-"
    bits = "-" if found.bits_per_weight is None else f"{found.bits_per_weight:.3f}"
    error = "" if found.error is None else f" ± {found.error:.3f}"
    out = [found.tool, f"{found.perplexity:.4f}", f"{found.perplexity - exact:+.4f}{error}", closed]
    out += [f"{found.mean_kl:.5f}", f"{found.kl_99:.4f}", f"{100 * found.same_top1:.2f} %"]
    out += [f"{found.megabytes:.2f}", bits, f"{found.seconds:.1f}"]
    return out + ([f"{found.tract_kl:.5f}"] if found.tract_kl is not None else [])


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--grids", nargs="+", default=["4x32", "4x128", "3x32"], metavar="BITSxBLOCK")
    parser.add_argument("--fresh", action="store_true", help="make rows again that are in the cache")
    parser.add_argument("--kept", action="store_true", help="only rows that are in the cache: make nothing")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--tract", action="store_true", help="score in tract too")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # the peers tell every node
    common.need_shared()
    args.onnxq = common.need_program(args.onnxq)
    work = common.CACHE / "low_bit"
    work.mkdir(parents=True, exist_ok=True)
    header = HEADER + (["mean KL in tract"] if args.tract else [])
    parts = []
    for name in args.models:
        s = setting(name, work)
        runtime = ["--runtime", "ort", "--ort-lib", common.ort_library()]
        exact = score(args.onnxq, s, s.model, runtime)["figures"]["perplexity"]
        for grid in args.grids:
            bits, block = (int(n) for n in grid.split("x"))
            makers = [*ours(args.onnxq, bits, block), *([] if args.no_peers else peers(bits, block))]
            found: list[Row] = []
            for label, maker in makers:
                if args.only and args.only not in label and label != "onnxq rtn":
                    continue
                try:
                    made = row(args, s, label, maker, bits, block)
                    if made is None:
                        continue
                    found.append(made)
                    common.progress("  ".join(cells(found[-1], exact, found[0])))
                except Exception as error:  # a tool that fails is a row
                    common.progress(f"{label}: {error}")
                    reason = str(error).strip().splitlines()[-1][:80] if str(error).strip() else type(error).__name__
                    found.append(Row(f"{label}: fails ({reason})", *[float("nan")] * 5, None, 0.0, ""))
            if not found:
                continue
            rows = [cells(r, exact, found[0]) for r in found]
            title = f"### {name}, {bits} bits, block {block} (float {exact:.4f})"
            parts.append(f"{title}\n\n{common.table(header, rows)}")
    text = "\n\n".join(parts)
    common.report("low_bit", "Low-bit weights of language models", text, args.save, ("onnx", "onnxruntime", "gguf"))


if __name__ == "__main__":
    main()
