"""The public functions: configure, run, log, flush, shut down."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex

from tracelet_otel import recording, semconv
from tracelet_otel.foundation.guard import Guard, Skipping
from tracelet_otel.recording import coercion, contents
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.run import Run
from tracelet_otel.semconv import Status
from tracelet_otel.session import process
from tracelet_otel.session.ending import status_of
from tracelet_otel.session.session import Session
from tracelet_otel.settings import (
    CheckpointPolicy,
    ChildRuns,
    ConfigurationError,
    Isolation,
    RankPolicy,
    resolve,
    sdk_disabled,
)


def configure(
    backends: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    project: str | None = None,
    experiment: str | None = None,
    run_name: str | None = None,
    run_id: str | None = None,
    child_runs: ChildRuns | None = None,
    tags: Mapping[str, str] | None = None,
    export_interval: float | None = None,
    shutdown_timeout: float | None = None,
    max_queue_bytes: int | None = None,
    spool_dir: str | PathLike[str] | None = None,
    max_spool_bytes: int | None = None,
    media_dir: str | PathLike[str] | None = None,
    isolation: Isolation | None = None,
    checkpoints: CheckpointPolicy | None = None,
    ranks: RankPolicy | None = None,
) -> Session:
    """Starts recording what TensorBoard and Lightning log, into every backend named.

    Everything not given comes from its environment variable or default, see
    :class:`tracelet_otel.settings.Settings`. Called again, it ends the run and starts another one; under
    ``opentelemetry-instrument`` the first call refines what is there, and its run goes on.

    Args:
        backends: ``"mlflow"``, ``["mlflow", "otlp"]`` or ``{"mlflow": {"tracking_uri": "http://..."}}``.
        project: project that trackers file the run under.
        experiment: experiment (group of runs) inside the project.
        run_name: the run's name.
        run_id: the run's id; a run with this id is resumed.
        child_runs: whether child processes ``join`` the run or have ``nested`` runs of their own.
        tags: the run's labels.
        export_interval: milliseconds between two collections.
        shutdown_timeout: seconds to wait at exit for a backend that takes nothing any more.
        max_queue_bytes: memory for what a slow backend has not taken yet, per backend.
        spool_dir: folder for what a backend has not taken.
        max_spool_bytes: what the spool of one backend may hold.
        media_dir: folder or fsspec URL for payloads over 1 MiB until they are delivered.
        isolation: where trackers' clients run: ``process``, an agent beside training, or ``thread``.
        checkpoints: which Lightning checkpoints to upload: ``none``, ``best`` or ``all``.
        ranks: whether what ``all`` ranks log is recorded or what rank ``zero`` does alone.

    Returns:
        The session: ``run.id``, :meth:`~Session.flush`, and a context manager that shuts down at its end.

    Raises:
        ConfigurationError: an argument is wrong; the message says what is allowed.
    """
    arguments = locals()
    settings = resolve(arguments)
    if sdk_disabled():
        settings = replace(settings, backends={})
    return process.start(settings)


@contextmanager
def run(
    name: str | None = None,
    *,
    run_id: str | None = None,
    project: str | None = None,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Generator[Run]:
    """A run of its own for what is logged inside the block; for sweeps, several in a process.

    It opens with its first value and ends with the block: finished, or failed if an exception leaves it,
    which passes through. Threads that are started inside log into it too. Trackers show it as a child of the
    run around it, that of an outer block or the session's, if that is open by then.

    Args:
        name: the run's name.
        run_id: its id; a run with this id is resumed.
        project: where it is filed; the session's if not given.
        experiment: likewise.
        tags: labels, added to the session's.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    given = {"run_name": name, "run_id": run_id, "project": project, "experiment": experiment, "tags": tags}
    settings = resolve({key: value for key, value in given.items() if value is not None})
    session = process.ready_session()
    if session is None:
        yield Run(id=run_id or "", name=name or "")
        return
    default = session.run
    scope = session.scope
    previous = scope.entered()
    new = (previous or default).below(
        id=run_id or "",
        name=name or "",
        project=default.project if project is None else project,
        experiment=default.experiment if experiment is None else experiment,
        tags={**default.tags, **(settings.tags if tags is not None else {})},
    )
    scope.enter(new)
    sharing = session.share(new)
    sharing.start()
    status: Status = "finished"
    try:
        yield new
    except BaseException as error:
        status = status_of(error)
        raise
    finally:
        sharing.stop()
        scope.leave(new, previous)
        with Guard("the end of a run"):
            session.end_run(new, status)


def log_scalar(
    tag: str, value: Any, step: SupportsIndex | None = None, *, wall_time: float | None = None
) -> None:
    """Logs one point.

    Args:
        tag: its tag.
        value: a number: Python, numpy, or a torch tensor of one element.
        step: an integer in the range of int64; None is the tag's last one plus one, from 0.
        wall_time: seconds since the epoch; None is now.

    A value or a step that is not a number is skipped and logged once. Nothing is raised.
    """
    recorder = recording.current()
    if recorder is None:
        return
    with Skipping("log_scalar", tag):
        name = str(tag)
        target = recorder.scope.current()
        number, single = coercion.to_value(value)
        index = target.next_step(name) if step is None else coercion.to_step(step)
        target.last_step[name] = index
        time_unix_nano = None if wall_time is None else _nanoseconds(wall_time)
        recording.scalar(name, number, index, time_unix_nano=time_unix_nano, single=single, run=target)


def log_scalars(
    values: Mapping[str, Any], step: SupportsIndex | None = None, *, wall_time: float | None = None
) -> None:
    """Logs one point a tag; see :func:`log_scalar`."""
    with Skipping("log_scalars"):
        for tag, value in dict(values).items():
            log_scalar(tag, value, step, wall_time=wall_time)


def log_params(params: Mapping[str, Any]) -> None:
    """Logs parameters.

    Nested mappings, lists, dataclasses and arrays of up to 100 elements are kept, other objects become text.
    """
    with Skipping("log_params"):
        _record("params", "", None, contents.params(params))


def log_text(tag: str, text: str, step: SupportsIndex | None = None) -> None:
    """Logs a text."""
    with Skipping("log_text", tag):
        _record("text", tag, step, contents.text(text))


def log_image(tag: str, image: Any, step: SupportsIndex | None = None) -> None:
    """Logs an image.

    Args:
        tag: its tag.
        image: a PIL image; an array or tensor of shape (H, W), (H, W, C) or (C, H, W) with C 1, 3 or 4,
            uint8 in 0..255 or floating in 0..1; the bytes of an encoded image; or the path of one.
        step: an integer, or None.
    """
    with Skipping("log_image", tag):
        _record("image", tag, step, contents.image(image))


def log_figure(tag: str, figure: Any, step: SupportsIndex | None = None) -> None:
    """Logs a matplotlib figure as PNG. The figure is not closed."""
    with Skipping("log_figure", tag):
        _record("figure", tag, step, contents.figure(figure))


def log_audio(tag: str, audio: Any, sample_rate: int = 44100, step: SupportsIndex | None = None) -> None:
    """Logs a sound.

    Args:
        tag: its tag.
        audio: an array or tensor of shape (N,) or (N, channels), floating in -1..1 or int16; the bytes of
            an encoded sound; or the path of one.
        sample_rate: hertz, for arrays.
        step: an integer, or None.
    """
    with Skipping("log_audio", tag):
        _record("audio", tag, step, contents.audio(audio, sample_rate))


def log_histogram(tag: str, values: Any, step: SupportsIndex | None = None, *, bins: int | str = 64) -> None:
    """Logs the distribution of an array's values; those that are not finite are left out.

    Args:
        tag: its tag.
        values: an array or tensor of any shape, or a pair (counts, edges) as ``numpy.histogram`` returns.
        step: an integer, or None.
        bins: as of ``numpy.histogram``.
    """
    with Skipping("log_histogram", tag):
        _record("histogram", tag, step, contents.histogram(values, bins))


def log_artifact(path: str | PathLike[str], name: str | None = None) -> None:
    """Logs a file, or every file of a folder, as it is now.

    Args:
        path: the file or folder.
        name: its name in the run; None is its own.
    """
    session = process.ready_session()
    if session is None:
        return
    with Skipping("log_artifact", path):
        root = Path(path)
        files = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
        for file in files:
            inner = (Path(name or root.name) / file.relative_to(root)).as_posix() if root.is_dir() else None
            _record("artifact", "", None, contents.file(file, inner or name or file.name, session.media))


def flush(timeout: float | None = None) -> bool:
    """Delivers everything logged so far.

    Args:
        timeout: seconds to wait for a backend that takes nothing any more; None is ``shutdown_timeout``.

    Returns:
        Whether every backend has everything.
    """
    session = process.session()
    return session.flush(timeout) if session is not None else True


def shutdown(status: Status | None = None) -> None:
    """Delivers everything and ends the run; called by itself at the end of the process.

    Args:
        status: ``finished``, ``failed`` or ``killed``; None is what shows now, usually finished.

    Raises:
        ConfigurationError: ``status`` is something else.
    """
    if status not in (None, "finished", "failed", "killed"):
        raise ConfigurationError(f"status must be finished, failed or killed, got {status!r}")
    process.stop(status)


def _record(kind: semconv.Kind, tag: str, step: SupportsIndex | None, content: contents.Content) -> None:
    if step is not None:
        step = coercion.to_step(step)
    recording.event(LoggedEvent(kind, str(tag), step, content.payload, content.mime_type, content.attributes))


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(float(seconds) * 1e9)
