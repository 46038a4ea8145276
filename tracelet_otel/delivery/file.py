"""Backend ``file``: everything into a folder of OTLP JSON lines, for a machine that reaches no tracker."""

from __future__ import annotations

from pathlib import Path

from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.spool import SpoolFullError
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.foundation.errors import TransientError


class FileDestination:
    """A destination that keeps everything as OTLP JSON lines; ``tracelet-otel replay`` delivers it.

    Args:
        folder: see :mod:`tracelet_otel.delivery.spool.json_lines`.
        max_bytes: what it may hold.
    """

    takes_otlp = True

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._lines = JsonLines(folder, max_bytes=max_bytes)

    def load(self) -> None:
        """There is nothing to import."""

    def connect(self) -> None:
        """The folder is made with the first batch."""

    def send(self, batch: Batch) -> Receipt:
        """Appends a batch.

        Raises:
            SpoolFullError: the limit is reached.
            TransientError: the disk is full or the folder cannot be written to.
        """
        try:
            self._lines.append(batch)
        except SpoolFullError:
            raise
        except OSError as error:
            raise TransientError(f"cannot write {self.folder}: {error}") from error
        return Receipt(batch.points, batch.records)

    def close(self) -> None:
        """Makes the files durable."""
        self._lines.close()

    def locations(self) -> list[str]:
        """The folder."""
        return [str(self.folder)] if self._lines else []

    def refusals(self) -> str:
        """Nothing is refused."""
        return ""
