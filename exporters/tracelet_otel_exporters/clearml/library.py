"""ClearML's REST client, without its side effects.

``import clearml`` patches ``argparse``, and ``Task.init`` forks, takes signals and wraps frameworks. Only
the package's REST client is needed, and it is imported under a name of its own, as a copy that shares
nothing with the user's ``clearml``: settings, versions, connections. So the user's own import does everything
that it would do without us, before or after.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any, Final, NamedTuple

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING, passes
from tracelet_otel_exporters.clearml import private
from tracelet_otel_exporters.shared.client_errors import TRANSIENT_STATUS, retry_after

TIMEOUT: Final = (3.0, 15.0)
"""Seconds to connect, and to wait for an answer."""

COPY: Final = "_tracelet_otel_clearml"
"""The name of our copy of the package."""


class Library(NamedTuple):
    """What is used of the client library."""

    session: Any
    """The class ``Session``, ours below it."""
    load_config: Any
    parse_config: Any
    """None where the library has no such parser."""
    variables: Any
    """The module of the variables' names."""
    http: Any
    """Called with a configuration, makes the ``requests.Session`` that a session of it uses."""


def load_library() -> Library:
    """Imports the REST client.

    Raises:
        PermanentError: it is not installed, or not the one that this was written for.
        TransientError: another thread is importing the same modules.
    """
    with IMPORTING:
        return _load_library()


@functools.cache
def _load_library() -> Library:
    spec = importlib.util.find_spec("clearml")
    if spec is None or not spec.submodule_search_locations:
        raise PermanentError('ClearML is not installed: pip install "tracelet-otel[clearml]"')
    package = types.ModuleType(COPY)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[COPY] = package
    try:
        module = importlib.import_module(f"{COPY}.backend_api.session.session")
        variables = importlib.import_module(f"{COPY}.backend_api.session.defs")
        backend = importlib.import_module(f"{COPY}.backend_api")
        parser = importlib.import_module(f"{COPY}.utilities.pyhocon")
    except (ImportError, AttributeError) as error:
        if passes(error):
            raise TransientError(str(error)) from error
        raise PermanentError(f"this version of ClearML's library is not supported: {error}") from error
    base, load_config = private.SESSION_CLASS.get(module), private.LOAD_CONFIG.get(backend)
    http_class = _http_class(variables)
    made: dict[int, Any] = {}

    def make(config: Any) -> Any:
        made[id(config)] = http_class(config)
        return made[id(config)]

    def take(config: Any = None, **_: object) -> Any:
        return made.pop(id(config), None) or http_class(config)

    # What these two do is for the whole process: urllib3's settings and a filter on its logger.
    private.OPEN_HTTP.set(take, module)
    private.LOG_RETRIES.set(private.ignore, module)
    session = private.session_class(base, variables, TIMEOUT)
    return Library(session, load_config, private.CONFIG_PARSER.get(parser), variables, make)


def _http_class(variables: Any) -> Any:
    import requests
    from requests import exceptions

    class Http(requests.Session):
        """One attempt, with bounded waits; the delivery above retries."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            verify = private.variable(private.VERIFY, variables, config.get("api.verify_certificate", True))
            if isinstance(verify, str) and verify.lower() in {"0", "1", "false", "true", "no", "yes"}:
                verify = verify.lower() in {"1", "true", "yes"}
            self.verify = verify

        def request(self, method: Any, url: Any, *arguments: Any, **options: Any) -> Any:
            try:
                response = super().request(method, url, *arguments, **options)
            except exceptions.SSLError as error:
                raise PermanentError(f"ClearML's certificate was refused: {error}") from error
            except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
                raise TransientError(f"ClearML cannot be reached: {error}") from error
            except exceptions.RequestException as error:
                raise PermanentError(f"ClearML cannot be asked: {error}") from error
            if response.status_code in TRANSIENT_STATUS and "failed to index" not in response.text:
                text = f"ClearML answered {response.status_code}: {response.text[:300]}"
                raise TransientError(text, retry_after(response.headers))
            return response

    return Http
