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
from typing import Any, Final, Literal

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.foundation.locks import acquire_folder
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.auth import Certificates, Tokens, is_loopback, require_protection
from tracelet_otel.gateway.backends import Backend, make_backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.grpc_server import GrpcServer
from tracelet_otel.gateway.http_app import App, HttpServer
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
    name: str
    """Of its spools, so that several gateways may share a machine."""
    grpc: str
    """``host:port``; empty for none."""
    http: str
    token_file: Path | None
    tls: Certificates | None
    insecure: bool
    silence: float
    """Seconds."""
    media: tuple[str, ...]
    stop_timeout: float
    """Seconds."""
    max_queue_bytes: int
    max_spool_bytes: int


def run(options: Options) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an option cannot be used.
    """
    hosts = [_address(given)[0] for given in (options.grpc, options.http) if given]
    if not hosts:
        raise ConfigurationError("neither gRPC nor HTTP is to be served")
    if not options.backends:
        raise ConfigurationError("a gateway needs a backend: --backends mlflow, for example")
    has_ca = options.tls is not None and options.tls.client_ca is not None
    require_protection(hosts, protected=options.token_file is not None or has_ca, insecure=options.insecure)
    authorize = Tokens(options.token_file).allow if options.token_file is not None else None
    if authorize is not None and options.tls is None and not all(map(is_loopback, hosts)):
        _log.warning("tokens travel in the clear: give --tls-cert and --tls-key, or keep TLS before it")
    asyncio.run(_run(options, authorize))


async def _run(options: Options, authorize: Callable[[str], bool] | None) -> None:
    """Serves while it holds the lock of its folder."""
    spools = options.state / SPOOLS / f"gateway-{options.name}"
    try:
        lock = acquire_folder(spools)
    except OSError as error:
        raise ConfigurationError(f"{spools} cannot be written to: {error}") from error
    if lock is None:
        raise ConfigurationError(f"another gateway uses {spools}: give this one a --name of its own")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lock.release)
        telemetry = Telemetry()
        stack.callback(telemetry.close)
        backends: list[Backend] = []
        stack.push_async_callback(asyncio.to_thread, _finish, backends, options.stop_timeout)
        listening = stack.enter_context(_listen(options.http)) if options.http else None
        runs = Runs(spools / RUNS, silence=options.silence)
        for name, given in options.backends.items():
            started = time.monotonic()
            try:
                backend = make_backend(
                    name,
                    given,
                    spools=spools,
                    state=options.state,
                    runs=runs,
                    max_queue_bytes=options.max_queue_bytes,
                    max_spool_bytes=options.max_spool_bytes,
                    exports=telemetry.exports,
                )
            except OSError as error:
                raise ConfigurationError(f"the spool of {name} cannot be used: {error}") from error
            backends.append(backend)
            if backend.spool.points or backend.spool.records:
                _log_fields(
                    "an earlier process left data, which is delivered now",
                    backend=name,
                    points=backend.spool.points,
                    records=backend.spool.records,
                    seconds=round(time.monotonic() - started, 1),
                )
        intake = Intake(backends, runs, media=options.media)
        executor = stack.enter_context(ThreadPoolExecutor(THREADS, "tracelet-gateway"))
        await _serve(options, authorize, intake, listening, executor, telemetry)


async def _serve(
    options: Options,
    authorize: Callable[[str], bool] | None,
    intake: Intake,
    listening: socket.socket | None,
    executor: ThreadPoolExecutor,
    telemetry: Telemetry,
) -> None:
    """Takes requests until a signal. A second signal ends the process at once, which loses nothing."""
    budget = Budget()
    telemetry.read(intake, budget)
    common: dict[str, Any] = {
        "executor": executor,
        "budget": budget,
        "authorize": authorize,
        "requests": telemetry.requests,
    }
    app = App(intake, **common)
    app.is_ready = False
    app.add_route("GET", "/metrics", telemetry.serve)
    web = _web_server(app, options)
    calls = GrpcServer(intake, options.grpc, tls=options.tls, **common) if options.grpc else None
    tasks = [asyncio.create_task(_tick(intake, executor))]
    addresses: dict[str, str] = {}
    try:
        if calls is not None:
            await calls.start()
            addresses["grpc"] = f"{_address(options.grpc)[0]}:{calls.port}"
        if listening is not None:
            tasks.append(asyncio.create_task(web.serve([listening])))
            addresses["http"] = f"{_address(options.http)[0]}:{listening.getsockname()[1]}"
            while not web.started and not tasks[-1].done():
                await asyncio.sleep(0.01)
        with _stopping() as stop:
            app.is_ready = True
            _log_fields("listening", **addresses, backends=list(options.backends))
            await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        app.is_ready = False
        _log.info("stopping")
        tasks[0].cancel()
        web.should_exit = True
        if calls is not None:  # takes no new ones, and answers those in hand
            await calls.stop(options.stop_timeout)
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                raise ConfigurationError(f"the gateway failed: {task.exception()!r}")


async def _tick(intake: Intake, executor: ThreadPoolExecutor) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        try:
            await asyncio.get_running_loop().run_in_executor(executor, intake.tick)
        except Exception:
            _log.exception("the clock's work failed")


def _finish(backends: list[Backend], timeout: float) -> None:
    """Delivers for some more seconds. The rest stays in the spools."""
    deadline = time.monotonic() + timeout
    for backend in backends:
        backend.delivery.begin_closing()
    for backend in backends:
        backend.delivery.finish_closing(timeout, deadline)
        counts = backend.delivery.counts
        _log_fields(
            "stopped",
            backend=backend.delivery.name,
            delivered_points=counts.delivered_points,
            delivered_records=counts.delivered_records,
            dropped_points=counts.dropped_points,
            dropped_records=counts.dropped_records,
            waiting_points=counts.spooled_points,
            waiting_records=counts.spooled_records,
        )


def _log_fields(message: str, **fields: object) -> None:
    _log.info(message, extra={"fields": fields})


@contextlib.contextmanager
def _stopping() -> Generator[asyncio.Task[Literal[True]]]:
    """A task that ends with SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    waiting = asyncio.create_task(stop.wait())
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield waiting
    finally:
        waiting.cancel()
        for number in signals:
            loop.remove_signal_handler(number)


def _web_server(app: App, options: Options) -> HttpServer:
    tls = options.tls
    files: dict[str, Any] = {}
    if tls is not None:
        files = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
        if tls.client_ca is not None:
            files |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return HttpServer(
        app,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(options.stop_timeout),
        **files,
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
