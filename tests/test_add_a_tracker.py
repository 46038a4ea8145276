"""docs/add-a-tracker.md: its code is the tested code, and installed as it says it takes a script's points."""

from __future__ import annotations

import configparser
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.documents.pages import ROOT, blocks
from tests.support.fifth_subject import FifthSubject
from tests.support.scripts import run_script

PAGE = ROOT / "docs" / "add-a-tracker.md"
TRACKERS = ROOT / "docs" / "trackers.md"


def block(page: Path, kind: str, contains: str = "") -> str:
    """The page's one block of this language that contains this."""
    [code] = [block.code for block in blocks(page) if block.kind == kind and contains in block.code]
    return code


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder with the page's package, as an installer leaves it there."""
    toml = configparser.ConfigParser()  # as much of TOML as the page has, and Python 3.10 no other
    toml.read_string(block(PAGE, "toml"))
    name, version = json.loads(toml["project"]["name"]), json.loads(toml["project"]["version"])
    folder = tmp_path / "site"
    package = folder / "json_folder"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(block(PAGE, "python"), encoding="utf-8")
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    lines: list[str] = []
    for section in toml.sections():
        if group := section.partition("entry-points.")[2]:
            lines.append(f"[{group}]")
            lines += [f"{key} = {json.loads(target)}" for key, target in toml[section].items()]
    about.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_pages_code_is_the_tested_code() -> None:
    tested = ROOT / "tests" / "fifth_tracker" / "json_folder" / "__init__.py"
    assert block(PAGE, "python") == tested.read_text(encoding="utf-8")


SCRIPT = """
import math
import tracelet_otel
from tensorboardX import SummaryWriter

with SummaryWriter("logs") as writer:
    for step in range(1_000):
        writer.add_scalar(f"train/tag_{step % 3}", step / 7, step, walltime=1_700_000_000.25 + step)
    writer.add_scalar("train/tag_0", math.nan, 1_000, walltime=1_700_002_000.0)
    writer.add_text("note", "a text", 1)
tracelet_otel.log_scalar("exact", 0.1 + 0.2, step=7)
tracelet_otel.log_params({"optimizer": {"lr": 0.1}})
print("trained")
"""


def test_a_script_writes_to_it_point_for_point(tmp_path: Path, site: Path) -> None:
    variables = {
        "PYTHONPATH": str(site),
        "OTEL_METRICS_EXPORTER": "json_folder",
        "TRACELET_RUN_ID": "the run",
        "TRACELET_PROJECT": "somebody's own",
        "TRACELET_SPOOL_DIR": str(tmp_path / "spool"),
    }
    done = run_script(tmp_path, SCRIPT, variables=variables)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "captured 1,002 points" in done.stderr
    assert "delivered all" in done.stderr
    stored = FifthSubject(tmp_path)
    assert stored.status("the run") == "finished"
    assert stored.description("the run")["project"] == "somebody's own"
    assert stored.params("the run") == {"optimizer/lr": "0.1"}
    assert b"a text" in [media.content for media in stored.media("the run")]
    points = stored.points("the run")
    [exact] = points.pop("exact")
    assert (exact.step, exact.value) == (7, 0.1 + 0.2)
    assert math.isnan(points["train/tag_0"].pop().value)
    logged = [(tag, *point) for tag, members in points.items() for point in members]
    assert len(logged) == len(set(logged)) == 1_000
    for tag, step, value, time_unix_nano in logged:
        assert tag == f"train/tag_{step % 3}"
        assert struct.pack("f", value) == struct.pack("f", step / 7)  # as the writer has it
        assert abs(time_unix_nano - 1_700_000_000_250_000_000 - step * 10**9) < 1000  # logged in seconds


def test_its_options_and_wrong_ones(tmp_path: Path, site: Path) -> None:
    code = """
    import tracelet_otel
    for wrong in ({"folder": 7}, {"folders": "x"}):
        try:
            tracelet_otel.configure(backends={"json_folder": wrong})
        except tracelet_otel.ConfigurationError as error:
            print(error)
    with tracelet_otel.configure(backends={"json_folder": {"folder": "elsewhere/runs"}}, run_id="r"):
        tracelet_otel.log_scalar("loss", 1.5, step=3)
    """
    variables = {"PYTHONPATH": str(site), "TRACELET_SPOOL_DIR": str(tmp_path / "spool")}
    done = run_script(tmp_path, code, zero_code=False, variables=variables)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "folder must be a path, got 7" in first
    assert "folders" in second
    [point] = FifthSubject(tmp_path / "elsewhere").points("r")["loss"]
    assert (point.step, point.value) == (3, 1.5)


def test_the_pages_reader_of_companion_files(tmp_path: Path) -> None:
    from tracelet_otel.otlp.records import Point
    from tracelet_otel.tracker.companion import Companions
    from tracelet_otel.tracker.interface import PointAside

    values = (0.1, -0.0, math.inf, -math.inf)
    lines = [
        PointAside("tag", 2, Point(step, value, 10**18 + step), "why") for step, value in enumerate(values)
    ]
    companions = Companions(tmp_path / "waiting")
    companions.add("run", lines)
    uploaded: dict[str, bytes] = {}
    companions.upload("run", lambda name, path: uploaded.update({name: path.read_bytes()}))
    [(name, content)] = uploaded.items()
    assert re.fullmatch(r"tracelet/companion-[0-9a-f]{16}\.jsonl", name)
    assert all(json.loads(line)["reason"] == "why" for line in content.splitlines())
    (tmp_path / Path(name).name).write_bytes(content)
    scope: dict[str, Any] = {}
    exec(block(TRACKERS, "python", "def points"), scope)
    read = list(scope["points"](tmp_path))
    assert [repr(line) for line in read] == [
        repr(("tag", 2, step, value, 10**18 + step)) for step, value in enumerate(values)
    ]


def test_the_table_of_kinds_is_complete() -> None:
    """Every kind of record has a row, and every row a cell a tracker."""
    from typing import get_args

    from tracelet_otel.semconv import Kind

    rows = [line for line in TRACKERS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    table = rows[: next(index for index, row in enumerate(rows) if row.startswith("| |"))]
    assert {row.count("|") for row in table} == {6}
    named = {
        kind.strip().replace("PR curve", "pr_curve") for row in table for kind in row.split("|")[1].split(",")
    }
    assert set(get_args(Kind)) - {"run"} <= named
