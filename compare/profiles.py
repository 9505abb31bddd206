#!/usr/bin/env python3
"""Weight-only models of every profile in the runtimes that the profile is for.

A small decoder is quantized for each profile, width and block; the result runs on windows of tokens in every runtime and
version at hand that the profile promises. The reference is our own evaluator on the very same file. What is looked at: the
most likely next token at every position, the largest difference of the logits, and which operators are left in the graph
that the runtime makes of the model: in onnxruntime a DequantizeLinear that was not fused is the slow form, in OpenVINO a
FullyConnected of f32 is a weight that was unpacked. With --only the table is that of its own name.

Other versions of onnxruntime: --ort VERSION=FOLDER, where FOLDER is what `pip install --no-deps --target FOLDER
onnxruntime==VERSION` made. TensorRT is checked by rules only: `onnxq check --target tensorrt`.
"""

import collections
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import common

#: profile, widths, the least version of onnxruntime
PROFILES = [
    ("ort-cpu>=1.20", [4], "1.20"),
    ("ort-cpu>=1.23", [4, 8], "1.23"),
    ("ort-cpu>=1.27", [2, 4, 8], "1.27"),
    ("openvino", [4, 8], None),
    ("tensorrt", [4, 8], None),
    ("tract", [8], None),
    ("plain", [2, 4, 8], None),
]
#: Runtimes may compute products of 8-bit weights with activations rounded to 8 bits (accuracy_level 4, fused DQ, OpenVINO's
#: dynamic quantization), or in bfloat16.
ROUNDED = 0.05
#: Sums in another order, through five layers.
EXACT = 1e-4

WORKER = """
import sys, json
folder, model, feed, out, save, level = sys.argv[1:]
if folder != '-':
    sys.path.insert(0, folder)
import numpy as np
feed = dict(np.load(feed))
if save == 'openvino':
    import openvino
    core = openvino.Core()
    exact = {'INFERENCE_PRECISION_HINT': 'f32', 'DYNAMIC_QUANTIZATION_GROUP_SIZE': '0'}
    compiled = core.compile_model(model, 'CPU', exact if level == '1' else {})
    result = compiled(feed)[compiled.output(0)]
    kinds = []
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind = info['layerType'].astype(str) if 'layerType' in info else op.get_type_name()
        if kind in ('FullyConnected', 'MatMul', 'Gather'):
            weight = op.inputs()[0 if kind == 'Gather' else 1].get_element_type().to_string()
            kinds.append(f'{kind} of {weight}')
    left = ', '.join(f'{kinds.count(kind)} {kind}' for kind in sorted(set(kinds)))
    facts = {'version': openvino.__version__.split('-')[0], 'left': left}
else:
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = save
    if level == '1':
        options.add_session_config_entry('session.qdq_matmulnbits_accuracy_level', '1')
    session = ort.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    result = session.run(None, feed)[0]
    facts = {'version': ort.__version__}
np.save(out, result)
print(json.dumps(facts))
"""


def census(path: Path) -> str:
    """Operators that read codes in the graph that onnxruntime made, and what could have been fused."""
    counts = collections.Counter(n.op_type for n in onnx.load(path, load_external_data=False).graph.node)
    wanted = ["MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "MatMul", "FusedMatMul"]
    return ", ".join(f"{counts[kind]} {kind}" for kind in wanted if counts[kind])


def worker(folder: str, model: Path, feed: Path, work: Path, save: Path | str, level: str = "0"):
    """Logits, version, what OpenVINO made of the products; or the reason why not."""
    out = work / "logits.npy"
    command = [sys.executable, "-c", WORKER, folder, model, feed, out, save, level]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return None, common.brief(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "crashed"), ""
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return np.load(out), facts["version"], facts.get("left", "")


def ours(program: Path, engine: str, model: Path, feed: Path, work: Path):
    folder = work / "ours"
    done = common.call([program, "run", model, "-o", folder, "--data", feed, "--runtime", engine, "--threads", "1"])
    if not done.ok:
        return None, done.reason()
    return common.read_value(folder / "test_data_set_0/output_0.pb", onnx.load(model).graph.output[0].type), ""


def verdict(got: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Share of positions with the same most likely token, and the largest difference by the largest logit."""
    same = float((got.argmax(-1) == wanted.argmax(-1)).mean())
    return same, float(np.abs(got - wanted).max() / np.abs(wanted).max())


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", type=Path, default=common.FIXTURES / "stories260K/model.onnx")
    parser.add_argument("--tokens", type=int, default=96, help="tokens a window")
    parser.add_argument("--levels", nargs="+", default=["1", "0"], help="accuracy_level of products; 0: as we emit it")
    parser.add_argument("--ort", action="append", default=[], metavar="VERSION=FOLDER", help="another onnxruntime")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    installed = {v: f for v, f in (item.split("=", 1) for item in args.ort)}
    import onnxruntime

    installed[onnxruntime.__version__] = "-"
    number = lambda version: tuple(int(part) for part in version.split(".")[:2])  # noqa: E731
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        entry = onnx.load(args.model, load_external_data=False).graph.input[0]
        words = onnx.load(args.model, load_external_data=False).graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        tokens = np.random.default_rng(1).integers(1, words, (1, args.tokens)).astype(np.int64)
        feed = work / "feed.npz"
        np.savez(feed, **{entry.name: tokens})
        for profile, widths, least in PROFILES:
            for bits, level in itertools.product(widths, args.levels):
                name = f"{profile}, {bits} bits, level {level}"
                if args.only and args.only not in name:
                    continue
                model, saved = work / "model.onnx", work / "optimized.onnx"
                options = ["--mode", "weight-only", "--profile", profile, "--bits", str(bits)]
                options += ["--accuracy-level", level] if level == "1" else []
                done = common.call([program, "quantize", args.model, "-o", model, *options])
                if not done.ok:
                    failures.append(f"{name}: {done.reason()}")
                    continue
                wanted, why = ours(program, "reference", model, feed, work)
                if wanted is None:
                    failures.append(f"{name}: reference: {why}")
                    continue
                runs = [("tract, lowered", *ours(program, "tract", model, feed, work), "")]
                if least or profile in ("plain", "tensorrt", "tract"):
                    for version, place in sorted(installed.items(), key=lambda item: number(item[0])):
                        if least and number(version) < number(least):
                            continue
                        got, found, _ = worker(place, model, feed, work, saved, level)
                        runs.append((f"onnxruntime {version}", got, found, census(saved) if got is not None else ""))
                if profile in ("openvino", "plain"):
                    got, found, left = worker("-", model, feed, work, "openvino", level)
                    runs.append((f"openvino {found}" if got is not None else "openvino", got, found, left))
                if profile == "tensorrt":
                    done = common.call([program, "check", model, "--target", "tensorrt"])
                    rows.append([name, "tensorrt, by rules", "clean" if done.ok else done.reason(), None, None])
                    if not done.ok:
                        failures.append(f"{name}: check: {done.reason()}")
                for runtime, got, found, left in runs:
                    if got is None:
                        rows.append([name, runtime, "refused: " + found, None, None])
                        if profile != "plain":
                            failures.append(f"{name} in {runtime}: {found}")
                        continue
                    same, off = verdict(got, wanted)
                    rows.append([name, runtime, f"{100 * same:.1f} %", f"{off:.1e}", left or None])
                    if off > (EXACT if level == "1" else ROUNDED) or (off <= EXACT and same < 1):
                        failures.append(f"{name} in {runtime}: off by {off:.2g}, same top-1 {same:.3f}")
    packages = ("onnx", "onnxruntime", *(["openvino"] if any("openvino" in row[1] for row in rows) else []))
    header = ["profile", "runtime", "same top-1", "largest difference", "left in the graph"]
    text = f"{args.model.parent.name}, one window of {args.tokens} tokens, against the reference evaluator.\n\n"
    name = "profiles" + (f"_{args.only}" if args.only else "")
    common.report(name, "Weight-only models in their runtimes", text + common.table(header, rows), args.save, packages)
    common.progress("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
