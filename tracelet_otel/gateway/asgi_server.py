"""A server of ASGI applications that leaves the signals of its process to its caller."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import uvicorn

from tracelet_otel.gateway.http_app import App


class Server(uvicorn.Server):
    """Serves HTTP/1.1 until ``should_exit`` is set, and logs nothing.

    Args:
        app: the application.
        options: more of ``uvicorn.Config``.
    """

    def __init__(self, app: App, **options: Any) -> None:
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, **options
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield
