"""``tracelet-otel doctor``: what is installed, hooked, configured, reachable and waiting."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from tracelet_otel.backends.names import SPOOLS, can_be_replayed
from tracelet_otel.cli import facts, reach
from tracelet_otel.cli.progress import size
from tracelet_otel.cli.targets import add_options
from tracelet_otel.secrets.redaction import redacted_text
from tracelet_otel.session import declarative
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder

PIPED_WIDTH = 160
"""Columns where the output is not a terminal."""


def doctor(names: Sequence[str], options: Sequence[str], *, as_json: bool, timeout: float) -> int:
    """Examines everything and prints it; the exit code is 0 if every backend can be used.

    Args:
        names: of the backends to try; if empty, the configured ones.
        options: ``backend.key=value``.
        as_json: print JSON instead of tables.
        timeout: seconds that a backend has to answer.

    Raises:
        ConfigurationError: an option does not look like that, or its backend is not tried.
    """
    found = examine(names, options, timeout)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    return 1 if found["problems"] else 0


def examine(names: Sequence[str], options: Sequence[str], timeout: float) -> dict[str, Any]:
    """Everything, in types of JSON; ``problems`` has what keeps a backend from being used."""
    problems: list[dict[str, str]] = []
    settings: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, Any]] = {}
    spool_dir = os.environ.get("TRACELET_SPOOL_DIR", "")
    try:
        if path := declarative.path():
            declarative.read(path)
        resolved = resolve()
        settings = facts.configured()
        chosen = {name: dict(values) for name, values in resolved.backends.items()}
        spool_dir = resolved.spool_dir
    except ConfigurationError as error:
        problems.append(
            {"problem": redacted_text(str(error)), "todo": "correct it; until then nothing is recorded"}
        )
    if names:
        chosen = parse_backends(",".join(names), "--backend")
    add_options(chosen, options)
    if facts.sdk_disabled():
        problems.append({"problem": "OTEL_SDK_DISABLED is true", "todo": "unset it: nothing is recorded"})
    state = state_folder(spool_dir)
    reached = reach.check(chosen, state, timeout)
    problems += [
        {"problem": f"{row['backend']}: {row['detail']}", "todo": row["todo"]}
        for row in reached
        if not row["usable"]
    ]
    waiting = facts.spooled(state)
    for row in waiting:
        row["replay"] = _replay(row["folder"], row["backend"])
    return {
        "installed": facts.installed(),
        "hooked": facts.hooked(),
        "others": facts.others(),
        "configured": settings,
        "variables": facts.variables(),
        "reachable": reached,
        "run": facts.run(),
        "spool": {"folder": str(state / SPOOLS), "waiting": waiting},
        "problems": problems,
    }


def _replay(folder: str, backend: str) -> str:
    can_be = all(can_be_replayed(name) for name in backend.split(","))
    target = backend if can_be else "BACKEND"
    return f"tracelet-otel replay {shlex.quote(folder)} --backend {target}"


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(
        width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False, emoji=False
    )
    section = _sections(console)
    section("Installed", found["installed"], {"package": str, "version": lambda v: v or "not installed"})
    section("Hooked", found["hooked"], {"instrumentor": str, "state": str})
    others = found["others"]
    console.print(f"opentelemetry-instrument loads the distribution {others['loaded']!r}", end="")
    console.print(f" of {', '.join(others['distros'])}")
    if others["other_instrumentors"]:
        console.print(f"and these instrumentors of others: {', '.join(others['other_instrumentors'])}")
    section("Configured", found["configured"], {"setting": str, "value": _text, "unit": str, "from": str})
    section("Variables", found["variables"], {"variable": str, "value": str})
    section(
        "Reachable",
        found["reachable"],
        {"backend": str, "state": _state, "detail": _text, "seconds": lambda v: f"{v:.1f}"},
    )
    run = found["run"]
    section(
        "Run",
        [{"what": key, "value": value} for key, value in run.items()],
        {"what": lambda v: v.replace("_", " "), "value": _text},
    )
    spool = found["spool"]
    columns: dict[str, Callable[[Any], str]] = {
        "folder": str,
        "bytes": size,
        "points": _count,
        "records": _count,
        "age_s": _age,
        "being_written": lambda v: "yes" if v else "",
    }
    section("Spool", spool["waiting"], columns)
    if not spool["waiting"]:
        console.print(f"nothing waits in {spool['folder']}")
    for row in spool["waiting"]:
        console.print(f"deliver it with: {row['replay']}", soft_wrap=True)
    console.print()
    for problem in found["problems"]:
        console.print(f"PROBLEM {_text(problem['problem'])}", soft_wrap=True)
        console.print(f"  to do: {problem['todo']}", soft_wrap=True)
    if not found["problems"]:
        console.print("no problem found")


def _sections(
    console: Any,
) -> Callable[[str, Sequence[Mapping[str, Any]], Mapping[str, Callable[[Any], str]]], None]:
    from rich import box
    from rich.table import Table

    def section(
        title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Any], str]]
    ) -> None:
        console.print(f"\n{title}", style="bold")
        if not rows:
            return
        table = Table(box=box.SIMPLE, pad_edge=False)
        for name in columns:
            table.add_column(name.removesuffix("_s").replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(show(row[name]) for name, show in columns.items()))
        console.print(table)

    return section


def _state(state: str) -> str:
    return {"ok": "ok", "new": "ok (new)"}.get(state, state.upper())


def _text(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value) if value else ""
    return "" if value is None else " ".join(str(value).split())


def _count(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"


def _age(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name}"
    return f"{seconds:.0f} s"
