"""The GPUs that NVIDIA's driver shows to this process, through NVML (``pynvml``, from nvidia-ml-py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from tracelet_otel.foundation.forks import SharedLock

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class Device(NamedTuple):
    """A GPU, or a part of one (MIG)."""

    id: str
    name: str
    uuid: str
    handle: Any
    parent: str = ""
    """Id of the GPU that this is a part of."""


class Nvml:
    """NVML, opened once and never closed: other users of the process count on their own opening of it.

    Args:
        library: the module ``pynvml``.

    Raises:
        Exception: NVML's own error: no driver, no GPU.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        self._process = os.getpid()
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        self._devices = [device for index in range(count) for device in _found(library, index)]
        self._selected: tuple[str | None, list[Device]] = (None, self._devices)

    def devices(self) -> list[Device]:
        """Those that CUDA shows to this process; none in a forked child, where NVML does not work."""
        if os.getpid() != self._process:
            return []
        visible = os.environ.get(VISIBLE)  # each time: scripts set it after their imports
        if visible != self._selected[0]:
            chosen = self._devices if visible is None else selected(self._devices, visible)
            self._selected = (visible, chosen)
        return self._selected[1]


_lock: Final = SharedLock()
_opened: list[Nvml | None] = []
"""Empty: not tried yet. None: NVML is missing."""


def nvml() -> Nvml | None:
    """NVML, or None where there is no driver, library or GPU; that is found out once.

    The first call may take seconds, where the driver is not kept loaded.
    """
    with _lock:
        if not _opened:
            try:
                import pynvml

                _opened.append(Nvml(pynvml))
            except Exception:  # also what a broken installation raises
                _opened.append(None)
        return _opened[0]


def selected(devices: Sequence[Device], visible: str) -> list[Device]:
    """What ``CUDA_VISIBLE_DEVICES`` selects, in NVML's order; a MIG device brings its GPU along.

    As the CUDA programming guide has it ("CUDA Environment Variables"): indices or UUIDs, which may be cut
    short where that is unambiguous; what follows an unknown one is not visible; empty or -1 is none. Indices
    are taken as those of ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; by default CUDA numbers unequal GPUs by speed.
    """
    whole = [device for device in devices if not device.parent]
    chosen: set[str] = set()
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal() and int(entry) < len(whole):
            found = [whole[int(entry)]]
        else:
            is_uuid = entry.startswith(("GPU-", "MIG-"))
            found = [device for device in devices if is_uuid and device.uuid.startswith(entry)]
        if len(found) != 1:
            break
        id_, parent = found[0].id, found[0].parent
        # Of a GPU all MIG devices, of which CUDA itself takes the first.
        chosen |= {id_, parent or id_, *(device.id for device in devices if device.parent == id_)}
    return [device for device in devices if device.id in chosen]


def _found(library: Any, index: int) -> Iterator[Device]:
    handle = asked(lambda: library.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return
    yield _device(library, str(index), handle)
    mode = asked(lambda: library.nvmlDeviceGetMigMode(handle))
    if mode and mode[0] == library.NVML_DEVICE_MIG_ENABLE:
        for part in range(asked(lambda: library.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0):
            mig = asked(lambda part=part: library.nvmlDeviceGetMigDeviceHandleByIndex(handle, part))
            if mig is not None:
                yield _device(library, f"{index}_mig_{part}", mig, str(index))


def _device(library: Any, id_: str, handle: Any, parent: str = "") -> Device:
    name = _text(asked(lambda: library.nvmlDeviceGetName(handle)))
    uuid = _text(asked(lambda: library.nvmlDeviceGetUUID(handle)))
    return Device(id_, name or "GPU", uuid, handle, parent)


def asked(question: Callable[[], Any]) -> Any:
    """The answer, or None: which errors a card, driver or version has for "no" is not worth a list."""
    try:
        return question()
    except Exception:
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
