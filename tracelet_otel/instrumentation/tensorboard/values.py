"""Decodes the values of TensorBoard's ``Summary`` messages: pure, for any library's classes.

Sources: ``tensorboard/compat/proto/summary.proto`` and each plugin's ``metadata.py``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.instrumentation.tensorboard import tensors
from tracelet_otel.recording.contents import mime_type_of
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.semconv import Kind

PROTOBUF = "application/x-protobuf"


class Scalar(NamedTuple):
    """One point of the event. ``single``: the value is a float32."""

    tag: str
    value: float
    single: bool


class Value(NamedTuple):
    """One value of an event's summary, with what it takes to decode it."""

    message: Any
    step: int
    package: str
    """That the message's class is of."""
    plugin: str = ""
    plugin_data: bytes = b""

    def event(
        self, kind: Kind, payload: bytes, mime_type: str, attributes: Mapping[str, AnyValue] | None = None
    ) -> LoggedEvent:
        """The value as a record of its tag and step."""
        return LoggedEvent(kind, self.message.tag, self.step, payload, mime_type, attributes or {})

    def json_event(self, kind: Kind, content: Any) -> LoggedEvent:
        """The value as a record of its tag and step whose payload is JSON."""
        return self.event(kind, json.dumps(content).encode("ascii"), "application/json")


def decode_value(value: Value) -> Iterable[Scalar | LoggedEvent]:
    """What one value holds; a mesh's is decoded by :func:`mesh`.

    Raises:
        Exception: of any kind, where the value is not what its plugin writes.
    """
    message, plugin = value.message, value.plugin
    field = message.WhichOneof("value")
    if field == "simple_value":
        return [Scalar(message.tag, message.simple_value, True)]
    if field in _FIELDS:
        return _FIELDS[field](value)
    if plugin == "hparams":
        return _hparams(value)
    if field == "tensor" and plugin in _PLUGINS:
        return _PLUGINS[plugin](value)
    if field or plugin:
        return [artifact(plugin or field, message.tag, value.step, message.SerializeToString())]
    return []  # what a failed `add_video` leaves


def artifact(name: str, tag: str, step: int, payload: bytes) -> LoggedEvent:
    """Something that has no kind of its own, kept as TensorBoard has it."""
    parts = f"tensorboard/{name}/{tag}/{step}.pb".replace("\\", "/").split("/")
    # A tag may be "../x"; the name of a file may not.
    path = "/".join("%2E" * len(part) if part in (".", "..") else part for part in parts if part)
    return LoggedEvent("artifact", tag, step, payload, PROTOBUF, {semconv.FILE_NAME: path})


# -- fields -------------------------------------------------------------------------------------
def _image(value: Value) -> Iterator[LoggedEvent]:
    image = value.message.image
    yield _picture(value, image.encoded_image_string, image.width, image.height, {})


def _picture(
    value: Value, encoded: bytes, width: int, height: int, index: Mapping[str, AnyValue]
) -> LoggedEvent:
    mime_type = mime_type_of(encoded)
    if mime_type == "image/png" and len(encoded) >= 24:  # the message has the size before rescaling
        width, height = int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    kind: Kind = "video" if mime_type == "image/gif" else "image"
    return value.event(kind, encoded, mime_type, {semconv.WIDTH: width, semconv.HEIGHT: height, **index})


def _audio(value: Value) -> Iterator[LoggedEvent]:
    audio = value.message.audio
    encoded = audio.encoded_audio_string
    mime_type = audio.content_type or mime_type_of(encoded)
    yield value.event("audio", encoded, mime_type, {semconv.SAMPLE_RATE: round(audio.sample_rate)})


def _histogram(value: Value) -> Iterator[LoggedEvent]:
    histogram = value.message.histo
    described = {name: getattr(histogram, name) for name in ("min", "max", "num", "sum", "sum_squares")}
    buckets = {"bucket_limits": [*histogram.bucket_limit], "bucket_counts": [*histogram.bucket]}
    yield value.json_event("histogram", {**described, **buckets})


_FIELDS: dict[str, Callable[[Value], Iterable[Scalar | LoggedEvent]]] = {
    "image": _image,
    "audio": _audio,
    "histo": _histogram,
}


# -- plugins whose values are tensors -----------------------------------------------------------
def _tensor_scalar(value: Value) -> Iterator[Scalar]:
    number, single = tensors.number(value.message.tensor)
    yield Scalar(value.message.tag, number, single)


def _indexed(items: Sequence[bytes]) -> Iterator[tuple[bytes, dict[str, AnyValue]]]:
    """Each item with its index as an attribute, where there are several."""
    for index, item in enumerate(items):
        yield item, {semconv.INDEX: index} if len(items) > 1 else {}


def _tensor_images(value: Value) -> Iterator[LoggedEvent]:
    width, height, *images = tensors.strings(value.message.tensor)
    for encoded, index in _indexed(images):
        yield _picture(value, encoded, int(width), int(height), index)


def _tensor_audio(value: Value) -> Iterator[LoggedEvent]:
    # Each row is a sound and its label, or only a sound.
    sizes = tensors.shape(value.message.tensor)
    sounds = tensors.strings(value.message.tensor)[:: sizes[1] if len(sizes) > 1 else 1]
    for encoded, attributes in _indexed(sounds):
        mime_type = mime_type_of(encoded)
        if mime_type == "audio/wav" and encoded[12:16] == b"fmt ":
            attributes[semconv.SAMPLE_RATE] = int.from_bytes(encoded[24:28], "little")
        yield value.event("audio", encoded, mime_type, attributes)


def _tensor_histogram(value: Value) -> Iterator[LoggedEvent]:
    rows: list[list[float]] = tensors.array(value.message.tensor).reshape(-1, 3).astype(float).tolist()
    # (left, right, count) of each bucket. The values themselves are not there: each is taken for the
    # middle of its bucket.
    middles = [((left + right) / 2, count) for left, right, count in rows]
    filled = [(left, right) for left, right, count in rows if count]
    yield value.json_event(
        "histogram",
        {
            "min": filled[0][0] if filled else 0.0,
            "max": filled[-1][1] if filled else 0.0,
            "num": sum(count for _, _, count in rows),
            "sum": sum(middle * count for middle, count in middles),
            "sum_squares": sum(middle * middle * count for middle, count in middles),
            # A bucket begins at the limit before it, so an empty one says where the first begins.
            "bucket_limits": [rows[0][0], *(right for _, right, _ in rows)] if rows else [],
            "bucket_counts": [0.0, *(count for _, _, count in rows)] if rows else [],
        },
    )


def _text(value: Value) -> Iterator[LoggedEvent]:
    for text, index in _indexed(tensors.strings(value.message.tensor)):
        yield value.event("text", text, "text/markdown", index)


_PR_CURVE = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")


def _pr_curve(value: Value) -> Iterator[LoggedEvent]:
    rows: list[list[float]] = tensors.array(value.message.tensor).tolist()
    curve: dict[str, list[float]] = dict(zip(_PR_CURVE, rows, strict=True))
    count = len(rows[0])
    curve["thresholds"] = [index / max(count - 1, 1) for index in range(count)]
    yield value.json_event("pr_curve", curve)


def _layout(value: Value) -> Iterator[LoggedEvent]:
    from google.protobuf.json_format import MessageToDict

    (serialized,) = tensors.strings(value.message.tensor)
    layout = _helper(value.package, "layout").Layout.FromString(serialized)
    yield value.json_event("layout", MessageToDict(layout))._replace(step=None)


_PLUGINS: dict[str, Callable[[Value], Iterable[Scalar | LoggedEvent]]] = {
    "scalars": _tensor_scalar,
    "images": _tensor_images,
    "audio": _tensor_audio,
    "histograms": _tensor_histogram,
    "text": _text,
    "pr_curves": _pr_curve,
    "custom_scalars": _layout,
}


# -- plugins with data of their own -------------------------------------------------------------
def _hparams(value: Value) -> Iterator[LoggedEvent]:
    data = _helper(value.package, "hparams").HParamsPluginData.FromString(value.plugin_data)
    if data.WhichOneof("data") == "session_start_info":
        # A protobuf map has no order.
        params = {name: _native(item) for name, item in sorted(data.session_start_info.hparams.items())}
        yield value.json_event("params", params)._replace(tag="", step=None)


def _native(item: Any) -> Any:
    kind = item.WhichOneof("kind")
    if kind == "list_value":
        return [_native(member) for member in item.list_value.values]
    if kind == "struct_value":
        return {name: _native(member) for name, member in item.struct_value.fields.items()}
    return None if kind in (None, "null_value") else getattr(item, kind)


_MESH_PARTS = {1: "vertices", 2: "faces", 3: "colors"}


def mesh_data(value: Value) -> Any:
    """What the mesh plugin says of a value: the mesh that it belongs to, and which part of it it is."""
    return _helper(value.package, "mesh").MeshPluginData.FromString(value.plugin_data)


def mesh(name: str, values: list[Value]) -> LoggedEvent:
    """A mesh of its parts."""
    import numpy as np

    arrays: dict[str, Any] = {}
    config = ""
    for value in values:
        data = mesh_data(value)
        array = tensors.array(value.message.tensor)
        part = _MESH_PARTS[data.content_type]
        # Faces are indices, which TensorBoard keeps as float32.
        arrays[part] = array.astype(np.int32) if part == "faces" else array
        config = data.json_config
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    attributes = {semconv.MESH_CONFIG: config if config not in ("", "null") else "{}"}
    return LoggedEvent("mesh", name, values[0].step, buffer.getvalue(), "application/x-npz", attributes)


_HELPERS = {
    "hparams": ("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboardX.proto.plugin_hparams_pb2"),
    "layout": ("tensorboard.plugins.custom_scalar.layout_pb2", "tensorboardX.proto.layout_pb2"),
    "mesh": ("tensorboard.plugins.mesh.plugin_data_pb2", "tensorboardX.proto.plugin_mesh_pb2"),
}


def _helper(package: str, name: str) -> Any:
    """The module of a plugin's messages, from the library that the event came from."""
    return import_module(_HELPERS[name][package == "tensorboardX"])
