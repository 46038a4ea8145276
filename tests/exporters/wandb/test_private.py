"""Without any one of W&B's private names, what can still be done is done, and what is lost is logged."""

from __future__ import annotations

import gc
import io
import logging
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from wandb.sdk.lib import import_hooks

from tests.exporters.wandb.test_wandb import NOW, cores, info, series, server
from tests.support.private_names import rename, uses_elsewhere
from tests.support.scripts import run_script
from tests.support.wandb_server import WandbServer
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.otlp.records import Record, SystemPoint
from tracelet_otel_exporters.wandb import private
from tracelet_otel_exporters.wandb.tracker import WandbTracker

__all__ = ["server"]  # a fixture

_NEEDED = [name for name in private.WANDB if name.is_needed]
_LEFT_OPEN = (private.PROCESS, private.PILLOW_IMAGE, private.FREE_IMAGE, private.STATUS_CHECKER)
"""Without these a file, process or thread is left over, which is warned of."""
_WARNINGS = ("ignore::ResourceWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning")
_OPTIONAL = [
    pytest.param(
        name,
        id=name.path,
        marks=[pytest.mark.filterwarnings(each) for each in _WARNINGS if name in _LEFT_OPEN],
    )
    for name in private.WANDB
    if not name.is_needed
]


def gif() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("name", _OPTIONAL)
def test_without_an_optional_name_the_rest_arrives(
    name: PrivateName,
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(import_hooks, "_post_import_hooks_init", False)
    rename(monkeypatch, name)
    before = cores()
    tracker = WandbTracker(mode="online", dir=tmp_path)
    try:
        tracker.load()
        tracker.connect()
        tracker.open_run(info())
        tracker.open_run(info(family="a family"))
        assert tracker.write_points("run-1", [series("loss", [0.1, 0.2])]).accepted == 2
        (tmp_path / "file").write_bytes(b"content")
        tracker.write_file("run-1", "a/file", tmp_path / "file")
        tracker.write_record(Record("run-1", "image", "im", 3, NOW, {}, "image/gif", gif()))
        tracker.write_system("run-1", [SystemPoint("hw.gpu.utilization", {"hw.id": "0"}, 0.5, NOW)])
        tracker.close_run("run-1", "failed")
    finally:
        tracker.close()
    run = server.runs["run-1"]
    assert [row["loss"] for row in run.rows if "loss" in row] == [0.1, 0.2]
    assert (run.files["a/file"], gif() in run.files.values()) == (b"content", True)
    assert (run.exit_code, run.display_name) == (1, "a name")
    said = [record for record in caplog.records if name.path in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert name.lost in said[0].getMessage()
    deadline = time.monotonic() + 10
    while cores() != before and time.monotonic() < deadline:  # one that we do not know the process of
        time.sleep(0.01)
    assert cores() == before
    # What is left over is warned of in this test, and in no later one.
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "NetStatThr":
            thread.join(30)


@pytest.mark.parametrize("name", _NEEDED, ids=lambda name: name.path)
def test_without_a_needed_name_loading_fails_for_good(
    name: PrivateName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(monkeypatch, name)
    tracker = WandbTracker(mode="offline", dir=tmp_path)
    with pytest.raises(PermanentError, match=r"has no wandb\..*, which is needed: install wandb 0\.31"):
        tracker.load()
    tracker.close()
    assert cores() == set()


@pytest.mark.in_thread("the script takes the name away in its own process")
def test_what_cannot_be_delivered_stays_in_the_spool(tmp_path: Path) -> None:
    code = """
        import tracelet_otel
        from tracelet_otel_exporters.wandb import private
        private.RUN_INIT.attribute = "_as_renamed"
        tracelet_otel.configure(backends=["wandb"])
        for step in range(7):
            tracelet_otel.log_scalar("loss", 0.5, step)
    """
    variables = {"WANDB_MODE": "offline", "TRACELET_SPOOL_DIR": str(tmp_path / "spool")}
    done = run_script(tmp_path, code, zero_code=False, variables=variables)
    assert done.returncode == 0, done.stderr
    assert "install wandb 0.31" in done.stderr
    assert "captured 7 points, delivered nothing, spooled 7 points" in done.stderr


def test_private_names_are_used_in_no_other_module() -> None:
    assert uses_elsewhere(private, "wandb") == []
