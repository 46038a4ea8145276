"""Our claim to be the distribution that ``opentelemetry-instrument`` loads.

``opentelemetry-instrument`` imports this module, in its own process, before it starts the program.
Where several distributions are installed it would take whichever comes first on the disk; so ours names
itself, unless the user named one. It is in this package because that one imports nothing: anything below
``tracelet_otel`` would have the launcher load all of the SDK, which it has no use for.
"""

from __future__ import annotations

import os

if not {"OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR"} & os.environ.keys():
    os.environ["OTEL_PYTHON_DISTRO"] = "tracelet"
    os.environ["OTEL_PYTHON_CONFIGURATOR"] = "tracelet"
