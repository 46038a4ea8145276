"""The gateway's process: starts both servers and the backends' deliveries, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.foundation.locks import acquire_folder
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.asgi_server import Server
from tracelet_otel.gateway.auth import Certificates, Tokens, is_loopback, require_protection
from tracelet_otel.gateway.backends import Backend, make_backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.grpc_server import GrpcServer
from tracelet_otel.gateway.http_app import MOST_BYTES, MOST_REQUESTS, App
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.runs import Runs
from tracelet_otel.gateway.telemetry import Telemetry
from tracelet_otel.settings import ConfigurationError

TICK_S: Final = 1.0
THREADS: Final = 16
"""Threads that take requests. One works at a time, and the others wait for the disk together."""
KEEP_ALIVE_S: Final = 75
RUNS: Final = "runs.log"
_log = get_logger("tracelet_otel.gateway")


@dataclass(frozen=True, slots=True)
class Options:
    """What a gateway is to do."""

    backends: Mapping[str, Mapping[str, Any]]
    state: Path
    """Folder of spools and companion files."""
    name: str = "default"
    """Of its spools, so that several gateways may share a machine."""
    grpc: str = "127.0.0.1:4317"
    """``host:port``; empty for none."""
    http: str = "127.0.0.1:4318"
    token_file: Path | None = None
    tls: Certificates | None = None
    insecure: bool = False
    silence: float = 900.0
    """Seconds."""
    media: tuple[str, ...] = ()
    stop_timeout: float = 10.0
    """Seconds."""
    max_queue_bytes: int = 256 * 1024 * 1024
    max_spool_bytes: int = 16 * 1024**3


def run(options: Options) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an option cannot be used.
    """
    asyncio.run(_Gateway(options).serve())


class _Gateway:
    def __init__(self, options: Options) -> None:
        self._options = options
        hosts = [_address(given)[0] for given in (options.grpc, options.http) if given]
        if not hosts:
            raise ConfigurationError("neither gRPC nor HTTP is to be served")
        if not options.backends:
            raise ConfigurationError("a gateway needs a backend: --backends mlflow, for example")
        has_ca = options.tls is not None and options.tls.client_ca is not None
        require_protection(
            hosts, protected=options.token_file is not None or has_ca, insecure=options.insecure
        )
        tokens = Tokens(options.token_file) if options.token_file is not None else None
        self._authorize: Callable[[str], bool] | None = tokens.allow if tokens is not None else None
        if tokens is not None and options.tls is None and not all(map(is_loopback, hosts)):
            _log.warning("tokens travel in the clear: give --tls-cert and --tls-key, or keep TLS before it")
        self._is_ready = False

    async def serve(self) -> None:
        """Serves while it holds the lock of its folder."""
        options = self._options
        spools = options.state / SPOOLS / f"gateway-{options.name}"
        try:
            lock = acquire_folder(spools)
        except OSError as error:
            raise ConfigurationError(f"{spools} cannot be written to: {error}") from error
        if lock is None:
            raise ConfigurationError(f"another gateway uses {spools}: give this one a --name of its own")
        backends: list[Backend] = []
        telemetry = Telemetry()
        try:
            listening = _listen(options.http) if options.http else None
            try:
                runs = Runs(spools / RUNS, silence=options.silence)
                for name, given in options.backends.items():
                    backends.append(self._backend(name, given, spools, runs, telemetry))
                intake = Intake(backends, runs, media=options.media)
                await self._serve(intake, listening, telemetry)
            finally:
                if listening is not None:
                    listening.close()
        finally:
            await asyncio.to_thread(_finish, [backend.delivery for backend in backends], options.stop_timeout)
            telemetry.close()
            lock.release()

    def _backend(
        self, name: str, given: Mapping[str, Any], spools: Path, runs: Runs, telemetry: Telemetry
    ) -> Backend:
        started = time.monotonic()
        try:
            backend = make_backend(
                name,
                given,
                spools=spools,
                state=self._options.state,
                runs=runs,
                max_queue_bytes=self._options.max_queue_bytes,
                max_spool_bytes=self._options.max_spool_bytes,
                exports=telemetry.exports,
            )
        except OSError as error:
            raise ConfigurationError(f"the spool of {name} cannot be used: {error}") from error
        if backend.spool.points or backend.spool.records:
            fields = {
                "backend": name,
                "points": backend.spool.points,
                "records": backend.spool.records,
                "seconds": round(time.monotonic() - started, 1),
            }
            _log.info("an earlier process left data, which is delivered now", extra={"fields": fields})
        return backend

    async def _serve(self, intake: Intake, listening: socket.socket | None, telemetry: Telemetry) -> None:
        options = self._options
        budget = Budget(MOST_REQUESTS, MOST_BYTES)
        telemetry.read(intake, budget)
        stop = asyncio.Event()
        addresses: dict[str, str] = {}
        with ThreadPoolExecutor(THREADS, "tracelet-gateway") as executor:
            app = App(
                intake,
                executor=executor,
                budget=budget,
                authorize=self._authorize,
                is_ready=lambda: self._is_ready,
                requests=telemetry.requests,
            )
            app.add_route("GET", "/metrics", telemetry.serve)
            web = _web_server(app, options) if listening is not None else None
            calls = (
                GrpcServer(
                    intake,
                    options.grpc,
                    executor=executor,
                    budget=budget,
                    authorize=self._authorize,
                    tls=options.tls,
                    requests=telemetry.requests,
                )
                if options.grpc
                else None
            )
            tasks = [asyncio.create_task(self._tick(intake, executor))]
            try:
                if calls is not None:
                    await calls.start()
                    addresses["grpc"] = f"{_address(options.grpc)[0]}:{calls.port}"
                if web is not None and listening is not None:
                    tasks.append(asyncio.create_task(web.serve([listening])))
                    addresses["http"] = f"{_address(options.http)[0]}:{listening.getsockname()[1]}"
                    while not web.started and not tasks[-1].done():
                        await asyncio.sleep(0.01)
                with _stopping(stop):
                    self._is_ready = True
                    fields = {**addresses, "backends": list(options.backends)}
                    _log.info("listening", extra={"fields": fields})
                    await _first(stop, tasks)
            finally:
                self._is_ready = False
                _log.info("stopping")
                await self._close_servers(calls, web, tasks)

    async def _close_servers(
        self, calls: GrpcServer | None, web: Server | None, tasks: list[asyncio.Task[None]]
    ) -> None:
        """Takes no new requests, and answers those in hand."""
        tasks[0].cancel()
        if web is not None:
            web.should_exit = True
        if calls is not None:
            await calls.stop(self._options.stop_timeout)
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                raise ConfigurationError(f"the gateway failed: {task.exception()!r}")

    async def _tick(self, intake: Intake, executor: ThreadPoolExecutor) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await asyncio.get_running_loop().run_in_executor(executor, intake.tick)
            except Exception:
                _log.exception("the clock's work failed")


def _finish(deliveries: list[Delivery], timeout: float) -> None:
    """Delivers for some more seconds. The rest stays in the spools."""
    deadline = time.monotonic() + timeout
    for delivery in deliveries:
        delivery.begin_closing()
    for delivery in deliveries:
        delivery.finish_closing(timeout, deadline)
        counts = delivery.counts
        fields = {
            "backend": delivery.name,
            "delivered_points": counts.delivered_points,
            "delivered_records": counts.delivered_records,
            "dropped_points": counts.dropped_points,
            "dropped_records": counts.dropped_records,
            "waiting_points": counts.spooled_points,
            "waiting_records": counts.spooled_records,
        }
        _log.info("stopped", extra={"fields": fields})


async def _first(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Waits until the gateway should stop, or a task has ended by itself."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextlib.contextmanager
def _stopping(stop: asyncio.Event) -> Generator[None]:
    """SIGTERM and SIGINT stop the gateway. A second signal ends it at once, which loses nothing."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _web_server(app: App, options: Options) -> Server:
    tls = options.tls
    has_ca = tls is not None and tls.client_ca is not None
    return Server(
        app,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(options.stop_timeout),
        ssl_certfile=tls.certificate if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
        ssl_ca_certs=str(tls.client_ca) if tls is not None and has_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if has_ca else ssl.CERT_NONE,
    )


def _listen(address: str) -> socket.socket:
    host, port = _address(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(f"HTTP cannot listen on {address}: {error}") from error


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"an address must look like 127.0.0.1:4317, got {text!r}")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)
