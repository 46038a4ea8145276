"""A disk that is full while a script trains: as far as a limit of the size of files is one."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.agents import Agents
from tests.support.clearml_subject import ClearMLSubject
from tests.support.contract_data import LoggedPoint, check_points
from tests.support.scripts import run_script
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.otlp.decoding import decode_series, parse_metrics

POINTS = 20_000
LIMIT = 600_000
"""Bytes of a file. Some thousand points of a spool fit in, all of them do not, nor does the picture."""
SCRIPT = f"""
import json, os, resource, sys, time
import numpy as np
import tracelet_otel
from tracelet_otel.session import process

tracelet_otel.configure(backends=json.loads(os.environ["BACKENDS"]), run_id="full", run_name="full")
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, resource.RLIM_INFINITY))  # an agent inherits it
for step in range({POINTS}):
    tracelet_otel.log_scalar("loss", step / 4, step, wall_time=1_700_000_000 + step)
deliveries = process.session()._deliveries
while any(delivery.counts.captured_points < {POINTS} for delivery in deliveries):
    time.sleep(0.01)
tracelet_otel.log_image("noise", np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8), 1)

def has_all():
    for delivery in deliveries:
        if delivery.name == "agent":
            report = delivery.client.report()
            counts = {{item.name: item for item in report.backends}}.get("clearml") if report else None
        elif delivery.name == "clearml":
            counts = delivery.counts
        else:
            continue
        return counts is not None and (counts.delivered_points, counts.delivered_records) == ({POINTS}, 1)

while not has_all():
    time.sleep(0.01)
print("trained")
sys.exit(3)
"""


@pytest.fixture
def clearml(tmp_path: Path) -> Iterator[ClearMLSubject]:
    subject = ClearMLSubject(tmp_path)
    yield subject
    subject.close()


def steps(spool: Path) -> list[int]:
    """Of the points in a spool, whose values are checked."""
    points = [
        point
        for batch in read(spool)
        if isinstance(batch.metrics, bytes)
        for series in decode_series(parse_metrics(batch.metrics))
        for point in series.points
    ]
    assert all(point.value == point.step / 4 for point in points)
    return [point.step for point in points]


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_full_disk(tmp_path: Path, agents: Agents, clearml: ClearMLSubject, isolation: str) -> None:
    """One backend is away and needs the disk, one is the disk, and one takes everything."""
    backends = {
        "clearml": {"config_file": str(clearml.config)},
        "mlflow": {"tracking_uri": "http://127.0.0.1:1"},
        "file": {"path": str(tmp_path / "kept")},
    }
    variables = {
        **agents.variables,
        "TRACELET_ISOLATION": isolation,
        "TRACELET_SHUTDOWN_TIMEOUT": "5",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "BACKENDS": json.dumps(backends),
    }
    done = run_script(tmp_path, SCRIPT, zero_code=False, variables=variables)
    agents.wait_until_gone()
    assert (done.returncode, done.stdout) == (3, "trained\n"), done.stderr
    said = [line.removeprefix("tracelet-otel: ") for line in done.stderr.splitlines()]
    closing = {line.split(":")[0]: line for line in said if ": captured " in line}
    assert closing.keys() == backends.keys(), done.stderr

    # What needs no disk is whole.
    assert closing["clearml"].startswith("clearml: captured 20,000 points and 1 record, delivered all -> ")
    logged = [
        LoggedPoint("loss", None, step, step / 4, (1_700_000_000 + step) * 10**9) for step in range(POINTS)
    ]
    check_points(clearml, "full", logged, clearml.make().capabilities.time_resolution_ns)
    (picture,) = [media for media in clearml.media("full") if media.kind == "image"]
    expected = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.content))), expected)
    assert clearml.status("full") == "failed"

    # What does is counted: as much as there is, its beginning, and the rest with the reason.
    full = r"\[Errno 28\] No space left on device"
    rest = {
        "process": r"only in memory of the agent \(process \d+\) ([\d,]+) points and 1 record",
        "thread": r"dropped ([\d,]+) points and 1 record",
    }[isolation]
    match = re.match(
        r"mlflow: captured 20,000 points and 1 record, delivered nothing, spooled ([\d,]+) points, "
        rf"{rest}: its spool cannot be written: {full}: .*tracelet-otel replay (\S+) --backend mlflow",
        closing["mlflow"],
    )
    assert match is not None, closing["mlflow"]
    assert number(match[1]) + number(match[2]) == POINTS
    assert number(match[1]) > 0
    assert sorted(steps(Path(match[3]))) == list(range(number(match[1])))
    match = re.match(
        r"file: captured 20,000 points and 1 record, delivered ([\d,]+) points, "
        rf"dropped ([\d,]+) points and 1 record: cannot write \S+: {full}: ",
        closing["file"],
    )
    assert match is not None, closing["file"]
    assert number(match[1]) + number(match[2]) == POINTS
    assert sorted(steps(tmp_path / "kept")) == list(range(number(match[1])))
    assert number(match[1]) > 0

    # And said when it happened, once: by whoever it happened to.
    assert len([line for line in said if line.startswith("file: cannot write ")]) == 1
    if isolation == "process":
        kept = [line for line in agents.log().splitlines() if "cannot write the spool, " in line]
        assert Counter("mlflow: " in line for line in kept) == {True: 1, False: 1}
    else:
        assert len([line for line in said if line.startswith("mlflow: cannot write the spool, ")]) == 1
    assert "Traceback" not in done.stderr + agents.log()
