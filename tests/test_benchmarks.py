"""The programs in benchmarks/: what they count, what they call a miss, and where they put it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(name="peers")
def _peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers  # pyright: ignore[reportMissingImports]

    yield peers
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def test_a_point_has_landed_only_as_it_was_logged(peers: Any) -> None:
    points = [("group/a", 0.001, 0), ("group/a", 2.5, 1), ("group/b", 1.0, 0), ("group/b", float("nan"), 1)]
    as_float32 = [("a", 0, 0.0010000000474974513), ("group/a", 1, 2.5), ("b", 0, 1.0), ("b", 1, float("nan"))]
    assert peers.share(points, as_float32) == 100
    assert peers.share(points, as_float32[1:]) == 75
    wrong = [("a", 0, 0.00100001), ("a", 2, 2.5), ("a", 0, 1.0)]
    assert peers.share(points, wrong) == 0


def test_what_is_missed_is_named(peers: Any) -> None:
    def figures(key: str, thread: float, everything: float, landed: float = 100) -> Any:
        (way,) = (way for way in peers.WAYS if way.key == key)
        measured = peers.Measured(thread, thread, thread, None, everything)
        return peers.Figures(way, [peers.Round(measured, landed)])

    ours = figures("mlflow: tracelet-otel, add_scalar", 2, 3)
    hook = figures("mlflow: mlflow.pytorch.autolog", 3, 4)
    elsewhere = figures("clearml: Task.init", 3, 1)
    client = figures("mlflow: MlflowClient.log_batch", 1, 1)
    assert list(peers.misses([ours, hook, elsewhere, client])) == []
    slow = figures("mlflow: tracelet-otel, add_scalar", 3, 4, 99.5)
    assert list(peers.misses([slow, hook, elsewhere, client])) == [
        "mlflow: tracelet-otel, add_scalar: 99.5 % landed",
        "mlflow: tracelet-otel, add_scalar: costs the thread more than mlflow: mlflow.pytorch.autolog",
        "mlflow: tracelet-otel, add_scalar: there later than by mlflow: mlflow.pytorch.autolog",
        "mlflow: tracelet-otel, add_scalar: costs the thread more than clearml: Task.init",
    ]
    assert peers.table([ours, client])[2:] == [
        "| mlflow | tracelet-otel, add_scalar | 2.0 | 2.0 | 2.0 |  | 3.00 | 100.0 |",
        "| mlflow | MlflowClient.log_batch | 1.0 | 1.0 | 1.0 |  | 1.00 | 100.0 |",
    ]


def test_the_page_names_every_program_and_has_a_place_for_each_that_writes(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = peers._bench.PAGE.read_text(encoding="utf-8")
    programs = {path.stem: path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("[!_]*.py")}
    for name, code in programs.items():
        assert f"`benchmarks/{name}.py`" in text
        assert (f"<!-- {name}: made by" in text) == ("--write-docs" in code)
    page = tmp_path / "benchmarks.md"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(peers._bench, "PAGE", page)
    for _ in range(2):
        peers._bench.write_docs("memory", ["| a |"])
    written = page.read_text(encoding="utf-8")
    assert written.count("| a |") == 1
    before, _, after = text.partition("<!-- memory")
    assert written.startswith(before)
    assert written.endswith(after.partition("<!-- end of memory -->")[2])
    with pytest.raises(ValueError, match="no place for nothing"):
        peers._bench.write_docs("nothing", [])
