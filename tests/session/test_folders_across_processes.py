"""Folders of event files in several processes of one run have the tags that one process would give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import event_files
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, subjects_in

SPAWNED = """
import multiprocessing
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="folders", shutdown_timeout=60)

def fold(number):
    with SummaryWriter(f"runs/cv/fold{{number}}") as writer:
        for epoch in range(3):
            writer.add_scalar("val/acc", number + epoch / 8, epoch)

if __name__ == "__main__":
    with SummaryWriter("runs/cv") as writer:
        writer.add_scalar("val/acc", 100.0, 0)
        context = multiprocessing.get_context({method!r})
        workers = [context.Process(target=fold, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        writer.add_scalar("val/acc", 101.0, 1)
"""

SUBPROCESSES = """
import subprocess, sys
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

if len(sys.argv) == 1:
    tracelet_otel.configure(backends={backends!r}, run_id="folders", shutdown_timeout=60)
    with SummaryWriter("sweep") as writer:
        writer.add_scalar("started", 1, 0)
    for rate in ("0.25", "0.5"):
        subprocess.run([sys.executable, __file__, rate], check=True)
else:
    tracelet_otel.configure(backends={backends!r}, shutdown_timeout=60)
    with SummaryWriter("trials/" + sys.argv[1]) as writer:
        for step in range(3):
            writer.add_scalar("loss", float(sys.argv[1]) / 2**step, step)
"""


def written(folder: Path, first: str) -> dict[str, list[tuple[int, float]]]:
    """By the name that a folder's tag has in the run: the points of the event files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for home in sorted({path.parent for path in folder.rglob("*tfevents*")}):
        relative = home.relative_to(folder).as_posix()
        prefix = "" if relative == first else f"{relative.removeprefix(first + '/')}/"
        for tag, points in event_files.points(home).items():
            found[prefix + tag] = [(point.step, point.value) for point in points]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "method", "first"),
    [(SPAWNED, "spawn", "runs/cv"), (SPAWNED, "forkserver", "runs/cv"), (SUBPROCESSES, "", "sweep")],
    ids=["spawn", "forkserver", "subprocess"],
)
def test_a_folder_has_its_tags_in_any_process(
    tmp_path: Path, database: Path, script: str, method: str, first: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        code = script.format(backends=backends(tmp_path), method=method)
        done = run_script(work, code, zero_code=False, timeout=170)
        assert done.returncode == 0, done.stderr
        expected = written(work, first)
        assert len(expected) == 3
        for name in TRACKERS:
            stored = {
                tag: sorted((one.step, one.value) for one in points)
                for tag, points in subjects[name].points("folders").items()
                if not tag.startswith("system/")
            }
            assert stored == expected, name
