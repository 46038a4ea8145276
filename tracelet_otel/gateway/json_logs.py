"""Logs as one JSON object a line, for a cluster's log collector."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

from tracelet_otel.foundation.logs import REDACTING

_OWN: Final = "tracelet_otel"


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message"}``, the entries of ``extra={"fields": {...}}``, ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_text:
            content["error"] = record.exc_text
        return json.dumps(content, default=str)


def install() -> None:
    """Writes the logs of this process to stderr: ours from INFO on, others' from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(REDACTING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(logging.INFO)
    logging.captureWarnings(True)
