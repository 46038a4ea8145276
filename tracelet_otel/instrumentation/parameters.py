"""What the hooks find out about a run's parameters, kept until a run is there to have them.

There are two kinds. The command line that the script parsed describes the process: every session's run has
it, and a parse of other words forgets what was parsed before. The configuration of a job, of Hydra or of a
trial, describes what the process does now. Nothing is recorded here, and no run opened. Values that have the
name or the form of a secret are masked, see :mod:`tracelet_otel.secrets.redaction`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.instrumentors import disabled
from tracelet_otel.recording import contents
from tracelet_otel.secrets.redaction import redacted

CommandLine = tuple[str, ...]
Taker = Callable[[Mapping[str, Any], CommandLine | None], None]
"""Told of parameters as they are found, JSON values; of a command line also its words."""
JobRun = Callable[[Mapping[str, Any], str, bool], AbstractContextManager[Any]]
"""Enters the run of a job while the job runs: its configuration, its number, whether it is one of several."""

_parsed: dict[str, dict[str, Any]] = {}
_words: CommandLine = ()
_job: tuple[str, dict[str, Any]] | None = None
_taker: Taker | None = None
_job_run: JobRun | None = None


def is_own_command_line(args: object) -> bool:
    """Whether these words, as a parser is given them, are those that the process was started with."""
    return args is None or (isinstance(args, (list, tuple)) and [*args] == sys.argv[1:])


def parsed(source: str, values: Mapping[str, Any]) -> None:
    """The script parsed its command line.

    Args:
        source: the hook, as its entry point is named.
        values: of any type.
    """
    global _words
    words = tuple(sys.argv[1:])
    if words != _words:  # a launcher's, which then runs the script; or a script that trains several times
        _words = words
        _parsed.clear()
    params = _plain(values)
    _parsed.setdefault(source, {}).update(params)
    _tell(source, params, words)


def found(source: str, values: Mapping[str, Any]) -> None:
    """What is trained with, at the moment when the training begins; see :func:`parsed`."""
    _tell(source, _plain(values), None)


def command_line() -> tuple[dict[str, Any], CommandLine]:
    """The parameters of all parses of the present command line, and its words."""
    return _merged(_parsed), _words


def job() -> dict[str, Any]:
    """The configuration of the job that is under way; empty if none is."""
    return _merged(dict([_job])) if _job is not None else {}


def begin_job(source: str, values: Mapping[str, Any], number: str, one_of_several: bool) -> ExitStack:
    """From now on the process does this job; :func:`end_job` ends it.

    Args:
        source: the hook.
        values: the job's configuration.
        number: what its run's id ends with, should it have one of its own.
        one_of_several: whether it is known to have such a run.
    """
    global _job
    _job = (source, _plain(values))
    stack = ExitStack()
    if _job_run is not None and not disabled(source):
        stack.enter_context(_job_run(job(), number, one_of_several))
    return stack


def end_job(stack: ExitStack, error: BaseException | None = None) -> None:
    """Ends a job and the run that it had.

    Args:
        stack: what :func:`begin_job` returned.
        error: what the job raised.
    """
    global _job
    _job = None
    stack.__exit__(type(error) if error is not None else None, error, None)


def on_found(taker: Taker | None) -> None:
    """Has ``taker`` told of parameters from now on, on the thread that finds them; None: nobody."""
    global _taker
    _taker = taker


def on_job(job_run: JobRun | None) -> None:
    """Says what opens a job's run."""
    global _job_run
    _job_run = job_run


def _tell(source: str, params: dict[str, Any], words: CommandLine | None) -> None:
    if (taker := _taker) is not None and params and not disabled(source):
        with Guard(f"recording parameters of {source}"):
            taker(params, words)


def _merged(by_source: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: value
        for source, params in by_source.items()
        if not disabled(source)
        for name, value in params.items()
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return redacted(contents.plain(values))
