"""W&B's settings for our runs: the user's own, and what would reach into the user's process switched off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.resource import launcher
from tracelet_otel_exporters.wandb import names, private
from tracelet_otel_exporters.wandb.core import Core, errors

INIT_SECONDS: Final = 20.0
"""How long W&B's server may take to open a run."""
FLUSH_SECONDS: Final = 0.1
"""How often ``wandb-core`` writes its buffers to the run's log; W&B's own is 15."""
REACH_SECONDS: Final = 5.0
"""How long the server may take to answer at all."""
TRIAL: Final = "trial"
"""W&B's ``job_type`` of a child run, unless the user names one."""
_ON: Final = (
    *("silent", "quiet", "disable_code", "disable_git", "disable_job_creation", "label_disable"),
    *("x_disable_meta", "x_disable_stats", "x_disable_machine_info"),
)
_OFF: Final = ("save_code", "symlink", "sync_tensorboard", "x_save_requirements")
_SWITCHES: Final[dict[str, Any]] = dict.fromkeys(_ON, True) | dict.fromkeys(_OFF, False)


def log_in(core: Core, options: Mapping[str, str]) -> bool:
    """Finds the user's credentials as W&B does, but without asking the user; False where runs stay here.

    Raises:
        PermanentError: there are no credentials, or W&B is switched off.
    """
    settings = core.settings
    mode = options.get("mode") or settings.mode
    if mode == "disabled":
        raise PermanentError("W&B is switched off: its mode is disabled (WANDB_MODE)")
    if mode in ("offline", "dryrun"):
        return False
    find, store = private.AUTHENTICATE.get(), private.SET_CREDENTIALS.get()
    with core.calls():
        if find and store:
            host = settings.base_url
            store(settings, find(host=host, source="tracelet", prompt=False, update_session=False))
    if not (settings.api_key or settings.identity_token_file):
        raise PermanentError(
            "W&B needs an API key: set WANDB_API_KEY or run `wandb login`; "
            "or set WANDB_MODE=offline to keep runs on this machine"
        )
    return True


def reach(core: Core) -> None:
    """Asks W&B's server for any answer: ``wandb-core`` would go on trying, and block what comes after.

    Raises:
        TransientError: there is no answer in time, or it is an error of the server.
    """
    import requests

    settings = core.settings
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    with errors():
        answer = requests.get(
            settings.base_url,
            timeout=REACH_SECONDS,
            allow_redirects=False,
            verify=not settings.insecure_disable_ssl,
            proxies={scheme: proxy for scheme, proxy in proxies.items() if proxy},
        )
    if answer.status_code >= 500 or answer.status_code == 429:
        raise TransientError(f"W&B answered {answer.status_code}")


def group(core: Core, info: RunInfo) -> str | None:
    """The group of a run: what the user says, else its family; None for W&B's default."""
    name = info.experiment or core.settings.run_group or info.family
    return names.group(name) if name else None


def of_run(core: Core, options: Mapping[str, str], info: RunInfo, run_id: str) -> Any:
    """The ``wandb.Settings`` of one run, whose id at W&B is ``run_id``; ``options`` are those set in code."""
    import wandb

    mode = options.get("mode") or core.settings.mode
    given: dict[str, Any] = {
        **options,
        "project": info.project or options.get("project"),
        "run_group": group(core, info),
        "run_job_type": (core.settings.run_job_type or TRIAL) if info.parent else None,
        "run_name": info.name,
        "mode": mode,
    }
    if mode in ("online", "run") and (rank := launcher.detect().rank) is not None:
        # Several processes of one run would overwrite each other's rows: W&B's way for them.
        given |= {"mode": "shared", "x_label": f"rank-{rank}"}
        given |= {"x_primary": rank == 0, "x_update_finish_state": rank == 0}
    if given["project"]:
        given["project"] = names.project(given["project"])
    with errors():
        return wandb.Settings(
            **{name: value for name, value in given.items() if value not in (None, "")},
            run_id=run_id,
            resume="allow",
            reinit="create_new",
            console="off",
            **_SWITCHES,
            init_timeout=INIT_SECONDS,
            stop_fn=lambda: None,  # W&B's own way to "stop run" interrupts the main thread
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        )
