"""Embeddings: files beside the event files, listed by the projector's own configuration file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.cli.event_folders import Damage
from tracelet_otel.instrumentation.tensorboard.events import Content

CONFIG: Final = "projector_config.pbtxt"


def embeddings(folder: Path, damage: Damage) -> Iterator[tuple[Content, int]]:
    """The files of each embedding as live instrumentation records them, with their time in nanoseconds.

    Source: ``tensorboard/plugins/projector/projector_config.proto``; the name ``tag:step`` is that of
    ``torch.utils.tensorboard`` and tensorboardX.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    from google.protobuf import text_format

    config: Any = import_module("tensorboard.plugins.projector.projector_config_pb2").ProjectorConfig()
    try:
        text_format.Parse(path.read_bytes(), config)
    except (OSError, text_format.ParseError) as error:
        damage.note_broken(path, error)
        return
    for embedding in config.embeddings:
        tag, _, step = embedding.tensor_name.rpartition(":")
        number = int(step) if step.lstrip("-").isdigit() else 0
        sprite = embedding.sprite.image_path
        named = [
            (embedding.tensor_path, "text/tab-separated-values"),
            (embedding.metadata_path, "text/tab-separated-values"),
            (sprite, "image/png"),
            (CONFIG, "text/plain"),
        ]
        for name, mime_type in named:
            if not name:
                continue
            file = folder / name
            try:
                payload, time = file.read_bytes(), file.stat().st_mtime_ns
            except OSError as error:
                damage.note_broken(file, error)
                continue
            name_of_tag = tag or embedding.tensor_name
            attributes: dict[str, AnyValue] = {semconv.FILE_NAME: file.name}
            yield Content("embedding", name_of_tag, number, payload, mime_type, attributes), time
