#!/usr/bin/env python3
"""The external checks that CI runs on every change: the program against onnx, onnxruntime and OpenVINO, on fixtures.

With the development data present, also every STEP-th ONNX node case is folded and evaluated. The last line says how
many checks passed and failed; exit code 1 if any failed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import common
import conformance
import folding
import foreign
import lossless
import shapes
import simplify
import weight_kinds
from common import FIXTURES, Named

STEP = 8  #: every 8th node case: 220 of them, a few seconds
MOBILENET = FIXTURES / "mobilenet_v1_0.25_224/model.onnx"
PREPROCESS = ["--preprocess", "unit"]  #: what mobilenet wants: centre crop, x / 127.5 - 1
#: Of 15 photographs 10 keep their first choice today (1 in 1000 would by chance); one flip more or less is rounding.
LEAST_AGREEMENT = 9 / 15
Check = tuple[str, Callable[[], str]]  #: name, and a function that says what is wrong, or nothing


def photographs() -> Iterator[np.ndarray]:
    """fixtures/data/eval, RGB bytes [224, 224, 3] cut from the centre."""
    for file in sorted((FIXTURES / "data/eval").glob("*.jpg")):
        image = Image.open(file).convert("RGB")
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        yield np.asarray(image.crop((left, top, left + 224, top + 224)))


def unit(pixels: np.ndarray) -> np.ndarray:
    """As mobilenet wants them."""
    return (pixels.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1)[None]


def inputs_of(model: Named) -> list[dict]:
    """Stored inputs, or photographs for the image models."""
    if model.data:
        return simplify.stored_feeds(model)
    first = next(photographs())
    return [{"image": unit(first)} if model.path == MOBILENET else {"_ppp0_bgr_data": first[..., ::-1]}]


def fails(command: list) -> str:
    done = common.call(command)
    return "" if done.ok else done.reason()


def check_lossless(program: Path, model: Named, work: Path) -> str:
    return lossless.check(program, model, work).problem


def check_simplify(program: Path, model: Named, work: Path) -> str:
    out = work / "simplified.onnx"
    if problem := fails([program, "simplify", model.path, "-o", out]):
        return problem
    onnx.checker.check_model(str(out))
    difference = simplify.output_difference(model.path, out, inputs_of(model))
    limit = simplify.RELATIVE[onnx.TensorProto.FLOAT]
    return "" if difference <= limit else f"outputs differ by {difference:.2g}, allowed {limit}"


def check_shapes(program: Path, model: Named, work: Path) -> str:
    scores = {"onnxq": shapes.Score(Counter(), [], [], []), "onnx": shapes.Score(Counter(), [], [], [])}
    tools = {"onnxq": shapes.with_onnxq(program), "onnx": shapes.with_onnx}
    shapes.compare(model, tools, scores, work)
    return "; ".join((scores["onnxq"].failures + scores["onnxq"].contradictions)[:3])


def check_quantize(program: Path, work: Path) -> str:
    """Quantizes mobilenet on the photographs of data/calib, twice, and runs the result on those of data/eval."""
    outs = [work / f"{k}.onnx" for k in range(2)]
    data = ["--data", FIXTURES / "data/calib", *PREPROCESS]
    for out in outs:
        command = [program, "quantize", MOBILENET, "-o", out, "--target", "ort-cpu", *data]
        if problem := fails(command):
            return problem
    if outs[0].read_bytes() != outs[1].read_bytes():
        return "two runs gave different files"
    if outs[0].stat().st_size > MOBILENET.stat().st_size / 3:
        return f"{outs[0].stat().st_size} bytes, more than a third of the float file"
    onnx.checker.check_model(str(outs[0]))
    sessions = [common.ort_session(path) for path in (MOBILENET, outs[0])]
    same = [len({int(s.run(None, {"image": unit(p)})[0].argmax()) for s in sessions}) == 1 for p in photographs()]
    agreement = sum(same) / len(same)
    return "" if agreement >= LEAST_AGREEMENT else f"top-1 agreement with float is {agreement:.2f}"


def check_openvino(program: Path, work: Path) -> str:
    import openvino

    out = work / "openvino.onnx"
    data = ["--data", FIXTURES / "data/calib", *PREPROCESS]
    if problem := fails([program, "quantize", MOBILENET, "-o", out, "--target", "openvino", *data]):
        return problem
    compiled = openvino.Core().compile_model(str(out), "CPU")
    values = compiled(unit(next(photographs())))[0]
    return "" if np.isfinite(values).all() else "not finite"


def check_forms(program: Path, work: Path) -> str:
    """The other forms load and agree with Q/DQ on a photograph; dynamic mode needs no data."""
    data = ["--data", FIXTURES / "data/calib", *PREPROCESS, "--samples", "5"]
    image = {"image": unit(next(photographs()))}
    wanted = common.ort_session(MOBILENET).run(None, image)[0]
    forms = {
        "dynamic": ["--mode", "dynamic"],
        "qoperator": ["--format", "qoperator", *data],
        # What stays in float between codes stays so when onnxruntime has optimized the graph.
        "mixed": ["--exclude", "*dw*", *data],
    }
    for name, flags in forms.items():
        out = work / f"{name}.onnx"
        if problem := fails([program, "quantize", MOBILENET, "-o", out, *flags]):
            return f"{name}: {problem}"
        onnx.checker.check_model(str(out))
        found = common.ort_session(out).run(None, image)[0]
        # The bar is far below what either reaches (10 and 25 dB) and far above what a wrong scale gives (below 0).
        noise, signal = float(((found - wanted) ** 2).sum()), float((wanted**2).sum())
        if noise * 2 > signal:
            return f"{name}: {10 * np.log10(signal / noise):.1f} dB"
    return ""


def check_check(program: Path, target: str, work: Path) -> str:
    """What is made for a target has none of the faults that the target's rules look for."""
    out = work / "checked.onnx"
    data = ["--data", FIXTURES / "data/calib", *PREPROCESS, "--samples", "5"]
    if problem := fails([program, "quantize", MOBILENET, "-o", out, "--target", target, *data]):
        return problem
    done = common.call([program, "check", out, "--target", target])
    return "" if done.ok else done.out[:300]


def check_foreign(program: Path, name: str) -> str:
    """`check` on files of onnxruntime's quantizer: right about them as they are, and it finds what is seeded."""
    models = [model for model in common.fixture_models() if model.name == name]
    healthy, faults = foreign.examine(program, models, with_peers=False, progress=lambda _: None)
    if not healthy or not any(row.tried for row in faults):
        return "onnxruntime.quantization made no file"
    return "; ".join(f"{row.name}: {row.wrong[0]}" for row in healthy + faults if row.wrong)[:400]


def check_report(program: Path, command: list) -> str:
    """Commands with --json write one JSON value to stdout and nothing else."""
    done = common.call([program, *command, "--json"])
    if not done.ok:
        return done.reason()
    json.loads(done.out)
    return ""


def check_folding(program: Path, case: folding.Case) -> str:
    kind, detail = folding.verdict(case, folding.with_onnxq(program)(case))
    return detail if kind == "wrong" else ""


def check_conformance(program: Path, case: Named) -> str:
    model = onnx.load(case.path)
    exact = folding.operator_of(case, model, {}) in conformance.EXACT and "expanded" not in case.name
    kind, detail = conformance.verdict(program, case, model, exact)
    return detail if kind in ("wrong", "crashed") else ""


def differs(a: object, b: object) -> bool:
    """Numbers may differ in the last digits: other versions of NumPy add in another order."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() != b.keys() or any(differs(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(map(differs, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) > 1e-9 * max(1.0, abs(a))
    return a != b


def check_golden(work: Path) -> str:
    """The ranges that the tests of `quant` ask for are what NumPy gives today."""
    folder, out = common.ROOT / "quant/tests/data", work / "ranges.json"
    if problem := fails([sys.executable, folder / "make_ranges.py", out]):
        return problem
    old, new = (json.loads(path.read_text()) for path in (folder / "ranges.json", out))
    return "quant/tests/data/ranges.json is stale" if differs(old, new) else ""


def checks(program: Path, work: Path) -> Iterator[Check]:
    for model in common.fixture_models():
        yield f"lossless {model.name}", lambda m=model: check_lossless(program, m, work)
        yield f"simplify {model.name}", lambda m=model: check_simplify(program, m, work)
        yield f"infer_shapes {model.name}", lambda m=model: check_shapes(program, m, work)
        yield f"inspect {model.name}", lambda m=model: check_report(program, ["inspect", m.path])
    yield "golden ranges", lambda: check_golden(work)
    yield "quantize for ort-cpu", lambda: check_quantize(program, work)
    yield "quantize for openvino", lambda: check_openvino(program, work)
    yield "dynamic and operators on codes", lambda: check_forms(program, work)
    for target in ("ort-cpu", "tensorrt", "openvino", "qnn", "tract"):
        yield f"check what was made for {target}", lambda t=target: check_check(program, t, work)
    yield from weight_kinds.everything(program)
    for name in ("mnist_cntk", "dtln_1"):
        yield f"check files of other tools, {name}", lambda n=name: check_foreign(program, n)
    if (common.SHARED / "models").is_dir():
        for case in folding.cases(None)[0][::STEP]:
            yield f"fold {case.name}", lambda c=case: check_folding(program, c)
        for case in common.node_cases()[::STEP]:
            if not folding.is_training(onnx.load(case.path)):
                yield f"evaluate {case.name}", lambda c=case: check_conformance(program, c)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxq", type=Path, default=common.ROOT / "target/debug/onnxq", metavar="PATH")
    parser.add_argument("--only", metavar="TEXT", help="only checks whose name contains TEXT")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    passed, failed, start = 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, check in checks(program, Path(folder)):
            if args.only is not None and args.only not in name:
                continue
            for old in Path(folder).iterdir():
                old.unlink()
            try:
                problem = check()
            except Exception as error:  # onnx and the runtimes raise every type of error; each is a failed check
                problem = f"{type(error).__name__}: {common.brief(str(error))}"
            passed, failed = passed + (not problem), failed + bool(problem)
            if problem:
                print(f"FAILED {name}: {problem}")
    print(f"external checks took {time.perf_counter() - start:.0f} s")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
