"""Our loggers: secrets in what they say, as in the errors of trackers' clients, are masked."""

from __future__ import annotations

import logging
import traceback
from typing import Final

from tracelet_otel.secrets.redaction import redacted_text


class Redacting(logging.Filter):
    """Lets every record through, secrets masked. On a logger for its own records, on a handler for all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record, for every handler."""
        try:
            message = record.getMessage()
        except Exception:  # a library's mistake in a call: its handler says so, and raises nothing
            return True
        record.msg, record.args = redacted_text(message), ()
        if record.exc_info:
            record.exc_text = redacted_text("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None  # the text stands for it, in OpenTelemetry's handler too
        return True


REDACTING: Final = Redacting()


def get_logger(name: str = "tracelet_otel") -> logging.Logger:
    """The logger of this name, with the filter; :func:`logging.getLogger` for our code."""
    logger = logging.getLogger(name)
    logger.addFilter(REDACTING)  # once: a logger keeps a filter only once
    return logger
