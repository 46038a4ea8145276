"""Measures the machine and this process, by ``opentelemetry-instrumentation-system-metrics`` and psutil.

:func:`observe` puts the instruments on a meter provider that it is given. A user's own use of that
instrumentation, which is one object in a process, is not touched. What that instrumentation does not measure,
file system, memory's size and the process's share of it, is measured here, by the conventions' names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from tracelet_otel.foundation import private
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

CONFIG: Final[Mapping[str, list[str] | None]] = {
    "system.cpu.utilization": ["idle", "iowait", "user", "system"],
    "system.memory.usage": ["used", "free", "cached"],
    "system.memory.utilization": ["used"],
    "system.disk.io": ["read", "write"],
    "system.network.io": ["receive", "transmit"],
    "process.cpu.utilization": None,
    "process.memory.usage": None,
    "process.thread.count": None,
    "process.open_file_descriptor.count": None,
}
"""What is measured of what the instrumentation can."""
_MORE: Final = {
    "system.filesystem.usage": (
        "up_down_counter",
        "By",
        "Reports a filesystem's space usage across different states.",
    ),
    "system.filesystem.utilization": ("gauge", "1", "Fraction of filesystem bytes used."),
    "system.memory.limit": ("up_down_counter", "By", "Total virtual memory available in the system."),
    "process.memory.utilization": ("gauge", "1", "Fraction of the machine's memory that the process uses."),
}
"""Kind, unit and description of what is measured here."""
SHORTEST_S: Final = 0.5
"""A CPU's use within less than this is noise, since the kernel counts in hundredths of a second."""

_Callback = Callable[[CallbackOptions], Iterable[Observation]]


def observe(meter_provider: MeterProvider) -> None:
    """Puts the machine's instruments on ``meter_provider``, once; they are read when its reader collects.

    Without psutil there are none. Collecting costs about a millisecond, on whatever thread collects. It may
    hang as long as the file system of the folder that is current now does (a network folder that went away),
    so it is not for training's thread. In a forked child nothing is measured.
    """
    try:
        instrumentor = _instrumentor()
    except ImportError:
        return
    instrument = private.SYSTEM_METRICS_INSTRUMENT.get(instrumentor)
    if instrument is not None:
        instrument(meter_provider=meter_provider)
    _observe_more(meter_provider)


def _instrumentor() -> SystemMetricsInstrumentor:
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

    class Instrumentor(SystemMetricsInstrumentor):
        """One of our own: the class hands out one object to everybody, the user included."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Instrumentor:
            return object.__new__(cls)

        def __init__(self) -> None:
            super().__init__(config=dict(CONFIG))
            setattr(self, private.CPU_UTILIZATION.attribute, _Cpus().observe)
            for name in [name for name in dir(self) if name.startswith(private.SYSTEM_OBSERVER_PREFIX)]:
                setattr(self, name, _bounded(name, getattr(self, name)))
            if (process := private.SYSTEM_PROCESS.get(self)) is not None:
                process.cpu_percent()  # its first answer is 0

    return Instrumentor()


class _Cpus:
    """The use of each CPU since the last collection, whichever thread collects; psutil's is per thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._time = time.monotonic()
        self._before = _cpu_times()

    def observe(self, options: CallbackOptions) -> Generator[Observation]:
        with self._lock:
            now = time.monotonic()
            if now - self._time < SHORTEST_S:
                return
            before, after = self._before, _cpu_times()
            self._time, self._before = now, after
        if len(before) != len(after):
            return  # a CPU came or went
        for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
            spent = {state: max(0.0, new[state] - old.get(state, 0.0)) for state in new}
            total = sum(spent.values())
            for state in CONFIG["system.cpu.utilization"] or ():
                if total > 0 and state in spent:
                    yield Observation(spent[state] / total, {"cpu": number, "state": state})


def _cpu_times() -> list[dict[str, float]]:
    import psutil

    times = [dict(cpu._asdict()) for cpu in psutil.cpu_times(percpu=True)]
    for cpu in times:  # a guest's time is in user and nice too
        cpu["user"] = cpu.get("user", 0.0) - cpu.pop("guest", 0.0)
        cpu["nice"] = cpu.get("nice", 0.0) - cpu.pop("guest_nice", 0.0)
    return times


def _observe_more(meter_provider: MeterProvider) -> None:
    import psutil

    process, memory = psutil.Process(), psutil.virtual_memory().total
    try:
        folder = Path.cwd()
    except OSError:  # it was deleted
        folder = Path(os.sep)
    place = {"system.filesystem.mountpoint": str(_mountpoint(folder))}

    def filesystem_usage(_: CallbackOptions) -> Generator[Observation]:
        disk = shutil.disk_usage(folder)
        yield Observation(disk.used, {**place, "system.filesystem.state": "used"})
        yield Observation(disk.free, {**place, "system.filesystem.state": "free"})

    def filesystem_utilization(_: CallbackOptions) -> Generator[Observation]:
        disk = shutil.disk_usage(folder)
        if disk.used + disk.free > 0:  # as df has it: without what is kept for root
            yield Observation(disk.used / (disk.used + disk.free), place)

    callbacks: dict[str, _Callback] = {
        "system.filesystem.usage": filesystem_usage,
        "system.filesystem.utilization": filesystem_utilization,
        "system.memory.limit": lambda _: [Observation(memory)],
        "process.memory.utilization": lambda _: [Observation(process.memory_info().rss / memory)],
    }
    meter = meter_provider.get_meter("tracelet_otel.instrumentation.system", VERSION)
    for name, callback in callbacks.items():
        kind, unit, description = _MORE[name]
        create = getattr(meter, f"create_observable_{kind}")
        create(name, [_bounded(name, callback)], unit=unit, description=description)


def _bounded(name: str, callback: _Callback) -> _Callback:
    """The callback, but nothing where it fails: what a machine does not tell is not logged."""
    owner = os.getpid()

    def observe(options: CallbackOptions) -> list[Observation]:
        if os.getpid() != owner:
            return []
        try:
            return [
                observation for observation in callback(options) if observation.value == observation.value
            ]
        except Exception as error:  # psutil raises whatever the system's files make it raise
            log_once(f"measuring {name}", logging.DEBUG, "%s cannot be measured: %r", name, error)
            return []

    return observe


def _mountpoint(path: Path) -> Path:
    with contextlib.suppress(OSError):
        path = path.resolve()
        while not path.is_mount() and path != path.parent:
            path = path.parent
    return path
