"""All that we use of W&B's own although it is not meant for others, and what is lost without each.

How a missing name is noticed and reported: :mod:`tracelet_otel.foundation.private_names`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, Final

from tracelet_otel.foundation.private_names import PrivateNames

WANDB: Final = PrivateNames("W&B", "wandb", "0.31")

# Needed for every delivery: W&B's state of a process, and a connection and a run of our own in it.
SETUP: Final = WANDB.needed("wandb.sdk.wandb_setup:_WandbSetup")
SETUP_CONNECTION: Final = WANDB.needed("wandb.sdk.wandb_setup:_WandbSetup()._connection")
SINGLETON: Final = WANDB.needed("wandb.sdk.wandb_setup:singleton")
START_SERVICE: Final = WANDB.needed("wandb.sdk.lib.service.service_process:start")
SERVICE_CONNECTION: Final = WANDB.needed("wandb.sdk.lib.service.service_connection:ServiceConnection")
RUN_INIT: Final = WANDB.needed("wandb.sdk.wandb_init:_WandbInit")
NEW_PRINTER: Final = WANDB.needed("wandb.sdk.lib.printer:new_printer")
TELEMETRY_RECORD: Final = WANDB.needed("wandb.sdk.lib.telemetry:TelemetryRecord")
SERVER_REQUEST: Final = WANDB.needed("wandb.proto.wandb_server_pb2:ServerRequest")
RECORD: Final = WANDB.needed("wandb.proto.wandb_internal_pb2:Record")
WANDB.needed_members("wandb.sdk.wandb_setup:_WandbSetup", "settings", "asyncer")
WANDB.needed_members("wandb.sdk.lib.asyncio_manager:AsyncioManager", "run_soon", "join")
WANDB.needed_members("wandb.sdk.lib.service.service_process:ServiceProcess", "token")
WANDB.needed_members("wandb.sdk.lib.service.service_client:ServiceClient", "publish", "deliver", "close")
WANDB.needed_members(
    *("wandb.sdk.wandb_init:_WandbInit", "make_run_settings", "make_run_config"),
    *("setup_run_log_directory", "init"),
)
for _message, _fields in {
    "wandb_server_pb2:ServerRequest": ("RECORD_PUBLISH", "INFORM_FINISH", "INFORM_TEARDOWN"),
    "wandb_internal_pb2:Record": (
        *("RUN", "CONFIG", "SUMMARY", "HISTORY", "STATS", "FILES", "EXIT", "REQUEST", "_INFO"),
    ),
    "wandb_internal_pb2:Request": ("PARTIAL_HISTORY", "STATUS", "SHUTDOWN"),
}.items():
    WANDB.needed_members(f"wandb.proto.{_message}", *(f"{_field}_FIELD_NUMBER" for _field in _fields))

# Each with what is lost without it.
PROCESS: Final = WANDB.optional(
    "wandb.sdk.lib.service.service_process:ServiceProcess()._process",
    "a wandb-core that dies is not replaced, and one that hangs is not killed",
)
WRITER: Final = WANDB.optional(
    "wandb.sdk.lib.service.service_client:ServiceClient()._writer", "points take about twice as long"
)
FINALIZER: Final = WANDB.optional(
    "wandb.sdk.lib.service.service_connection:ServiceConnection()._finalizer",
    "an idle thread of W&B is left when the delivery ends",
)
CRASH_REPORTS: Final = WANDB.optional(
    "wandb.sdk.lib.service.service_process:error_reporting_enabled",
    "a wandb-core that crashes reports that to W&B's provider",
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
    "wandb.sdk.wandb_init:try_create_root_dir",
    "a folder for runs that cannot be written is not replaced by a temporary one",
)
FOLDER_SUFFIX: Final = WANDB.optional(
    "wandb.sdk.wandb_init:_WandbInit.set_sync_dir_suffix",
    "a run that is opened twice within a second has one folder for both",
)
LOG_TO_RUN: Final = WANDB.optional(
    "wandb.sdk.lib.wb_logging:log_to_run", "a run's debug.log also has what W&B logs about others"
)
REMOVE_ACTIVE_RUN: Final = WANDB.optional(
    "wandb.sdk.wandb_setup:_WandbSetup.remove_active_run", "ended runs stay in memory until the delivery ends"
)
UNREGISTER_HOOKS: Final = WANDB.optional(
    "wandb.sdk.wandb_run:Run._unregister_telemetry_import_hooks",
    "W&B keeps watching which libraries the script imports",
)
IMPORT_HOOKS: Final = WANDB.optional(
    "wandb.sdk.lib.import_hooks:_post_import_hooks", "W&B's import hook stays in sys.meta_path"
)
IMPORT_HOOKS_INSTALLED: Final = WANDB.optional(
    "wandb.sdk.lib.import_hooks:_post_import_hooks_init", "W&B's import hook stays in sys.meta_path"
)
IMPORT_HOOKS_LOCK: Final = WANDB.optional(
    "wandb.sdk.lib.import_hooks:_post_import_hooks_lock",
    "a run that the script opens at the same moment may lose W&B's import hook",
)
STATUS_CHECKER: Final = WANDB.optional(
    "wandb.sdk.wandb_run:Run()._run_status_checker",
    "W&B's threads go on after a run, and print what its server answers",
)
TEARDOWN_HOOKS: Final = WANDB.optional(
    "wandb.sdk.wandb_run:Run()._teardown_hooks", "the debug.log of a run that has ended stays open"
)
AUTHENTICATE: Final = WANDB.optional(
    "wandb.sdk.lib.wbauth:authenticate_session",
    "of the places for a key only WANDB_API_KEY is looked at",
)
SET_CREDENTIALS: Final = WANDB.optional(
    "wandb.sdk.lib.wbauth:set_auth_settings", "of the places for a key only WANDB_API_KEY is looked at"
)
MEDIA_FOLDER: Final = WANDB.optional(
    "wandb.sdk.data_types._private:MEDIA_TMP", "media that are logged as the process exits may be lost"
)
PILLOW_IMAGE: Final = WANDB.optional(
    "wandb:Image()._image", "the file of an animated picture stays open until it is collected"
)
FREE_IMAGE: Final = WANDB.optional(
    "wandb:Image._free_ram", "the file of an animated picture stays open until it is collected"
)


def request(run_id: str) -> Any:
    """A message to ``wandb-core`` about a run; its ``record_publish`` is to be filled."""
    made = SERVER_REQUEST.get()()
    made.record_publish._info.stream_id = run_id
    return made


def finish_request(run_id: str) -> Any:
    """The message that ends the stream of a run in ``wandb-core``."""
    made = SERVER_REQUEST.get()()
    made.inform_finish._info.stream_id = run_id
    return made


@contextlib.contextmanager
def quiet_terminal() -> Generator[None]:
    """W&B prints nothing, and loading its settings does not change what it prints afterwards."""
    with contextlib.ExitStack() as stack:
        for name in TERMINAL:
            stack.enter_context(name.replaced(True if name is TERMINAL[0] else name.get()))
        yield
