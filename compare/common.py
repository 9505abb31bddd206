"""What the comparison scripts share: arguments, folders, running tools, onnxruntime, arrays, tables.

Folders: $ONNXQ_SHARED (development models and data, default ../shared beside the repository) and $ONNXQ_CACHE
(unpacked cases, peers' outputs; default: a folder in the system's temporary directory). Nothing is written into the
repository but results/NAME.md, with --save.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FIXTURES = ROOT / "fixtures"
SHARED = Path(os.environ.get("ONNXQ_SHARED", ROOT.parent / "shared")).resolve()
CACHE = Path(os.environ.get("ONNXQ_CACHE", Path(tempfile.gettempdir()) / "onnxq-compare")).resolve()
TIMEOUT = 600.0  #: seconds a tool may take on one model


# Arguments, folders


def arguments(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxq", type=Path, default=ROOT / "target/release/onnxq", metavar="PATH", help="the program")
    parser.add_argument("--save", action="store_true", help="write compare/results/NAME.md")
    parser.add_argument("--only", metavar="TEXT", help="only models or cases whose name contains TEXT")
    return parser


def need_shared() -> None:
    """Ends the script, as a success, where the development data is not there."""
    if not (SHARED / "models").is_dir():
        print(f"skipped: no development data at {SHARED} (set ONNXQ_SHARED)")
        sys.exit(0)


def need_program(path: Path) -> Path:
    if not path.is_file():
        sys.exit(f"error: {path} does not exist: cargo build --release, or give --onnxq PATH")
    return path.resolve()


@dataclass(frozen=True)
class Named:
    """A model file under the name it has in tables."""

    name: str
    path: Path

    @property
    def data(self) -> list[Path]:
        """Its test_data_set_N folders."""
        prefix = "" if self.path.stem == "model" else f"{self.path.stem}_"
        return sorted(self.path.parent.glob(f"{prefix}test_data_set_*"))


def fixture_models() -> list[Named]:
    return name_models(sorted(FIXTURES.glob("*/model*.onnx")))


def shared_models() -> list[Named]:
    """All of shared/models. The weights of minilm_l6_v2 are made once, by the script beside it, into the cache."""
    models = name_models(sorted((SHARED / "models").glob("*/model*.onnx")))
    return [Named(m.name, with_weights(m.path)) for m in models]


def name_models(paths: Iterable[Path]) -> list[Named]:
    return [Named(p.parent.name + p.stem.removeprefix("model"), p) for p in paths]


def with_weights(path: Path) -> Path:
    build = path.parent / "build.py"
    if not build.exists():
        return path
    out = CACHE / "models" / path.parent.name
    subprocess.run([sys.executable, build, out], check=True, stdout=sys.stderr)
    for folder in path.parent.glob("test_data_set_*"):
        shutil.copytree(folder, out / folder.name, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return out / path.name


def chosen(items: Sequence[Named], only: str | None) -> list[Named]:
    return [item for item in items if only is None or only in item.name]


def node_cases() -> list[Named]:
    """The ONNX node conformance cases, unpacked into the cache once."""
    archive = SHARED / "data/onnx-node-tests.tar.zst"
    folder = CACHE / "node"
    if not folder.is_dir():
        import tarfile

        import zstandard

        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work, open(archive, "rb") as file:
            with tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as tar:
                tar.extractall(work, filter="data")
            (Path(work) / "node").rename(folder)
    return [Named(p.parent.name.removeprefix("test_"), p) for p in sorted(folder.glob("*/model.onnx"))]


def package_models() -> list[Named]:
    """The other models that ship inside the onnx package: what PyTorch wrote years ago, control flow, large layouts."""
    folder = Path(onnx.__file__).parent / "backend/test/data"
    groups = ("pytorch-converted", "pytorch-operator", "simple")
    paths = [path for group in groups for path in sorted(folder.glob(f"{group}/*/model.onnx"))]
    return name_models(paths) + [Named(p.stem, p) for p in sorted(folder.glob("light/*.onnx"))]


# Tools


def brief(text: str) -> str:
    """A message for a table: on one line, short, file names without their folders."""
    return re.sub(r"(/[^/\s]+)+/", "", " ".join(text.split()))[:200]


@dataclass(frozen=True)
class Run:
    """One run of a tool, in a process of its own."""

    code: int
    out: str
    error: str
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    peak_bytes: float = float("nan")
    anon_bytes: float = float("nan")

    @property
    def ok(self) -> bool:
        return self.code == 0

    def reason(self) -> str:
        """The last line the tool wrote to stderr: what went wrong."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error")]
        return brief((errors or lines[-1:] or [f"exit code {self.code}"])[0])


def run(command: Sequence[str | Path], timeout: float = TIMEOUT) -> Run:
    """Runs and measures a command (see measure.py), in an empty folder: some tools leave files where they stand."""
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "cost.json"
        full = [sys.executable, "-S", HERE / "measure.py", report, *command]
        process = subprocess.Popen(
            full,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=work,
            start_new_session=True,
        )
        try:
            out, error = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return Run(124, "", f"error: took more than {timeout:.0f} s")
        cost = json.loads(report.read_text()) if report.exists() else {}
        return Run(process.returncode, out.decode(errors="replace"), error.decode(errors="replace"), **cost)


def call(command: Sequence[str | Path], timeout: float = TIMEOUT) -> Run:
    """Runs a command without measuring it: for many small calls."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Run(124, "", f"error: took more than {timeout:.0f} s")
    return Run(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def isolated(work: Callable, items: Sequence, timeout: float = 60.0) -> Iterator:
    """work(item) for every item, in a child process that is replaced when it dies or hangs.

    Yields (item, result, None) or (item, None, reason). For tools that are Python libraries and may crash.
    """

    def serve(connection, remaining):
        for item in remaining:
            try:
                connection.send((work(item), None))
            except Exception as error:  # whatever a library raises is its result for this item
                connection.send((None, f"{type(error).__name__}: {brief(str(error))}"))

    served = 0
    while served < len(items):
        ours, theirs = get_context("fork").Pipe(duplex=False)
        process = get_context("fork").Process(target=serve, args=(theirs, items[served:]))
        process.start()
        theirs.close()
        alive = True
        while alive and served < len(items):
            try:
                alive = ours.poll(timeout)
                result, reason = ours.recv() if alive else (None, f"took more than {timeout:.0f} s")
            except EOFError:
                alive, result, reason = False, None, "crashed"
            yield items[served], result, reason
            served += 1
        process.kill()
        process.join()


# Models in onnxruntime


LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def ort_library() -> Path:
    """onnxruntime's own library, for `--ort-lib`."""
    import onnxruntime

    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        raise FileNotFoundError("onnxruntime's package has no libonnxruntime.so")
    return found[0]


def ort_session(model: Path | ModelProto, level: str = "all", threads: int = 1, save: Path | None = None):
    """level: a key of LEVELS. save: where onnxruntime writes the graph it made of the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    if save:
        options.optimized_model_filepath = str(save)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors arrive as exceptions
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ort_run(model: Path | ModelProto, feeds: dict[str, object], level: str = "all") -> list:
    return ort_session(model, level).run(None, feeds)


def read_value(path: Path, kind: onnx.TypeProto):
    """A stored input or output: array, list (sequence) or None (empty optional)."""
    data = path.read_bytes()
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if which == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def model_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller must give: files of IR 3 list the weights too."""
    weights = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def read_data(model: ModelProto, folder: Path) -> tuple[dict[str, object], list]:
    """Feeds and expected outputs of a test_data_set_N folder."""
    feeds = {}
    for k, value in enumerate(model_inputs(model)):
        path = folder / f"input_{k}.pb"
        if path.exists():
            feeds[value.name] = read_value(path, value.type)
    outputs = [read_value(folder / f"output_{k}.pb", value.type) for k, value in enumerate(model.graph.output)]
    return feeds, outputs


# Arrays

#: Relative and absolute tolerance of computed (not moved) values: those of the ONNX backend tests for the wide types, a
#: few units in the last place for the narrow ones. Everything not listed (integers, bool, strings, 8 bits) is exact.
TOLERANCE = {
    "float64": (1e-3, 1e-7),
    "float32": (1e-3, 1e-6),
    "complex64": (1e-3, 1e-6),
    "complex128": (1e-3, 1e-7),
    "float16": (5e-3, 1e-3),
    "bfloat16": (2e-2, 1e-2),
}


def same_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Element by element: equal, or both NaN. The zeros are equal, as IEEE 754 and the ONNX backend tests have it."""
    if "float" in a.dtype.name or a.dtype.kind == "c":
        return (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(a == b)


def mismatch(got, wanted, exact: bool = False) -> str | None:
    """None if the values agree: in type, shape and, exactly or within TOLERANCE, in content. NaN equals NaN."""
    if isinstance(wanted, list) or wanted is None or got is None:
        if not isinstance(got, list) or wanted is None or len(got) != len(wanted):
            return None if got is None and wanted is None else "different structure"
        return next((m for g, w in zip(got, wanted, strict=True) if (m := mismatch(g, w, exact))), None)
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.dtype != wanted.dtype and {got.dtype.kind, wanted.dtype.kind} - set("OUT"):
        return f"type {got.dtype}, expected {wanted.dtype}"
    if got.shape != wanted.shape:
        return f"shape {list(got.shape)}, expected {list(wanted.shape)}"
    name = wanted.dtype.name
    if exact or name not in TOLERANCE:
        different = int(np.sum(~same_values(got, wanted)))
        return f"{different} of {wanted.size} values differ" if different else None
    relative, absolute = TOLERANCE[name]
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    if np.allclose(a, b, rtol=relative, atol=absolute, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        return f"largest difference {np.nanmax(np.abs(a - b)):.3g} of {np.nanmax(np.abs(b)):.3g}"


# Tables


def table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Markdown. Numbers to the right; None is a dash."""
    rows = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    numeric = [
        bool(rows) and all(row[k][:1] in "-+.0123456789~" or not row[k] for row in rows) for k in range(len(header))
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def megabytes(count: float) -> str:
    return "-" if count != count else f"{count / 1e6:.1f}"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def report(name: str, title: str, text: str, save: bool, packages: Sequence[str] = ("onnx", "onnxruntime")) -> None:
    """Prints the tables and, with --save, writes them to results/NAME.md with what is needed to repeat them."""
    print(text)
    if save:
        made = f"Made by `compare/{Path(sys.argv[0]).name}` with {versions(*packages)} on {cpu_name()}"
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / f"{name}.md").write_text(f"# {title}\n\n{made}, {os.cpu_count()} cores.\n\n{text}\n")


def slices(name: str, program: Path, rows: list[dict], keys: Sequence[str]) -> list[dict]:
    """These rows and those of earlier calls (`--only`) with the same program, which the cache keeps: a long table is made in
    slices."""
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    path = CACHE / "slices" / f"{name}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    earlier = kept.get("rows", []) if kept.get("program") == digest else []
    of = lambda row: [row[key] for key in keys]  # noqa: E731
    new = [of(row) for row in rows]
    rows = sorted([row for row in earlier if of(row) not in new] + rows, key=of)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"program": digest, "rows": rows}))
    return rows


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
