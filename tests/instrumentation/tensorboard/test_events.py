"""The decoder, with messages that the writers of today do not make: TensorFlow's, old ones, broken ones."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from tracelet_otel.instrumentation.tensorboard import tensors
from tracelet_otel.instrumentation.tensorboard.events import (
    Scalar,
    Undecodable,
    decode,
    time_unix_nano,
)
from tracelet_otel.recording.logged import LoggedEvent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tensorflow_event(plugin: str, array: Any, dtype: Any = None) -> Any:
    """An event with one value as TensorFlow 2 writes it: a tensor, and metadata with the plugin's name."""
    event = Event(step=3, wall_time=1.5)
    value = event.summary.value.add(tag="t")
    value.metadata.plugin_data.plugin_name = plugin
    value.tensor.CopyFrom(make_tensor_proto(array, dtype=dtype))
    return event


def items_of(event: Any, metadata: dict[str, Any] | None = None) -> list[Any]:
    return list(decode(event, metadata))


def only(event: Any) -> Any:
    (item,) = decode(event)
    return item


# -- tensors ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool"], ids=str
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0, 3)], ids=str)
def test_array(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(math.prod(shape)).reshape(shape) * 2.5).astype(dtype)
    message = make_tensor_proto(array)
    decoded = tensors.array(message)
    assert decoded.dtype == array.dtype
    assert np.array_equal(decoded, array)
    if dtype not in ("u4", "u8"):  # TensorBoard's own reader lacks these
        assert np.array_equal(decoded, make_ndarray(message))


def test_values_in_their_own_field_and_equal_ones_at_the_end() -> None:
    message = make_tensor_proto(np.zeros((2, 3), "f4"))
    message.ClearField("tensor_content")
    message.float_val.extend([1, 2])
    assert tensors.array(message).tolist() == [[1, 2, 2], [2, 2, 2]]


def test_bfloat16() -> None:
    event = tensorflow_event("scalars", np.float32(0))
    message = event.summary.value[0].tensor
    message.Clear()
    message.dtype = 14
    message.half_val.append(struct.unpack("<I", struct.pack("<f", -1.5))[0] >> 16)
    assert only(event) == Scalar("t", -1.5, True)


@pytest.mark.parametrize(
    ("value", "decoded", "single"),
    [
        (np.float32(0.1), float(np.float32(0.1)), True),
        (np.float16(0.1), float(np.float16(0.1)), True),
        (np.float64(0.1), 0.1, False),
        (np.int64(2**40), float(2**40), False),
        (np.array([7], "i4"), 7.0, False),
        (np.bool_(True), 1.0, False),
    ],
)
def test_scalar_tensors(value: Any, decoded: float, single: bool) -> None:
    item = only(tensorflow_event("scalars", value))
    assert item == Scalar("t", decoded, single)
    assert type(item.value) is float


# -- TensorFlow's forms -------------------------------------------------------------------------
def png(width: int, height: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(20))
    return buffer.getvalue()


def test_tensor_images() -> None:
    first, second = items_of(tensorflow_event("images", [b"6", b"4", png(6, 4), b"GIF89a..."]))
    assert (first.kind, first.tag, first.step, first.mime_type) == ("image", "t", 3, "image/png")
    assert first.payload == png(6, 4)
    assert first.attributes == {
        "tracelet.image.width": 6,
        "tracelet.image.height": 4,
        "tracelet.index": 0,
    }
    assert (second.kind, second.mime_type, second.attributes["tracelet.index"]) == ("video", "image/gif", 1)
    single = only(tensorflow_event("images", [b"6", b"4", png(6, 4)]))
    assert "tracelet.index" not in single.attributes


@pytest.mark.parametrize("labels", [True, False])
def test_tensor_audio(labels: bool) -> None:
    sounds = [wav(8000), wav(44100)]
    array = np.array([[sound, b"label"] for sound in sounds] if labels else sounds, dtype=object)
    first, second = items_of(tensorflow_event("audio", array))
    assert (first.kind, first.mime_type, first.payload) == ("audio", "audio/wav", sounds[0])
    assert first.attributes == {"tracelet.index": 0, "tracelet.audio.sample_rate": 8000}
    assert second.attributes == {"tracelet.index": 1, "tracelet.audio.sample_rate": 44100}
    assert second.payload == sounds[1]


def test_tensor_histogram() -> None:
    record = only(tensorflow_event("histograms", np.array([[0, 1, 2], [1, 2, 0], [2, 4, 1]], "f8")))
    assert json.loads(record.payload) == {
        "min": 0,
        "max": 4,
        "num": 3,
        "sum": 4,
        "sum_squares": 9.5,
        "bucket_limits": [0, 1, 2, 4],
        "bucket_counts": [0, 2, 0, 1],
    }
    empty = json.loads(only(tensorflow_event("histograms", np.zeros((0, 3)))).payload)
    assert (empty["num"], empty["bucket_limits"], empty["bucket_counts"]) == (0, [], [])


def test_several_texts() -> None:
    first, second = items_of(tensorflow_event("text", [b"one", "zw\u00f6lf".encode()]))
    assert (first.payload, first.attributes) == (b"one", {"tracelet.index": 0})
    assert (second.payload.decode(), second.attributes) == ("zw\u00f6lf", {"tracelet.index": 1})


def test_metadata_that_came_with_the_first_value_only() -> None:
    first, second = tensorflow_event("scalars", np.float32(1)), tensorflow_event("scalars", np.float32(2))
    second.summary.value[0].ClearField("metadata")
    metadata: dict[str, Any] = {}
    items = [item for event in (first, second) for item in items_of(event, metadata)]
    assert items == [Scalar("t", 1.0, True), Scalar("t", 2.0, True)]
    alone = only(second)
    assert alone.attributes == {"tracelet.file.name": "tensorboard/tensor/t/3.pb"}


def test_hparams_of_every_type() -> None:
    from google.protobuf.struct_pb2 import Value
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]

    data = HParamsPluginData()
    hparams = data.session_start_info.hparams
    hparams["list"].list_value.values.extend([Value(number_value=1.5), Value(string_value="a")])
    hparams["dict"].struct_value.fields["x"].bool_value = True
    hparams["none"].null_value = 0
    hparams["float"].number_value = math.inf
    event = tensorflow_event("hparams", np.zeros(0, "f4"))  # as TensorFlow has it
    event.summary.value[0].metadata.plugin_data.content = data.SerializeToString()
    record = only(event)
    assert (record.kind, record.tag, record.step) == ("params", "", None)
    assert json.loads(record.payload) == {
        "dict": {"x": True},
        "float": math.inf,
        "list": [1.5, "a"],
        "none": None,
    }


# -- the rest -----------------------------------------------------------------------------------
def test_events_that_describe_the_file_hold_nothing() -> None:
    from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    for event in (Event(file_version="brain.Event:2"), Event(session_log=SessionLog(status=1)), Event()):
        assert list(decode(event)) == []


def test_a_value_without_content_is_nothing() -> None:
    event = Event()
    event.summary.value.add(tag="failed video")
    assert list(decode(event)) == []


@pytest.mark.parametrize(
    ("event", "name", "payload"),
    [
        (Event(step=2, meta_graph_def=b"m"), "meta_graph_def", b"m"),
        (Event(step=2, log_message={"message": "x"}), "log_message", b"\x12\x01x"),
    ],
)
def test_what_no_plugin_shows_is_an_artifact(event: Any, name: str, payload: bytes) -> None:
    record = only(event)
    assert (record.kind, record.payload, record.step) == ("artifact", payload, 2)
    assert record.attributes == {"tracelet.file.name": f"tensorboard/{name}/2.pb"}


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("a/b", "a/b"),
        ("../../etc/x", "%2E%2E/%2E%2E/etc/x"),
        ("/a//./b..c/", "a/%2E/b..c"),
        ("..\\x", "%2E%2E/x"),
    ],
)
def test_an_unknown_plugin_is_an_artifact_with_a_safe_name(tag: str, name: str) -> None:
    event = tensorflow_event("my_plugin", np.zeros(2))
    event.summary.value[0].tag = tag
    record = only(event)
    assert (record.kind, record.tag) == ("artifact", tag)
    assert record.attributes == {"tracelet.file.name": f"tensorboard/my_plugin/{name}/3.pb"}
    assert record.payload == event.summary.value[0].SerializeToString()


@pytest.mark.parametrize(
    ("plugin", "array"),
    [
        ("scalars", np.zeros(2)),
        ("scalars", np.zeros(1, "c8")),
        ("scalars", [b"text"]),
        ("images", np.zeros(2)),
        ("images", [b"6"]),
        ("images", [b"x", b"y", b"z"]),
        ("text", np.zeros(2)),
        ("pr_curves", np.zeros((5, 2))),
        ("histograms", np.zeros((5, 2))),
        ("custom_scalars", [b"\xff\xff"]),
        ("hparams", np.zeros(0)),
        ("mesh", np.zeros((1, 2, 3))),
    ],
)
def test_what_cannot_be_decoded_is_kept_and_costs_no_other(plugin: str, array: Any) -> None:
    event = tensorflow_event(plugin, array)
    event.summary.value[0].metadata.plugin_data.content = (
        b"\xff\xff" if plugin in ("hparams", "mesh") else b""
    )
    event.summary.value.add(tag="after", simple_value=1)
    items = sorted(decode(event), key=lambda item: isinstance(item, Undecodable))
    scalar, broken = items
    assert scalar == Scalar("after", 1.0, True)
    assert isinstance(broken, Undecodable)
    assert broken.record.attributes == {"tracelet.file.name": f"tensorboard/{plugin}/t/3.pb"}
    assert broken.record.payload == event.summary.value[0].SerializeToString()


def test_a_broken_mesh_keeps_each_of_its_values() -> None:
    from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData  # pyright: ignore[reportAttributeAccessIssue]

    event = tensorflow_event("mesh", np.zeros((1, 2, 3)))
    event.summary.value.append(event.summary.value[0])
    for value, content_type in zip(event.summary.value, (1, 9), strict=True):
        data = MeshPluginData(name="m", content_type=content_type)
        value.metadata.plugin_data.content = data.SerializeToString()
    items = list(decode(event))
    assert [type(item) for item in items] == [Undecodable, Undecodable]


def test_several_values_of_one_event() -> None:
    event = Event(step=1)
    for number in range(3):
        event.summary.value.add(tag=f"a/{number}", simple_value=number)
    event.summary.value.add(tag="i").image.encoded_image_string = png(2, 2)
    *scalars, image = items_of(event)
    assert scalars == [Scalar(f"a/{number}", float(number), True) for number in range(3)]
    assert isinstance(image, LoggedEvent)


def test_decoding_changes_nothing() -> None:
    event = tensorflow_event("histograms", np.zeros((0, 3)))
    before = event.SerializeToString()
    list(decode(event))
    assert event.SerializeToString() == before


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"),
    [(1.5, 1_500_000_000), (0.0, None), (-1.0, None), (math.nan, None), (math.inf, None), (1e300, None)],
)
def test_wall_time(seconds: float, nanoseconds: int | None) -> None:
    assert time_unix_nano(Event(wall_time=seconds)) == nanoseconds
