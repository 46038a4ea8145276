"""Whether another process of this machine still runs."""

from __future__ import annotations

import os


def is_alive(pid: int) -> bool:
    """Whether a process has this number. It may be another one than the process that had it once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
