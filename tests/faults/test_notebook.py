"""A notebook's kernel."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tests.faults.checker import check_points
from tests.faults.evidence import Place, entries
from tests.faults.trial import DEADLINE_S, SLACK_S, Trial

CELLS = {
    "configure": "import time, journal, tracelet_otel\ntracelet_otel.configure(run_id='first')",
    "log": "journal.log('first', range(100))",
    "fail": "1 / 0",
    "wait": "print('waiting', flush=True)\ntime.sleep(60)",
    "log more": "journal.log('first', range(100, 200))",
    "configure anew": "tracelet_otel.configure(run_id='second')\njournal.log('second', range(100))",
    "configure again": "tracelet_otel.configure(run_id='second')\njournal.log('second', range(100, 200))",
}
ENDS = {"fail": "error", "wait": "error"}


def test_cells_that_configure_several_times(trial: Trial, places: dict[str, Place]) -> None:
    """An error and an interrupt end a cell, not the run; the kernel's end is the last run's."""
    shutil.copy(Path(__file__).with_name("journal.py"), trial.folder)
    environment = trial.agents.environment(**trial.variables)
    environment = {name: value for name, value in environment.items() if value}
    manager: Any = KernelManager(connection_file=str(trial.folder / "kernel.json"))
    manager.shutdown_wait_time = DEADLINE_S + SLACK_S
    with (trial.folder / "stderr").open("wb") as stderr:
        manager.start_kernel(env=environment, cwd=str(trial.folder), stdout=stderr, stderr=stderr)
    client = manager.blocking_client()
    client.start_channels()
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        said.append(message["content"].get("text", ""))
        if said[-1].startswith("waiting"):
            manager.interrupt_kernel()

    try:
        client.wait_for_ready(timeout=60)
        for name, cell in CELLS.items():
            reply = client.execute_interactive(cell, timeout=60, output_hook=hear)
            assert reply["content"]["status"] == ENDS.get(name, "ok"), (name, reply["content"])
    finally:
        client.stop_channels()
        began = time.monotonic()
        manager.shutdown_kernel()
    assert time.monotonic() - began < DEADLINE_S + SLACK_S
    trial.agents.wait_until_gone()
    logged, _ = entries(trial.folder)
    for run_id in ("first", "second"):
        of_run = [entry for entry in logged if entry.tag == run_id]
        assert len(of_run) == 200
        for name, place in places.items():
            check_points(trial, name, place, of_run, of_run, run_id)
            assert place.status(run_id) == "finished", (name, run_id)
    assert "captured 200 points" in "".join(said)
