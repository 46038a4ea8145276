from __future__ import annotations

import errno
import hashlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.delivery.spool.test_spool import logs, metrics
from tests.delivery.test_delivery import Place, tags
from tracelet_otel import semconv
from tracelet_otel.delivery import urgency
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool import SpoolFullError
from tracelet_otel.delivery.spool import spool as spools
from tracelet_otel.delivery.spool.frame import Entry
from tracelet_otel.delivery.spool.group_commit import GroupCommit
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.segment import POSITION, Segment
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics

MB = 1024 * 1024


def queue_in(
    folder: Path,
    *,
    memory: int = MB,
    limit: int = 100 * MB,
    durability: Durability = Durability.DISK,
    recovered: Callable[[Batch], None] | None = None,
) -> Queue:
    def found(entry: Entry, load: Callable[[], Batch | None]) -> None:
        if recovered is not None and (batch := load()) is not None:
            recovered(batch)

    spool = Spool(folder, max_bytes=limit, durability=durability, recovered=found)
    return Queue("place", max_bytes=memory, spool=spool)


def spool_in(folder: Path, *, limit: int = 100 * MB) -> Spool:
    return Spool(folder, max_bytes=limit, durability=Durability.DISK)


def files(queue: Queue) -> Spool:
    assert queue.spool is not None
    return queue.spool


def oldest(queue: Queue) -> Batch | None:
    return queue.take() if queue else None


def name(batch: Batch | None) -> str:
    assert batch is not None
    if isinstance(batch.metrics, bytes):
        return next(decode_series(parse_metrics(batch.metrics))).tag
    assert isinstance(batch.logs, bytes)
    [record] = decode_records(parse_logs(batch.logs))
    return str(record.attributes["name"])


def record(number: int, kind: str = "text") -> Batch:
    return logs(kind, b"x", {"name": str(number)})


def test_what_was_appended_is_there_before_and_after_it_is_sent(tmp_path: Path) -> None:
    spool = queue_in(tmp_path)
    spool.append(metrics("a", range(3)))
    assert (sum(batch.points for batch in read(tmp_path)), files(spool).points) == (3, 3)
    assert name(oldest(spool)) == "a"
    assert name(oldest(spool)) == "a"
    spool.done()
    assert (files(spool).points, bool(spool)) == (0, False)
    spool.close()
    assert not list(tmp_path.glob("*.otlp"))


@pytest.mark.parametrize("memory", [0, 1000, MB])
@pytest.mark.parametrize("kill", [False, True])
def test_nothing_is_lost_and_nothing_comes_twice_over_restarts(
    tmp_path: Path, memory: int, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends, removals and restarts at random; each signal of a file keeps its order."""
    monkeypatch.setattr(spools, "SEGMENT_BYTES", 3000)
    chance = random.Random(f"{memory} {kill}")
    spool = queue_in(tmp_path / "0", memory=memory)
    put: list[str] = []
    got: list[str] = []
    for number in range(600):
        what = chance.random()
        if what < 0.5:
            batch = metrics(f"m{number}", range(chance.randrange(1, 4))) if what < 0.3 else record(number)
            spool.append(batch)
            put.append(name(batch))
        elif what < 0.6:
            spool.append(record(number, "status"))
            put.append(str(number))
        elif what < 0.63:
            points, records = files(spool).points, files(spool).records
            left = files(spool).folder
            if kill:  # as the files are in the middle
                left = shutil.copytree(left, tmp_path / str(number))
            spool.close()
            recovered: list[Batch] = []
            spool = queue_in(left, memory=memory, recovered=recovered.append)
            assert (files(spool).points, files(spool).records) == (points, records)
            assert sorted([*got, *map(name, recovered)]) == sorted(put)
        elif spool:
            got.append(name(oldest(spool)))
            spool.done()
    while oldest(spool) is not None:
        got.append(name(oldest(spool)))
        spool.done()
    assert sorted(got) == sorted(put)
    numbers = [int(item.removeprefix("m")) for item in got if item.startswith("m")]
    assert numbers == sorted(numbers)
    numbers = [int(item) for item in got if not item.startswith("m")]
    assert numbers == sorted(numbers)
    assert (files(spool).points, files(spool).records) == (0, 0)
    spool.close()
    assert [path.name for path in files(spool).folder.iterdir()] == [POSITION]


def test_a_status_comes_after_every_point_also_after_a_restart(tmp_path: Path) -> None:
    spool = queue_in(tmp_path)
    spool.append(metrics("m", range(2)))
    spool.append(record(1, "status"))
    spool.close()
    spool = queue_in(tmp_path)
    assert name(oldest(spool)) == "m"
    spool.done()
    assert name(oldest(spool)) == "1"
    assert oldest(spool) is not None
    assert oldest(spool).ends  # type: ignore[union-attr]
    spool.close()


def test_the_source_of_a_batch_is_known_after_a_restart(tmp_path: Path) -> None:
    spool = queue_in(tmp_path)
    for source in ("rank 0", 'odd ,"tracelet.source":"\n', ""):
        batch = metrics(',"tracelet.source":"x"}', range(1))
        spool.append(Batch(metrics=batch.metrics, points=1, size=batch.size, source=source))
    spool.close()
    found: list[str] = []
    queue_in(tmp_path, recovered=lambda batch: found.append(batch.source)).close()
    assert found == ["rank 0", 'odd ,"tracelet.source":"\n', ""]


def test_a_torn_request_is_left_out_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    spool = queue_in(tmp_path)
    for number in range(5):
        spool.append(metrics(str(number), range(1)))
    spool.close()
    [path] = tmp_path.glob("*.otlp")
    [index] = tmp_path.glob("*.index")
    data = bytearray(path.read_bytes())
    size = len(data) // 5
    data[size + size // 2] ^= 1  # in a request
    data[2 * size + 10] ^= 1  # in a head
    path.write_bytes(data[:-9])
    index.write_bytes(index.read_bytes()[:-5])
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool_in(tmp_path), rests=False)
    assert delivery.flush(5)
    delivery.put(metrics("5", range(1)))
    assert delivery.close(5)
    assert tags(place.received) == [b"0", b"3", b"5"]
    assert delivery.counts.dropped_points in (1, 2)  # the index knows of it, or nothing does


@pytest.mark.parametrize("content", [b"", b"\0" * 45, b"000001 garbage", b"999999999999 %015d\n" % 0])
def test_a_position_that_says_nothing_costs_a_repetition_at_most(tmp_path: Path, content: bytes) -> None:
    spool = queue_in(tmp_path)
    spool.append(metrics("a", range(1)))
    spool.append(metrics("b", range(1)))
    oldest(spool)
    spool.done()
    spool.close()
    (tmp_path / POSITION).write_bytes(content)
    spool = queue_in(tmp_path)
    expected = [] if content.startswith(b"9") else ["a", "b"]  # a position ahead is one of a lost file
    found: list[str] = []
    while oldest(spool) is not None:
        found.append(name(oldest(spool)))
        spool.done()
    spool.close()
    assert found == expected


def test_the_limit_counts_what_is_not_delivered(tmp_path: Path) -> None:
    spool = queue_in(tmp_path, limit=20_000)
    for _ in range(20):
        with pytest.raises(SpoolFullError):  # noqa: PT012
            while True:
                spool.append(metrics("m", range(5)))
        assert 15_000 < files(spool).bytes <= 20_000
        assert sum(path.stat().st_size for path in tmp_path.glob("0*")) == files(spool).bytes
        while oldest(spool) is not None:
            spool.done()
    spool.close()


def test_media_stay_as_long_as_a_record_names_them(tmp_path: Path) -> None:
    payload = b"p" * 3000
    digest = hashlib.sha256(payload).hexdigest()
    source = tmp_path / "temporary"
    source.write_bytes(payload)
    named = {semconv.PAYLOAD_URI: str(source), semconv.PAYLOAD_SHA256: digest}
    spool = queue_in(tmp_path / "s")
    for _ in range(2):
        spool.append(logs("image", None, named))
    source.unlink()
    spool.close()
    spool = queue_in(tmp_path / "s")
    for _ in range(2):
        batch = oldest(spool)
        assert batch is not None
        assert isinstance(batch.logs, bytes)
        [found] = decode_records(parse_logs(batch.logs))
        assert found.read() == payload
        spool.done()
    assert not list((tmp_path / "s" / "media").iterdir())
    assert files(spool).bytes == sum(path.stat().st_size for path in (tmp_path / "s").glob("0*"))
    spool.close()


def test_a_digest_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "temporary"
    source.write_bytes(b"p")
    spool = queue_in(tmp_path / "s")
    spool.append(
        logs("image", None, {semconv.PAYLOAD_URI: str(source), semconv.PAYLOAD_SHA256: "../../../out"})
    )
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} >= {"temporary"}
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "s" / "media").iterdir())) == 1
    spool.close()


def test_many_threads_share_a_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = queue_in(tmp_path)
    fsync, sync, calls = os.fsync, GroupCommit.sync, [0]
    begun, may_end = threading.Event(), threading.Event()
    came = queue.Queue[None]()

    def slow(descriptor: int) -> None:
        calls[0] += 1
        begun.set()
        assert may_end.wait(30)
        fsync(descriptor)

    def counted(self: GroupCommit) -> None:
        came.put(None)
        sync(self)

    def work(number: int) -> None:
        spool.append(metrics(f"{number}", range(10)))
        files(spool).sync()

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(GroupCommit, "sync", counted)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
        came.get(timeout=30)
        assert begun.wait(30)  # the first holds the disk from here on
    may_end.set()
    for thread in threads:
        thread.join()
    assert files(spool).points == 160
    assert calls[0] <= 4  # a file and its folder, once for the first and once for all others
    spool.close()


def test_put_says_when_nothing_was_kept_and_what_was_is_sent(tmp_path: Path) -> None:
    place = Place()
    place.gate.clear()
    spool = spool_in(tmp_path, limit=5000)
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool, rests=False)
    count = 0
    with pytest.raises(SpoolFullError):  # noqa: PT012
        while True:
            delivery.put(metrics(str(count), range(2)))
            count += 1
    place.gate.set()
    assert delivery.flush(5)
    delivery.put(metrics("more", range(2)))
    assert delivery.close(5)
    assert tags(place.received) == [*(b"%d" % number for number in range(count)), b"more"]
    assert delivery.counts.dropped_points == 0
    with pytest.raises(OSError, match="closed"):
        delivery.put(metrics("late", range(1)))


def test_a_backend_that_cannot_be_used_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urgency, "LONGEST_BACKOFF_S", 0.05)

    class Refusing(Place):
        def connect(self) -> None:
            super().connect()
            if self.connects < 3:
                raise PermanentError("bad credentials")

    place = Refusing()
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool_in(tmp_path), rests=False)
    delivery.put(metrics("a", range(1)))
    assert place.entered.wait(10)
    assert delivery.close(10)
    assert tags(place.received) == [b"a"]


def test_counts_by_source(tmp_path: Path) -> None:
    place = Place(fail=lambda attempt: PermanentError("no") if attempt == 2 else None)
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool_in(tmp_path), rests=False)
    for number, source in enumerate(["a", "b", "a", ""]):
        batch = metrics(str(number), range(number + 1))
        delivery.put(Batch(metrics=batch.metrics, points=batch.points, size=batch.size, source=source))
    assert delivery.flush(5)
    a, b = delivery.counts_of("a"), delivery.counts_of("b")
    assert (a.captured_points, a.delivered_points, a.spooled_points, a.dropped_points) == (4, 4, 0, 0)
    assert (b.captured_points, b.delivered_points, b.spooled_points, b.dropped_points) == (2, 0, 0, 2)
    assert delivery.counts_of("c").captured_points == 0
    assert delivery.close(5)


def test_what_a_stop_leaves_is_sent_by_the_next_process(tmp_path: Path) -> None:
    away = Place(fail=lambda attempt: TransientError("down"))
    delivery = Delivery("place", away, max_queue_bytes=MB, spool=spool_in(tmp_path), rests=False)
    for number in range(5):
        delivery.put(metrics(str(number), range(3)))
    assert not delivery.close(0.2)
    assert delivery.counts.spooled_points == 15
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=MB, spool=spool_in(tmp_path), rests=False)
    assert delivery.close(5)
    assert tags(place.received) == [b"%d" % number for number in range(5)]
    assert (delivery.counts.captured_points, delivery.counts.delivered_points) == (15, 15)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.delivery.spool.test_durable import oldest, queue_in
from tests.delivery.spool.test_spool import metrics
spool = queue_in(Path(sys.argv[1]))
for number in range(50):
    spool.append(metrics(str(number), range(2)))
    if number % 2:
        oldest(spool)
        spool.done()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_exactly_what_it_had_not_delivered(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    found: list[str] = []
    queue_in(tmp_path, recovered=lambda batch: found.append(name(batch))).close()
    assert found == [str(number) for number in range(25, 50)]


def test_what_the_disk_does_not_take_is_delivered_from_memory_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = queue_in(tmp_path / "spool", durability=Durability.PROCESS)
    batches = [metrics(f"tag {number}", range(number + 1)) for number in range(6)]
    spool.append(batches[0])

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as full:
        full.setattr(Segment, "append", fails)
        spool.append(batches[1])
        spool.append(batches[2])
        assert spool.unwritten() == (5, 0)
        assert spool.unwritten("nobody") == (0, 0)
    spool.append(batches[3])  # there is room again, but it must not overtake the others
    assert spool.unwritten() == (0, 0)
    assert files(spool).points == sum(batch.points for batch in batches[:4])
    for batch in batches[:4]:
        found = oldest(spool)
        assert found is not None
        assert found.metrics == batch.metrics
        spool.done()
    assert not spool
    spool.append(batches[4])
    with monkeypatch.context() as full:
        full.setattr(Segment, "append", fails)
        spool.append(batches[5])
    spool.close()  # there is room: it is kept after all
    again = queue_in(tmp_path / "spool")
    assert files(again).points == batches[4].points + batches[5].points
    again.close()
