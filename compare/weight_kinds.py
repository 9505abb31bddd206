#!/usr/bin/env python3
"""Every place a weight can be in, by every method, form and runtime: small made-up models, each output a place of its own.

A model holds products, tables, convolutions, branches and loops with weights of its own or from outside, sizes that no block
divides, inputs of zeros and of rank one. It is quantized, and for each output three things are asked: is it near the float
one (bounds by width), does onnxruntime compute from the file what our evaluator computes from it, and is every weight either
quantized or listed as kept. Weights with NaN and models that are quantized already must be refused by name.

All models together take a minute; `compare/ci.py` runs them on every change.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import common

WIDTH, TOKENS, VOCABULARY = 64, 24, 96
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
#: Relative to the whole output: sums in another order; float16 also rounds the sums (of blocks, of the two terms).
AGREES = {"float32": 1e-4, "float16": 1e-2}
#: Relative error of an output: weights rounded to nearest in blocks of 32 lose 0.08 at four bits (gaussian), inputs of a
#: few strong columns more; eight bits a sixteenth; activations in eight bits (LLM.int8) some percent.
NEAR = {2: 0.75, 4: 0.2, 8: 0.03}


class Builder:
    """A model of many outputs; weights are named after the output that they serve."""

    def __init__(self, dtype: str, seed: int = 0):
        self.dtype, self.kind = dtype, TYPES[dtype]
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.outputs, self.weights = [], [], [], {}

    def constant(self, name: str, values: np.ndarray, kind: int | None = None):
        values = np.asarray(values)
        kind = kind or (self.kind if values.dtype.kind == "f" else helper.np_dtype_to_tensor_dtype(values.dtype))
        if values.dtype.kind == "f":
            values = values.astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor = numpy_helper.from_array(values, name)
        self.constants.append(tensor)
        return name

    def weight(self, name: str, shape, scale: float = 0.125, table: bool = False) -> str:
        """Rows of zeros, one-signed rows, and a strong column: what real weights have. `table`: it is also an embedding."""
        values = self.rng.standard_normal(shape) * scale
        values[..., 3] = 0
        values[..., 5] = np.abs(values[..., 5])
        self.weights[name] = table
        return self.constant(name, values)

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", **attributes))
        return out

    def out(self, name: str, value: str):
        self.nodes.append(helper.make_node("Cast", [value], [name], name=f"out_{name}", to=TensorProto.FLOAT))
        self.outputs.append(name)

    def model(self) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        inputs = [value("x", TensorProto.FLOAT, [1, TOKENS, WIDTH]), value("ids", TensorProto.INT64, [1, TOKENS])]
        outputs = [value(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "kinds", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


Kind = Callable[[Builder, str], None]


def matmul(b: Builder, x: str):
    b.out("matmul", b.op("MatMul", x, b.weight("matmul_w", (WIDTH, 40))))


def ragged(b: Builder, x: str):
    """K that no block divides, N odd."""
    cut = b.op("Slice", x, b.constant("from", np.array([0])), b.constant("to", np.array([50])), b.constant("axis", np.array([2])))
    b.out("ragged", b.op("MatMul", cut, b.weight("ragged_w", (50, 37))))


def shared(b: Builder, x: str):
    w = b.weight("shared_w", (WIDTH, WIDTH))
    b.out("shared", b.op("MatMul", b.op("Tanh", b.op("MatMul", x, w)), w))


def gemm(b: Builder, x: str):
    rows = b.op("Reshape", x, b.constant("rows", np.array([TOKENS, WIDTH])))
    bias = b.constant("bias", b.rng.standard_normal(40))
    b.out("gemm", b.op("Gemm", rows, b.weight("gemm_w", (WIDTH, 40)), bias))
    b.out("gemm_turned", b.op("Gemm", rows, b.weight("gemm_turned_w", (41, WIDTH)), transB=1))


def transposed(b: Builder, x: str):
    turned = b.op("Transpose", b.weight("transposed_w", (33, WIDTH)), perm=[1, 0])
    # Where the Transpose can be folded, its output is the constant.
    b.weights[f"{turned} or transposed_w"] = b.weights.pop("transposed_w")
    b.out("transposed", b.op("MatMul", x, turned))


def pointwise(b: Builder, x: str):
    image = b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1]), b.constant("image", np.array([1, WIDTH, 6, 4])))
    w = b.weight("pointwise_w", (48, WIDTH))
    b.weights[w] = False
    b.constants[-1].dims[:] = [48, WIDTH, 1, 1]
    b.out("pointwise", b.op("Conv", image, w, b.constant("conv_bias", b.rng.standard_normal(48))))


def embedding(b: Builder, x: str):
    del x
    b.out("embedding", b.op("Gather", b.weight("embedding_w", (VOCABULARY, WIDTH), table=True), "ids"))


def tied(b: Builder, x: str):
    """An embedding and a head of one tensor, behind a Transpose."""
    table = b.weight("tied_w", (VOCABULARY, WIDTH), table=True)
    hidden = b.op("Tanh", b.op("Add", b.op("Gather", table, "ids"), x))
    b.out("tied", b.op("MatMul", hidden, b.op("Transpose", table, perm=[1, 0])))


def tied_copies(b: Builder, x: str):
    """An embedding and a head of the same numbers, one of them transposed by the exporter."""
    table = b.weight("copied_w", (VOCABULARY, WIDTH), table=True)
    values = numpy_helper.to_array(b.constants[-1])
    head = b.constant("copied_head_w", np.zeros((WIDTH, VOCABULARY)))
    b.constants[-1].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.T), head))
    hidden = b.op("Tanh", b.op("Add", b.op("Gather", table, "ids"), x))
    b.out("tied_copies", b.op("MatMul", hidden, head))


def branches(b: Builder, x: str):
    """A weight from outside in one branch of an If, one of its own in the other."""
    outside = b.weight("outside_w", (WIDTH, 40))
    inside = numpy_helper.from_array(numpy_helper.to_array(b.constants[-1])[:, ::-1].copy(), "inside_w")
    b.weights["inside_w"] = False
    bodies = {}
    for name, weight, held in [("then_branch", outside, []), ("else_branch", "inside_w", [inside])]:
        y = helper.make_tensor_value_info(f"{name}_y", b.kind, [1, TOKENS, 40])
        node = helper.make_node("MatMul", [x, weight], [y.name], name=f"{name}_product")
        bodies[name] = helper.make_graph([node], name, [], [y], held)
    first = b.op("Gather", "ids", b.constant("first", np.array(0)), axis=1)
    low = b.op("Less", b.op("ReduceSum", first, keepdims=0), b.constant("half", np.array(VOCABULARY // 2)))
    b.out("branches", b.op("If", low, **bodies))


def loop(b: Builder, x: str):
    """Three rounds of one product."""
    w = b.weight("loop_w", (WIDTH, WIDTH))
    value = helper.make_tensor_value_info
    state = [1, TOKENS, WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", w], ["p"], name="loop_product"),
            helper.make_node("Tanh", ["p"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("at", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h", b.kind, state)],
        [value("go_on", TensorProto.BOOL, []), value("next", b.kind, state)],
    )
    rounds, yes = b.constant("rounds", np.array(3)), b.constant("yes", np.array(True))
    b.out("loop", b.op("Loop", rounds, yes, x, body=body))


def dead(b: Builder, x: str):
    """Inputs that are always zero."""
    b.out("dead", b.op("MatMul", b.op("Mul", x, b.constant("nothing", np.zeros(WIDTH))), b.weight("dead_w", (WIDTH, 40))))


def rank_one(b: Builder, x: str):
    """All tokens are multiples of one: the Gram matrix is singular."""
    one = b.op("ReduceMean", x, axes=[2], keepdims=1)
    spread = b.op("Mul", one, b.constant("direction", b.rng.standard_normal(WIDTH)))
    b.out("rank_one", b.op("MatMul", spread, b.weight("rank_one_w", (WIDTH, 40))))


def stacked(b: Builder, x: str):
    """A stack of matrices, which stays float and is listed."""
    values = b.rng.standard_normal((1, WIDTH, 32)) * 0.125
    b.out("stacked", b.op("MatMul", x, b.constant("stacked_w", values)))


KINDS: list[Kind] = [
    matmul, ragged, shared, gemm, transposed, pointwise, embedding, tied, tied_copies, branches, loop, dead, rank_one, stacked,
]  # fmt: skip


def build(dtype: str, kinds: list[Kind] = KINDS) -> Builder:
    b = Builder(dtype)
    x = "x" if dtype == "float32" else b.op("Cast", "x", to=b.kind)
    for kind in kinds:
        kind(b, x)
    return b


def feeds(count: int, seed: int = 7) -> Iterator[dict[str, np.ndarray]]:
    """Tokens with a few strong columns and correlated ones."""
    rng = np.random.default_rng(seed)
    mix = np.eye(WIDTH) + 0.3 * rng.standard_normal((WIDTH, WIDTH)) / 8
    mix[:, 7] *= 6
    for at in range(count):
        x = (rng.standard_normal((1, TOKENS, WIDTH)) @ mix).astype(np.float32)
        ids = rng.integers(0, VOCABULARY, (1, TOKENS))
        ids[0, 0] = VOCABULARY - 1 if at % 2 else 0  # both branches
        yield {"x": x, "ids": ids}


# What is asked for


@dataclass
class Case:
    name: str
    dtype: str
    arguments: list[str]
    bits: int
    calibrated: bool = False
    #: activations in eight bits
    rounds_inputs: bool = False
    #: no onnxruntime can run the file
    runs: bool = True


METHODS = ["rtn", "rtn-search", "hqq", "hqq-affine", "nf4", "fp4", "kquant", "gptq", "awq", "awq+gptq"]
CALIBRATED = ["gptq", "awq", "awq+gptq", "int8-outliers"]


def cases() -> Iterator[Case]:
    for dtype in TYPES:
        runs = dtype != "bfloat16"  # onnxruntime's CPU kernels have no bfloat16
        for method in METHODS:
            arguments = ["--weight-method", method, "--accuracy-level", "1"]
            yield Case(f"{dtype} {method}", dtype, arguments, 4, method in CALIBRATED, runs=runs)
        outliers = ["--weight-method", "int8-outliers", "--outlier-share", "0.1"]
        yield Case(f"{dtype} int8-outliers", dtype, outliers, 8, True, rounds_inputs=True, runs=runs)
        for profile, widths in [("ort-cpu", [2, 8]), ("plain", [4, 8]), ("openvino", [4, 8]), ("tensorrt", [4, 8]), ("tract", [8])]:
            for bits, method in itertools.product(widths, ["rtn-search", "awq+gptq"]):
                arguments = ["--profile", profile, "--bits", str(bits), "--weight-method", method]
                arguments += ["--accuracy-level", "1"] if profile == "ort-cpu" else []
                yield Case(f"{dtype} {method} {profile} {bits}", dtype, arguments, bits, method in CALIBRATED, runs=runs)
    for name, arguments in {
        "block 16": ["--block", "16"],
        "block 128": ["--block", "128"],
        "one scale a row": ["--block", "0"],
        "symmetric": ["--symmetric"],
        "scales of 8 bits": ["--scale-bits", "8"],
        "embeddings stay float": ["--embedding-bits", "float"],
        "embeddings of 4 bits": ["--embedding-bits", "4"],
        "mixture": ["--mix", "q4_k_m"],
        "budget": ["--target-bpw", "5"],
    }.items():
        yield Case(name, "float32", [*arguments, "--accuracy-level", "1"], 2 if name == "budget" else 4)


def quantize(program: Path, model: Path, out: Path, case: Case, data: Path) -> common.Run:
    command = [program, "quantize", model, "-o", out, "--mode", "weight-only", *case.arguments]
    if case.calibrated:
        command += ["--data", data]
    return common.call([*command, "--json", out.with_suffix(".json")])


def evaluated(program: Path, model: Path, feed: Path, work: Path) -> list[np.ndarray] | str:
    """Outputs of the file by our own evaluator of definitions."""
    done = common.call([program, "run", model, "-o", work, "--data", feed, "--runtime", "reference"])
    if not done.ok:
        return done.reason()
    outputs = onnx.load(model, load_external_data=False).graph.output
    return [common.read_value(work / f"test_data_set_0/output_{k}.pb", v.type) for k, v in enumerate(outputs)]


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-6))


def examine(program: Path, case: Case, work: Path, kinds: list[Kind] = KINDS) -> list[str]:
    """What is wrong; each line begins with the output or the weight that it is about."""
    model, out, data = work / "float.onnx", work / "few.onnx", work / "data"
    built = build(case.dtype, kinds)
    onnx.save(built.model(), model)
    data.mkdir(exist_ok=True)
    for at, feed in enumerate(feeds(12)):
        np.savez(data / f"{at:02}.npz", **feed)
    done = quantize(program, model, out, case, data)
    if not done.ok:
        return [done.reason()]
    report = json.loads(out.with_suffix(".json").read_text())
    told = {w["name"] for w in report["weights"]} | {name for name, _, _ in report["float"]}
    # Copies of an embedding are told under its name.
    lost = [name for name in built.weights if not told & set(name.split(" or "))]
    wrong = [f"{name}: neither quantized nor listed as kept" for name in lost]
    feed = next(iter(feeds(1, seed=8)))
    np.savez(work / "feed.npz", **feed)
    exact = evaluated(program, model, work / "feed.npz", work / "exact")
    found = evaluated(program, out, work / "feed.npz", work / "found")
    if isinstance(exact, str) or isinstance(found, str):
        return [*wrong, f"our evaluator: {exact if isinstance(exact, str) else found}"]
    names = built.outputs
    bound = 0.08 if case.rounds_inputs else NEAR[case.bits]
    for name, got, wanted in zip(names, found, exact, strict=True):
        # Three rounds of a loop, and two of a shared weight, add up.
        if (error := relative(got, wanted)) > bound * (2 if name in ("loop", "shared") else 1):
            wrong.append(f"{name}: relative error {error:.3f}, allowed {bound}")
    if not case.runs:
        return wrong
    try:
        theirs = common.ort_run(out, feed, "basic")
    except Exception as error:  # every way in which a file can be no model to it
        return [*wrong, f"onnxruntime: {common.brief(str(error))}"]
    # Codes of activations flip where sums differ in the last digit.
    agrees = 2e-2 if case.rounds_inputs else AGREES[case.dtype]
    for name, got, wanted in zip(names, theirs, found, strict=True):
        if (error := relative(got, wanted)) > agrees:
            wrong.append(f"{name}: onnxruntime is off by {error:.2g}")
    return wrong


def refusals(program: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Name, and what is wrong with how it was refused."""

    def refused(name: str, proto: onnx.ModelProto, arguments: list[str], words: list[str], data: Path | None = None) -> str:
        model, out = work / f"{name}.onnx", work / "refused.onnx"
        onnx.save(proto, model)
        more = ["--data", data] if data else []
        done = common.call([program, "quantize", model, "-o", out, "--mode", "weight-only", *arguments, *more])
        missing = [word for word in words if word not in done.error]
        if done.code != 2 or missing or out.exists():
            return f"code {done.code}, without {missing}: {done.error.strip()[:300]}"
        return ""

    def spoil(b: Builder):
        values = numpy_helper.to_array(b.constants[0]).copy()
        values[7, 9] = np.nan
        b.constants[0].CopyFrom(numpy_helper.from_array(values, b.constants[0].name))

    data = work / "nan"
    data.mkdir()
    for at, feed in enumerate(feeds(3)):
        feed["x"][0, 2, 4] = np.nan
        np.savez(data / f"{at}.npz", **feed)
    calm = work / "calm"
    calm.mkdir()
    for at, feed in enumerate(feeds(3)):
        np.savez(calm / f"{at}.npz", **feed)
    for method in METHODS:
        nan, arguments = build("float32", [matmul]), ["--weight-method", method]
        spoil(nan)
        samples = calm if method in CALIBRATED else None
        yield f"NaN in a weight, {method}", refused("nan", nan.model(), arguments, ["matmul_w", "--exclude"], samples)
    for method in ["gptq", "awq", "awq+gptq"]:
        plain, arguments = build("float32", [matmul]).model(), ["--weight-method", method]
        yield f"NaN in a sample, {method}", refused("input", plain, arguments, ["sample 0.npz", "NaN"], data)
    plain, coded = work / "plain.onnx", work / "coded.onnx"
    onnx.save(build("float32", [matmul]).model(), plain)
    done = common.call([program, "quantize", plain, "-o", coded, "--mode", "weight-only"])
    again = refused("again", onnx.load(coded), [], ["quantized already", "float model"]) if done.ok else done.reason()
    yield "quantized already", again


def everything(program: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """For `ci.py`: a name, and a function that says what is wrong."""

    def one(case: Case) -> str:
        with tempfile.TemporaryDirectory() as folder:
            return "; ".join(examine(program, case, Path(folder)))[:400]

    def refuse() -> str:
        with tempfile.TemporaryDirectory() as folder:
            return "; ".join(f"{name}: {wrong}" for name, wrong in refusals(program, Path(folder)) if wrong)[:400]

    for case in cases():
        yield f"weights of few bits, {case.name}", lambda case=case: one(case)
    yield "weights of few bits, refusals", refuse


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--apart", action="store_true", help="a model for each kind, too")
    args = parser.parse_args()
    program = common.need_program(args.onnxq)
    count, failures = 0, []
    for case in cases():
        if args.only and args.only not in case.name:
            continue
        for kinds in [KINDS, *([[kind] for kind in KINDS if kind is not stacked] if args.apart else [])]:
            with tempfile.TemporaryDirectory() as folder:
                wrong = examine(program, case, Path(folder), kinds)
            count += 1
            label = case.name if kinds is KINDS else f"{case.name}, {kinds[0].__name__} alone"
            failures += [f"{label}: {line}" for line in wrong]
            common.progress(f"{label}: {'; '.join(wrong) or 'right'}")
    with tempfile.TemporaryDirectory() as folder:
        for name, wrong in refusals(program, Path(folder)):
            count += 1
            failures += [f"{name}: {wrong}"] if wrong else []
    print("\n".join(failures))
    print(f"{count} models, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
