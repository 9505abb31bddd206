"""Small networks as exporters write them: what simplify.py --generated counts and runs.

Each is one function of a builder that names the habit it stands for: how torch.onnx (both exporters), tf2onnx, keras,
paddle and hand-written converters spell shapes, attention, normalizations, activations, padding and control flow.
Weights are random, of fixed seeds. `networks()` gives every function under each operator set that it can be written
for.
"""
from collections.abc import Iterator

import onnx

from . import images, parts, sequences  # noqa: F401 (each adds its networks to the list)
from .net import NETWORKS, build, feeds

__all__ = ["feeds", "networks"]


def networks() -> Iterator[tuple[str, onnx.ModelProto]]:
    for function, least, most in NETWORKS:
        for opset in (11, 13, 17, 18, 20):
            if least <= opset <= most and not (opset == 18 and most > 18 and least < 18):
                yield f"{function.__name__}_{opset}", build(function, opset)
