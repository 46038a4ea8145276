"""Measures NVIDIA GPUs through NVML, by OpenTelemetry's conventions.

Names, units and attributes are those of OpenTelemetry's semantic conventions for hardware
(https://opentelemetry.io/docs/specs/semconv/hardware/gpu/ and ``.../hardware/common/``), as in
``opentelemetry-semantic-conventions`` 0.66b2. The one metric without a convention is ``hw.gpu.power.limit``,
in watts.

``hw.id`` is NVML's index of the GPU, as ``nvidia-smi`` numbers them; a MIG device of it is ``0_mig_1``, with
its GPU as ``hw.parent``. NVML tells the memory of a MIG device, and no utilization while a GPU is divided;
temperature, power, energy and errors are those of the whole GPU.

Without a driver or the library nothing is measured and nothing logged. A call that fails, as some do on many
cards, costs that one value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from tracelet_otel.instrumentation.machine.nvml import Nvml, asked, nvml
from tracelet_otel.version import VERSION

_VENDOR: Final = "NVIDIA"

Query = Callable[[Any, Any], float]
"""Asks the library about a handle; raises where there is no answer."""


class _Quantity(NamedTuple):
    name: str
    kind: str
    """Of the instrument: ``gauge``, ``up_down_counter`` or ``counter``."""
    unit: str
    description: str
    query: Query
    attributes: Mapping[str, str] = MappingProxyType({})
    parts: bool = False
    """Whether a part of a GPU has it too."""


def _utilization(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0


def _memory_used(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetMemoryInfo(handle).used


def _memory_total(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetMemoryInfo(handle).total


def _memory_share(library: Any, handle: Any) -> float:
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return memory.used / memory.total


def _temperature(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)


def _power(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetPowerUsage(handle) / 1000.0


def _power_limit(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000.0


def _energy(library: Any, handle: Any) -> float:
    return library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0


def _corrected(library: Any, handle: Any) -> float:
    kind, since = library.NVML_MEMORY_ERROR_TYPE_CORRECTED, library.NVML_VOLATILE_ECC
    return library.nvmlDeviceGetTotalEccErrors(handle, kind, since)


def _uncorrected(library: Any, handle: Any) -> float:
    kind, since = library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
    return library.nvmlDeviceGetTotalEccErrors(handle, kind, since)


_TASK: Final = {"hw.gpu.task": "general"}
_TYPE: Final = {"hw.type": "gpu"}
_ERRORS: Final = "Number of errors encountered by the component."

_QUANTITIES: Final = (
    _Quantity(
        "hw.gpu.utilization",
        "gauge",
        "1",
        "Fraction of time spent in a specific task.",
        _utilization,
        _TASK,
    ),
    _Quantity("hw.gpu.memory.usage", "up_down_counter", "By", "GPU memory used.", _memory_used, parts=True),
    _Quantity(
        "hw.gpu.memory.limit", "up_down_counter", "By", "Size of the GPU memory.", _memory_total, parts=True
    ),
    _Quantity(
        "hw.gpu.memory.utilization", "gauge", "1", "Fraction of GPU memory used.", _memory_share, parts=True
    ),
    _Quantity("hw.temperature", "gauge", "Cel", "Temperature in degrees Celsius.", _temperature, _TYPE),
    _Quantity("hw.power", "gauge", "W", "Instantaneous power consumed by the component.", _power, _TYPE),
    _Quantity("hw.gpu.power.limit", "gauge", "W", "The power limit in force.", _power_limit, _TYPE),
    _Quantity("hw.energy", "counter", "J", "Energy consumed by the component.", _energy, _TYPE),
    _Quantity("hw.errors", "counter", "{error}", _ERRORS, _corrected, {**_TYPE, "error.type": "corrected"}),
    _Quantity(
        "hw.errors", "counter", "{error}", _ERRORS, _uncorrected, {**_TYPE, "error.type": "uncorrected"}
    ),
)
_lock: Final = threading.Lock()


def visible_gpus() -> list[dict[str, Any]]:
    """``name`` and ``memory_bytes`` of each GPU that CUDA shows to this process; of a divided one its parts.

    Opens NVML, see :func:`~tracelet_otel.instrumentation.machine.nvml.nvml`.
    """
    opened = nvml()
    if opened is None:
        return []
    devices = opened.devices()
    divided = {device.parent for device in devices}
    found: list[dict[str, Any]] = []
    for device in devices:
        if device.id not in divided:
            memory = asked(lambda device=device: _memory_total(opened.library, device.handle))
            found.append({"name": device.name, **({"memory_bytes": int(memory)} if memory else {})})
    return found


class Instruments:
    """The GPUs' instruments on one meter provider; they cannot be taken away, but switched off."""

    def __init__(self, meter_provider: MeterProvider) -> None:
        self.on = True
        meter = meter_provider.get_meter("tracelet_otel.instrumentation.gpu", VERSION)
        for name in dict.fromkeys(quantity.name for quantity in _QUANTITIES):
            members = [quantity for quantity in _QUANTITIES if quantity.name == name]
            create = getattr(meter, f"create_observable_{members[0].kind}")
            callbacks = [self._callback(quantity) for quantity in members]
            create(name, callbacks, unit=members[0].unit, description=members[0].description)

    def _callback(self, quantity: _Quantity) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            opened = nvml() if self.on else None
            return _observed(opened, quantity) if opened is not None else []

        return observe


def _observed(opened: Nvml, quantity: _Quantity) -> list[Observation]:
    found: list[Observation] = []
    for device in opened.devices():
        if device.parent and not quantity.parts:
            continue
        value = asked(lambda device=device: quantity.query(opened.library, device.handle))
        if value is not None:
            attributes = {"hw.id": device.id, "hw.name": device.name, "hw.vendor": _VENDOR}
            if device.parent:
                attributes["hw.parent"] = device.parent
            found.append(Observation(value, {**attributes, **quantity.attributes}))
    return found


_instruments: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def observe(meter_provider: MeterProvider) -> Instruments:
    """Puts the GPUs' instruments on ``meter_provider``, or switches on those that it has.

    NVML is opened at the first collection, by the thread that collects. A collection costs a few
    microseconds without a GPU.
    """
    with _lock:
        instruments = _instruments.get(meter_provider)
        if instruments is None:
            instruments = _instruments[meter_provider] = Instruments(meter_provider)
        instruments.on = True
        return instruments


class GpuInstrumentor(BaseInstrumentor):
    """Measures NVIDIA GPUs, for any distribution and any meter provider. Repeated calls are quiet."""

    _instruments: Instruments | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing that must be there: without pynvml there is just nothing to measure."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Begins to measure; ``meter_provider``: where to, OpenTelemetry's global one if not given."""
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Undoes ``instrument()``."""
        if self.is_instrumented_by_opentelemetry:
            super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        self._instruments = observe(kwargs.get("meter_provider") or get_meter_provider())

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._instruments is not None:
            self._instruments.on = False
