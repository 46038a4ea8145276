"""Decodes TensorBoard's ``Event`` messages: pure, for any library's classes.

Source: ``tensorboard/compat/proto/event.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, NamedTuple

from tracelet_otel import semconv
from tracelet_otel.instrumentation.tensorboard.values import (
    PROTOBUF,
    Scalar,
    Value,
    artifact,
    decode_value,
    mesh,
    mesh_data,
)
from tracelet_otel.recording.logged import LoggedEvent


class Undecodable(NamedTuple):
    """A value that could not be decoded, kept as the artifact ``record``."""

    error: Exception
    record: LoggedEvent


Item = Scalar | LoggedEvent | Undecodable


def time_unix_nano(event: Any) -> int | None:
    """The event's wall time, or None if it is before 1970 or does not fit into 64 bits."""
    seconds = event.wall_time
    return round(seconds * 1e9) if 0.0 < seconds < 9e9 else None


def decode(event: Any, metadata: MutableMapping[str, Any] | None = None) -> Iterator[Item]:
    """What an event holds. Nothing raises: what cannot be decoded is among the results.

    Args:
        event: an ``Event``; it is only read.
        metadata: for reading a file: TensorFlow may give a tag's metadata with its first value only.
            They are kept here between the calls.
    """
    what = event.WhichOneof("what")
    if what == "summary":
        yield from _decode_summary(event, {} if metadata is None else metadata)
    elif what == "graph_def":
        yield LoggedEvent(
            "graph", "", event.step, event.graph_def, PROTOBUF, {semconv.GRAPH_PART: "graph_def"}
        )
    elif what == "tagged_run_metadata":
        tagged, part = event.tagged_run_metadata, {semconv.GRAPH_PART: "run_metadata"}
        yield LoggedEvent("graph", tagged.tag, event.step, tagged.run_metadata, PROTOBUF, part)
    elif what == "meta_graph_def":
        yield artifact("meta_graph_def", "", event.step, event.meta_graph_def)
    elif what == "log_message":
        yield artifact("log_message", "", event.step, event.log_message.SerializeToString())
    # The rest describes the file: its version, its writer, and from where on it replaces an older one.


def _decode_summary(event: Any, metadata: MutableMapping[str, Any]) -> Iterator[Item]:
    package = type(event).__module__.partition(".")[0]
    meshes: dict[str, list[Value]] = {}
    for message in event.summary.value:
        value = Value(message, event.step, package)
        try:
            described = metadata.get(message.tag)
            if message.HasField("metadata"):
                described = metadata[message.tag] = message.metadata
            if described is not None:
                plugin_data = described.plugin_data
                value = value._replace(plugin=plugin_data.plugin_name, plugin_data=plugin_data.content)
            if value.plugin == "mesh":
                meshes.setdefault(mesh_data(value).name, []).append(value)
            else:
                yield from list(decode_value(value))
        except Exception as error:
            yield _undecodable(error, value)
    for name, values in meshes.items():
        try:
            yield mesh(name, values)
        except Exception as error:
            yield from (_undecodable(error, value) for value in values)


def _undecodable(error: Exception, value: Value) -> Undecodable:
    payload = value.message.SerializeToString()
    return Undecodable(error, artifact(value.plugin or "undecodable", value.message.tag, value.step, payload))
