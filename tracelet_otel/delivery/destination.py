"""What a delivery sends, and what it sends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData

SOURCE_HEADER: Final = "tracelet-source"
"""The header of HTTP in which a sender gives its name; see :attr:`Batch.source`."""

Keys = tuple[tuple[bytes, tuple[tuple[int, int], ...]], ...]
"""Of each data point or record a digest, and the ranges of its sequence numbers, if it has such."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One request's worth of data: OTLP bytes, or the SDK's objects for exporters that take only these."""

    metrics: bytes | MetricsData | None = None
    logs: bytes | list[ReadableLogRecord] | None = None
    points: int = 0
    records: int = 0
    size: int = 0
    """The bytes that it takes in the queue, roughly."""
    ends: bool = False
    """Whether it ends a run. Nothing that was recorded before may come after it."""
    source: str = ""
    """Who sent it, where several do; see :meth:`~tracelet_otel.delivery.delivery.Delivery.counts_of`."""
    run: str = ""
    """The id of the run that all of it belongs to, where it is of one."""
    keys: Keys | None = None
    """What the deduplication of a gateway knows it by; None: it was not looked at."""

    @property
    def request(self) -> bytes:
        """The OTLP bytes."""
        data = self.metrics if self.logs is None else self.logs
        assert isinstance(data, bytes)
        return data


@dataclass(slots=True)
class Receipt:
    """What became of a batch."""

    points: int = 0
    records: int = 0
    rejected: int = 0
    """Data points or log records of which something will never be taken."""


class Destination(Protocol):
    """Where a delivery sends to. Used by the delivery's thread alone."""

    takes_otlp: bool
    """Whether it is given OTLP bytes; else the SDK's own objects."""

    def load(self) -> None:
        """Imports the client and prepares what is on this machine. Slow on a cold disk, but always ends.

        Raises:
            DeliveryError: transient or permanent.
        """
        ...

    def connect(self) -> None:
        """Reaches the backend.

        Raises:
            DeliveryError: transient or permanent.
        """
        ...

    def send(self, batch: Batch) -> Receipt:
        """Writes a batch durably and says how much of it was taken.

        Raises:
            DeliveryError: nothing more of it can be written now (transient) or ever (permanent).
        """
        ...

    def close(self) -> None:
        """Ends the connection. Not called after the deadline."""
        ...

    def locations(self) -> list[str]:
        """Where a person finds what was delivered: paths or URLs, or nothing."""
        ...

    def refusals(self) -> str:
        """Why parts of accepted batches were refused, for the closing line; empty if none were."""
        ...
