"""Every private name of ClearML's library that is used, and what is lost without it.

The library is a copy of our own, so a module is given by its name below ``clearml``.
"""

from __future__ import annotations

import os
from typing import Any, Final

from tracelet_otel_exporters.shared.private_names import PrivateName

_SESSION: Final = "backend_api.session.session"
_VARIABLES: Final = "backend_api.session.defs"
_CLASS: Final = "backend_api.session.session.Session"
_UNSUPPORTED: Final = "Nothing can be delivered to ClearML."
_HANGS: Final = "A server that does not answer is given up only after ClearML's own time-out."

SESSION_CLASS: Final = PrivateName(_SESSION, "Session", _UNSUPPORTED)
LOAD_CONFIG: Final = PrivateName("backend_api", "load_config", _UNSUPPORTED)
CONFIG_PARSER: Final = PrivateName("utilities.pyhocon", "ConfigFactory", "config_file is not supported.")

OPEN_HTTP: Final = PrivateName(
    _SESSION, "get_http_session_with_retry", "Requests are retried in the library, which may block long."
)
LOG_RETRIES: Final = PrivateName(
    _SESSION, "urllib_log_warning_setup", "The library adds a filter to the logger of urllib3."
)

FIRST_TIMEOUT: Final = PrivateName(_CLASS, "_session_initial_timeout", _HANGS)
READ_TIMEOUT: Final = PrivateName(_CLASS, "_session_timeout", _HANGS)
WRITE_TIMEOUT: Final = PrivateName(_CLASS, "_write_session_timeout", _HANGS)
LOAD_VAULTS: Final = PrivateName(
    _CLASS, "_load_vaults", "With settings in a vault, the library imports the user's clearml."
)
READ_VAULTS: Final = PrivateName(_CLASS, "_read_vaults", "Settings in ClearML's vaults do not hold.")
APPLY_SECTIONS: Final = PrivateName(
    _CLASS,
    "_apply_config_sections",
    "Variables and files that clearml.conf asks for are set and written in the user's process.",
)
REFRESH_TOKEN: Final = PrivateName(
    _CLASS, "_do_refresh_token", "The library replaces CLEARML_AUTH_TOKEN in the process's environment."
)

VERIFY: Final = PrivateName(_VARIABLES, "ENV_HOST_VERIFY_CERT", "CLEARML_API_HOST_VERIFY_CERT does not hold.")
NO_VAULTS: Final = PrivateName(
    _VARIABLES, "ENV_DISABLE_VAULT_SUPPORT", "CLEARML_DISABLE_VAULT_SUPPORT does not hold."
)
OFFLINE: Final = PrivateName(_VARIABLES, "ENV_OFFLINE_MODE", "CLEARML_OFFLINE_MODE does not hold.")
ACCESS_KEY: Final = PrivateName(_VARIABLES, "ENV_ACCESS_KEY", "That credentials are missing is found late.")
SECRET_KEY: Final = PrivateName(_VARIABLES, "ENV_SECRET_KEY", "That credentials are missing is found late.")
AUTH_TOKEN: Final = PrivateName(_VARIABLES, "ENV_AUTH_TOKEN", "That credentials are missing is found late.")


def variable(name: PrivateName, variables: Any, default: Any = None) -> Any:
    """The value of one of ClearML's environment variables, or the default."""
    known = name.of(variables)
    return default if known is None else known.get(default=default)


def session_class(base: Any, variables: Any, timeout: tuple[float, float]) -> Any:
    """ClearML's class ``Session`` with our time-outs, and without what it does to the whole process."""
    read_vaults, refresh = READ_VAULTS.of(base), REFRESH_TOKEN.of(base)

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
    return type("Session", (base,), {n.name: value for n, value in ours.items() if n.of(base) is not None})


def ignore(*_: object, **__: object) -> None:
    """Does nothing."""
