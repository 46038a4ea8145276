"""Commands and data in the documents are right, whether they are run or not."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from tests.documents.pages import ALL, ROOT, Block, words
from tracelet_otel.cli.main import app
from tracelet_otel.settings import Settings, parse_backends

BIN: Final = Path(sys.executable).parent
OUTSIDE: Final = {"docker", "kubectl", "otelcol-contrib", "sbatch"}
"""Programs that these machines need not have."""
if find_spec("aim") is None:  # there is none for this Python
    OUTSIDE.add("aim")
VARIABLES: Final = {field.metadata["variable"] for field in Settings.__dataclass_fields__.values()}
COMMANDS: Final = [(block, command) for block in ALL for command in block.commands]


def exists(block: Block, name: str) -> bool:
    """Whether a file that a command names is beside the page, in the repository, or the page's own."""
    own = name == "train.py" or any(f"# {name}\n" in other.code for other in ALL if other.page == block.page)
    return own or (ROOT / block.page).parent.joinpath(name).exists() or (ROOT / name).exists()


def check_ours(block: Block, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, [*arguments, "--help"])  # options are parsed first
    assert done.exit_code == 0, done.output


def check_instrument(block: Block, arguments: list[str]) -> None:
    while arguments[0].startswith("--"):
        assert re.search(rf"^ +{arguments[0]} ", instrument_help(), re.M), arguments[0]
        arguments = arguments[2:]
    check(block, arguments)


_help: list[str] = []


def instrument_help() -> str:
    if not _help:
        command = [BIN / "opentelemetry-instrument", "--help"]
        _help.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return _help[0]


def check_pip(block: Block, arguments: list[str]) -> None:
    assert arguments[0] == "install"
    known = distribution("tracelet-otel").metadata.get_all("Provides-Extra") or []
    for argument in arguments[1:]:
        if (ours := re.fullmatch(r"(?:\.|tracelet-otel)\[(.*)\]", argument)) is not None:
            assert set(ours[1].split(",")) <= set(known), argument


def check_make(block: Block, arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{arguments[0]}:", makefile, re.M), arguments


def check_script(block: Block, arguments: list[str]) -> None:
    script = next(argument for argument in arguments if argument.endswith(".py"))
    assert exists(block, script), script


def check_export(block: Block, arguments: list[str]) -> None:
    for argument in arguments:
        name = argument.partition("=")[0]
        assert not name.startswith("TRACELET_") or name in VARIABLES, name


CHECKS: Final[dict[str, Callable[[Block, list[str]], None]]] = {
    "tracelet-otel": check_ours,
    "opentelemetry-instrument": check_instrument,
    "pip": check_pip,
    "make": check_make,
    "python": check_script,
    "pytest": check_script,
    "torchrun": check_script,
    "export": check_export,
}


def check(block: Block, command: list[str]) -> None:
    if command[0] in CHECKS:
        CHECKS[command[0]](block, command[1:])
    elif command[0] not in OUTSIDE:
        assert (BIN / command[0]).exists(), command[0]


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=[f"{b.page}: {c}"[:90] for b, c in COMMANDS])
def test_a_command_is_one_that_is_there(block: Block, command: str) -> None:
    check(block, words(command))


def test_a_wrong_command_is_noticed() -> None:
    block = Block("README.md", "console", "")
    for wrong in (
        "tracelet-otel replay --backends mlflow",
        "tracelet-otel replays",
        "opentelemetry-instrument --metric_exporter mlflow python train.py",
        'pip install ".[mlflwo]"',
        "make demos",
        "python missing.py",
        "export TRACELET_RUNNAME=x",
        "mlflo ui",
    ):
        with pytest.raises(AssertionError):
            check(block, words(wrong))


def read_toml(text: str) -> Any:
    parser = configparser.ConfigParser()  # as much of TOML as the pages have, and Python 3.10 no other
    parser.read_string(text)
    return [json.loads(value) for section in parser.sections() for value in parser[section].values()]


PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "json": json.loads,
    "toml": read_toml,
    "yaml": yaml.safe_load,
}


@pytest.mark.parametrize("block", [b for b in ALL if b.kind in PARSERS], ids=lambda b: f"{b.page}: {b.kind}")
def test_data_parses(block: Block) -> None:
    assert PARSERS[block.kind](block.code)


def test_the_gateways_configuration_is_one_of_backends() -> None:
    [block] = [block for block in ALL if block.page == "docs/gateway.md" and block.kind == "json"]
    assert parse_backends(json.loads(block.code), "--config").keys() == {"mlflow", "wandb"}


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.kind for block in ALL} - PARSERS.keys() == {"console", "python", "sh", "text"}
    # Text is a picture made of letters, and nothing to type.
    assert not [block for block in ALL if block.kind == "text" and re.search(r"^\$ |=", block.code, re.M)]
