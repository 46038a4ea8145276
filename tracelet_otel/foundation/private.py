"""OpenTelemetry's private names that we use. A release may lack any one: then only what it says is lost."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple


class Private(NamedTuple):
    """A private name of a library."""

    module: str
    name: str
    """Of an attribute of the module; empty for the module itself."""
    lost: str
    """What does not work without it."""

    def find(self) -> Any:
        """What has the name, or None."""
        try:
            module = import_module(self.module)
        except ImportError:
            return None
        return getattr(module, self.name, None) if self.name else module


ONCE: Final = Private(
    "opentelemetry.util._once", "Once", "our providers are not made OpenTelemetry's global ones"
)
METRICS: Final = Private(
    "opentelemetry.metrics._internal", "", "our meter provider is not made the global one"
)
LOGS: Final = Private("opentelemetry._logs._internal", "", "our logger provider is not made the global one")
ENTRY_POINTS: Final = Private(
    "opentelemetry.util._importlib_metadata",
    "entry_points",
    "the entry points are read again, which takes 8 ms",
)
