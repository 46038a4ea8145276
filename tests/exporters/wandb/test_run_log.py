"""Reads the logs that W&B's client leaves of offline runs."""

from __future__ import annotations

import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tracelet_otel_exporters.wandb import run_log


def test_a_damaged_record_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    records = [
        messages.Record(run={"project": "vision"}).SerializeToString(),
        b"\x0a\xff",  # as after a loss of power: a length without its bytes
        messages.Record(history={}).SerializeToString(),
    ]
    path = tmp_path / "run-1.wandb"
    content = b":W&B" + bytes(3)
    path.write_bytes(content + b"".join(struct.pack("<IHB", 1, len(one), 1) + one for one in records))
    found = run_log.read([path])
    assert (found.settings["project"], found.rows) == ("vision", 1)
    assert "a record is skipped" in caplog.text
