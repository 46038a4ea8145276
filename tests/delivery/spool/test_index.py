"""What a start reads: the index where it fits, else the segment; and spools of the version before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.delivery.spool.test_durable import files, name, oldest, queue_in
from tests.delivery.spool.test_spool import logs, metrics
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.spool import Durability
from tracelet_otel.otlp.decoding import decode_records, parse_logs

BEFORE = Path(__file__).parent / "version_before"
"""A spool as the version before left it: two of five requests are delivered, and one names a file."""


def filled(folder: Path) -> Path:
    """A spool with three requests; the index of its segment."""
    queue = queue_in(folder)
    for number in range(3):
        given = metrics(str(number), range(number + 1))
        keys = ((b"%d" % number, ((0, number + 1),)),)
        queue.append(Batch(metrics=given.metrics, points=given.points, size=given.size, run="r", keys=keys))
    queue.close()
    (index,) = folder.glob("*.index")
    return index


def damage(index: Path, how: str) -> None:
    data = index.read_bytes()
    if how == "missing":
        index.unlink()
    elif how == "cut":
        index.write_bytes(data[: len(data) // 2])
    elif how == "damaged":
        index.write_bytes(data[:50] + b"X" + data[51:])
    elif how == "of another segment":
        other = queue_in(index.parent / "other")
        for number in range(3):
            other.append(metrics(f"other {number}", range(number + 7)))
        other.close()
        shutil.copyfile(index.parent / "other" / index.name, index)


@pytest.mark.parametrize("how", ["whole", "missing", "cut", "damaged", "of another segment"])
def test_an_index_that_does_not_fit_is_made_up_for(tmp_path: Path, how: str) -> None:
    damage(filled(tmp_path), how)
    found: list[Batch] = []
    queue = queue_in(tmp_path, recovered=found.append)
    assert [(name(one), one.run, one.keys) for one in found] == [
        (str(number), "r", ((b"%d" % number, ((0, number + 1),)),)) for number in range(3)
    ]
    assert files(queue).points == 6
    queue.close()


def test_a_start_reads_no_request(tmp_path: Path) -> None:
    index = filled(tmp_path)
    (path,) = tmp_path.glob("*.otlp")
    data = path.read_bytes()
    assert index.stat().st_size < len(data)
    size = path.stat().st_size
    with path.open("r+b") as file:  # nothing but the head of the last one, which the index is compared with
        file.write(b"\0" * (size // 3))
    queue = queue_in(tmp_path)
    assert (files(queue).points, files(queue).bytes) == (6, size + index.stat().st_size)
    queue.close()


@pytest.mark.parametrize("durability", Durability)
def test_a_spool_of_the_version_before_goes_on(tmp_path: Path, durability: Durability) -> None:
    shutil.copytree(BEFORE, tmp_path / "spool")
    found: list[Batch] = []
    queue = queue_in(tmp_path / "spool", durability=durability, recovered=found.append)
    assert not list((tmp_path / "spool").glob("*.jsonl"))
    assert [(one.points, one.records, one.ends) for one in found] == [
        (0, 1, False),
        (3, 0, False),
        (0, 0, True),
    ]
    assert (files(queue).points, files(queue).records) == (3, 1)
    image = oldest(queue)
    assert image is not None
    assert isinstance(image.logs, bytes)
    assert [record.read() for record in decode_records(parse_logs(image.logs))] == [b"p" * 2000]
    queue.done()
    assert name(oldest(queue)) == "waits"
    queue.append(metrics("new", range(1)))
    queue.close()
    queue = queue_in(tmp_path / "spool")
    left: list[Batch] = []
    while (one := oldest(queue)) is not None:
        left.append(one)
        queue.done()
    assert [(one.points, one.ends) for one in left] == [(3, False), (0, True), (1, False)]
    assert not list((tmp_path / "spool" / "media").iterdir())
    queue.close()


def test_a_spool_of_the_version_before_is_read(tmp_path: Path) -> None:
    shutil.copytree(BEFORE, tmp_path / "spool")
    assert [(one.points, one.records, one.ends) for one in read(tmp_path / "spool")] == [
        (0, 1, False),
        (3, 0, False),
        (0, 0, True),
    ]
    (tmp_path / "spool" / "position").unlink()
    assert [one.points for one in read(tmp_path / "spool")] == [0, 0, 2, 3, 0]


def test_a_spool_is_exported(tmp_path: Path) -> None:
    queue = queue_in(tmp_path / "spool" / "mlflow")
    source = tmp_path / "payload"
    source.write_bytes(b"p" * 3000)
    named = {"tracelet.payload.uri": str(source), "tracelet.payload.sha256": "d1"}
    for one in (logs("run", b"{}"), logs("image", None, named), metrics("m", range(3)), logs("status", b"")):
        queue.append(one)
    queue.take()
    queue.close()
    (tmp_path / "spool" / "mlflow" / "routes.json").write_text("{}")
    command = [sys.executable, "-m", "tracelet_otel.cli", "export", str(tmp_path / "spool"), "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/spool/mlflow: 4 requests -> out/mlflow\n"
    out = tmp_path / "out" / "mlflow"
    names = ["000001.logs.jsonl", "000001.metrics.jsonl", "000002.logs.jsonl", "media", "routes.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [len(path.read_text().splitlines()) for path in sorted(out.glob("*.jsonl"))] == [2, 1, 1]
    assert list(json.loads((out / names[1]).read_text())) == ["resourceMetrics"]
    assert (out / "media" / "d1").read_bytes() == b"p" * 3000
    assert [(one.points, one.records, one.ends) for one in read(out)] == [
        (one.points, one.records, one.ends) for one in read(tmp_path / "spool" / "mlflow")
    ]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (2, "tracelet-otel: out is not empty\n")
