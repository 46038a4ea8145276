"""What a tracker is given: runs, series of points, and records, decoded from OTLP.

The payload of a record, by kind (``mime_type`` is set on each):

=============  =====================================================================================
run            JSON ``{"name", "project", "experiment", "tags": {str: str}}``, and of a family of runs
               ``"parent"`` and ``"family"``, see :class:`RunInfo`
status         none; attribute ``tracelet.run.status`` is ``finished``, ``failed`` or ``killed``
tags           JSON ``{name: value}``
params         JSON object, nested objects and lists allowed
text           UTF-8, ``text/plain`` or ``text/markdown``
image, figure  an encoded image (``image/png``, ``image/jpeg``, ``image/gif``, ...)
audio, video   an encoded file (``audio/wav``, ``image/gif``, ``video/mp4``, ...)
histogram      JSON ``{"min", "max", "num", "sum", "sum_squares", "bucket_limits": [...],
               "bucket_counts": [...]}``; bucket *i* covers (limit *i-1*, limit *i*]
pr_curve       JSON ``{"true_positives", "false_positives", "true_negatives", "false_negatives",
               "precision", "recall", "thresholds"}``, lists of one length
mesh           ``application/x-npz`` with the arrays ``vertices``, ``colors``, ``faces`` (batch first;
               those that were given); attribute ``tracelet.mesh.config`` is the renderer's JSON
embedding      one file of a projector folder, named by attribute ``tracelet.file.name``
artifact       any file, named by attribute ``tracelet.file.name``; a checkpoint also has
               ``tracelet.checkpoint.*`` and may have no payload
layout         JSON of TensorBoard's custom-scalar layout
environment    JSON, see :mod:`tracelet_otel.resource.environment`: where and with what the run runs
graph          a serialized ``GraphDef`` or ``RunMetadata``, see ``tracelet.graph.part``
=============  =====================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple, cast

from tracelet_otel.semconv import Kind


class Point(NamedTuple):
    """One logged scalar of a series."""

    step: int
    value: float
    time_unix_nano: int


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one tag, in the order in which they were logged."""

    run_id: str
    tag: str
    points: list[Point]
    rank: int | None = None
    sequence: int | None = None
    """Number of the first point within its series, see ``tracelet.sequence``; the others follow it."""


class SystemPoint(NamedTuple):
    """One measurement of the machine, named as OpenTelemetry's conventions have it."""

    name: str
    """For example ``system.cpu.utilization``, ``process.memory.usage``, ``hw.gpu.utilization``."""
    attributes: Mapping[str, str | int | float | bool]
    """For example ``{"cpu": 0, "state": "idle"}``, ``{"hw.id": "0"}``."""
    value: float
    """In the convention's unit: fractions of 1, bytes, watts."""
    time_unix_nano: int


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker needs to find or create a run. Empty strings mean "not given"."""

    id: str
    name: str = ""
    project: str = ""
    experiment: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    parent: str = ""
    """The id of the run whose child it is. That run may come later, or never."""
    family: str = ""
    """One text for a run that has children and all runs below it."""


@dataclass(frozen=True, slots=True)
class Record:
    """Anything logged that is not a scalar. ``payload`` or ``uri`` holds its content, or neither."""

    run_id: str
    kind: Kind
    tag: str
    step: int
    time_unix_nano: int
    attributes: Mapping[str, object]
    mime_type: str = ""
    payload: bytes | None = None
    uri: str = ""
    sha256: str = ""

    def read(self) -> bytes:
        """The payload's bytes, from the body or from the media file that the event names.

        Raises:
            OSError: the media file cannot be read.
            ValueError: the media file is not the one that was logged (its SHA-256 differs).
        """
        if self.payload is not None:
            return self.payload
        if not self.uri:
            return b""
        import fsspec  # only a payload over 1 MiB needs it

        opened = cast("IO[bytes]", fsspec.open(self.uri, "rb"))  # pyright: ignore[reportUnknownMemberType]
        with opened as file:
            content = file.read()
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"media file {self.uri} is not the one that was logged: its SHA-256 differs")
        return content
