"""The resource of each run, so that every request names the run that its data belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource

from tracelet_otel import semconv
from tracelet_otel.recording.run import Run

_OF_A_RUN = frozenset({semconv.RUN_ID, semconv.RUN_NAME, semconv.PROJECT, semconv.EXPERIMENT, semconv.PARENT})


def described(run: Run) -> dict[str, str]:
    """The attributes of a resource that describe a run."""
    found = {
        semconv.RUN_ID: run.id,
        semconv.RUN_NAME: run.name,
        semconv.PROJECT: run.project,
        semconv.EXPERIMENT: run.experiment,
        semconv.PARENT: run.parent,
    }
    return {name: value for name, value in found.items() if value}


class RunResources:
    """From a run's id to its resource: the session's, with what describes this run.

    Args:
        base: the session's resource.
        default: the run of all data that does not name a run.
    """

    def __init__(self, base: Resource, default: Run) -> None:
        self._base = base
        self.default = base
        """The resource of the default run, and of data without a run."""
        self._others: dict[str, tuple[Run, Resource]] = {}
        self._default_run = default

    @property
    def is_single(self) -> bool:
        """Whether there is only the default run."""
        return not self._others

    def add(self, run: Run) -> None:
        """Takes a run that opens: its name is known now."""
        attributes = {name: value for name, value in self._base.attributes.items() if name not in _OF_A_RUN}
        resource = Resource({**attributes, **described(run)}, self._base.schema_url)
        if run is self._default_run:
            self.default = resource
        else:
            self._others[run.id] = run, resource

    def of(self, run_id: object) -> Resource:
        """The resource of a run."""
        found = self._others.get(run_id) if isinstance(run_id, str) else None
        return found[1] if found else self.default

    def goes_on(self, run_id: object) -> bool:
        """Whether a run has not ended yet."""
        found = self._others.get(run_id) if isinstance(run_id, str) else None
        return not (found[0] if found else self._default_run).ended

    def of_records(self, records: Sequence[ReadableLogRecord]) -> list[ReadableLogRecord]:
        """The records, each under the resource of its run."""
        return [self._of_record(record) for record in records]

    def _of_record(self, record: ReadableLogRecord) -> ReadableLogRecord:
        run_id = None if self.is_single else (record.log_record.attributes or {}).get(semconv.RUN_ID)
        resource = self.of(run_id)
        return record if resource is record.resource else replace(record, resource=resource)
