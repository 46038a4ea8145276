"""Every private name of ClearML's library that is used, and what is lost without it.

The library is a copy of our own, so a module is given by its name below ``clearml``.
"""

from __future__ import annotations

import os
from typing import Any, Final

from tracelet_otel.foundation.private_names import PrivateName, PrivateNames

CLEARML: Final = PrivateNames("ClearML", "clearml", "2.1")

_SESSION: Final = "clearml.backend_api.session.session"
_VARIABLES: Final = "clearml.backend_api.session.defs"
_HANGS: Final = "a server that does not answer is given up only after ClearML's own time-out"
_LATE: Final = "that credentials are missing is found late"

SESSION_CLASS: Final = CLEARML.needed(f"{_SESSION}:Session")
LOAD_CONFIG: Final = CLEARML.needed("clearml.backend_api:load_config")
CONFIG_PARSER: Final = CLEARML.optional(
    "clearml.utilities.pyhocon:ConfigFactory", "config_file is not supported"
)

OPEN_HTTP: Final = CLEARML.optional(
    f"{_SESSION}:get_http_session_with_retry", "requests are retried in the library, which may block long"
)
LOG_RETRIES: Final = CLEARML.optional(
    f"{_SESSION}:urllib_log_warning_setup", "the library adds a filter to the logger of urllib3"
)

FIRST_TIMEOUT: Final = CLEARML.optional(f"{_SESSION}:Session._session_initial_timeout", _HANGS)
READ_TIMEOUT: Final = CLEARML.optional(f"{_SESSION}:Session._session_timeout", _HANGS)
WRITE_TIMEOUT: Final = CLEARML.optional(f"{_SESSION}:Session._write_session_timeout", _HANGS)
LOAD_VAULTS: Final = CLEARML.optional(
    f"{_SESSION}:Session._load_vaults", "with settings in a vault, the library imports the user's clearml"
)
READ_VAULTS: Final = CLEARML.optional(
    f"{_SESSION}:Session._read_vaults", "settings in ClearML's vaults do not hold"
)
APPLY_SECTIONS: Final = CLEARML.optional(
    f"{_SESSION}:Session._apply_config_sections",
    "variables and files that clearml.conf asks for are set and written in the user's process",
)
REFRESH_TOKEN: Final = CLEARML.optional(
    f"{_SESSION}:Session._do_refresh_token",
    "the library replaces CLEARML_AUTH_TOKEN in the process's environment",
)

VERIFY: Final = CLEARML.optional(
    f"{_VARIABLES}:ENV_HOST_VERIFY_CERT", "CLEARML_API_HOST_VERIFY_CERT does not hold"
)
NO_VAULTS: Final = CLEARML.optional(
    f"{_VARIABLES}:ENV_DISABLE_VAULT_SUPPORT", "CLEARML_DISABLE_VAULT_SUPPORT does not hold"
)
OFFLINE: Final = CLEARML.optional(f"{_VARIABLES}:ENV_OFFLINE_MODE", "CLEARML_OFFLINE_MODE does not hold")
ACCESS_KEY: Final = CLEARML.optional(f"{_VARIABLES}:ENV_ACCESS_KEY", _LATE)
SECRET_KEY: Final = CLEARML.optional(f"{_VARIABLES}:ENV_SECRET_KEY", _LATE)
AUTH_TOKEN: Final = CLEARML.optional(f"{_VARIABLES}:ENV_AUTH_TOKEN", _LATE)


def variable(name: PrivateName, variables: Any, default: Any = None) -> Any:
    """The value of one of ClearML's environment variables, or the default."""
    known = name.get(variables)
    return default if known is None else known.get(default=default)


def session_class(base: Any, variables: Any, timeout: tuple[float, float]) -> Any:
    """ClearML's class ``Session`` with our time-outs, and without what it does to the whole process."""
    read_vaults, refresh = READ_VAULTS.get(base), REFRESH_TOKEN.get(base)

    def load_vaults(session: Any) -> None:
        if read_vaults is None or variable(NO_VAULTS, variables):
            return
        if vaults := read_vaults(session):
            session.config.set_overrides(*vaults)

    def refresh_token(session: Any, *arguments: Any, **options: Any) -> str:
        before = os.environ.get("CLEARML_AUTH_TOKEN")
        try:
            return str(refresh(session, *arguments, **options))
        finally:
            if before is not None:
                os.environ["CLEARML_AUTH_TOKEN"] = before

    ours = {
        **dict.fromkeys((FIRST_TIMEOUT, READ_TIMEOUT, WRITE_TIMEOUT), timeout),
        LOAD_VAULTS: load_vaults,
        APPLY_SECTIONS: ignore,
        REFRESH_TOKEN: refresh_token,
    }
    return type(
        "Session", (base,), {n.attribute: value for n, value in ours.items() if n.get(base) is not None}
    )


def ignore(*_: object, **__: object) -> None:
    """Does nothing."""
