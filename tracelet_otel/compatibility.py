"""The older package Tracelet's functions: its code runs with ``import tracelet_otel as tracelet``.

Source of the names and arguments: Tracelet 0.0.x, ``tracelet/interface.py`` and
``tracelet/core/experiment.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet_otel import api
from tracelet_otel.session import process
from tracelet_otel.session.session import Session
from tracelet_otel.settings import ConfigurationError, parse_backends


class Experiment:
    """What ``start_logging`` returns: the active run, under the older package's method names."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name

    @property
    def id(self) -> str:
        """The run's id."""
        return self._session.run.id

    def log_metric(self, name: str, value: Any, iteration: int | None = None) -> None:
        """See :func:`tracelet_otel.log_scalar`."""
        api.log_scalar(name, value, iteration)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """See :func:`tracelet_otel.log_params`."""
        api.log_params(params)

    log_hyperparameters = log_params

    def log_artifact(self, local_path: str, artifact_path: str | None = None) -> None:
        """See :func:`tracelet_otel.log_artifact`."""
        api.log_artifact(local_path, artifact_path)

    def stop(self) -> None:
        """See :func:`stop_logging`."""
        stop_logging()


_active: Experiment | None = None


def start_logging(
    exp_name: str | None = None,
    project: str | None = None,
    backend: str | Sequence[str] | None = None,
    api_key: str | None = None,
    backend_url: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Experiment:
    """Starts recording; :func:`tracelet_otel.configure` is the way to do it in new code.

    Args:
        exp_name: name of the run.
        project: project that trackers file it under.
        backend: one name or several.
        api_key: not taken: each tracker's own variable holds its key.
        backend_url: the tracking server, for ``mlflow``.
        config: further arguments of :func:`tracelet_otel.configure`; the older package's switches that
            have no meaning here are ignored.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    global _active
    if api_key is not None:
        raise ConfigurationError(
            "api_key is not taken: set the tracker's own variable, e.g. MLFLOW_TRACKING_TOKEN"
        )
    given = backend or os.environ.get("TRACELET_BACKEND") or None
    backends: dict[str, dict[str, Any]] | None = None if given is None else parse_backends(given, "backend")
    url = backend_url or os.environ.get("TRACELET_BACKEND_URL")
    if url:
        backends = backends if backends is not None else {"mlflow": {}}
        if "mlflow" not in backends:
            raise ConfigurationError(f"backend_url is known for mlflow only, not for {', '.join(backends)}")
        backends["mlflow"]["tracking_uri"] = url
    known = (
        "experiment",
        "run_id",
        "tags",
        "export_interval",
        "shutdown_timeout",
        "max_queue_bytes",
        "checkpoints",
    )
    further = {key: value for key, value in (config or {}).items() if key in known}
    session = api.configure(backends, project=project, run_name=exp_name, **further)
    _active = Experiment(session, exp_name or "")
    return _active


def get_active_experiment() -> Experiment | None:
    """What :func:`start_logging` returned last, while it is active."""
    return _active if process.session() is not None else None


def stop_logging() -> None:
    """Delivers everything and ends the run; see :func:`tracelet_otel.shutdown`."""
    global _active
    _active = None
    api.shutdown()
