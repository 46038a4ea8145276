"""All that we use of W&B's own although it is not meant for others, and what is lost without each.

How a missing name is noticed and reported: :mod:`tracelet_otel.foundation.private_names`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, Final

from tracelet_otel.foundation.private_names import PrivateNames

WANDB: Final = PrivateNames("W&B", "wandb", "0.31")

_SETUP: Final = "wandb.sdk.wandb_setup"
_PROCESS: Final = "wandb.sdk.lib.service.service_process"
_CLIENT: Final = "wandb.sdk.lib.service.service_client"
_CONNECTION: Final = "wandb.sdk.lib.service.service_connection"
_INIT: Final = "wandb.sdk.wandb_init"
_RUN: Final = "wandb.sdk.wandb_run"
_HOOKS: Final = "wandb.sdk.lib.import_hooks"
_KEY_LOST: Final = "of the places for a key only WANDB_API_KEY is looked at"
_HOOK_LOST: Final = "W&B's import hook stays in sys.meta_path"
_PICTURE_LOST: Final = "the file of an animated picture stays open until it is collected"

# Needed for every delivery: W&B's state of a process, and a connection and a run of our own in it.
SETUP: Final = WANDB.needed(f"{_SETUP}:_WandbSetup")
SETUP_CONNECTION: Final = WANDB.needed(f"{_SETUP}:_WandbSetup()._connection")
SINGLETON: Final = WANDB.needed(f"{_SETUP}:singleton")
START_SERVICE: Final = WANDB.needed(f"{_PROCESS}:start")
SERVICE_CONNECTION: Final = WANDB.needed(f"{_CONNECTION}:ServiceConnection")
RUN_INIT: Final = WANDB.needed(f"{_INIT}:_WandbInit")
NEW_PRINTER: Final = WANDB.needed("wandb.sdk.lib.printer:new_printer")
TELEMETRY_RECORD: Final = WANDB.needed("wandb.sdk.lib.telemetry:TelemetryRecord")
SERVER_REQUEST: Final = WANDB.needed("wandb.proto.wandb_server_pb2:ServerRequest")
RECORD: Final = WANDB.needed("wandb.proto.wandb_internal_pb2:Record")
for _owner, _members in {
    f"{_SETUP}:_WandbSetup": "settings asyncer",
    "wandb.sdk.lib.asyncio_manager:AsyncioManager": "run_soon join",
    f"{_PROCESS}:ServiceProcess": "token",
    f"{_CLIENT}:ServiceClient": "publish deliver close",
    f"{_INIT}:_WandbInit": "make_run_settings make_run_config setup_run_log_directory init",
}.items():
    WANDB.needed_members(_owner, *_members.split())
for _message, _fields in {
    "server_pb2:ServerRequest": "RECORD_PUBLISH INFORM_FINISH INFORM_TEARDOWN",
    "internal_pb2:Record": "RUN CONFIG SUMMARY HISTORY STATS FILES EXIT REQUEST _INFO",
    "internal_pb2:Request": "PARTIAL_HISTORY STATUS SHUTDOWN",
}.items():
    for _field in _fields.split():
        WANDB.needed(f"wandb.proto.wandb_{_message}.{_field}_FIELD_NUMBER")

# Each with what is lost without it.
PROCESS: Final = WANDB.optional(
    f"{_PROCESS}:ServiceProcess()._process",
    "a wandb-core that dies is not replaced, and one that hangs is not killed",
)
WRITER: Final = WANDB.optional(f"{_CLIENT}:ServiceClient()._writer", "points take about twice as long")
FINALIZER: Final = WANDB.optional(
    f"{_CONNECTION}:ServiceConnection()._finalizer",
    "an idle thread of W&B is left when the delivery ends",
)
CRASH_REPORTS: Final = WANDB.optional(
    f"{_PROCESS}:error_reporting_enabled", "a wandb-core that crashes reports that to W&B's provider"
)
TELEMETRY_OFF: Final = WANDB.optional(
    "wandb.analytics.opentelemetry.opentelemetry_proxy:_disabled",
    "W&B's telemetry about the client is on in our calls too",
)
TERMINAL: Final = [
    WANDB.optional(f"wandb.errors.term:{name}", "W&B may print lines as runs open, or fewer afterwards")
    for name in ("_silent", "_show_info", "_show_warnings", "_show_errors", "_logger")
]
ROOT_FOLDER: Final = WANDB.optional(
    f"{_INIT}:try_create_root_dir",
    "a folder for runs that cannot be written is not replaced by a temporary one",
)
FOLDER_SUFFIX: Final = WANDB.optional(
    f"{_INIT}:_WandbInit.set_sync_dir_suffix",
    "a run that is opened twice within a second has one folder for both",
)
LOG_TO_RUN: Final = WANDB.optional(
    "wandb.sdk.lib.wb_logging:log_to_run", "a run's debug.log also has what W&B logs about others"
)
REMOVE_ACTIVE_RUN: Final = WANDB.optional(
    f"{_SETUP}:_WandbSetup.remove_active_run", "ended runs stay in memory until the delivery ends"
)
UNREGISTER_HOOKS: Final = WANDB.optional(
    f"{_RUN}:Run._unregister_telemetry_import_hooks",
    "W&B keeps watching which libraries the script imports",
)
IMPORT_HOOKS: Final = WANDB.optional(f"{_HOOKS}:_post_import_hooks", _HOOK_LOST)
IMPORT_HOOKS_INSTALLED: Final = WANDB.optional(f"{_HOOKS}:_post_import_hooks_init", _HOOK_LOST)
IMPORT_HOOKS_LOCK: Final = WANDB.optional(
    f"{_HOOKS}:_post_import_hooks_lock",
    "a run that the script opens at the same moment may lose W&B's import hook",
)
STATUS_CHECKER: Final = WANDB.optional(
    f"{_RUN}:Run()._run_status_checker",
    "W&B's threads go on after a run, and print what its server answers",
)
SETTINGS: Final = WANDB.optional(
    f"{_RUN}:Run()._settings", "a run that gets child runs does not come into their group"
)
TEARDOWN_HOOKS: Final = WANDB.optional(
    f"{_RUN}:Run()._teardown_hooks", "the debug.log of a run that has ended stays open"
)
AUTHENTICATE: Final = WANDB.optional("wandb.sdk.lib.wbauth:authenticate_session", _KEY_LOST)
SET_CREDENTIALS: Final = WANDB.optional("wandb.sdk.lib.wbauth:set_auth_settings", _KEY_LOST)
MEDIA_FOLDER: Final = WANDB.optional(
    "wandb.sdk.data_types._private:MEDIA_TMP", "media that are logged as the process exits may be lost"
)
PILLOW_IMAGE: Final = WANDB.optional("wandb:Image()._image", _PICTURE_LOST)
FREE_IMAGE: Final = WANDB.optional("wandb:Image._free_ram", _PICTURE_LOST)


def request(run_id: str, kind: str = "record_publish") -> Any:
    """A message to ``wandb-core`` about a run; its member ``kind`` is to be filled."""
    made = SERVER_REQUEST.get()()
    getattr(made, kind)._info.stream_id = run_id
    return made


@contextlib.contextmanager
def quiet_terminal() -> Generator[None]:
    """W&B prints nothing, and loading its settings does not change what it prints afterwards."""
    with contextlib.ExitStack() as stack:
        for name in TERMINAL:
            stack.enter_context(name.replaced(True if name is TERMINAL[0] else name.get()))
        yield
