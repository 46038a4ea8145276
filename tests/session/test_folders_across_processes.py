"""What several writers write is apart, in one process and in several, under the same names in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import event_files
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, scalars, subjects_in
from tracelet_otel.recording.writer_names import series_tag

ALONE = """
import threading
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="folders", shutdown_timeout=60)

def fold(number):
    with SummaryWriter(f"runs/both/Loss/{{number}}") as writer:
        for step in range(3):
            writer.add_scalar("train", number + step / 8, step)

with SummaryWriter("runs/both") as writer:
    for epoch in range(4):
        train, val = 1 / 2**epoch, 2 / 2**epoch
        writer.add_scalar("Loss/train", train, epoch)
        writer.add_scalar("Loss/0/train", val, epoch)
        writer.add_scalars("Loss", {{"train": train + 8, "val": val + 8}}, epoch)
    threads = [threading.Thread(target=fold, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
with SummaryWriter("elsewhere/both") as writer:
    writer.add_scalar("Loss/train", 100.0, 0)
"""

EARLY = """
import concurrent.futures, multiprocessing
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="folders", shutdown_timeout=60)

def trial(number):
    with SummaryWriter(f"trials/{{number}}") as writer:
        for step in range(3):
            writer.add_scalar("loss", number + step / 8, step)

if __name__ == "__main__":
    tracelet_otel.log_params({{"trials": 2}})  # the run is open, and has no folder yet
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(trial, range(2)))
    with SummaryWriter("trials") as writer:
        writer.add_scalar("loss", 9.0, 0)
"""


def written(folder: Path, first: str) -> dict[str, list[tuple[int, float]]]:
    """By the name that a folder's tag has in the run: the points of the event files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for home in sorted({path.parent for path in folder.rglob("*tfevents*")}):
        for tag, points in event_files.points(home).items():
            name = series_tag(str(folder / first), str(home), tag)
            assert name not in found
            found[name] = [(point.step, point.value) for point in points]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "first"),
    [(ALONE, {"runs/both"}), (EARLY, {"trials/0", "trials/1"})],
    ids=["one process", "children before the first folder"],
)
def test_a_folder_has_its_tags_in_any_process(
    tmp_path: Path, database: Path, script: str, first: set[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        done = run_script(work, script.format(backends=backends(tmp_path)), zero_code=False, timeout=170)
        assert done.returncode == 0, done.stderr
        possible = [written(work, folder) for folder in first]  # whichever of the children is the first
        for name in TRACKERS:
            stored = scalars(subjects[name], "folders")
            assert stored in possible, name
            possible = [stored]  # of which every tracker has the same
    assert not list(tmp_path.rglob("first-folders/*"))
