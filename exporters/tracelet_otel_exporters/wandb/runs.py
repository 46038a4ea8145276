"""A run in W&B: opened without anything else in the process knowing of it, described, and ended."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import shutil
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel_exporters.wandb import ledger, names, private, run_log, run_settings
from tracelet_otel_exporters.wandb.core import CALL_SECONDS, Core, errors
from tracelet_otel_exporters.wandb.ledger import Ledger
from tracelet_otel_exporters.wandb.names import CONFIG, STEP


class WandbRun:
    """A run that is open in W&B; ``info`` is the run as it was logged."""

    def __init__(self, core: Core, wandb_run: Any, info: RunInfo) -> None:
        self.core = core
        self.wandb_run = wandb_run
        self.info = info
        self.id: str = wandb_run.settings.run_id
        """W&B's id of it."""
        self.folder = Path(wandb_run.settings.files_dir)
        """The run's files, as W&B shows them."""
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
        described = {"run_id": self.info.id, "tags": self._tags, "names": self._names}
        self._update_config(described | ({"parent": self.info.parent} if self.info.parent else {}))
        self._are_names_new = False
        self.set_tags(self.info.tags)
        with self.core.calls():
            self.wandb_run.define_metric(STEP, hidden=True)
            self.wandb_run.define_metric("*", step_metric=STEP, step_sync=False)

    def update(self, info: RunInfo) -> None:
        """Changes name, group and tags."""
        settings = None
        if info.family and info.family != self.info.family:
            settings = private.SETTINGS.get(self.wandb_run)
        with self.core.calls():
            if settings is not None:
                settings.run_group = run_settings.group(self.core, info)
            if settings is not None or (info.name and info.name != self.info.name):
                self.wandb_run.name = info.name or self.wandb_run.name  # which tells W&B of the group too
        if info.parent and info.parent != self.info.parent:
            self._update_config({"parent": info.parent})
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

    def store(self, name: str, content: bytes | Path) -> None:
        """Stores bytes, or a copy of a file, among the run's files."""
        safe = names.file(name)
        self.note("files", safe, name)
        target = self.folder / safe
        with self.core.calls():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not over the old file: what is being uploaded of it must stay whole.
            copy = target.with_name(f".tracelet-{uuid.uuid4().hex}")
            if isinstance(content, bytes):
                copy.write_bytes(content)
            else:
                shutil.copyfile(content, copy)
            copy.replace(target)
        self.upload(safe)

    def upload(self, name: str) -> None:
        """Has W&B upload a file in the run's folder now."""
        request = private.request(self.id)
        request.record_publish.files.files.add(path=name)  # the policy of number 0 is "now"
        self.core.publish([request])

    def confirm(self) -> None:
        """Publishes new entries of the ledger and new names, and waits until everything is handled."""
        if changes := self.ledger.changes():
            request = private.request(self.id)
            update = request.record_publish.summary.update
            for entry, members in changes.items():
                for name, value in members.items():
                    update.add(nested_key=[entry, name], value_json=json.dumps(value))
            self.core.publish([request])
        if self._are_names_new:
            self._update_config({"names": self._names})
            self._are_names_new = False
        request = private.request(self.id)
        request.record_publish.request.status.SetInParent()
        self.core.settle(request)

    def finish(self, exit_code: int | None, seconds: float) -> None:
        """Ends the run, or only this process's part in it, and waits until W&B has everything.

        Args:
            exit_code: the run's; None leaves the run as it is on the server.
            seconds: how long to wait. A call after a transient error goes on waiting.

        Raises:
            TransientError: W&B does not have everything yet, or its log of the run has no end yet.
        """
        settings = self.wandb_run.settings
        with self.core.calls():
            if self._exit is None:
                request = private.request(self.id)
                request.record_publish.exit.exit_code = exit_code or 0
                request.record_publish.exit.not_complete = exit_code is None
                self._exit = self.core.ask(request)
            try:
                self._exit.result(seconds)
            except (TimeoutError, concurrent.futures.TimeoutError) as error:  # one, from Python 3.11 on
                later = f"`wandb sync {settings.sync_dir}` can do it later"
                raise TransientError(
                    f"W&B has not taken everything after {seconds:.0f} s; {later}"
                ) from error
            request = private.request(self.id)
            request.record_publish.request.shutdown.SetInParent()
            self.core.settle(request)
            for hook in private.TEARDOWN_HOOKS.get(self.wandb_run, ()):
                hook.call()
            self.core.publish([private.request(self.id, "inform_finish")])
        log, deadline = Path(settings.sync_file), time.monotonic() + CALL_SECONDS
        while not run_log.is_ended(log):  # wandb-core answers before it has written the end of its buffer
            if time.monotonic() > deadline or not self.core.is_alive:
                raise TransientError(f"wandb-core does not end its log {log}")
            time.sleep(0.005)

    def _update_config(self, values: Mapping[str, object]) -> None:
        """Changes our entry of the run's config, where a person finds it."""
        with self.core.calls():
            own = {**dict(self.wandb_run.config.get(CONFIG, {})), **values}
            if own != self.wandb_run.config.get(CONFIG):
                self.wandb_run.config.update({CONFIG: json.loads(json.dumps(own))}, allow_val_change=True)


def open_run(core: Core, options: Mapping[str, str], info: RunInfo) -> WandbRun:
    """Opens the run by its id: a new one, or one that is on the server or in earlier logs on this machine.

    Raises:
        TransientError: the server does not answer in time.
        PermanentError: W&B refuses.
    """
    run_id = names.run_id(info.id)
    settings = run_settings.of_run(core, options, info, run_id)
    folder = Path(settings.root_dir or core.settings.root_dir)
    found = run_log.Found()
    if is_offline := settings.mode in ("offline", "dryrun"):
        with errors():
            found = run_log.read(
                log for name in ("wandb", ".wandb") for log in run_log.logs(folder / name, run_id)
            )
    # What an earlier part of an offline run was told, unless this one is told otherwise.
    for name, value in found.settings.items():
        if name == "run_tags" or not getattr(settings, name):
            setattr(settings, name, value)
    config = {name: value for name, value in found.config.items() if name != "_wandb"}
    before = time.time()
    try:
        with core.calls(), private.quiet_terminal(), _our_import_hooks():
            opened = WandbRun(core, _init(core, settings, config), info)
    except DeliveryError:
        # It may be tried often, and each time leaves a folder with nothing in it.
        with contextlib.suppress(Exception):
            for log in run_log.logs(folder / "wandb", run_id):
                if log.stat().st_mtime >= before - 1 and not run_log.read([log]).rows:
                    shutil.rmtree(log.parent, ignore_errors=True)
        raise
    opened.describe()
    stored = found.ledger
    if not is_offline and opened.wandb_run.resumed:
        with core.calls():
            for key in ledger.KEYS:
                if (entry := opened.wandb_run.summary.get(key)) is not None:
                    stored[key] = {name: entry[name] for name in entry.keys()}  # noqa: SIM118 - no mapping
    opened.ledger.load(stored)
    return opened


def _init(core: Core, given: Any, config: dict[str, Any]) -> Any:
    """Opens a ``wandb.Run``: what ``wandb.init`` does, without its part that is about the whole process."""
    creation = private.RUN_INIT.get()(core.setup, private.TELEMETRY_RECORD.get()())
    settings, _ = creation.make_run_settings(given)
    if make_root_folder := private.ROOT_FOLDER.get():
        make_root_folder(settings)
    if set_suffix := private.FOLDER_SUFFIX.get(creation):
        set_suffix(settings)
    with private.LOG_TO_RUN.get(default=contextlib.nullcontext)(settings.run_id):
        parts = creation.make_run_config(settings=settings, config=config)
        with creation.setup_run_log_directory(settings):
            run: Any = creation.init(settings, parts, private.NEW_PRINTER.get()(settings))
    if remove := private.REMOVE_ACTIVE_RUN.get(core.setup):
        remove(run)
    if unregister := private.UNREGISTER_HOOKS.get(run):
        unregister(settings.run_id)
    if checker := private.STATUS_CHECKER.get(run):
        checker.join()  # its threads would print, and interrupt training on "stop run"
    return run


@contextlib.contextmanager
def _our_import_hooks() -> Generator[None]:
    """Takes W&B's hook out of ``sys.meta_path`` again where only our runs put it there."""
    was_there = private.IMPORT_HOOKS_INSTALLED.get(default=True)
    yield
    with private.IMPORT_HOOKS_LOCK.get(default=contextlib.nullcontext()):
        if not was_there and not private.IMPORT_HOOKS.get(default=True):
            ours = private.IMPORT_HOOKS.module
            sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != ours]
            private.IMPORT_HOOKS_INSTALLED.set(False)
