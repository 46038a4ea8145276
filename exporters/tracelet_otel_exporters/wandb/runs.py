"""Opens and ends W&B runs, and remembers what is known of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel_exporters.wandb import ledger as wandb_ledger
from tracelet_otel_exporters.wandb import log as wandb_log
from tracelet_otel_exporters.wandb import names as wandb_names
from tracelet_otel_exporters.wandb import rows as wandb_rows
from tracelet_otel_exporters.wandb import session as wandb_session
from tracelet_otel_exporters.wandb import settings as wandb_settings
from tracelet_otel_exporters.wandb.ledger import Ledger
from tracelet_otel_exporters.wandb.names import CONFIG, STEP
from tracelet_otel_exporters.wandb.session import CALL_SECONDS, Session, run_messages
from tracelet_otel_exporters.wandb.settings import Options


@dataclass(slots=True)
class OpenRun:
    """A run of ours in W&B."""

    info: RunInfo
    session: Session
    run: Any
    """The ``wandb.Run``."""
    id: str
    """W&B's id of it."""
    ledger: Ledger = field(default_factory=Ledger)
    tags: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[str, dict[str, str]] = field(default_factory=dict[str, "dict[str, str]"])
    """By kind of name: changed name to original name."""
    names_changed: bool = False
    first_readings: dict[str, float] = field(default_factory=dict[str, float])
    """Of what grows, by its key in the system panel."""
    exit: Any = None
    """The answer to the run's end, once that was told."""

    def note(self, kind: str, changed: str, original: str) -> None:
        """Remembers a name that W&B gets in another form."""
        if changed != original and self.names.setdefault(kind, {}).get(changed) != original:
            self.names[kind][changed] = original
            self.names_changed = True

    @property
    def folder(self) -> Path:
        """The run's files, as W&B shows them."""
        return Path(self.run.settings.files_dir)

    def publish_names(self, session: Session) -> None:
        """Puts changed names into the run's config, where a person finds them."""
        if self.names_changed:
            self.update_own_config(session, {"names": self.names})
            self.names_changed = False

    def update_own_config(self, session: Session, values: Mapping[str, object]) -> None:
        """Changes our entry of the run's config."""
        with session.calls():
            own = {**dict(self.run.config.get(CONFIG, {})), **values}
            if own != self.run.config.get(CONFIG):
                self.run.config.update({CONFIG: json.loads(json.dumps(own))}, allow_val_change=True)


def open_run(session: Session, options: Options, info: RunInfo) -> OpenRun:
    """Opens the run by its id: a new one, or one that is on the server or in earlier logs on this machine.

    Raises:
        TransientError: the server does not answer in time.
        PermanentError: W&B refuses.
    """
    run_id = wandb_names.run_id(info.id)
    settings = wandb_settings.of_run(session, options, info, run_id)
    is_offline = settings.mode in ("offline", "dryrun")
    with wandb_session.errors():
        folder = Path(settings.root_dir or session.settings.root_dir)
        logs = [log for name in ("wandb", ".wandb") for log in wandb_log.logs(folder / name, run_id)]
        found = wandb_log.read(logs) if is_offline else wandb_log.Found()
    _inherit(settings, found)
    config = {name: value for name, value in found.config.items() if name != "_wandb"}
    opened = OpenRun(info, session, _init(session, settings, config), run_id)
    own: dict[str, Any] = dict(opened.run.config.get(CONFIG, {}))
    opened.tags, opened.names = dict(own.get("tags", {})), dict(own.get("names", {}))
    _note_names(opened, info)
    opened.update_own_config(session, {"run_id": info.id, "tags": opened.tags, "names": opened.names})
    opened.names_changed = False
    set_tags(session, opened, info.tags)
    _define_step(session, opened)
    opened.ledger.load(found.ledger if is_offline else _stored_ledger(session, opened))
    return opened


def update(session: Session, opened: OpenRun, info: RunInfo) -> None:
    """Changes name and tags of a run that is open."""
    if info == opened.info:
        return
    with session.calls():
        if info.name and info.name != opened.info.name:
            opened.run.name = info.name
    set_tags(session, opened, info.tags)
    opened.info = info


def set_tags(session: Session, opened: OpenRun, tags: Mapping[str, str]) -> None:
    """Adds tags; a new value of one replaces the old."""
    if not tags or tags.items() <= opened.tags.items():
        return
    old = set(_labels({name: value for name, value in opened.tags.items() if name in tags}))
    opened.tags.update(tags)
    with session.calls():
        kept = [label for label in opened.run.tags or () if label not in old]
        opened.run.tags = tuple(dict.fromkeys([*kept, *_labels(tags)]))
    opened.update_own_config(session, {"tags": opened.tags})


def finish(session: Session, opened: OpenRun, exit_code: int | None, seconds: float) -> None:
    """Ends the run, or only this process's part in it, and waits until W&B has everything.

    Args:
        session: whose run it is.
        opened: the run; a call after a transient error goes on waiting.
        exit_code: the run's; None leaves the run as it is on the server.
        seconds: how long to wait.

    Raises:
        TransientError: W&B does not have everything yet.
    """
    with session.calls():
        if opened.exit is None:
            record: Any = run_messages().Record()
            record.exit.exit_code = exit_code or 0
            record.exit.not_complete = exit_code is None
            opened.exit = session.awaited(opened.run._interface._deliver(record))
        try:
            opened.exit.result(seconds)
        except (TimeoutError, concurrent.futures.TimeoutError) as error:  # one, from Python 3.11 on
            folder = opened.run.settings.sync_dir
            raise TransientError(
                f"W&B has not taken everything after {seconds:.0f} s; `wandb sync {folder}` can do it later"
            ) from error
    wandb_session.forget(session, opened.run)
    log, deadline = Path(opened.run.settings.sync_file), time.monotonic() + CALL_SECONDS
    while not wandb_log.is_ended(log):  # wandb-core answers before it has written the end of its buffer
        if time.monotonic() > deadline or not session.is_alive:
            raise TransientError(f"wandb-core does not end its log {log}")
        time.sleep(0.005)


def _inherit(settings: Any, found: wandb_log.Found) -> None:
    """What an earlier part of an offline run has been told, unless this one is told otherwise."""
    settings.project = settings.project or found.project or None
    settings.run_group = settings.run_group or found.group or None
    settings.run_name = settings.run_name or found.name or None
    if found.tags:
        settings.run_tags = tuple(found.tags)


def _note_names(opened: OpenRun, info: RunInfo) -> None:
    opened.note("run_id", opened.id, info.id)
    if info.project:
        opened.note("project", wandb_names.project(info.project), info.project)
    if info.experiment:
        opened.note("group", wandb_names.group(info.experiment), info.experiment)


def _init(session: Session, settings: Any, config: dict[str, Any]) -> Any:
    before = time.time()
    try:
        return wandb_session.init(session, settings, config)
    except DeliveryError:
        # It may be tried often, and each time leaves a folder with nothing in it.
        with contextlib.suppress(Exception):
            root = Path(settings.root_dir or session.settings.root_dir)
            for log in wandb_log.logs(root / "wandb", settings.run_id):
                if log.stat().st_mtime >= before - 1 and not wandb_log.read([log]).rows:
                    shutil.rmtree(log.parent, ignore_errors=True)
        raise


def _define_step(session: Session, opened: OpenRun) -> None:
    with session.calls():
        opened.run.define_metric(STEP, hidden=True)
        opened.run.define_metric("*", step_metric=STEP, step_sync=False)


def _stored_ledger(session: Session, opened: OpenRun) -> dict[str, dict[str, object]]:
    """What the server's summary of a resumed run says."""
    if not opened.run.resumed:
        return {}
    stored: dict[str, dict[str, object]] = {}
    with session.calls():
        for key in wandb_ledger.KEYS:
            if (entry := opened.run.summary.get(key)) is not None:
                stored[key] = {name: entry[name] for name in entry.keys()}  # noqa: SIM118 - no mapping
    return stored


def publish_ledger(session: Session, opened: OpenRun) -> None:
    """Writes the ledger's changes into the run's summary, after the rows they are about."""
    changes = opened.ledger.changes()
    if changes:
        session.publish([wandb_rows.summary(opened.id, key, members) for key, members in changes.items()])


def _labels(tags: Mapping[str, str]) -> list[str]:
    return [wandb_names.tag(name, str(value)) for name, value in tags.items()]
