"""A stand-in for NVIDIA's driver, below ``pynvml``: its table of C functions, which pynvml's own code calls.

Names, memory and power limits are those of the cards' data sheets (NVIDIA A100 40 GB SXM4, GeForce RTX 4090,
L4), memory in the MiB that nvidia-smi shows of them. What a card refuses is taken from NVML's reference
(docs.nvidia.com/deploy/nvml-api, "Device Queries") and NVIDIA's MIG user guide: no utilization of a GPU in
MIG mode, only memory of its parts; no ECC counters on a GeForce.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pynvml

from tracelet_otel.instrumentation.machine import nvml

MIB = 1024 * 1024

INVALID_ARGUMENT = pynvml.NVML_ERROR_INVALID_ARGUMENT
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
NOT_FOUND = pynvml.NVML_ERROR_NOT_FOUND
GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST


@dataclass
class Card:
    """A GPU or MIG device. A quantity that is None is not supported."""

    name: str
    uuid: str
    memory_mib: int
    used_mib: int = 0
    utilization: int | None = None
    """Percent."""
    temperature: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    energy_mj: int | None = None
    ecc: tuple[int, int] | None = None
    """Corrected and uncorrected errors."""
    mig: list[Card] | None = None
    """Its parts; None: it cannot be divided. Empty: it can, and is not."""
    lost: bool = False


def a100(used_mib: int = 1024) -> Card:
    return Card(
        "NVIDIA A100-SXM4-40GB",
        "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77",
        40960,
        used_mib,
        utilization=97,
        temperature=61,
        power_mw=378_123,
        power_limit_mw=400_000,
        energy_mj=123_456_789,
        ecc=(4, 1),
        mig=[],
    )


def a100_divided() -> Card:
    card = a100()
    card.utilization = None
    card.mig = [
        Card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 20096, 11),
        Card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", 20096, 5024),
    ]
    return card


def rtx4090() -> Card:
    return Card(
        "NVIDIA GeForce RTX 4090",
        "GPU-8f2a7f5e-1111-4a53-a3f2-0f2c2f6e9f01",
        24564,
        12282,
        utilization=50,
        temperature=54,
        power_mw=225_000,
        power_limit_mw=450_000,
        energy_mj=2**40,
    )


def l4() -> Card:
    return Card(
        "NVIDIA L4",
        "GPU-8f2a7f5e-2222-4a53-a3f2-0f2c2f6e9f02",
        23034,
        0,
        utilization=0,
        temperature=31,
        power_mw=16_500,
        power_limit_mw=72_000,
        energy_mj=1_000,
        ecc=(0, 0),
    )


@dataclass
class Driver:
    """The C functions, by name; each returns NVML's status and writes to what it is given."""

    cards: list[Card]
    initialized: int = 0
    calls: list[str] = field(default_factory=list[str])
    init_status: int = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        function: Callable[..., int] | None = _FUNCTIONS.get(name)
        if function is None:
            raise AttributeError(name)  # as of a driver that is older than the library

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return function(self, *arguments)

        return call

    def card(self, handle: Any) -> Card:
        """By its handle: ``1000 * (index + 1)``, and the part's number from 1 added to it."""
        index, part = divmod(ctypes.cast(handle, ctypes.c_void_p).value or 0, 1000)
        card = self.cards[index - 1]
        return card.mig[part - 1] if part and card.mig else card


def _set(pointer: Any, value: int) -> int:
    pointer._obj.value = value
    return 0


def _handle(pointer: Any, value: int) -> int:
    target = ctypes.cast(ctypes.pointer(pointer._obj), ctypes.POINTER(ctypes.c_void_p))
    target[0] = value
    return 0


def _text(buffer: Any, size: Any, text: str) -> int:
    assert len(text) < size.value
    buffer.value = text.encode()
    return 0


def _number(find: Callable[[Card], int | None]) -> Callable[..., int]:
    def function(driver: Driver, handle: Any, *arguments: Any) -> int:
        card = driver.card(handle)
        if card.lost:
            return GPU_IS_LOST
        value = find(card)
        return NOT_SUPPORTED if value is None else _set(arguments[-1], value)

    return function


def _init(driver: Driver, flags: int) -> int:
    driver.initialized += 1
    return driver.init_status


def _by_index(driver: Driver, index: Any, pointer: Any) -> int:
    if index.value >= len(driver.cards):
        return INVALID_ARGUMENT
    if driver.cards[index.value].lost:
        return GPU_IS_LOST
    return _handle(pointer, 1000 * (index.value + 1))


def _part_by_index(driver: Driver, handle: Any, index: Any, pointer: Any) -> int:
    parts = driver.card(handle).mig or []
    if index.value >= len(parts):
        return NOT_FOUND
    return _handle(pointer, (ctypes.cast(handle, ctypes.c_void_p).value or 0) + index.value + 1)


def _mig_mode(driver: Driver, handle: Any, current: Any, pending: Any) -> int:
    parts = driver.card(handle).mig
    if parts is None:
        return NOT_SUPPORTED
    _set(current, bool(parts))
    return _set(pending, bool(parts))


def _utilization(driver: Driver, handle: Any, pointer: Any) -> int:
    card = driver.card(handle)
    if card.lost or card.utilization is None:
        return GPU_IS_LOST if card.lost else NOT_SUPPORTED
    pointer._obj.gpu = card.utilization
    pointer._obj.memory = 0
    return 0


def _memory(driver: Driver, handle: Any, pointer: Any) -> int:
    card = driver.card(handle)
    if card.lost:
        return GPU_IS_LOST
    memory = pointer._obj
    memory.total, memory.used = card.memory_mib * MIB, card.used_mib * MIB
    memory.free = memory.total - memory.used
    return 0


def _ecc(driver: Driver, handle: Any, kind: Any, since: Any, pointer: Any) -> int:
    card = driver.card(handle)
    if card.lost or card.ecc is None:
        return GPU_IS_LOST if card.lost else NOT_SUPPORTED
    return _set(pointer, card.ecc[kind.value])


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "nvmlInitWithFlags": _init,
    "nvmlDeviceGetCount_v2": lambda driver, count: _set(count, len(driver.cards)),
    "nvmlDeviceGetHandleByIndex_v2": _by_index,
    "nvmlDeviceGetName": lambda driver, handle, text, size: _text(text, size, driver.card(handle).name),
    "nvmlDeviceGetUUID": lambda driver, handle, text, size: _text(text, size, driver.card(handle).uuid),
    "nvmlDeviceGetMigMode": _mig_mode,
    "nvmlDeviceGetMaxMigDeviceCount": _number(lambda card: 7 if card.mig is not None else 0),
    "nvmlDeviceGetMigDeviceHandleByIndex": _part_by_index,
    "nvmlDeviceGetUtilizationRates": _utilization,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetTemperature": _number(lambda card: card.temperature),
    "nvmlDeviceGetPowerUsage": _number(lambda card: card.power_mw),
    "nvmlDeviceGetEnforcedPowerLimit": _number(lambda card: card.power_limit_mw),
    "nvmlDeviceGetTotalEnergyConsumption": _number(lambda card: card.energy_mj),
    "nvmlDeviceGetTotalEccErrors": _ecc,
}


@contextmanager
def driver(*cards: Card, init_status: int = 0) -> Generator[Driver]:
    """A machine with these cards, for pynvml and for us; before and after it there is none."""
    made = Driver(list(cards), init_status=init_status)
    with (
        patch.object(pynvml, "nvmlLib", made),
        patch.object(pynvml, "_nvmlGetFunctionPointer_cache", {}),
        patch.object(nvml, "_opened", []),
    ):
        yield made
