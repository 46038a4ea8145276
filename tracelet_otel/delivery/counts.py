"""What became of the points and records that one delivery was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.spool.frame import Entry


@dataclass(slots=True)
class Counts:
    """Points and records by what became of them."""

    captured_points: int = 0
    captured_records: int = 0
    delivered_points: int = 0
    delivered_records: int = 0
    spooled_points: int = 0
    """In the spool, at the end."""
    spooled_records: int = 0
    waiting_points: int = 0
    """Still to be delivered, by an agent."""
    waiting_records: int = 0

    @property
    def dropped_points(self) -> int:
        """Points that were captured and are nowhere else."""
        return self.captured_points - self.delivered_points - self.spooled_points - self.waiting_points

    @property
    def dropped_records(self) -> int:
        """Records that were captured and are nowhere else."""
        return self.captured_records - self.delivered_records - self.spooled_records - self.waiting_records

    def capture(self, batch: Batch) -> None:
        """Counts a batch that was given to the delivery."""
        self.captured_points += batch.points
        self.captured_records += batch.records

    def deliver(self, receipt: Receipt) -> None:
        """Counts what the destination has taken."""
        self.delivered_points += receipt.points
        self.delivered_records += receipt.records


class SourceCounts:
    """The counts by :attr:`~tracelet_otel.delivery.destination.Batch.source`.

    They have no bound: only an agent counts by source, and its sources are the processes of one run.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._batches: Counter[str] = Counter()
        """Batches that wait, including those that count as nothing, such as the end of a run."""

    def capture(self, batch: Batch) -> None:
        """Counts a batch that waits from now on."""
        if batch.source:
            counts = self._counts.setdefault(batch.source, Counts())
            counts.capture(batch)
            self._batches[batch.source] += 1
            counts.waiting_points += batch.points
            counts.waiting_records += batch.records

    def settle(self, batch: Batch, receipt: Receipt | None) -> None:
        """Counts a batch that does not wait any more: what the destination took of it, or None."""
        counts = self._counts.get(batch.source) if batch.source else None
        if counts is not None:
            self._batches[batch.source] -= 1
            counts.waiting_points -= batch.points
            counts.waiting_records -= batch.records
            if receipt is not None:
                counts.deliver(receipt)

    def wait_only(self, waiting: Iterable[Batch | Entry]) -> None:
        """Nothing waits but this: what is neither there nor delivered is lost."""
        self._batches.clear()
        for counts in self._counts.values():
            counts.waiting_points = counts.waiting_records = 0
        for one in waiting:
            if one.source:
                counts = self._counts.setdefault(one.source, Counts())
                self._batches[one.source] += 1
                counts.waiting_points += one.points
                counts.waiting_records += one.records

    def of(self, source: str) -> Counts:
        """A copy of the counts of one source."""
        return replace(self._counts.get(source, Counts()))

    def waits(self, source: str) -> bool:
        """Whether a batch of this source waits."""
        return self._batches[source] > 0
