"""What scripts with backend ``file`` have recorded, for tests of what comes before any tracker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.reading import folders, read
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics

TO_A_FILE = {"OTEL_METRICS_EXPORTER": "file"}
"""In the environment of a script that names no backend itself."""


@dataclass
class RecordedRun:
    """One run."""

    status: str = "running"
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    """In JSON's types, nested."""
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


def recorded(state: Path) -> list[RecordedRun]:
    """The runs in a state folder, in no order."""
    found: dict[str, RecordedRun] = {}
    for batch in (batch for spool in folders(state) for batch in read(spool)):
        if isinstance(batch.logs, bytes):
            for record in decode_records(parse_logs(batch.logs)):
                run = found.setdefault(record.run_id, RecordedRun())
                if record.kind == "status":
                    run.status = str(record.attributes[semconv.RUN_STATUS])
                elif record.kind == "params":
                    run.params |= json.loads(record.read())
        if isinstance(batch.metrics, bytes):
            for series in decode_series(parse_metrics(batch.metrics)):
                values = found.setdefault(series.run_id, RecordedRun()).values
                values.setdefault(series.tag, []).extend(point.value for point in series.points)
    return list(found.values())
