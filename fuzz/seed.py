#!/usr/bin/env python3
"""seed.py [FOLDER...]: fills corpus/TARGET with files to start from: the repository's text models, the models of the
fixtures and, where the package is installed, small ONNX node cases. Models (*.onnx) below 8 KB in FOLDER are added.
"""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LARGEST = 8192


def put(target: str, content: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)


def main() -> None:
    texts = sorted(ROOT.glob("*/tests/**/*.onnxtxt"))
    for path in texts:
        put("text", path.read_bytes().split(b"\n====")[0])
    folders = [Path(folder) for folder in sys.argv[1:]]
    models = [ROOT / "proto/tests/data/encodings.onnx", *(ROOT / "fixtures").glob("**/*.onnx")]
    try:
        import onnx
        import onnx.parser

        folders.append(Path(onnx.__file__).parent / "backend/test/data/simple")
        for path in texts:
            try:
                parsed = onnx.parser.parse_model(path.read_text().split("\n====")[0])
                for target in ("import", "simplify"):
                    put(target, parsed.SerializeToString())
            except Exception:  # the fixtures use more of the syntax than the package reads
                continue
    except ImportError:
        print("no package onnx: fewer seeds", file=sys.stderr)
    models += [path for folder in folders for path in folder.glob("**/*.onnx")]
    for path in sorted(models):
        if path.stat().st_size <= LARGEST:
            for target in ("import", "simplify"):
                put(target, path.read_bytes())
    for line in (b"normalize,fold_constants(max_growth=1000)", b'fix_shapes(dims={"batch": 1},inputs={"x":[1,3]})'):
        put("passes", line)
    for folder in sorted((HERE / "corpus").iterdir()):
        print(f"{folder.name}: {len(list(folder.iterdir()))} seeds")


if __name__ == "__main__":
    main()
