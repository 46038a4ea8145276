"""One process owns a run, whatever its rank: it says what the run is and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.delivery.otlp.receiver import Inbox, receiver
from tests.support import event_files
from tests.support.scripts import clean_environment, run_command, script_command, write_script
from tests.support.trackers import TRACKERS, backends, subjects_in
from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import decode_attributes

LAST_RANK = """
import argparse, os
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="ranks", shutdown_timeout=60)
parser = argparse.ArgumentParser()
parser.add_argument("--rate", default=0.25)
parser.parse_args()
if os.environ["RANK"] == "1":
    with SummaryWriter("logs") as writer:
        for step in range(5):
            writer.add_scalar("loss", 0.5**step, step)
"""


@pytest.mark.slow
def test_a_run_to_which_only_the_last_rank_logs(tmp_path: Path, database: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        command = script_command(write_script(work, LAST_RANK.format(backends=backends(tmp_path))))
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
        done = run_command([*command[:2], *torchrun, *command[2:]], work, timeout=170)
        assert done.returncode == 0, done.stderr
        written = [(point.step, point.value) for point in event_files.points(work / "logs")["loss"]]
        for name in TRACKERS:
            subject = subjects[name]
            stored = subject.points("ranks")
            assert {tag: [(one.step, one.value) for one in found] for tag, found in stored.items()} == {
                "loss/rank_1": written
            }, name
            assert subject.status("ranks") == "finished", name
            assert subject.params("ranks")["rate"] == "0.25", name
        content = b"".join(subjects["mlflow"].files("ranks").values())
        assert b'"entry_point": "train.py"' in content


RANK = """
import sys
import tracelet_otel

tracelet_otel.configure("otlp", run_id="ranks", export_interval=20)
print(flush=True)
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


class Rank(NamedTuple):
    """A rank that does what it is told, a line of Python at a time."""

    process: subprocess.Popen[str]

    def do(self, line: str) -> None:
        """Has it done before this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"

    def end(self) -> None:
        """Waits for its normal end."""
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def log(self) -> str:
        """The line by which it logs a value, which is delivered then."""
        return "tracelet_otel.log_scalar('loss', 0.5); tracelet_otel.flush(30)"


def start(folder: Path, inbox: Inbox, rank: int, node: int = 0) -> Rank:
    """One of eight ranks, of two nodes."""
    script = write_script(folder, RANK)
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank - 4 * node,
        "GROUP_RANK": node,
        "WORLD_SIZE": 8,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": inbox.endpoint,
    }
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env=clean_environment(**{name: str(value) for name, value in variables.items()}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return Rank(process)


def said(inbox: Inbox, kind: str) -> list[tuple[int, object]]:
    """The rank and status of each record of a kind."""
    found = [decode_attributes(record.attributes) for record in inbox.events(kind)]
    return [(int(str(one[semconv.RANK])), one.get(semconv.RUN_STATUS)) for one in found]


def test_rank_0_takes_the_run_over_from_a_rank_that_logged_before(tmp_path: Path) -> None:
    with receiver("http/protobuf") as inbox:
        zero, one, last = (start(tmp_path, inbox, rank) for rank in (0, 1, 3))
        last.do(last.log)
        one.do(one.log)
        inbox.wait_for(lambda: said(inbox, "environment") == [(3, None)])
        zero.do(zero.log)
        last.end()
        assert said(inbox, "status") == []
        zero.end()
        one.do(one.log)
        one.end()
    assert said(inbox, "status") == [(0, "finished")]
    assert said(inbox, "environment") == [(3, None), (0, None)]


def test_a_rank_owns_the_run_again_if_rank_0_is_killed(tmp_path: Path) -> None:
    with receiver("http/protobuf") as inbox:
        zero, last = start(tmp_path, inbox, 0), start(tmp_path, inbox, 3)
        last.do(last.log)
        zero.do(zero.log)
        zero.kill()
        last.process.terminate()
        last.end()
    assert said(inbox, "status") == [(3, "killed")]


def test_what_rank_0_said_of_the_end_stands(tmp_path: Path) -> None:
    with receiver("http/protobuf") as inbox:
        zero, last = start(tmp_path, inbox, 0), start(tmp_path, inbox, 3)
        last.do(last.log)
        zero.do(zero.log)
        assert zero.process.stdin is not None
        zero.process.stdin.write("raise ValueError\n")
        zero.end()
        last.process.terminate()
        last.end()
    assert said(inbox, "status") == [(0, "failed")]


def test_a_child_that_outlives_a_rank_is_not_taken_for_it(tmp_path: Path) -> None:
    with receiver("http/protobuf") as inbox:
        before = start(tmp_path, inbox, 3)
        before.do(before.log)
        before.do("import os, signal")
        before.do("child = os.fork() or signal.pause()")
        before.do("open('child', 'w').write(str(child))")
        before.kill()
        last = start(tmp_path, inbox, 3)
        last.do(last.log)
        last.end()
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert said(inbox, "status") == [(3, "finished")]


@pytest.mark.parametrize(("rank", "owns"), [(6, False), (7, True)])
def test_of_the_ranks_of_other_nodes_the_last_owns_a_run(tmp_path: Path, rank: int, owns: bool) -> None:
    with receiver("http/protobuf") as inbox:
        far = start(tmp_path, inbox, rank, node=1)
        far.do(far.log)
        far.end()
    assert said(inbox, "status") == [(rank, "finished")] * owns
