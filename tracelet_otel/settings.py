"""Every setting: argument of ``configure()``, environment variable, unit, default and meaning.

An argument wins over its variable, a variable over the default. An empty variable counts as not set,
as OpenTelemetry specifies. A configuration file takes the variables' place, see :func:`declare`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from tracelet_otel.run_owner import RUN_ID_VARIABLE, is_of_another_run

_LARGEST = {"export_interval": 1e9, "shutdown_timeout": 1e6}
"""Beyond these the system's clocks cannot wait."""

ChildRuns = Literal["join", "nested"]
CheckpointPolicy = Literal["none", "best", "all"]
Isolation = Literal["process", "thread"]
RankPolicy = Literal["all", "zero"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "child_runs": get_args(ChildRuns),
    "checkpoints": get_args(CheckpointPolicy),
    "isolation": get_args(Isolation),
    "ranks": get_args(RankPolicy),
}


class ConfigurationError(ValueError):
    """A setting is wrong; the message says which, and what is allowed."""


def _setting(variable: str, default: Any, meaning: str, *, unit: str = "") -> Any:
    metadata = {"variable": variable, "meaning": meaning, "unit": unit}
    if isinstance(default, dict):
        return dataclass_field(default_factory=cast("dict[str, Any]", default).copy, metadata=metadata)
    return dataclass_field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one pipeline. The metadata of the fields is the table in the documentation."""

    backends: Mapping[str, Mapping[str, Any]] = _setting(
        "OTEL_METRICS_EXPORTER",
        {"mlflow": {}},
        "Where to: `mlflow`, `wandb`, `aim`, `clearml`, `file`, `otlp`, `console`, or any installed "
        "OpenTelemetry metrics exporter; several, comma separated. As an argument also `{name: options}`.",
    )
    project: str = _setting("TRACELET_PROJECT", "", "Project that trackers file the run under.")
    experiment: str = _setting("TRACELET_EXPERIMENT", "", "Experiment (group of runs) inside the project.")
    run_name: str = _setting(
        "TRACELET_RUN_NAME", "", "Name of the run; script, date, time and four digits if not set."
    )
    child_runs: ChildRuns = _setting(  # noqa: RUF009
        "TRACELET_CHILD_RUNS",
        "join",
        "What processes do that a process with an open run starts: they `join` that run, or have `nested` "
        "runs of their own, which trackers show as its children.",
    )
    run_id: str = _setting(
        RUN_ID_VARIABLE, "", "Id of the run; a run with this id is resumed. New if not set."
    )
    tags: Mapping[str, str] = _setting("TRACELET_TAGS", {}, "Labels of the run, `key=value,key=value`.")
    export_interval: float = _setting(
        "OTEL_METRIC_EXPORT_INTERVAL", 1000.0, "Time between two collections.", unit="ms"
    )
    shutdown_timeout: float = _setting(
        "TRACELET_SHUTDOWN_TIMEOUT",
        10.0,
        "At exit: how long to wait, and at least 10 s for an agent that is starting. With `isolation` "
        "`process` the agent then goes on with what is left; else the wait is for a backend that takes "
        "nothing any more, and what is left goes to the spool.",
        unit="s",
    )
    max_queue_bytes: int = _setting(
        "TRACELET_MAX_QUEUE_BYTES",
        256 * 1024 * 1024,
        "Memory for what a slow backend, or the agent, has not taken yet, for each; what comes beyond goes "
        "to the spool.",
        unit="bytes",
    )
    spool_dir: str = _setting(
        "TRACELET_SPOOL_DIR",
        "",
        "Folder for what a backend has not taken, and of backend `file`; `tracelet-otel` in "
        "`$XDG_STATE_HOME` or `~/.local/state` if not set.",
    )
    max_spool_bytes: int = _setting(
        "TRACELET_MAX_SPOOL_BYTES",
        16 * 1024**3,
        "What the spool of one agent, or process, and backend may hold, media included; what comes beyond, "
        "the newest, is dropped and counted.",
        unit="bytes",
    )
    media_dir: str = _setting(
        "TRACELET_MEDIA_DIR",
        "",
        "Folder (or fsspec URL) for payloads over 1 MiB until they are delivered; a temporary one if not "
        "set.",
    )
    isolation: Isolation = _setting(  # noqa: RUF009
        "TRACELET_ISOLATION",
        "process",
        "Where trackers' clients run: `process`, an agent beside training that outlives it, or `thread`, in "
        "training's own process.",
    )
    checkpoints: CheckpointPolicy = _setting(  # noqa: RUF009
        "TRACELET_CHECKPOINTS", "none", "Which Lightning checkpoints to upload: `none`, `best` or `all`."
    )
    ranks: RankPolicy = _setting(  # noqa: RUF009
        "TRACELET_RANKS",
        "all",
        "Under torchrun and Slurm, what is recorded: what `all` ranks log, with the rank in name or context "
        "for those above 0, or only what rank `zero` does. The machine is measured once a node either way.",
    )


_declared: Mapping[str, tuple[Any, str]] | None = None


def declare(values: Mapping[str, tuple[Any, str]] | None) -> None:
    """Has the settings of a configuration file stand in for the variables, from now on.

    All but :data:`RUN_ID_VARIABLE`, which names the one run of this start, of which the file may see many.
    Source: OpenTelemetry specification, "Declarative configuration": all variables are ignored but those that
    the file refers to.

    Args:
        values: from a setting's name to its value and the place in the file that it comes from; None for
            no file.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    global _declared
    before, _declared = _declared, values
    if values is None:
        return
    try:
        resolve()
    except ConfigurationError:
        _declared = before
        raise


def source_of(field: Field[Any]) -> str:
    """Where a setting's value comes from: a variable's name, a place in a file, or "" for the default."""
    variable: str = field.metadata["variable"]
    if _declared is not None and field.name in _declared:
        return _declared[field.name][1]
    is_read = _declared is None or variable == RUN_ID_VARIABLE
    return variable if is_read and os.environ.get(variable, "").strip() else ""


def resolve(arguments: Mapping[str, Any] | None = None) -> Settings:
    """The settings from arguments (None values count as not given), environment or file, and defaults.

    Raises:
        ConfigurationError: a value is not allowed; the message names it and what is.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    known = {field.name for field in fields(Settings)}
    for name in given:
        if name not in known:
            raise ConfigurationError(f"unknown setting {name!r}; allowed are {_listed(known)}")
    values: dict[str, Any] = {}
    for field in fields(Settings):
        source = source_of(field)
        if field.name in given:
            values[field.name] = _parse(field.name, given[field.name], f"argument {field.name}")
        elif _declared is not None and field.name in _declared:
            values[field.name] = _parse(field.name, _declared[field.name][0], source)
        elif source == RUN_ID_VARIABLE and is_of_another_run(nested=values.get("child_runs") == "nested"):
            continue
        elif source:
            text = os.environ[source].strip()
            values[field.name] = _parse(field.name, text, f"environment variable {source}")
    return Settings(**values)


def state_folder(spool_dir: str = "") -> Path:
    """Where spools and companion files wait for their delivery.

    Source of the default: XDG Base Directory Specification 0.8, ``XDG_STATE_HOME``.
    """
    if spool_dir:
        return Path(spool_dir).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):  # relative ones are to be ignored, as that specification says
        base = os.environ.get("HOME") or tempfile.gettempdir()
        base = f"{base}/.local/state"
    return Path(base, "tracelet-otel")


def sdk_disabled() -> bool:
    """Whether ``OTEL_SDK_DISABLED`` asks for no telemetry at all."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _parse(name: str, value: Any, source: str) -> Any:
    if name == "backends":
        return parse_backends(value, source)
    if name == "tags":
        return _parse_tags(value, source)
    if name in ("export_interval", "shutdown_timeout", "max_queue_bytes", "max_spool_bytes"):
        return _parse_number(name, value, source)
    if not isinstance(value, str):
        if name in ("media_dir", "spool_dir") and isinstance(value, os.PathLike):
            return os.fspath(cast("os.PathLike[str]", value))
        raise ConfigurationError(f"{source} must be text, got {type(value).__name__}: {value!r}")
    if name in _CHOICES:
        choice = value.lower()
        if choice not in _CHOICES[name]:
            raise ConfigurationError(f"{source} must be one of {_listed(_CHOICES[name])}, got {value!r}")
        return choice
    return value


def _parse_number(name: str, value: Any, source: str) -> float | int:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{source} must be a number, got {value!r}") from None
    if not 0 < number < float("inf"):
        raise ConfigurationError(f"{source} must be above 0 and finite, got {value!r}")
    if number > _LARGEST.get(name, number):
        raise ConfigurationError(f"{source} must be at most {_LARGEST[name]:g}, got {value!r}")
    return int(number) if name.endswith("_bytes") else number


def parse_backends(value: Any, source: str) -> dict[str, dict[str, Any]]:
    """Backends as ``{name: options}`` from a comma separated text, a list of names, or such a mapping.

    Raises:
        ConfigurationError: it is something else, or does not name a backend.
    """
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, Mapping):
        options: dict[str, dict[str, Any]] = {}
        for name, given in cast("Mapping[Any, Any]", value).items():
            if not isinstance(name, str) or not (given is None or isinstance(given, Mapping)):
                raise ConfigurationError(
                    f"{source} must map names to options, e.g. {{'mlflow': {{}}}}; got {value!r}"
                )
            options[name.strip()] = dict(cast("Mapping[str, Any]", given or {}))
        return options
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        names = list(cast("Iterable[Any]", value))
        if all(isinstance(name, str) for name in names):
            stripped = [cast("str", name).strip() for name in names]
            return {name: {} for name in stripped if name and name.lower() != "none"}
    raise ConfigurationError(f"{source} must be a name, a list of names or a mapping of names; got {value!r}")


def _parse_tags(value: Any, source: str) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [item.split("=", 1) for item in value.split(",") if item.strip()]
        if any(len(pair) != 2 or not pair[0].strip() for pair in pairs):
            raise ConfigurationError(f"{source} must look like key=value,key=value; got {value!r}")
        return {key.strip(): text.strip() for key, text in pairs}
    if isinstance(value, Mapping):
        return {str(key): str(text) for key, text in cast("Mapping[Any, Any]", value).items()}
    raise ConfigurationError(f"{source} must be a mapping of text to text; got {value!r}")
