"""What goes wrong with a spool's disk, and with the thread above it: what is lost by it is counted."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.delivery.spool.test_durable import files, name, oldest, queue_in
from tests.delivery.spool.test_spool import logs, metrics
from tests.delivery.test_delivery import Place, batch, numbers, real_batch, tags
from tests.faults.mounts import mounts
from tracelet_otel import semconv
from tracelet_otel.delivery import worker
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.spool import SpoolFullError
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.delivery.spool.queue import QueueFullError
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.segment import Segment
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation.errors import TransientError

MB = 1024 * 1024
ROOT = Path(__file__).parents[3]


def run(code: str, *arguments: object, within: list[str] | None = None) -> list[str]:
    """The lines of a script's output."""
    command = [*(within or []), sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


NO_DESCRIPTOR = """
import os, resource, sys, threading, time
from pathlib import Path
from tests.delivery.test_delivery import Place, real_batch, tags
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.errors import TransientError

away = threading.Event()
away.set()

def fail(attempt):
    return TransientError("away") if away.is_set() else None

place = Place(fail=fail)
delivery = Delivery("place", place, max_queue_bytes=10**6, spool=Spool(Path(sys.argv[1]), max_bytes=10**9))
delivery.put(real_batch(0))
while not delivery.is_away:  # what comes now goes to the spool
    time.sleep(0.01)
for number in range(1, 21):
    delivery.put(real_batch(number))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
away.clear()
while "Too many open files" not in delivery.last_error:
    time.sleep(0.01)
print(delivery.is_away)
for descriptor in held:
    os.close(descriptor)
delivery.close(30)
print(delivery.counts.dropped_points, tags(place.received) == [b"%d" % number for number in range(21)])
"""


def test_a_spool_that_cannot_be_read_for_a_while_is_read_later(tmp_path: Path) -> None:
    assert run(NO_DESCRIPTOR, tmp_path / "spool") == ["True", "0 True"]


FULL_DISK = """
import sys, threading
from pathlib import Path
from tests.delivery.test_delivery import Place, real_batch, tags
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.spool.spool import Durability, Spool

place = Place()
place.gate.clear()
spool = Spool(Path("small/spool"), max_bytes=10**9, durability=Durability.PROCESS)
delivery = Delivery("place", place, max_queue_bytes=10**6, spool=spool)
delivery.put(real_batch(0))
with open("small/fill", "wb", buffering=0) as fill:
    try:
        while fill.write(b"x" * 4096):
            pass
    except OSError as error:
        print(error.strerror)
for number in range(1, 5):
    delivery.put(real_batch(number, 100))
print(delivery.queue.unwritten())
place.gate.set()
print(delivery.flush(30), tags(place.received), delivery.is_away)
"""


def test_a_disk_that_is_full_ends_no_delivery(tmp_path: Path) -> None:
    with mounts(tmp_path, "mkdir small; mount -t tmpfs -o size=64k none small") as mounted:
        assert run(FULL_DISK, within=mounted.within) == [
            "No space left on device",
            "(400, 0)",
            "True [b'0', b'1', b'2', b'3', b'4'] False",
        ]


def test_a_client_that_exits_costs_its_batch_alone() -> None:
    class Exiting(Place):
        def send(self, batch: Batch) -> Receipt:
            if batch.metrics == b"1":
                sys.exit("a client's own idea")
            return super().send(batch)

    place = Exiting()
    delivery = Delivery("place", place, max_queue_bytes=MB, rests=False)
    for number in range(3):
        delivery.put(batch(number))
    assert delivery.close(20)
    assert place.received == [b"0", b"2"]
    assert delivery.counts.dropped_points == 1


def test_bookkeeping_that_raises_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FIRST_BACKOFF_S", 0.01)
    place = Place()
    spool = Spool(tmp_path, max_bytes=MB, durability=Durability.DISK)
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool, rests=False)
    take, failures = (
        delivery.queue.take,
        [OSError(5, "Input/output error"), SystemExit(1), KeyError("defect")],
    )

    def fails() -> Batch:
        if failures:
            raise failures.pop()
        return take()

    monkeypatch.setattr(delivery.queue, "take", fails)
    delivery.put(real_batch(0))
    assert delivery.close(20)
    assert (tags(place.received), failures) == ([b"0"], [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_dead_shows_and_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=MB, rests=False)
    with monkeypatch.context() as broken:
        broken.setattr(delivery.queue, "take", sys.exit)
        broken.setattr(delivery.link, "fail", sys.exit)
        delivery.put(batch(0))
        delivery._worker.join(20)
        assert delivery.is_away
    delivery.put(batch(1))
    assert not delivery.is_away
    assert delivery.close(20)
    assert place.received == [b"0", b"1"]
    assert not delivery.is_away


def with_file(folder: Path, number: int) -> Batch:
    path = folder / str(number)
    path.write_bytes(os.urandom(200_000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return logs("artifact", None, {semconv.PAYLOAD_URI: str(path), semconv.PAYLOAD_SHA256: digest})


def test_the_limit_holds_for_payloads_that_are_files_and_they_make_room(tmp_path: Path) -> None:
    for durability in Durability:
        folder = tmp_path / durability.value
        spool = Spool(folder, max_bytes=MB, durability=durability)
        for _ in range(2):
            taken = 0
            with pytest.raises(SpoolFullError):  # noqa: PT012
                while True:
                    spool.append(with_file(tmp_path, taken))
                    taken += 1
            assert taken == 5
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            assert spool.bytes <= MB
            assert sum(sizes) <= MB + 100  # the position
            spool.append(logs("text", b"small"))
            while (following := spool.next()) is not None:
                spool.remove(following[0])
            assert not list((folder / "media").iterdir())
        spool.close()


def test_the_limit_of_json_lines_holds_for_payloads_that_are_files(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "lines", max_bytes=MB)
    with pytest.raises(SpoolFullError):  # noqa: PT012
        for number in range(20):
            lines.append(with_file(tmp_path, number))
    assert sum(path.stat().st_size for path in (tmp_path / "lines").rglob("*") if path.is_file()) <= MB


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.MEMORY])
def test_the_order_stays_after_a_full_disk_and_a_full_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    batches = [metrics("1", range(3)), metrics("2", range(3)), logs("status", b"", {"name": "end"})]
    memory = sum(one.size for one in batches[:2]) + 10
    queue = queue_in(tmp_path, memory=memory, durability=durability)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "append", full)
        for one in batches[:2]:
            queue.append(one, away=True)
        with pytest.raises(QueueFullError, match="No space left"):
            queue.append(metrics("3", range(3)), away=True)
        if durability is Durability.PROCESS:  # the end of a run is kept
            queue.append(batches[2])
    if durability is Durability.MEMORY:
        queue.append(batches[2])
    found: list[str] = []
    while (one := oldest(queue)) is not None:
        found.append(name(one))
        queue.done()
    assert found == ["1", "2", "end"]


def test_what_is_appended_while_the_oldest_is_in_hand_comes_after_it(tmp_path: Path) -> None:
    """Records too: no rule of signals lets them overtake."""
    for durability in Durability:
        for memory in (0, MB):
            queue = queue_in(tmp_path / f"{durability.value} {memory}", memory=memory, durability=durability)
            put = [metrics("0", range(1)), metrics("1", range(1))]
            put += [
                logs("text", b"x", {"name": "2"}),
                logs("status", b"", {"name": "3"}),
                metrics("4", range(1)),
            ]
            queue.append(put[0], away=not memory)
            found = [name(queue.take())]
            for one in put[1:]:
                queue.append(one, away=True)
            queue.done()
            while (following := oldest(queue)) is not None:
                found.append(name(following))
                queue.done()
            assert found == ["0", "1", "2", "3", "4"]
            queue.close()


@pytest.mark.parametrize("durability", Durability)
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability) -> None:
    one = metrics("m", range(5))
    queue = queue_in(tmp_path, memory=10 * one.size, durability=durability)

    def held() -> int:
        items = {id(item): item.batch.size for item in (*queue._cached, *queue._unwritten)}
        assert queue._bytes == sum(items.values())
        return len(items)

    for _ in range(30):
        queue.append(one)
        assert held() <= 10
    for _ in range(15):
        queue.take()
        queue.done()
        assert held() <= 10

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    if durability is not Durability.DISK:
        monkeypatch.setattr(Segment, "append", full)
        with pytest.raises(QueueFullError):  # noqa: PT012
            for _ in range(11):
                queue.append(one)
                assert held() <= 10
        assert held() == 10
    while queue:
        queue.take()
        queue.done()
    assert queue._bytes == 0


@pytest.mark.parametrize("durability", Durability)
def test_a_folder_that_is_removed_is_made_again_and_what_it_held_is_lost(
    tmp_path: Path, durability: Durability
) -> None:
    folder = tmp_path / "state" / "spool"
    away = threading.Event()
    away.set()

    def fail(attempt: int) -> Exception | None:
        return TransientError("away") if away.is_set() else None

    place = Place(fail=fail)
    size = real_batch(0).size
    spool = Spool(folder, max_bytes=100 * MB, durability=durability)
    delivery = Delivery("place", place, max_queue_bytes=3 * size + 20, spool=spool, rests=False)
    for number in range(10):
        given = real_batch(number)
        delivery.put(Batch(metrics=given.metrics, points=1, size=given.size, source="rank 0"))
        while not delivery.is_away:
            time.sleep(0.01)
    in_memory = 1 if durability is Durability.MEMORY else 3
    assert delivery.counts_of("rank 0").waiting_points == 10
    shutil.rmtree(tmp_path / "state")
    assert delivery.counts_of("rank 0").waiting_points == in_memory
    assert delivery.counts_of("rank 0").dropped_points == 10 - in_memory
    assert "were removed" in delivery.last_error
    assert folder.exists()
    given = real_batch(10)
    delivery.put(Batch(metrics=given.metrics, points=1, size=given.size, source="rank 0"))
    assert sum(one.points for one in read(folder)) == in_memory + 1
    away.clear()
    assert delivery.close(30)
    assert tags(place.received) == [*numbers(in_memory), b"10"]
    assert delivery.counts.dropped_points == 10 - in_memory
    assert delivery.counts_of("rank 0").waiting_points == 0


def test_a_folder_that_is_removed_at_the_end_is_not_said_to_hold_anything(tmp_path: Path) -> None:
    place = Place(fail=lambda attempt: TransientError("away"))
    spool = Spool(tmp_path / "spool", max_bytes=MB)
    delivery = Delivery("place", place, max_queue_bytes=0, spool=spool, rests=False)
    for number in range(5):
        delivery.put(real_batch(number))
    while not place.attempts:
        time.sleep(0.01)
    shutil.rmtree(tmp_path / "spool")
    assert not delivery.close(0.2)
    on_disk = sum(one.points for one in read(tmp_path / "spool"))
    assert (on_disk, delivery.counts.spooled_points, delivery.counts.dropped_points) == (1, 1, 4)


def test_the_folder_is_durable_when_files_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    queue = queue_in(tmp_path / "spool", limit=16 * 400)
    folder, media = str(tmp_path / "spool"), str(tmp_path / "spool" / "media")
    queue.append(metrics("a", range(5)))
    files(queue).sync()
    assert synced == [f"{folder}/000001.otlp", folder]
    synced.clear()
    queue.append(metrics("a", range(1)))
    files(queue).sync()
    assert synced == [f"{folder}/000002.otlp", folder]
    synced.clear()
    for _ in range(2):
        queue.take()
        queue.done()
    queue.append(metrics("a", range(1)))
    files(queue).sync()
    assert not (tmp_path / "spool" / "000001.otlp").exists()
    assert synced[-1] == folder
    queue.close()
    synced.clear()
    queue = queue_in(tmp_path / "other")
    given = with_file(tmp_path, 1)
    queue.append(given)
    files(queue).sync()
    folder, media = str(tmp_path / "other"), str(tmp_path / "other" / "media")
    assert [path.replace(folder, "") for path in synced][1:] == ["/media", "/000001.otlp", ""]
    assert synced[0].startswith(f"{media}/")
    queue.close()
