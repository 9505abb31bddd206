#!/usr/bin/env python3
"""Low-bit weights on the development language models: perplexity and mean KL divergence to the float model.

Every constant MatMul weight is replaced by what our quantizer's codes stand for (float arithmetic otherwise), so this
measures the quantizers alone. onnxruntime's own weight-only tools run beside them as they are (accuracy_level 0).

Calibrated methods go through the model in order. Weights that read one value are quantized together from what they read with
everything before them quantized ("inputs") and without ("float inputs"); where a weight's output is added to another value,
that value's error so far is the residual to take back. Only graph edges are looked at, no names.
"""

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import common
from weights import Quantizers

sys.path.insert(0, str(common.SHARED / "eval"))

#: model, evaluation and calibration token files
MODELS = {
    "tinypep": ("tokens2048/tinypep_eval.txt", "tokens2048/tinypep_calib.txt"),
    "stories260K": ("tokens512/tinystories_sample.txt", "tokens512/stories260K_generated.txt"),
}


def read_tokens(name: str) -> list[np.ndarray]:
    lines = (common.SHARED / "data/text" / name).read_text().splitlines()
    return [np.array([[int(t) for t in line.split()]], np.int64) for line in lines if line.strip()]


def batches(sequences: list[np.ndarray], most: int = 32) -> list[np.ndarray]:
    """Sequences of equal length together."""
    by_length = defaultdict(list)
    for s in sequences:
        by_length[s.shape[1]].append(s)
    chunks = [group[i : i + most] for group in by_length.values() for i in range(0, len(group), most)]
    return [np.concatenate(chunk) for chunk in chunks]


def log_probabilities(session, ids: np.ndarray) -> np.ndarray:
    scores = session.run(["logits"], {"input_ids": ids})[0].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(-1, keepdims=True))).astype(np.float32)


class Judge:
    """Perplexity and mean KL divergence of models, on one text."""

    def __init__(self, model: onnx.ModelProto, text: list[np.ndarray]):
        self.batches = batches(text)
        session = common.ort_session(model)
        self.reference = [log_probabilities(session, ids) for ids in self.batches]

    def __call__(self, model: onnx.ModelProto | Path) -> tuple[float, float]:
        session = common.ort_session(model)
        loss, predictions, divergence, positions = 0.0, 0, 0.0, 0
        for ids, reference in zip(self.batches, self.reference, strict=True):
            log_p = log_probabilities(session, ids)
            loss -= float(np.take_along_axis(log_p[:, :-1], ids[:, 1:, None], -1).sum(dtype=np.float64))
            predictions += ids[:, 1:].size
            divergence += float((np.exp(reference) * (reference - log_p)).sum(dtype=np.float64))
            positions += ids.size
        return float(np.exp(loss / predictions)), divergence / positions


@dataclass
class Layer:
    """MatMul weights that read the same value, with the value their output is added to, if any."""

    source: str
    weights: list[str]
    added_to: dict[str, str]


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    constants = {t.name for t in model.graph.initializer}
    readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    layers: dict[str, Layer] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        layer = layers.setdefault(node.input[0], Layer(node.input[0], [], {}))
        layer.weights.append(node.input[1])
        users = readers[node.output[0]]
        if len(users) == 1 and users[0].op_type == "Add":
            layer.added_to[node.input[1]] = next(i for i in users[0].input if i != node.output[0])
    return list(layers.values())


def replace(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """weights: [N, K] by the name of their initializer [K, N]."""
    out = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in out.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name].T), tensor.name))
    return out


class Values:
    """Runs the part of a model that computes some of its values."""

    def __init__(self, model: onnx.ModelProto):
        self.model = onnx.shape_inference.infer_shapes(model)
        self.producer = {o: n for n in self.model.graph.node for o in n.output}

    def __call__(self, names: list[str], feeds: list[np.ndarray], weights: dict) -> dict[str, np.ndarray]:
        """Rows of [tokens, features]."""
        needed, stack = set(), list(names)
        while stack:
            node = self.producer.get(stack.pop())
            if node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                stack.extend(node.input)
        graph = self.model.graph
        nodes = [n for n in graph.node if n.output[0] in needed]
        used = {i for n in nodes for i in n.input}
        constants = [t for t in graph.initializer if t.name in used]
        outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
        part = helper.make_model(
            helper.make_graph(nodes, "part", graph.input, outputs, constants),
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
        )
        session = common.ort_session(replace(part, weights))
        runs = [session.run(names, {"input_ids": ids}) for ids in feeds]
        stacked = [np.concatenate([r[k].reshape(-1, r[k].shape[-1]) for r in runs]) for k in range(len(names))]
        return dict(zip(names, stacked, strict=True))


def original(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    names = {w for layer in layers_of(model) for w in layer.weights}
    tensors = [t for t in model.graph.initializer if t.name in names]
    return {t.name: np.ascontiguousarray(numpy_helper.to_array(t).T.astype(np.float32)) for t in tensors}


def data_free(model, quantizers, **request) -> tuple[onnx.ModelProto, float]:
    done, bits, count = {}, 0.0, 0
    for name, weight in original(model).items():
        answer = quantizers(weight, **request)
        done[name] = answer.weight
        bits += answer.facts["bits_per_weight"] * weight.size
        count += weight.size
    return replace(model, done), bits / count


def calibrated(model, quantizers, text, targets: str, **request) -> tuple[onnx.ModelProto, float]:
    """targets: "own" (what the quantized model gives), "drift" (what the float model gives), "residual" (and the error of
    the value it is added to)."""
    weights, values, feeds = original(model), Values(model), batches(text)
    done, bits, count = {}, 0.0, 0
    for layer in layers_of(model):
        names = sorted({layer.source, *layer.added_to.values()})
        now = values(names, feeds, done)
        then = values(names, feeds, {}) if targets != "own" else now
        for name in layer.weights:
            weight, extra = weights[name], {}
            if targets != "own":
                extra["float_inputs"] = then[layer.source]
            if targets == "residual" and name in layer.added_to:
                other = layer.added_to[name]
                extra["residual"] = then[other] - now[other]
            answer = quantizers(weight, inputs=now[layer.source], **extra, **request)
            done[name] = answer.weight
            bits += answer.facts["bits_per_weight"] * weight.size
            count += weight.size
    return replace(model, done), bits / count


def onnxruntime_tool(path: Path, bits: int, block: int, algorithm: str, out: Path) -> Path:
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    config = None
    if algorithm == "hqq":
        config = tool.HQQWeightOnlyQuantConfig(block_size=block, bits=bits)
    elif algorithm == "k_quant":
        config = tool.KQuantWeightOnlyQuantConfig()
    quantizer = tool.MatMulNBitsQuantizer(
        onnx.load(path), bits=bits, block_size=block, is_symmetric=algorithm == "symmetric", algo_config=config
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(out))
    return out


def ours(bits: int, block: int):
    """Label, quantized or not by calibration, request."""
    yield "rtn", None, {"method": "rtn"}
    yield "rtn_search", None, {"method": "rtn_search"}
    yield "rtn_search, symmetric", None, {"method": "rtn_search", "zero": "center"}
    yield "rtn_search, f16 scales", None, {"method": "rtn_search", "scale": "f16"}
    yield "hqq", None, {"method": "hqq"}
    kinds = {2: "q2k", 3: "q3k", 4: "q4k"}
    yield f"kquant {kinds[bits]}", None, {"method": kinds[bits]}
    if bits == 4:
        yield "nf4", None, {"method": "nf4"}
    yield "gptq, own targets, no sweeps", "own", {"method": "gptq", "sweeps": 0}
    yield "gptq, own targets", "own", {"method": "gptq"}
    yield "gptq, float targets", "drift", {"method": "gptq"}
    yield "gptq", "residual", {"method": "gptq"}
    yield "gptq, f16 scales", "residual", {"method": "gptq", "scale": "f16"}
    yield "awq + gptq", "residual", {"method": "awq_gptq"}
    yield "awq", "own", {"method": "awq"}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    common.need_shared()
    quantizers = Quantizers()
    parts = []
    for name in args.models:
        path = common.SHARED / "models" / name / "model.onnx"
        model = onnx.load(path)
        evaluation, calibration = (read_tokens(file) for file in MODELS[name])
        judge = Judge(model, evaluation)
        float_perplexity, _ = judge(model)
        for bits in args.bits:
            rows, base = [], [None]

            def add(label, candidate, size, start, rows=rows, base=base, judge=judge, exact=float_perplexity):
                perplexity, divergence = judge(candidate)
                base[0] = base[0] or perplexity - exact
                closed = 1 - (perplexity - exact) / base[0]
                cells = [label, size, f"{perplexity:.4f}", f"{100 * closed:.0f} %", f"{divergence:.5f}"]
                rows.append([*cells, f"{time.perf_counter() - start:.0f}"])
                common.progress("  ".join(str(c) for c in rows[-1]))

            for label, targets, request in ours(bits, args.block):
                if args.only and args.only not in label and label != "rtn":
                    continue
                start = time.perf_counter()
                request = {"bits": bits, "block": args.block} | request
                if targets is None:
                    candidate, size = data_free(model, quantizers, **request)
                else:
                    candidate, size = calibrated(model, quantizers, calibration, targets, **request)
                add(label, candidate, f"{size:.2f}", start)
            if bits == 4 and not args.no_peers:
                with tempfile.TemporaryDirectory() as work:
                    for algorithm in ["default", "symmetric", "k_quant", "hqq"]:
                        start = time.perf_counter()
                        out = onnxruntime_tool(path, bits, args.block, algorithm, Path(work) / "peer.onnx")
                        add(f"onnxruntime {algorithm}", out, "", start)
            header = ["quantizer", "bits a weight", "perplexity", "of rtn's gap closed", "mean KL", "seconds"]
            title = f"### {name}, {bits} bits, block {args.block} (float {float_perplexity:.4f})"
            parts.append(f"{title}\n\n{common.table(header, rows)}")
    common.report("low_bit", "Low-bit weights of language models", "\n\n".join(parts), args.save)


if __name__ == "__main__":
    main()
