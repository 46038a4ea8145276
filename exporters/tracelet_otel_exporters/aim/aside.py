"""Which points and records are in a run's companion files: said once more, they would be there twice."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from tracelet_otel.tracker.companion import FOLDER
from tracelet_otel.tracker.interface import Outcome, PointAside, RecordAside
from tracelet_otel_exporters.aim import files as aim_files
from tracelet_otel_exporters.aim.runs import OpenRun

_COMPANIONS: Final = f"{FOLDER}/companion-"


def keep_new(run: OpenRun, outcome: Outcome) -> None:
    """Leaves in ``outcome.aside`` what is not in the run's companion files, and notes it."""
    if not outcome.aside:
        return
    if run.aside is None:
        run.aside = set()
        if run.is_resumed:
            for content in aim_files.read_all(run, _COMPANIONS):
                run.aside.update(_said(json.loads(line)) for line in content.splitlines())
    new: list[PointAside | RecordAside] = []
    for aside in outcome.aside:
        identity = _identity(aside)
        if identity not in run.aside:
            run.aside.add(identity)
            new.append(aside)
    outcome.aside = new


def _identity(aside: PointAside | RecordAside) -> int:
    if isinstance(aside, PointAside):
        step, value, time_unix_nano = aside.point
        return hash(("scalar", aside.tag, aside.rank or 0, step, repr(float(value)), time_unix_nano))
    record = aside.record
    return hash((record.kind, record.tag, record.step, record.time_unix_nano, _digest(record.read())))


def _said(line: dict[str, Any]) -> int:
    """The identity of a companion's line."""
    place = (line["step"], line["time_unix_nano"])
    if line["kind"] == "scalar":
        value = repr(float(line["value"]))
        return hash(("scalar", line["tag"], line["rank"] or 0, place[0], value, place[1]))
    payload = line["text"].encode() if "text" in line else base64.b64decode(line["base64"])
    return hash((line["kind"], line["tag"], *place, _digest(payload)))


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
