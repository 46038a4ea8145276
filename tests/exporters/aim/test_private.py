"""Without any one of AIM's private names, what can still be done is done, and what is lost is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aim.ext.cleanup import AutoClean

from tests.exporters.aim.test_aim import NOW, local, new_tracker, png, remote, server
from tests.support.aim_subject import AimSubject
from tests.support.private_names import rename, uses_elsewhere
from tests.support.scripts import run_script
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.tracker import AimTracker

__all__ = ["local", "new_tracker", "remote", "server"]  # fixtures

_ON_DISK = [*private.AIM, *private.ON_DISK]
_ON_SERVER = [*private.AIM, *private.ON_SERVER]

Deliver = Callable[[str, str], None]
"""Takes a repository and the id of a run."""


def optional(names: list[PrivateName]) -> list[PrivateName]:
    return [name for name in names if not name.is_needed]


def needed(names: list[PrivateName]) -> list[PrivateName]:
    return [name for name in names if name.is_needed]


@pytest.fixture
def deliver(tmp_path: Path) -> Iterator[Deliver]:
    """An ordinary delivery to a repository."""
    made: list[AimTracker] = []

    def deliver(repo: str, run: str) -> None:
        tracker = AimTracker(repo)
        made.append(tracker)
        tracker.load()
        tracker.connect()
        tracker.open_run(RunInfo(run, "a name"))
        points = [Point(step, step / 7, NOW) for step in range(3)]
        assert tracker.write_points(run, [Series(run, "loss", points)]).accepted == 3
        image = Record(run, "image", "im", 3, NOW, {}, "image/png", png())
        assert tracker.write_record(image).accepted == 1
        (tmp_path / "file").write_bytes(b"content")
        tracker.write_file(run, "a/file", tmp_path / "file")
        tracker.write_system(run, [SystemPoint("hw.gpu.utilization", {"hw.id": "0"}, 0.5, NOW)])
        tracker.close_run(run, "failed")

    yield deliver
    for tracker in made:
        tracker.close()


def check(subject: AimSubject, name: PrivateName, caplog: pytest.LogCaptureFixture, run: str = "run") -> None:
    """Everything arrived, and what is lost was logged once."""
    assert [(point.step, point.value) for point in subject.points(run)["loss"]] == [
        (step, step / 7) for step in range(3)
    ]
    assert subject.status(run) == "failed"
    files = subject.files(run)
    assert files["a/file"] == b"content"
    assert png() in [*files.values(), *(one.content for one in subject.media(run))]
    assert subject.system(run) == {"__system__gpu gpu=0": [50.0]}
    logged = [record for record in caplog.records if name.path in record.getMessage()]
    assert [record.levelno for record in logged] == [logging.WARNING]
    assert name.lost in logged[0].getMessage()


@pytest.mark.parametrize(
    "name",
    [name for name in optional(_ON_DISK) if name is not private.MIGRATION_COMMAND],
    ids=lambda name: name.path,
)
def test_without_an_optional_name_the_rest_arrives_on_disk(
    name: PrivateName,
    local: AimSubject,
    deliver: Deliver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(AutoClean, "_registered_with_atexit", False)
    monkeypatch.setattr(AutoClean, "_finalizers", {})
    rename(monkeypatch, name)
    deliver(str(local.folder), "run")
    check(local, name, caplog)


def test_without_the_command_that_makes_a_repository_one_that_is_there_works(
    local: AimSubject, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rename(monkeypatch, private.MIGRATION_COMMAND)
    deliver(str(local.folder), "run")
    assert len(local.points("run")["loss"]) == 3
    with pytest.raises(PermanentError, match="aim init"):
        AimTracker(tmp_path / "new").load()
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.parametrize("name", optional([*private.ON_SERVER]), ids=lambda name: name.path)
def test_without_an_optional_name_the_rest_arrives_at_a_server(
    name: PrivateName,
    remote: AimSubject,
    deliver: Deliver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rename(monkeypatch, name)
    deliver(remote.location, name.path)
    check(remote, name, caplog, name.path)


def test_without_blobs_a_server_gets_everything_but_files(
    remote: AimSubject, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(monkeypatch, private.BLOB)
    with pytest.raises(PermanentError, match="artifacts_uri"):
        deliver(remote.location, "no blobs")
    assert len(remote.points("no blobs")["loss"]) == 3


@pytest.mark.parametrize("name", needed(_ON_DISK), ids=lambda name: name.path)
def test_without_a_needed_name_loading_fails_for_good(
    name: PrivateName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(monkeypatch, name)
    with pytest.raises(PermanentError, match=r"has no aim\..*, which is needed: install aim 3\.29"):
        AimTracker(tmp_path).load()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", needed(_ON_SERVER), ids=lambda name: name.path)
def test_without_a_needed_name_a_server_is_not_used(
    name: PrivateName, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(monkeypatch, name)
    with pytest.raises(PermanentError, match=r"has no aim\..*, which is needed: install aim 3\.29"):
        AimTracker("aim://127.0.0.1:1").load()


def test_another_version_of_the_storage_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "DATA_VERSIONS", ((1, 2),))
    with pytest.raises(PermanentError, match=r"AIM 3\.29.* not known here; use 3\.29"):
        AimTracker(tmp_path).load()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.in_thread("the script takes the name away in its own process")
def test_what_cannot_be_delivered_stays_in_the_spool(tmp_path: Path) -> None:
    code = """
        import tracelet_otel
        from tracelet_otel_exporters.aim import private
        private.CONTAINER.attribute = "as_renamed"
        tracelet_otel.configure(backends={"aim": {"repo": "repository"}})
        for step in range(7):
            tracelet_otel.log_scalar("loss", 0.5, step)
    """
    variables = {"TRACELET_SPOOL_DIR": str(tmp_path / "spool")}
    done = run_script(tmp_path, code, zero_code=False, variables=variables)
    assert done.returncode == 0, done.stderr
    assert "install aim 3.29" in done.stderr
    assert "captured 7 points, delivered nothing, spooled 7 points" in done.stderr


def test_private_names_are_used_in_no_other_module() -> None:
    assert uses_elsewhere(private, "aim") == []
