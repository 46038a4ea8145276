from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool import SpoolFullError, json_lines
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.delivery.spool.reading import folders, read
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics
from tracelet_otel.otlp.json import logs_line, metrics_line, parse_line


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def metrics(tag: str, steps: range, *, value: float = 0.1) -> Batch:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=semconv.SCALAR)
    point = metric.gauge.data_points.add(as_double=value, time_unix_nano=7)
    point.attributes.extend([text(semconv.TAG, tag), text(semconv.RUN_ID, "r")])
    for step in steps:
        exemplar = point.exemplars.add(as_double=value, time_unix_nano=1_700_000_000_123_456_789 + step)
        exemplar.filtered_attributes.add(key=semconv.STEP, value=AnyValue(int_value=step))
        exemplar.trace_id, exemplar.span_id = b"\x01" * 16, b"\xfe" * 8
    data = request.SerializeToString()
    return Batch(metrics=data, points=len(steps), size=len(data))


def logs(kind: str, payload: bytes | None = None, attributes: Mapping[str, str] | None = None) -> Batch:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.event_name = semconv.EVENT_PREFIX + kind
    if payload is not None:
        record.body.bytes_value = payload
    record.trace_id, record.severity_text = b"\x02" * 16, "INFO"
    record.attributes.append(text(semconv.RUN_ID, "r"))
    record.attributes.extend(text(key, value) for key, value in (attributes or {}).items())
    data = request.SerializeToString()
    return Batch(logs=data, records=int(kind not in ("run", "status")), size=len(data), ends=kind == "status")


def drain(spool: Spool) -> list[Batch]:
    found: list[Batch] = []
    while (following := spool.next()) is not None:
        stored, batch = following
        assert batch is not None
        found.append(batch)
        spool.remove(stored)
    return found


def test_metrics_come_back_as_they_were() -> None:
    batch = metrics("loss/µ", range(-3, 4), value=5e-324)
    assert isinstance(batch.metrics, bytes)
    line = metrics_line(ExportMetricsServiceRequest.FromString(batch.metrics))
    assert parse_line(line) == ExportMetricsServiceRequest.FromString(batch.metrics)
    point = json.loads(line)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0]
    # as the specification has it: 64-bit integers are texts, ids hexadecimal
    assert point["exemplars"][0]["timeUnixNano"] == "1700000000123456786"
    assert (point["exemplars"][0]["traceId"], point["exemplars"][0]["spanId"]) == ("01" * 16, "fe" * 8)
    assert point["exemplars"][0]["filteredAttributes"] == [
        {"key": "tracelet.step", "value": {"intValue": "-3"}}
    ]


def test_metrics_of_other_kinds_come_back() -> None:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    histogram = scope.metrics.add(name="h").histogram.data_points.add(count=2, sum=math.inf, min=-math.inf)
    histogram.bucket_counts.extend([1, 1])
    histogram.explicit_bounds.append(0.5)
    exemplar = histogram.exemplars.add(as_int=-5)
    exemplar.filtered_attributes.append(text("a", "b"))
    scope.metrics[0].histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    scope.metrics.add(name="s").sum.data_points.add(as_double=math.inf).exemplars.add(as_double=-math.inf)
    again = parse_line(metrics_line(ExportMetricsServiceRequest.FromString(request.SerializeToString())))
    assert again == request
    assert '"aggregationTemporality":2' in metrics_line(request)


def test_logs_come_back_as_they_were() -> None:
    batch = logs("text", bytes(range(256)))
    assert isinstance(batch.logs, bytes)
    request = ExportLogsServiceRequest.FromString(batch.logs)
    line = logs_line(request)
    assert json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["traceId"] == "02" * 16
    assert parse_line(line) == request


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"resourceMetrics": 5}', '{"resourceMetrics": [{"scopeMetrics": [7]}]}', "{"]
)
def test_a_line_that_is_no_otlp_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_line(line)


def test_what_was_appended_is_drained_in_order_and_the_folder_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", max_bytes=10**9)
    assert not spool
    assert not (tmp_path / "s").exists()
    spool.append(logs("run"))
    for number in range(5):
        spool.append(metrics(f"t{number}", range(3)))
    spool.append(logs("status"))
    spool.append(logs("text", b"of the next run"))
    assert (spool.points, spool.records) == (15, 1)
    drained = drain(spool)
    assert [batch.logs is not None for batch in drained] == [
        True,
        False,
        False,
        False,
        False,
        False,
        True,
        True,
    ]
    assert [batch.ends for batch in drained[-2:]] == [True, False]
    assert (spool.points, spool.records) == (0, 0)
    spool.close()
    assert not (tmp_path / "s").exists()


def test_a_spool_is_drained_while_it_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", max_bytes=10**9)
    tags: list[str] = []
    for number in range(40):
        spool.append(metrics(f"{number:02d}", range(2)))
        if number % 3 == 0:
            following = spool.next()
            assert following is not None
            stored, batch = following
            assert batch is not None
            assert isinstance(batch.metrics, bytes)
            tags += [series.tag for series in decode_series(parse_metrics(batch.metrics))]
            spool.remove(stored)
    for batch in drain(spool):
        assert isinstance(batch.metrics, bytes)
        tags += [series.tag for series in decode_series(parse_metrics(batch.metrics))]
    assert tags == [f"{number:02d}" for number in range(40)]


def test_files_of_json_lines_are_of_one_signal_and_rotate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "FILE_BYTES", 2000)
    lines = JsonLines(tmp_path, max_bytes=10**9)
    for number in range(10):
        lines.append(metrics(str(number), range(5)))
        lines.append(logs("text", b"x"))
    lines.close()
    names = sorted(path.name for path in tmp_path.glob("*"))
    assert len(names) > 4
    for path in tmp_path.glob("*.jsonl"):
        key = "resourceMetrics" if ".metrics." in path.name else "resourceLogs"
        assert all(list(json.loads(line)) == [key] for line in path.read_text().splitlines())
    assert sum(batch.points for batch in read(tmp_path)) == 50
    assert sum(batch.records for batch in read(tmp_path)) == 10


def test_in_json_lines_the_end_of_a_run_comes_after_its_points(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path, max_bytes=10**9)
    for batch in (metrics("a", range(2)), logs("text", b"x"), logs("status"), metrics("b", range(1))):
        lines.append(batch)
    lines.close()
    assert [(batch.points, batch.records, batch.ends) for batch in read(tmp_path)] == [
        (0, 1, False),
        (2, 0, False),
        (0, 0, True),
        (1, 0, False),
    ]


def test_the_limit_keeps_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2000)
    spool.append(metrics("kept", range(3)))
    with pytest.raises(SpoolFullError, match="TRACELET_MAX_SPOOL_BYTES"):
        spool.append(metrics("too much", range(100)))
    assert spool.points == 3
    assert len(drain(spool)) == 1
    spool.append(metrics("there is room again", range(3)))


def test_media_moves_with_the_spool(tmp_path: Path) -> None:
    payload = b"p" * 3000
    digest = hashlib.sha256(payload).hexdigest()
    source = tmp_path / "temporary"
    source.write_bytes(payload)
    spool = Spool(tmp_path / "here", max_bytes=10**6)
    spool.append(logs("image", None, {semconv.PAYLOAD_URI: str(source), semconv.PAYLOAD_SHA256: digest}))
    spool.close()
    source.unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    (batch,) = read(tmp_path / "there")
    assert isinstance(batch.logs, bytes)
    (record,) = decode_records(parse_logs(batch.logs))
    assert record.read() == payload


def test_a_torn_last_line_and_a_bad_one_cost_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = JsonLines(tmp_path, max_bytes=10**9)
    for number in range(3):
        lines.append(metrics(str(number), range(2)))
    lines.close()
    (path,) = tmp_path.glob("*.jsonl")
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"garbage\n" + second + third[:-20])
    assert sum(batch.points for batch in read(tmp_path)) == 4
    assert "a line is skipped" in caplog.text


def test_spools_are_found_oldest_first(tmp_path: Path) -> None:
    for name in ("b/mlflow", "a/wandb", "a/mlflow"):
        spool = Spool(tmp_path / name, max_bytes=10**9)
        spool.append(metrics("t", range(1)))
    assert [str(folder.relative_to(tmp_path)) for folder in folders(tmp_path)] == [
        "a/mlflow",
        "a/wandb",
        "b/mlflow",
    ]


COPY_FAILS = """
import errno, os, resource, sys
from pathlib import Path
from tests.delivery.spool.test_spool import logs
from tracelet_otel.delivery.spool.spool import Spool

def no_links(*_):
    raise OSError(errno.EXDEV, "another file system")

os.link = no_links
payload = Path(sys.argv[1], "payload")
payload.write_bytes(bytes(range(256)) * 1000)
named = logs("image", None, {"tracelet.payload.uri": payload.as_uri(), "tracelet.payload.sha256": "d1"})
spool = Spool(Path(sys.argv[1], "spool"), max_bytes=10**9)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    spool.append(named)
except OSError as error:
    print(errno.errorcode[error.errno], os.listdir(spool.folder / "media"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(named)
(kept,) = (spool.folder / "media").iterdir()
print(kept.name, kept.read_bytes() == payload.read_bytes())
"""


def test_a_payload_that_was_copied_in_part_is_copied_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COPY_FAILS, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["EFBIG []", "d1 True"], done.stdout + done.stderr


DISK_FULL = """
import resource, sys
from pathlib import Path
from tests.delivery.spool.test_spool import metrics
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.delivery.spool.reading import read
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: an error, no signal
spool = Spool(Path(sys.argv[1]), max_bytes=10**9)
spool.append(metrics("kept", range(10)))
size = sum(path.stat().st_size for path in Path(sys.argv[1]).glob("*.otlp"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    spool.append(metrics("does not fit", range(10)))
except OSError as error:
    print(type(error).__name__, error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(metrics("fits again", range(10)))
spool.close()
print(sum(batch.points for batch in read(Path(sys.argv[1]))))
"""


def test_a_write_that_fails_in_the_middle_leaves_no_torn_request(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["OSError 28", "20"], done.stderr
