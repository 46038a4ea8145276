"""The machine below training: a full disk, a home that cannot be written to, a clock that is set back."""

from __future__ import annotations

from pathlib import Path

from tests.faults.checker import check
from tests.faults.evidence import Place, waiting
from tests.faults.mounts import mounts
from tests.faults.trial import RUN_ID, Trial

LOG = """
import journal
journal.log("loss", range(100))
journal.wait_until_handed_over()
journal.log("loss", range(100, 6_000))
journal.mark()
"""
FULL = """
mkdir -p .local/state/tracelet-otel
mount -t tmpfs -o size=250k none .local/state/tracelet-otel
"""


def inside(trial: Trial, root: Path) -> Path:
    """The state folder, as the script has it."""
    return root / trial.state.relative_to("/")


def test_a_full_disk(trial: Trial, places: dict[str, Place]) -> None:
    """MLflow gets everything from memory; what ``file`` has no place for is counted."""
    with mounts(trial.folder, FULL) as namespace:
        trial.state = inside(trial, namespace.root)
        trial.run(LOG, within=namespace.within)
        check(trial, places, drops=["file"])


def test_a_full_disk_and_a_backend_that_is_away(trial: Trial, places: dict[str, Place]) -> None:
    with mounts(trial.folder, FULL) as namespace:
        trial.state = inside(trial, namespace.root)
        more = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
        trial.run(LOG, within=namespace.within, variables=more)
        lines = check(trial, places, drops=["mlflow", "file"])
        assert lines["mlflow"].left
        assert waiting(trial.state, "mlflow", RUN_ID)


def test_a_home_that_is_read_only(trial: Trial, places: dict[str, Place]) -> None:
    home = trial.folder / "home"
    home.mkdir()
    with mounts(trial.folder, "mount --bind home home\nmount -o remount,ro,bind home") as namespace:
        trial.run(LOG, within=namespace.within, variables={"HOME": str(home)})
    check(trial, places, drops=["file"])
    assert not list(home.iterdir())


SET_BACK = """
import time
back_s = 0
for name, unit in (("time", 1), ("time_ns", 10**9)):
    def read(clock=getattr(time, name), unit=unit):
        return clock() - back_s * unit
    setattr(time, name, read)
import tracelet_otel
tracelet_otel.configure()
import journal
journal.log("loss", range(100))
assert tracelet_otel.flush()
back_s = 3600
journal.log("loss", range(100, 200))
"""


def test_a_clock_that_is_set_back(trial: Trial, places: dict[str, Place]) -> None:
    """In the script itself, by what it reads its clock with; the agent's goes on."""
    trial.run(SET_BACK, zero_code=False)
    check(trial, places)


def test_a_clock_that_is_set_back_before_a_run_is_resumed(trial: Trial, places: dict[str, Place]) -> None:
    trial.run("import journal\njournal.log('loss', range(100))")
    resumed = SET_BACK.replace("back_s = 0", "back_s = 3600").replace("range(100)", "range(200, 300)")
    trial.run(resumed, zero_code=False)
    check(trial, places)
