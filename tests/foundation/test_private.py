"""Everything but what it is for works without any one of OpenTelemetry's private names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.scripts import clean_environment
from tracelet_otel.foundation import private
from tracelet_otel.foundation.private_names import PrivateName

# The name is taken away from us, since OpenTelemetry itself needs it.
SCRIPT = """
from tracelet_otel.foundation import private
[name] = [name for name in private.OPENTELEMETRY if name.path == {path!r}]
name.attribute += "_of_another_release"
import tracelet_otel, tracelet_otel.distro
tracelet_otel.configure("file", isolation="thread", spool_dir={folder!r})
tracelet_otel.log_scalar("loss", 0.5, 1)
tracelet_otel.log_text("note", "read me")
assert tracelet_otel.flush()
tracelet_otel.shutdown()
"""


@pytest.mark.parametrize("name", [*private.OPENTELEMETRY], ids=lambda name: name.path)
def test_a_missing_name_costs_what_it_is_for_and_nothing_else(name: PrivateName, tmp_path) -> None:
    assert "()" in name.path or name.get(default=name) is not name
    script = SCRIPT.format(path=name.path, folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl"))
    assert b"loss" in kept
    assert (b"tracelet.text" in kept) == (name is not private.LOG_ENCODER)
