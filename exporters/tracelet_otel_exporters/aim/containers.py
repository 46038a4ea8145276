"""AIM's containers, opened without what AIM does for them at the interpreter's exit.

AIM registers every container for a clean-up at exit that waits without limit when one of its steps raises.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from tracelet_otel_exporters.aim.store import library


def open_container(path: Path) -> Any:
    """Opens a container for writing; whoever opens it closes it.

    Raises:
        Exception: of aimrocks, where another process or another object of this one has it open.
    """
    clean = library("aim.ext.cleanup").AutoClean
    was_registered = clean._registered_with_atexit
    container = library("aim.storage.rockscontainer").RocksContainer(str(path), read_only=False, timeout=0)
    clean._finalizers.pop(container, None)
    if not was_registered and not clean._finalizers:
        atexit.unregister(clean.cleanup)  # as it was before us: AIM registers it again when it needs it
        clean._registered_with_atexit = False
    return container
