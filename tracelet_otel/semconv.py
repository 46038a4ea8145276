"""Every attribute, metric and event name this project writes.

Where OpenTelemetry has a convention its name is used; the rest lives under ``tracelet.``.
"""

from __future__ import annotations

from math import isfinite, isnan
from typing import Final, Literal

# -- metrics ------------------------------------------------------------------------------------
SCALAR: Final = "training.scalar"
"""Gauge: the live value of one tag. Its exemplars are the complete history."""
SCALAR_NONFINITE: Final = "training.scalar.nonfinite"
"""Counter of the NaN and infinite values of one tag, which a gauge refuses."""
SCALARS: Final = (SCALAR, SCALAR_NONFINITE)
"""The metrics that hold logged points."""

# -- attributes of points and records -----------------------------------------------------------
TAG: Final = "tracelet.tag"
RUN_ID: Final = "tracelet.run.id"
RANK: Final = "tracelet.rank"
STEP: Final = "tracelet.step"
SEQUENCE: Final = "tracelet.sequence"
"""On the first exemplar of a data point: its number within its series. Each process counts from a random
number of up to 62 bits, so that processes that write one series have numbers of their own. With the number of
exemplars it tells a data point that comes again from a new one."""
VALUE: Final = "tracelet.value"
"""Which value a non-finite point has, see :func:`nonfinite_name`."""

# -- attributes of the run (resource and run event) ---------------------------------------------
RUN_NAME: Final = "tracelet.run.name"
PROJECT: Final = "tracelet.project"
EXPERIMENT: Final = "tracelet.experiment"
PARENT: Final = "tracelet.run.parent"
"""Id of the run whose child it is."""
RUN_STATUS: Final = "tracelet.run.status"
STATUS_INFERRED: Final = "tracelet.run.status.inferred"
"""True on a status that the run did not say itself: nothing was heard of it. Later data opens it again."""

# -- attributes of records ----------------------------------------------------------------------
MIME_TYPE: Final = "tracelet.mime_type"
PAYLOAD_URI: Final = "tracelet.payload.uri"
PAYLOAD_SHA256: Final = "tracelet.payload.sha256"
PAYLOAD_SIZE: Final = "tracelet.payload.size"
"""Bytes."""
FILE_NAME: Final = "tracelet.file.name"
"""Name of an artifact's or embedding's file inside the run, ``/`` separated."""
INDEX: Final = "tracelet.index"
"""Position among several images or sounds that were logged in one call."""
WIDTH: Final = "tracelet.image.width"
HEIGHT: Final = "tracelet.image.height"
SAMPLE_RATE: Final = "tracelet.audio.sample_rate"
"""Hertz."""
MESH_CONFIG: Final = "tracelet.mesh.config"
GRAPH_PART: Final = "tracelet.graph.part"
"""``graph_def`` or ``run_metadata``."""
CHECKPOINT_PATH: Final = "tracelet.checkpoint.path"
CHECKPOINT_SIZE: Final = "tracelet.checkpoint.size"
CHECKPOINT_SCORE: Final = "tracelet.checkpoint.score"
CHECKPOINT_MONITOR: Final = "tracelet.checkpoint.monitor"
CHECKPOINT_BEST: Final = "tracelet.checkpoint.best"
TENSORBOARD_LOG_DIR: Final = "tensorboard.log_dir"

# -- events -------------------------------------------------------------------------------------
EVENT_PREFIX: Final = "tracelet."

Kind = Literal[
    "run",
    "status",
    "tags",
    "params",
    "text",
    "image",
    "figure",
    "audio",
    "video",
    "histogram",
    "pr_curve",
    "mesh",
    "embedding",
    "artifact",
    "layout",
    "graph",
    "environment",
]
"""The kinds of record; the event's name is :data:`EVENT_PREFIX` and the kind."""

ATTENDANTS: Final = frozenset({"run", "status", "environment"})
"""Kinds of record that we add to a run. The script did not log them, so they are not counted."""

Status = Literal["finished", "failed", "killed"]


def nonfinite_name(value: float) -> str:
    """``NaN``, ``Infinity`` or ``-Infinity``, by Protocol Buffers' JSON mapping; empty for a finite value.

    Example:
        >>> nonfinite_name(float("-inf"))
        '-Infinity'
    """
    if isfinite(value):
        return ""
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
