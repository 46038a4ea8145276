"""A run in W&B and what is known of it."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel_exporters.wandb import ledger, lifecycle, messages, names, private, run_log, run_settings
from tracelet_otel_exporters.wandb.core import Core, errors
from tracelet_otel_exporters.wandb.ledger import Ledger
from tracelet_otel_exporters.wandb.names import CONFIG, STEP
from tracelet_otel_exporters.wandb.run_settings import Options


class WandbRun:
    """A run that is open in W&B.

    Args:
        core: the ``wandb-core`` that has it.
        wandb_run: W&B's own object of it.
        info: the run as it was logged.
    """

    def __init__(self, core: Core, wandb_run: Any, info: RunInfo) -> None:
        self.core = core
        self.wandb_run = wandb_run
        self.info = info
        self.id: str = wandb_run.settings.run_id
        """W&B's id of it."""
        self.ledger = Ledger()
        self.first_readings: dict[str, float] = {}
        """The first value of what grows, by its key in the system panel."""
        own: dict[str, Any] = dict(wandb_run.config.get(CONFIG, {}))
        self._tags: dict[str, str] = dict(own.get("tags", {}))
        self._names: dict[str, dict[str, str]] = dict(own.get("names", {}))
        """By kind of name: changed name to original name."""
        self._are_names_new = False
        self._exit: concurrent.futures.Future[Any] | None = None
        """The answer to the run's end, once W&B was told of it."""

    @property
    def folder(self) -> Path:
        """The run's files, as W&B shows them."""
        return Path(self.wandb_run.settings.files_dir)

    def note(self, kind: str, changed: str, original: str) -> None:
        """Remembers a name that W&B gets in another form."""
        if changed != original and self._names.setdefault(kind, {}).get(changed) != original:
            self._names[kind][changed] = original
            self._are_names_new = True

    def describe(self) -> None:
        """Writes what a run that was just opened is, and how its rows are to be drawn."""
        self.note("run_id", self.id, self.info.id)
        if self.info.project:
            self.note("project", names.project(self.info.project), self.info.project)
        if self.info.experiment:
            self.note("group", names.group(self.info.experiment), self.info.experiment)
        self._update_config({"run_id": self.info.id, "tags": self._tags, "names": self._names})
        self._are_names_new = False
        self.set_tags(self.info.tags)
        with self.core.calls():
            self.wandb_run.define_metric(STEP, hidden=True)
            self.wandb_run.define_metric("*", step_metric=STEP, step_sync=False)

    def update(self, info: RunInfo) -> None:
        """Changes name and tags."""
        if info == self.info:
            return
        with self.core.calls():
            if info.name and info.name != self.info.name:
                self.wandb_run.name = info.name
        self.set_tags(info.tags)
        self.info = info

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Adds tags; a new value of one replaces the old."""
        if tags.items() <= self._tags.items():
            return
        old = {names.tag(name, value) for name, value in self._tags.items() if name in tags}
        self._tags.update(tags)
        with self.core.calls():
            kept = [label for label in self.wandb_run.tags or () if label not in old]
            added = [names.tag(name, str(value)) for name, value in tags.items()]
            self.wandb_run.tags = tuple(dict.fromkeys([*kept, *added]))
        self._update_config({"tags": self._tags})

    def confirm(self) -> None:
        """Publishes new entries of the ledger and new names, and waits until everything is handled."""
        changes = self.ledger.changes()
        if changes:
            self.core.publish([messages.summary(self.id, key, members) for key, members in changes.items()])
        if self._are_names_new:
            self._update_config({"names": self._names})
            self._are_names_new = False
        self.core.confirm(self.id)

    def finish(self, exit_code: int | None, seconds: float) -> None:
        """Ends the run, or only this process's part in it, and waits until W&B has everything.

        Args:
            exit_code: the run's; None leaves the run as it is on the server.
            seconds: how long to wait. A call after a transient error goes on waiting.

        Raises:
            TransientError: W&B does not have everything yet.
        """
        with self.core.calls():
            if self._exit is None:
                request = private.request(self.id)
                request.record_publish.exit.exit_code = exit_code or 0
                request.record_publish.exit.not_complete = exit_code is None
                self._exit = self.core.ask(request, None)
            try:
                self._exit.result(seconds)
            except (TimeoutError, concurrent.futures.TimeoutError) as error:  # one, from Python 3.11 on
                later = f"`wandb sync {self.wandb_run.settings.sync_dir}` can do it later"
                raise TransientError(
                    f"W&B has not taken everything after {seconds:.0f} s; {later}"
                ) from error
        lifecycle.end_run(self.core, self.wandb_run, self.id)

    def _update_config(self, values: Mapping[str, object]) -> None:
        """Changes our entry of the run's config, where a person finds it."""
        with self.core.calls():
            own = {**dict(self.wandb_run.config.get(CONFIG, {})), **values}
            if own != self.wandb_run.config.get(CONFIG):
                self.wandb_run.config.update({CONFIG: json.loads(json.dumps(own))}, allow_val_change=True)


def open_run(core: Core, options: Options, info: RunInfo) -> WandbRun:
    """Opens the run by its id: a new one, or one that is on the server or in earlier logs on this machine.

    Raises:
        TransientError: the server does not answer in time.
        PermanentError: W&B refuses.
    """
    run_id = names.run_id(info.id)
    settings = run_settings.of_run(core, options, info, run_id)
    is_offline = settings.mode in ("offline", "dryrun")
    with errors():
        folder = Path(settings.root_dir or core.settings.root_dir)
        logs = [log for name in ("wandb", ".wandb") for log in run_log.logs(folder / name, run_id)]
        found = run_log.read(logs) if is_offline else run_log.Found()
    _inherit(settings, found)
    config = {name: value for name, value in found.config.items() if name != "_wandb"}
    opened = WandbRun(core, lifecycle.open_run(core, settings, config), info)
    opened.describe()
    opened.ledger.load(found.ledger if is_offline else _stored_ledger(opened))
    return opened


def _inherit(settings: Any, found: run_log.Found) -> None:
    """Takes over what an earlier part of an offline run was told, unless this one is told otherwise."""
    settings.project = settings.project or found.project or None
    settings.run_group = settings.run_group or found.group or None
    settings.run_name = settings.run_name or found.name or None
    if found.tags:
        settings.run_tags = tuple(found.tags)


def _stored_ledger(opened: WandbRun) -> dict[str, dict[str, object]]:
    """The ledger in the server's summary of a run that is resumed."""
    if not opened.wandb_run.resumed:
        return {}
    stored: dict[str, dict[str, object]] = {}
    with opened.core.calls():
        for key in ledger.KEYS:
            if (entry := opened.wandb_run.summary.get(key)) is not None:
                stored[key] = {name: entry[name] for name in entry.keys()}  # noqa: SIM118 - not a mapping
    return stored
