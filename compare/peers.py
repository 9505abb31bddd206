#!/usr/bin/env python3
"""peers.py SETTING MODEL CALIB OUT: quantizes MODEL to OUT with another tool, one setting as its users would call it.

CALIB is a folder of .npz files, one sample each, keys are input names. A process of its own, so that the time and
memory measured are the tool's. `peers.py --list` names the settings.

A tool that wants more than MEMORY fails with an out-of-memory error instead of taking the machine with it.
"""

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

MEMORY = 10_000_000_000  #: bytes of data a tool may hold


def samples(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as archive:
            yield dict(archive)


def per_axis_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scales per channel need opset 13 and the tools do not raise it. Unchanged where onnx cannot convert it."""
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= 13:
        return model
    try:
        return onnx.version_converter.convert_version(model, 13)
    except Exception as error:  # the converter is C++ and raises RuntimeError, or worse
        print(f"opset not raised: {error}", file=sys.stderr)
        return model


def ort_preprocessed(model: Path, work: Path) -> Path:
    """onnxruntime's recommended first step; where it cannot treat the model, the model itself."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raised = work / "opset.onnx"
    onnx.save(per_axis_opset(onnx.load(model)), raised)
    model, out = raised, work / "preprocessed.onnx"
    for skip_symbolic in (False, True):
        try:
            quant_pre_process(str(model), str(out), skip_symbolic_shape=skip_symbolic)
            return out
        except Exception as error:  # it raises bare Exception, among others
            print(f"pre-processing failed: {error}", file=sys.stderr)
    return model


def ort_static(method: str, activation: str = "QUInt8") -> Callable[[Path, Path, Path], None]:
    def quantize(model: Path, calib: Path, out: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self):
                self.samples = samples(calib)

            def get_next(self):
                return next(self.samples, None)

        with tempfile.TemporaryDirectory() as work:
            quantize_static(
                str(ort_preprocessed(model, Path(work))),
                str(out),
                Reader(),
                per_channel=True,
                activation_type=QuantType[activation],
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[method],
            )

    return quantize


def ort_dynamic(model: Path, calib: Path, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as work:
        quantize_dynamic(
            str(ort_preprocessed(model, Path(work))), str(out), weight_type=QuantType.QInt8, per_channel=True
        )


def onnxsim_static(method: str, full_graph: bool) -> Callable[[Path, Path, Path], None]:
    def quantize(model: Path, calib: Path, out: Path) -> None:
        import onnxsim

        # Without the types of intermediate values it quantizes the first layer only.
        typed = onnx.shape_inference.infer_shapes(per_axis_opset(onnx.load(model)), data_prop=True)
        quantized = onnxsim.quantize_static(typed, list(samples(calib)), method=method, full_graph=full_graph)
        onnx.save(quantized, out)

    return quantize


def nncf_static(preset: str) -> Callable[[Path, Path, Path], None]:
    def quantize(model: Path, calib: Path, out: Path) -> None:
        import nncf

        onnx_model = per_axis_opset(onnx.load(model))
        transformer = any(node.op_type == "Softmax" for node in onnx_model.graph.node) and not any(
            node.op_type == "Conv" for node in onnx_model.graph.node
        )
        quantized = nncf.quantize(
            onnx_model,
            nncf.Dataset(list(samples(calib))),
            preset=nncf.QuantizationPreset[preset],
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )
        onnx.save(quantized, out)

    return quantize


SETTINGS: dict[str, Callable[[Path, Path, Path], None]] = {
    "ort-minmax": ort_static("MinMax"),
    "ort-entropy": ort_static("Entropy"),
    "ort-percentile": ort_static("Percentile"),
    "ort-minmax-s8": ort_static("MinMax", "QInt8"),
    "ort-dynamic": ort_dynamic,
    "onnxsim-minmax": onnxsim_static("minmax", full_graph=False),
    "onnxsim-full-auto": onnxsim_static("auto", full_graph=True),
    "nncf-performance": nncf_static("PERFORMANCE"),
    "nncf-mixed": nncf_static("MIXED"),
}


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        print("\n".join(SETTINGS))
    elif len(sys.argv) == 5 and sys.argv[1] in SETTINGS:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        SETTINGS[sys.argv[1]](*map(Path, sys.argv[2:]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
