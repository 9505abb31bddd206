#!/usr/bin/env python3
"""Broken files: thousands of mutated and truncated copies of the development models through `onnxq simplify` and `inspect`.

Each copy has one to four edits (bytes changed, inserted, removed, copied from elsewhere), mostly where names stand close
together, that is in the structure and not in the weights; one in seven is cut off besides. The program must end by itself with
exit code 0 or 2, the latter with an error, within SECONDS of processor time, and gets MULTIPLE bytes of memory for each byte
of the file and FREE (`prlimit`: Linux). What breaks is kept in the folder of --keep.

Long runs are made in slices: --first 0, --first 1000, and so on are added up as long as the program is the same. The seed
follows from the file's name and the copy's number: a finding is the same everywhere.
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx

import common
from protobuf import tensors

SECONDS = 10  #: where a whole model takes some hundredths
LARGEST = 4_000_000  #: bytes of a model: larger ones are only more weights
MULTIPLE = 64  #: as the scan of the wire format allows decoded messages
FREE = 64 << 20  #: the program itself, and the folding of constants, which may grow a model by 16 MB
WINDOW = 48  #: bytes around a place that are looked at


def structure(data: bytes) -> list[int]:
    """Starts of windows that hold names: mostly letters, digits and the like."""
    plain = set(range(0x2D, 0x3A)) | set(range(0x41, 0x5B)) | set(range(0x5F, 0x7B))
    starts = range(0, len(data), WINDOW)
    return [at for at in starts if sum(byte in plain for byte in data[at : at + WINDOW]) > WINDOW // 3] or [0]


def mutate(data: bytes, windows: list[int], rng: random.Random) -> bytes:
    copy = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        for _ in range(8):
            base = rng.choice(windows) if rng.random() < 0.9 else rng.randrange(len(copy))
            at = min(base + rng.randrange(WINDOW), len(copy) - 1)
            # Most bytes are letters of names, and another letter is a name that nothing defines; small ones are numbers.
            if copy[at] < 0x20:
                break
        kind = rng.randrange(12)
        if kind == 0:
            copy.insert(at, rng.randrange(256))
        elif kind == 1:
            del copy[at]
        elif kind == 2:
            start = rng.choice(windows)
            copy[at:at] = copy[start : start + rng.randrange(WINDOW)]
        elif kind < 5:
            copy[at] = rng.randrange(256)
        elif kind < 7:
            copy[at] ^= 1 << rng.randrange(8)
        else:
            copy[at] = rng.choice([0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x10, 0x7F, 0x80, 0xFF])
        if not copy:
            return bytes(copy)
    if rng.random() < 0.15:
        del copy[rng.randrange(len(copy)) :]
    return bytes(copy)


def attempt(command: list, size: int) -> tuple[int, str | None]:
    """The exit code, and what is wrong."""
    room = MULTIPLE * size + FREE
    limits = ["prlimit", f"--data={room}", f"--cpu={SECONDS}"]
    done = common.call(limits + command, timeout=10 * SECONDS)
    if done.code not in (0, 2):
        return done.code, f"exit code {done.code}: {done.reason()}"
    if done.code == 2 and not any(line.startswith("error: ") for line in done.error.splitlines()):
        return done.code, f"no error: {done.reason()}"
    return done.code, None


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--count", type=int, default=1060, metavar="N", help="broken copies of each model: 20,000 together")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first copy")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where files go that break the program")
    args = parser.parse_args()
    common.need_shared()
    program = common.need_program(args.onnxq)
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as work:
        broken, out = Path(work) / "broken.onnx", Path(work) / "out.onnx"
        for model in common.chosen(common.shared_models(), args.only):
            data = model.path.read_bytes()
            if len(data) > LARGEST or any(t.external_data for t in tensors(onnx.load_from_string(data))):
                continue
            common.progress(model.name)
            windows, codes = structure(data), Counter()
            for number in range(args.first, args.first + args.count):
                copy = mutate(data, windows, random.Random(f"{model.name} {number}"))
                broken.write_bytes(copy)
                command = [program, "simplify", broken, "-o", out] if number % 4 else [program, "inspect", broken, "--json"]
                code, why = attempt(command, len(copy))
                codes[code] += 1
                if why:
                    problems.append(f"- {model.name}, copy {number}: {why}")
                    if args.keep:
                        args.keep.mkdir(parents=True, exist_ok=True)
                        (args.keep / f"{model.name}_{number}.onnx").write_bytes(copy)
            row = {"model": model.name, "first": args.first, "copies": args.count}
            row |= {"read": codes[0], "refused": codes[2], "neither": args.count - codes[0] - codes[2]}
            rows.append(row)
    rows = common.slices("hostile", program, rows, ("model", "first", "copies"))
    counted = ("copies", "read", "refused", "neither")
    totals = {name: Counter() for name in sorted({row["model"] for row in rows})}
    for row in rows:
        totals[row["model"]].update({key: row[key] for key in counted})
    totals["together"] = sum(totals.values(), Counter())
    cells = [[name, *(total[key] for key in counted)] for name, total in totals.items()]
    text = common.table(["model", "broken copies", "read", "refused", "neither"], cells)
    text += "\n\n" + "\n".join(problems) if problems else ""
    common.report("hostile", "Broken files", text, args.save, ["onnx"])
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
