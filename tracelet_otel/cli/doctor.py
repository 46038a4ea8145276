"""``tracelet-otel doctor``: what is installed, hooked, configured, reachable and waiting."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import typer

from tracelet_otel.backends.names import SPOOLS, can_be_replayed
from tracelet_otel.cli import facts, reach
from tracelet_otel.cli.destinations import add_options
from tracelet_otel.cli.sending import size
from tracelet_otel.secrets.redaction import redacted_text
from tracelet_otel.session import declarative
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder

if TYPE_CHECKING:
    from rich.console import Console


def doctor(names: Sequence[str], options: Sequence[str], *, as_json: bool, timeout: float) -> int:
    """Examines everything and prints it; the exit code is 0 if every backend can be used.

    Tries the configured backends if none are named. Each has ``timeout`` seconds to answer.

    Raises:
        ConfigurationError: an option does not look like that, or its backend is not tried.
    """
    found = _examine(names, options, timeout)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    return 1 if found["problems"] else 0


def _examine(names: Sequence[str], options: Sequence[str], timeout: float) -> dict[str, Any]:
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
        backend = row["backend"] if all(map(can_be_replayed, row["backend"].split(","))) else "BACKEND"
        row["replay"] = f"tracelet-otel replay {shlex.quote(row['folder'])} --backend {backend}"
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


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    section = partial(_section, console)
    section("Installed", found["installed"], "package", "version")
    section("Hooked", found["hooked"], "instrumentor", "state")
    others, spool = found["others"], found["spool"]
    console.print(f"opentelemetry-instrument loads the distribution {others['loaded']!r}", end="")
    console.print(f" of {', '.join(others['distros'])}")
    if others["other_instrumentors"]:
        console.print(f"and these instrumentors of others: {', '.join(others['other_instrumentors'])}")
    section("Configured", found["configured"], "setting", "value", "unit", "from")
    section("Variables", found["variables"], "variable", "value")
    section("Reachable", found["reachable"], "backend", "state", "detail", "seconds")
    run = [{"what": key.replace("_", " "), "value": value} for key, value in found["run"].items()]
    section("Run", run, "what", "value")
    section("Spool", spool["waiting"], "folder", "bytes", "points", "records", "age_s", "being_written")
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


def _section(console: Console, title: str, rows: Sequence[Mapping[str, Any]], *columns: str) -> None:
    from rich import box
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name.removesuffix("_s").replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_FORMATS.get(name, str)(row[name]) for name in columns))
    if rows:
        console.print(table)


def _state(state: str) -> str:
    return "ok (new)" if state == "new" else state.upper() if state in reach.TODO_OF_STATE else state


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


_FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "version": lambda version: version or "not installed",
    "state": _state,
    "value": _text,
    "detail": _text,
    "seconds": lambda seconds: f"{seconds:.1f}",
    "bytes": size,
    "points": _count,
    "records": _count,
    "age_s": _age,
    "being_written": lambda is_written: "yes" if is_written else "",
}
"""How the values of a column are shown; the others as they are."""
