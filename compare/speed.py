#!/usr/bin/env python3
"""Is our file as fast as the fastest that another tool makes of the same model? In onnxruntime, one thread.

Ours (default recipe), the float model and the peers' files of the model take turns, run by run, so that what else the
machine does meets all of them alike. Each ratio is the median over rounds of time(peer) / time(ours): above 1 ours is
faster. The peers calibrate on few samples: that changes no kernel.

`--make` only writes the files into the cache, so that the measurement itself is short.
"""

import hashlib
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import common
from common import CACHE
from quantize import Subject, census, middle_sample, ours_command, peer_commands, subjects

MODELS = ["squeezenet1.1", "resnet20_cifar10", "mobilenet_v1_0.25_224", "yolox_nano", "minilm_l6_v2"]
PEERS = ["ort-minmax", "ort-dynamic", "onnxsim-minmax", "onnxsim-full-auto", "nncf-performance", "nncf-mixed"]
SAMPLES = 8  #: that peers calibrate on
SECONDS = 6.0  #: of measurement a model
LEAST_ROUNDS = 15


@dataclass
class Row:
    name: str
    rounds: int = 0
    floats: float = float("nan")  #: time(float) / time(ours)
    peers: dict[str, float] = field(default_factory=dict)  #: time(peer) / time(ours)
    integer: str = ""
    error: str = ""


def our_files(subject: Subject, program: Path) -> list[Path]:
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    folder = CACHE / "ours" / digest
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for model, calib in zip(subject.files, subject.calib, strict=True):
        files.append(folder / f"{subject.name}.{len(files)}.onnx")
        if not files[-1].exists():
            done = common.call(ours_command(program, model, calib, files[-1]))
            if not done.ok:
                raise RuntimeError(done.reason())
    return files


def peer_files(subject: Subject) -> dict[str, list[Path]]:
    """Of every peer that can; what it says where it cannot is kept instead of a file."""
    source = hashlib.sha256(Path(__file__).with_name("peers.py").read_bytes()).hexdigest()[:12]
    folder = CACHE / "speed" / source
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for tool in PEERS:
        files = [folder / f"{subject.name}-{tool}.{k}.onnx" for k in range(len(subject.files))]
        refused = folder / f"{subject.name}-{tool}.refused"
        for model, calib, file in zip(subject.files, subject.calib, files, strict=True):
            if file.exists() or refused.exists():
                continue
            with tempfile.TemporaryDirectory() as few:
                for sample in sorted(calib.glob("*.npz"))[:SAMPLES]:
                    (Path(few) / sample.name).symlink_to(sample)
                done = common.run(peer_commands()[tool](model, Path(few), file))
            if not file.exists():
                refused.write_text(done.reason())
        if all(file.exists() for file in files):
            made[tool] = files
    return made


def seconds(sessions: list, feeds: list[dict]) -> float:
    before = time.perf_counter()
    for session, feed in zip(sessions, feeds, strict=True):
        session.run(None, feed)
    return time.perf_counter() - before


def measure(subject: Subject, program: Path) -> Row:
    row = Row(subject.name)
    files = our_files(subject, program)
    candidates = {"ours": files, "float": subject.files} | peer_files(subject)
    samples = [middle_sample(folder) for folder in subject.calib]
    sessions, feeds = {}, {}
    for name, group in candidates.items():
        try:
            sessions[name] = [common.ort_session(file) for file in group]
            pairs = zip(sessions[name], samples, strict=True)
            feeds[name] = [{i.name: sample[i.name] for i in s.get_inputs()} for s, sample in pairs]
            for _ in range(3):
                seconds(sessions[name], feeds[name])
        except Exception as error:  # onnxruntime refuses a file with any type of error
            sessions.pop(name, None)
            row.error += f"{name}: {common.brief(str(error))} "
    ratios: dict[str, list[float]] = {name: [] for name in sessions if name != "ours"}
    end = time.perf_counter() + SECONDS
    order = list(sessions)
    while row.rounds < LEAST_ROUNDS or time.perf_counter() < end:
        took = {name: seconds(sessions[name], feeds[name]) for name in order}
        order = order[1:] + order[:1]
        row.rounds += 1
        for name, list_ in ratios.items():
            list_.append(took[name] / took["ours"])
    medians = {name: statistics.median(list_) for name, list_ in ratios.items()}
    row.floats = medians.pop("float", float("nan"))
    row.peers, row.integer = medians, census(files)
    return row


def render(rows: list[Row]) -> str:
    header = ["model", "float", "fastest peer", "peer's time of ours", "others", "integer kernels", "rounds"]
    lines = []
    for row in rows:
        ranked = sorted(row.peers.items(), key=lambda item: item[1])
        best = ranked[0] if ranked else ("", float("nan"))
        others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ranked[1:])
        lines.append(
            [row.name, f"{row.floats:.2f}", best[0], f"{best[1]:.2f}", row.error or others, row.integer, row.rounds]
        )
    text = "Times of one run as multiples of ours, one thread, medians of paired runs: above 1 ours is faster.\n\n"
    return text + common.table(header, lines)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--make", action="store_true", help="write our files into the cache and measure nothing")
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    chosen = [s for s in subjects(args.only) if s.name in MODELS]
    if args.make:
        for subject in chosen:
            common.progress(f"{subject.name}: {len(our_files(subject, program))}, {', '.join(peer_files(subject))}")
        return
    rows = []
    for subject in chosen:
        rows.append(measure(subject, program))
        common.progress(f"{subject.name}: {rows[-1].peers} {rows[-1].error}")
    rows = [Row(**row) for row in common.slices("speed", program, [asdict(row) for row in rows], ["name"])]
    common.report("speed", "Speed of the emitted files", render(rows), args.save)
    sys.exit(1 if any(not row.peers for row in rows) else 0)


if __name__ == "__main__":
    main()
