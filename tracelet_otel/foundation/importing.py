"""Imports of the trackers' clients, one at a time.

Each delivery imports in its own thread, and the clients import each other. Two threads that each wait for a
module that the other imports get it as it is: Python ends the deadlock so, and the client looks broken.
"""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.forks import SharedLock

_PATIENCE_S: Final = 10.0
IMPORTING: Final = SharedLock(_PATIENCE_S)
"""Held while a tracker's client is imported, or anything else by a thread of ours. A fork waits for it: a
child in which a module is half imported for ever can never import it."""


def passes(error: Exception) -> bool:
    """Whether the same import or call may work later: the user's own threads import too, or the interpreter
    is about to exit.
    """
    text = str(error)
    return "partially initialized module" in text or "cannot schedule new futures" in text
