"""Ray's private names that we use. A release may lack any one: then only what it says is lost."""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

RAY: Final = PrivateNames("Ray", "ray")

FUNCTION: Final = RAY.optional(
    "ray._private.function_manager:FunctionActorManager.get_execution_info",
    "a run in a worker that Ray stops ends as killed, also between two tasks",
)
WORKER_SCRIPT: Final = "/ray/_private/workers/default_worker.py"
"""How the script of a worker ends, which is none of the user's."""
