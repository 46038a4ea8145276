"""OpenTelemetry for machine-learning training: every logged value, exact, in every tracker."""

from __future__ import annotations

from tracelet_otel import jobs as _jobs
from tracelet_otel.api import (
    configure,
    flush,
    log_artifact,
    log_audio,
    log_figure,
    log_histogram,
    log_image,
    log_params,
    log_scalar,
    log_scalars,
    log_text,
    run,
    shutdown,
)
from tracelet_otel.compatibility import Experiment, get_active_experiment, start_logging, stop_logging
from tracelet_otel.session.session import Session
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.version import VERSION

__version__ = VERSION

_jobs.watch()

__all__ = [
    "ConfigurationError",
    "Experiment",
    "Session",
    "__version__",
    "configure",
    "flush",
    "get_active_experiment",
    "log_artifact",
    "log_audio",
    "log_figure",
    "log_histogram",
    "log_image",
    "log_params",
    "log_scalar",
    "log_scalars",
    "log_text",
    "run",
    "shutdown",
    "start_logging",
    "stop_logging",
]
