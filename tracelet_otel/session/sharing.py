"""Has child processes join a run, and every process of a run agree on its first folder.

A child finds two environment variables: the run's id, and what :class:`~tracelet_otel.run_owner.RunOwner`
says. Where it was started before there was a first folder, a file settles which one that is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from pathlib import Path

from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.process_ids import is_alive
from tracelet_otel.recording.run import Run
from tracelet_otel.resource import launcher
from tracelet_otel.run_owner import RUN_ID_VARIABLE, RUN_OWNER_VARIABLE, RunOwner, run_owner

_covered: dict[str | None, dict[str, str | None]] = {}
"""By the id of a run that ended while another was entered: the variables before it."""


class RunSharing:
    """Tells this process's children of a run.

    Args:
        run: a run that is another process's gets the name and the first folder from there.
        state: the state folder.
    """

    def __init__(self, run: Run, state: Path) -> None:
        owner = run_owner()
        self._run = run
        self._before: dict[str, str | None] = {}
        # Ranks are apart by their rank, so each has a first folder of its own.
        digest = hashlib.sha256(f"{run.id}\n{run.rank}".encode()).hexdigest()[:32]
        self._file = state / "first-folders" / digest
        if run.joined and owner.run_id == run.id:
            run.name = run.name or owner.name
            run.first_folder = run.first_folder or owner.first_folder
            run.family = run.family or owner.family
            self._file = Path(owner.folder_file) if owner.folder_file else self._file
        run.choose_first_folder = self._choose
        run.tell_children = self._tell

    def start(self) -> None:
        """Has children join from now on."""
        self._remove_stale()
        self._before = {name: os.environ.get(name) for name in (RUN_ID_VARIABLE, RUN_OWNER_VARIABLE)}
        os.environ[RUN_ID_VARIABLE] = self._run.id
        self._tell()

    def stop(self, *, goes_on: bool = False) -> None:
        """Takes back what :meth:`start` did; ``goes_on``: the run does, in another session."""
        before, self._before = self._before, {}
        if before and os.environ.get(RUN_ID_VARIABLE) != self._run.id:  # of a run entered since
            _covered[self._run.id] = before
            before = {}
        while (run_id := before.get(RUN_ID_VARIABLE)) in _covered:
            before = _covered.pop(run_id)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not (goes_on or self._run.joined):
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _tell(self) -> None:
        run = self._run
        if os.environ.get(RUN_ID_VARIABLE) == run.id:
            told = RunOwner(
                process=run.owner,
                run_id=run.id,
                name=run.name,
                first_folder=run.first_folder,
                folder_file=str(self._file),
                family=run.family,
                launch=launcher.fingerprint(),
            )
            os.environ[RUN_OWNER_VARIABLE] = json.dumps(told)

    def _choose(self, folder: str) -> str:
        try:
            return self._agreed(folder)
        except (OSError, ValueError) as error:
            if self._run.joined:
                log_once("first folder", logging.WARNING, "names may lack their folder: %s", error)
            return folder

    def _agreed(self, folder: str) -> str:
        """The folder that the run's processes agree on: what is in the file, or put there now."""
        self._remove_stale()
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = self._file.with_name(f"{self._file.name}.{os.getpid()}.{threading.get_ident()}")
        ours.write_text(json.dumps([os.getpid(), folder]))
        try:
            os.link(ours, self._file)  # all of it at once, and only where there is none
        except FileExistsError:
            return str(json.loads(self._file.read_text())[1])
        finally:
            ours.unlink()
        return folder

    def _remove_stale(self) -> None:
        """Removes the file of an earlier run with this id that was killed."""
        if self._run.joined or self._before:  # a process of this run may have made it
            return
        with contextlib.suppress(OSError, ValueError):
            if not is_alive(json.loads(self._file.read_text())[0]):
                self._file.unlink()
