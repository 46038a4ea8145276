"""Opens and ends a ``wandb.Run`` that nothing else in the process knows of."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel_exporters.wandb import private, run_log
from tracelet_otel_exporters.wandb.core import CALL_SECONDS, Core
from tracelet_otel_exporters.wandb.isolation import our_import_hooks


def open_run(core: Core, settings: Any, config: dict[str, Any]) -> Any:
    """Opens a run: what ``wandb.init`` does, without its part that is about the whole process.

    Args:
        core: the ``wandb-core`` for the run.
        settings: ``wandb.Settings`` of this run.
        config: the run's first config.

    Returns:
        A ``wandb.Run``.

    Raises:
        TransientError: the server does not answer in time.
        PermanentError: W&B refuses.
    """
    before = time.time()
    try:
        with core.calls(), private.quiet_terminal(), our_import_hooks():
            return _init(core, settings, config)
    except DeliveryError:
        # It may be tried often, and each time leaves a folder with nothing in it.
        with contextlib.suppress(Exception):
            root = Path(settings.root_dir or core.settings.root_dir)
            for log in run_log.logs(root / "wandb", settings.run_id):
                if log.stat().st_mtime >= before - 1 and not run_log.read([log]).rows:
                    shutil.rmtree(log.parent, ignore_errors=True)
        raise


def _init(core: Core, given: Any, config: dict[str, Any]) -> Any:
    creation = private.RUN_INIT.get()(core.setup, private.TELEMETRY_RECORD.get()())
    settings, _ = creation.make_run_settings(given)
    if make_root_folder := private.ROOT_FOLDER.get():
        make_root_folder(settings)
    if set_suffix := private.FOLDER_SUFFIX.get(creation):
        set_suffix(settings)
    log_to_run = private.LOG_TO_RUN.get(default=contextlib.nullcontext)
    with log_to_run(settings.run_id):
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


def end_run(core: Core, run: Any, run_id: str) -> None:
    """Ends W&B's side of a run that has finished: its log file, its stream in ``wandb-core``.

    Raises:
        TransientError: ``wandb-core`` does not write the end of the run's log.
    """
    request = private.request(run_id)
    request.record_publish.request.shutdown.SetInParent()
    with core.calls():
        with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
            core.ask(request, CALL_SECONDS).result()
        for hook in private.TEARDOWN_HOOKS.get(run, ()):
            hook.call()
        core.publish([private.finish_request(run_id).SerializeToString()])
    log, deadline = Path(run.settings.sync_file), time.monotonic() + CALL_SECONDS
    while not run_log.is_ended(log):  # wandb-core answers before it has written the end of its buffer
        if time.monotonic() > deadline or not core.is_alive:
            raise TransientError(f"wandb-core does not end its log {log}")
        time.sleep(0.005)
