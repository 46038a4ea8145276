"""Which values a backend gets: globs over tags, and kinds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import translate
from typing import Any, Final, cast, get_args

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import Metric, MetricsData, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import is_system
from tracelet_otel.otlp.splitting import with_metrics
from tracelet_otel.semconv import Kind
from tracelet_otel.settings import ConfigurationError

KINDS: Final = frozenset({"scalar", "system", *get_args(Kind)} - {"run", "status"})
"""What ``kinds`` may name. A run's beginning and end go to every backend."""
OPTIONS: Final = ("include", "exclude", "kinds")


class Route:
    """What one backend gets.

    Args:
        include: globs of which a tag must match one; empty allows all. ``*`` matches ``/`` too.
        exclude: globs of which a tag must match none.
        kinds: kinds of value, of :data:`KINDS`; None allows all.

    For a record without a tag, such as parameters, only the kind counts.
    """

    def __init__(
        self, include: Iterable[str] = (), exclude: Iterable[str] = (), kinds: Iterable[str] | None = None
    ) -> None:
        self.identity = (tuple(include), tuple(exclude), None if kinds is None else frozenset(kinds))
        """Equal for routes that let the same through."""
        self._include = _matcher(self.identity[0])
        self._exclude = _matcher(self.identity[1])
        self._kinds = self.identity[2]
        self._known: dict[str, bool] = {}

    @property
    def takes_all(self) -> bool:
        """Whether it lets everything through."""
        return self.identity == ((), (), None)

    @property
    def options(self) -> dict[str, list[str]]:
        """The options of which :func:`take_route` makes an equal route, in JSON's types."""
        include, exclude, kinds = self.identity
        given = {"include": include or None, "exclude": exclude or None, "kinds": kinds}
        return {name: sorted(texts) for name, texts in given.items() if texts is not None}

    def takes(self, kind: str, tag: str) -> bool:
        """Whether a value goes to this backend."""
        if kind in ("run", "status"):
            return True
        return (self._kinds is None or kind in self._kinds) and self._takes_tag(tag)

    def metrics(self, data: MetricsData) -> MetricsData:
        """What of these metrics goes to this backend."""
        return data if self.takes_all else with_metrics(data, self._metric)

    def records(self, records: list[ReadableLogRecord]) -> list[ReadableLogRecord]:
        """What of these records goes to this backend."""
        return records if self.takes_all else [record for record in records if self._takes_record(record)]

    def _takes_tag(self, tag: str) -> bool:
        known = self._known.get(tag)
        if known is None:
            included = not tag or self._include is None or self._include(tag) is not None
            known = included and (not tag or self._exclude is None or self._exclude(tag) is None)
            self._known[tag] = known
        return known

    def _metric(self, metric: Metric) -> Metric | None:
        if metric.name not in semconv.SCALARS:
            kind = "system" if is_system(metric.name) else "scalar"
            return metric if self.takes(kind, "" if kind == "system" else metric.name) else None
        points = [
            point
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
            and self.takes("scalar", str((point.attributes or {}).get(semconv.TAG, "")))
        ]
        return replace(metric, data=replace(metric.data, data_points=points)) if points else None

    def _takes_record(self, record: ReadableLogRecord) -> bool:
        name = record.log_record.event_name or ""
        if not name.startswith(semconv.EVENT_PREFIX):
            return True
        tag = (record.log_record.attributes or {}).get(semconv.TAG, "")
        return self.takes(name.removeprefix(semconv.EVENT_PREFIX), str(tag))


def take_route(backend: str, options: Mapping[str, Any]) -> tuple[Route, dict[str, Any]]:
    """The route that a backend's options ask for, and its other options.

    Raises:
        ConfigurationError: ``include``, ``exclude`` or ``kinds`` is not a list of texts, or a kind unknown.
    """
    others = dict(options)
    given = {
        name: _texts(backend, name, others.pop(name)) for name in OPTIONS if others.get(name) is not None
    }
    unknown = sorted(set(given.get("kinds", ())) - KINDS)
    if unknown:
        raise ConfigurationError(
            f"backend {backend!r}: unknown kind {unknown[0]!r}; allowed are {', '.join(sorted(KINDS))}"
        )
    return Route(given.get("include", ()), given.get("exclude", ()), given.get("kinds")), others


def _texts(backend: str, name: str, value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise ConfigurationError(f"backend {backend!r}: {name} must be a list of texts, got {value!r}")
    texts = tuple(cast("Iterable[Any]", items))
    if not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"backend {backend!r}: {name} must be a list of texts, got {value!r}")
    return texts


def _matcher(globs: tuple[str, ...]) -> Callable[[str], object] | None:
    return re.compile("|".join(translate(glob) for glob in globs)).match if globs else None
