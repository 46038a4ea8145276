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

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.instrumentation.hooks import HooksInstrumentor
from tracelet_otel.instrumentation.machine.nvml import asked, nvml
from tracelet_otel.version import VERSION

_VENDOR: Final = "NVIDIA"

Query = Callable[[Any, Any], float]
"""Asks the library about a handle; raises where there is no answer."""


def _errors(kind: str, nvml: Any, gpu: Any) -> float:
    counted = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind}")
    return nvml.nvmlDeviceGetTotalEccErrors(gpu, counted, nvml.NVML_VOLATILE_ECC)


def _memory_total(nvml: Any, gpu: Any) -> float:
    return nvml.nvmlDeviceGetMemoryInfo(gpu).total


_INSTRUMENTS: Final = {
    "hw.gpu.utilization": ("gauge", "1", "Fraction of time spent in a specific task."),
    "hw.gpu.memory.usage": ("up_down_counter", "By", "GPU memory used."),
    "hw.gpu.memory.limit": ("up_down_counter", "By", "Size of the GPU memory."),
    "hw.gpu.memory.utilization": ("gauge", "1", "Fraction of GPU memory used."),
    "hw.temperature": ("gauge", "Cel", "Temperature in degrees Celsius."),
    "hw.power": ("gauge", "W", "Instantaneous power consumed by the component."),
    "hw.gpu.power.limit": ("gauge", "W", "The power limit in force."),
    "hw.energy": ("counter", "J", "Energy consumed by the component."),
    "hw.errors": ("counter", "{error}", "Number of errors encountered by the component."),
}
"""Kind, unit and description of each instrument. Those of memory measure the parts of a GPU too."""

_TYPE: Final = {"hw.type": "gpu"}
_QUERIES: Final[list[tuple[str, Mapping[str, str], Query]]] = [
    (
        "hw.gpu.utilization",
        {"hw.gpu.task": "general"},
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100.0,
    ),
    ("hw.gpu.memory.usage", {}, lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
    ("hw.gpu.memory.limit", {}, _memory_total),
    (
        "hw.gpu.memory.utilization",
        {},
        lambda nvml, gpu: (memory := nvml.nvmlDeviceGetMemoryInfo(gpu)).used / memory.total,
    ),
    (
        "hw.temperature",
        _TYPE,
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
    ("hw.power", _TYPE, lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000.0),
    ("hw.gpu.power.limit", _TYPE, lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000.0),
    ("hw.energy", _TYPE, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000.0),
    ("hw.errors", {**_TYPE, "error.type": "corrected"}, partial(_errors, "CORRECTED")),
    ("hw.errors", {**_TYPE, "error.type": "uncorrected"}, partial(_errors, "UNCORRECTED")),
]
"""What each instrument measures: its attributes, and the question to the library."""

_lock: Final = SharedLock()


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
        for name, (kind, unit, description) in _INSTRUMENTS.items():
            callbacks = [
                partial(self._observe, name.startswith("hw.gpu.memory."), attributes, query)
                for measured, attributes, query in _QUERIES
                if measured == name
            ]
            create = getattr(meter, f"create_observable_{kind}")
            create(name, callbacks, unit=unit, description=description)

    def _observe(
        self, with_parts: bool, attributes: Mapping[str, str], query: Query, _: CallbackOptions
    ) -> Iterator[Observation]:
        opened = nvml() if self.on else None
        if opened is None:
            return
        for device in opened.devices():
            if device.parent and not with_parts:
                continue
            value = asked(lambda device=device: query(opened.library, device.handle))
            if value is not None:
                described = {"hw.id": device.id, "hw.name": device.name, "hw.vendor": _VENDOR}
                parent = {"hw.parent": device.parent} if device.parent else {}
                yield Observation(value, {**described, **parent, **attributes})


_instruments: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def observe(meter_provider: MeterProvider) -> Instruments:
    """Puts the GPUs' instruments on ``meter_provider``, or switches on those that it has.

    NVML is opened at the first collection, by the thread that collects. A collection costs a few
    microseconds without a GPU.
    """
    with _lock:
        if meter_provider not in _instruments:
            _instruments[meter_provider] = Instruments(meter_provider)
        _instruments[meter_provider].on = True
        return _instruments[meter_provider]


class GpuInstrumentor(HooksInstrumentor):
    """Measures NVIDIA GPUs, for any distribution and any meter provider. It needs no hooks.

    Without pynvml there is just nothing to measure.

    Args of ``instrument()``:
        meter_provider: where to; OpenTelemetry's global one if not given.
    """

    _instruments: Instruments | None = None

    def _instrument(self, **kwargs: Any) -> None:
        self._instruments = observe(kwargs.get("meter_provider") or get_meter_provider())

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._instruments is not None:
            self._instruments.on = False
