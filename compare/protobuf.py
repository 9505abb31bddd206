"""Field-by-field comparison of protobuf messages, and the few differences a lossless copy of a model may show."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import ModelProto, TensorProto


def differences(a: Message, b: Message, path: str = "") -> Iterator[str]:
    """Paths of fields that are set in one only, or differ. Floats are compared by their bits."""
    if a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True):
        return
    left = {field.name: (field, value) for field, value in a.ListFields()}
    right = {field.name: value for field, value in b.ListFields()}
    for name in sorted(left.keys() | right.keys()):
        here = f"{path}.{name}" if path else name
        if name not in left or name not in right:
            yield f"{here}: only in the {'first' if name in left else 'second'}"
            continue
        field, value = left[name]
        yield from compared(field.message_type is not None, value, right[name], here)
    if unknown(a) != unknown(b):
        yield f"{path}: unknown fields differ"


def compared(is_message: bool, a, b, here: str) -> Iterator[str]:
    if is_message and isinstance(a, Message):
        yield from differences(a, b, here)
    elif is_message:
        if len(a) != len(b):
            yield f"{here}: {len(a)} and {len(b)} entries"
        for k, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{here}[{k}]")
    elif a != b:
        yield f"{here}: {str(a)[:60]!r} and {str(b)[:60]!r}"


def unknown(message: Message) -> list[tuple]:
    return [(field.field_number, field.wire_type, repr(field.data)) for field in UnknownFieldSet(message)]


def tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor of a model, wherever it is: initializers, attributes, subgraphs, functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from tensors(part)


def load_comparable(path: Path) -> ModelProto:
    """The model with the allowed normalizations undone: all that a lossless copy may change.

    1. External data may lie in another file, at another offset: the bytes are compared, not the place.
    """
    model = onnx.load(path)
    for tensor in tensors(model):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model
