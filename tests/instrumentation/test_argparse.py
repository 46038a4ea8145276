"""What scripts parse, in this process and in processes of their own."""

from __future__ import annotations

import argparse
import enum
import functools
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripts import run_script
from tracelet_otel.foundation import guard
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.argparse import ArgparseInstrumentor


@pytest.fixture(autouse=True)
def instrumentor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArgparseInstrumentor]:
    monkeypatch.setattr(parameters, "_parsed", {})
    made = ArgparseInstrumentor()
    made.instrument()
    yield made
    parameters.on_found(None)


def captured() -> dict[str, Any]:
    return parameters.command_line()[0]


def on_parsed(seen: Callable[[Mapping[str, Any]], object] | None) -> None:
    parameters.on_found(None if seen is None else lambda params, _: void(seen(params)))


def void(_: object) -> None:
    pass


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])


class Mode(enum.Enum):
    FAST = "fast"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--layers", type=int, nargs="*")
    made.add_argument("--out", type=Path, default=Path("out"))
    made.add_argument("--mode", type=Mode, default=Mode.FAST)
    made.add_argument("--hub-token")
    made.add_argument("--db")
    made.add_argument("--resume", action="store_true")
    return made


def test_the_scripts_own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "--lr", "inf", "--layers", "1", "2", "--hub-token", "abc", "--db", "pg://u:p@h/d")
    seen: list[Mapping[str, Any]] = []
    on_parsed(seen.append)
    namespace = parser().parse_args()
    assert namespace.hub_token == "abc"
    assert (namespace.lr, namespace.out) == (float("inf"), Path("out"))
    expected = {
        "lr": "inf",
        "layers": [1, 2],
        "out": "out",
        "mode": "Mode.FAST",
        "hub_token": "***",
        "db": "pg://***@h/d",
        "resume": False,
    }
    assert captured() == expected
    assert seen == [expected]
    json.dumps(captured(), allow_nan=False)
    on_parsed(None)
    parser().parse_args(sys.argv[1:])
    assert len(seen) == 1


def test_other_words_are_not_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "--lr", "1")
    parser().parse_args(["--lr", "2"])
    parser().parse_known_args(args=[])
    assert captured() == {}
    parser().parse_known_args(args=None, namespace=None)
    assert captured()["lr"] == 1.0


def test_subcommands_are_one_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "--seed", "1", "fit", "--epochs", "3")
    outer = argparse.ArgumentParser()
    outer.add_argument("--seed", type=int)
    commands = outer.add_subparsers(dest="command")
    fit = commands.add_parser("fit")
    fit.add_argument("--epochs", type=int)
    fit.set_defaults(run=parser)
    seen: list[Mapping[str, Any]] = []
    on_parsed(seen.append)
    outer.parse_args()
    run = f"{__name__}.parser"
    assert seen == [{"seed": 1, "command": "fit", "epochs": 3, "run": run}]


def test_several_parsers_of_one_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "--a", "1", "--b", "2")
    for name in "ab":
        one = argparse.ArgumentParser(add_help=False)
        one.add_argument(f"--{name}", type=int)
        namespace, rest = one.parse_known_args()
        assert len(rest) == 2
        assert vars(namespace) == {name: int(name == "b") + 1}
    assert captured() == {"a": 1, "b": 2}


class Loud(argparse.ArgumentParser):
    """As subclasses in the wild do."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        result = super().parse_args(args, namespace)
        return {"wrapped": result}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().parse_known_args(sys.argv[1:] if args is None else args, namespace)


def test_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "--lr", "3")
    made = Loud()
    made.add_argument("--lr", type=float)
    assert made.parse_args()["wrapped"].lr == 3.0
    assert captured() == {"lr": 3.0}


def test_errors_and_help_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--help"], 0), (["--lr", "x"], 2)):
        command(monkeypatch, *words)
        with pytest.raises(SystemExit) as caught:
            parser().parse_args()
        assert caught.value.code == code
    assert captured() == {}
    capsys.readouterr()
    command(monkeypatch, "--lr", "x")
    quiet = argparse.ArgumentParser(exit_on_error=False)
    quiet.add_argument("--lr", type=float)
    with pytest.raises(argparse.ArgumentError) as raised:
        quiet.parse_args()
    assert Path(str(raised.traceback[-1].path)).name == "argparse.py"
    command(monkeypatch, "--lr", "5")
    quiet.parse_args()
    assert captured() == {"lr": 5.0}  # an error leaves no state behind


def test_a_value_of_any_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command(monkeypatch)
    made = argparse.ArgumentParser()
    with (tmp_path / "x.txt").open("w") as file:
        nested = argparse.Namespace(password="p", depth=2)
        values = {
            "file": file,
            "kind": Path,
            "sizes": {3, 1},
            "nested": nested,
            "pair": (1, None),
            "o": 10**30,
        }
        made.set_defaults(**values)
        assert made.parse_args().sizes == {3, 1}
        assert captured() == {
            "file": str(tmp_path / "x.txt"),
            "kind": "pathlib.Path",
            "sizes": [1, 3],
            "nested": {"password": "***", "depth": 2},
            "pair": [1, None],
            "o": 10**30,
        }


def test_a_failure_costs_the_script_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    monkeypatch.setattr(guard, "raises", False)
    command(monkeypatch)
    made = argparse.ArgumentParser()
    made.set_defaults(x=Broken())
    made.set_defaults(y=1)
    on_parsed(lambda params: params["absent"])
    assert isinstance(made.parse_args().x, Broken)
    assert captured() == {"x": "<Broken>", "y": 1}
    assert "recording parameters of argparse failed; training goes on: KeyError('absent')" in caplog.text


def test_instrumenting_is_reversible(
    monkeypatch: pytest.MonkeyPatch, instrumentor: ArgparseInstrumentor
) -> None:
    command(monkeypatch, "--lr", "1")
    instrumentor.instrument()
    instrumentor.uninstrument()
    instrumentor.uninstrument()
    plain = argparse.ArgumentParser.parse_known_args
    assert not hasattr(plain, "__wrapped__")
    parser().parse_args()
    assert captured() == {}
    instrumentor.instrument()
    parser().parse_args()
    assert captured()["lr"] == 1.0


def test_another_tools_wrap_stays(
    monkeypatch: pytest.MonkeyPatch, instrumentor: ArgparseInstrumentor
) -> None:
    command(monkeypatch, "--lr", "1")
    below, calls = argparse.ArgumentParser.parse_known_args, []

    @functools.wraps(below)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return below(*args, **kwargs)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", theirs)
    instrumentor.uninstrument()
    parser().parse_args()
    assert (captured(), len(calls)) == ({}, 1)
    instrumentor.instrument()
    parser().parse_args()
    assert (captured()["lr"], len(calls)) == (1.0, 2)
    monkeypatch.undo()  # before our own restoring, in the order in which tools end
    instrumentor.uninstrument()


def test_a_process_that_only_parses_opens_no_run(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--x', default=3)\n"
        "import tracelet_otel\nfrom tracelet_otel.instrumentation import parameters\n"
        "print(p.parse_args(), parameters.command_line()[0])",
        zero_code=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Namespace(x=3) {'x': 3}"
    assert not (tmp_path / "mlflow.db").exists()


def test_the_command_line_of_a_script_reaches_its_run(tmp_path: Path, database: Path) -> None:
    code = """
    import argparse
    import tracelet_otel
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    tracelet_otel.log_scalar("loss", arguments.rate, 0)
    late = argparse.ArgumentParser()
    late.add_argument("--rate")
    late.add_argument("--api-key")
    late.add_argument("--late", default=7)
    late.parse_args()
    """
    done = run_script(tmp_path, code, "--rate", "0.5", "--api-key", "hunter2")
    assert done.returncode == 0, done.stderr
    assert "RecursionError" not in done.stderr
    assert "1 point and 2 records, delivered all" in done.stderr
    with sqlite3.connect(database) as connection:
        params = dict(connection.execute("select key, value from params"))
    connection.close()
    assert params["rate"] == "0.5"
    assert params["late"] == "7"
    assert "hunter2" not in params.values()
    assert params["api-key" if "api-key" in params else "api_key"] == "***"
