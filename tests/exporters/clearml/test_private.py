"""What is left of ClearML's tracker when its library has one private name fewer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clearml_subject import ClearMLSubject, make_subject
from tests.support.private_names import rename
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.otlp.records import Point, RunInfo, Series
from tracelet_otel_exporters.clearml import library, private

NEEDED = [private.SESSION_CLASS, private.LOAD_CONFIG, private.CONFIG_PARSER]
"""Without these nothing can be delivered with a config file, and the user is told."""
NOW = 1_700_000_000_000_000_000

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated.* use :DeprecationWarning",
    "ignore:Exception ignored.*socket:pytest.PytestUnraisableExceptionWarning",  # the library's own pool
)


@pytest.fixture
def _fresh_copy() -> Iterator[None]:
    """Our copy of the library is imported anew, before and after."""

    def forget() -> None:
        library._load_library.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == library.COPY]:
            del sys.modules[name]

    forget()
    yield
    forget()


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[ClearMLSubject]:
    made = make_subject(tmp_path)
    yield made
    made.close()


@pytest.mark.usefixtures("_fresh_copy")
@pytest.mark.parametrize(
    "name", [name for name in private.CLEARML if name not in NEEDED], ids=lambda name: name.path
)
def test_everything_arrives_without(
    name: PrivateName,
    subject: ClearMLSubject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rename(monkeypatch, name)
    tracker = subject.make()
    tracker.load()
    tracker.connect()
    tracker.open_run(RunInfo("run-1"))
    series = Series("run-1", "loss", [Point(1, 0.5, NOW)])
    assert tracker.write_points("run-1", [series]).accepted == 1
    (tmp_path / "file").write_bytes(b"content")
    tracker.write_file("run-1", "file", tmp_path / "file")
    tracker.close_run("run-1", "finished")
    tracker.close()
    assert [point.value for point in subject.points("run-1")["loss"]] == [0.5]
    assert subject.files("run-1") == {"file": b"content"}
    assert name.lost in caplog.text


@pytest.mark.usefixtures("_fresh_copy")
@pytest.mark.parametrize("name", NEEDED, ids=lambda name: name.path)
def test_the_user_is_told_what_cannot_work_without(
    name: PrivateName,
    subject: ClearMLSubject,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rename(monkeypatch, name)
    with pytest.raises(PermanentError, match=r"which is needed|this version of ClearML"):
        subject.make().connect()
    assert name.lost in caplog.text
