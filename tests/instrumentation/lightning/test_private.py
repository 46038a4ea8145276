"""What is still recorded of a fit when Lightning has one private name fewer."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest

from tests.instrumentation.lightning.test_lightning import (
    Capture,
    capture,  # noqa: F401 # pyright: ignore[reportUnusedImport]
    data,
    make_model,
    make_trainer,
)
from tracelet_otel.foundation import guard
from tracelet_otel.foundation.private import PrivateName
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.instrumentation.lightning.instrumentor import _LightningHooks
from tracelet_otel.instrumentation.lightning.metrics import metric_log

NAMES = [name for name, value in vars(private).items() if isinstance(value, PrivateName)]
LOST = {
    "LOG_METRICS": {"points"},
    "RUN": {"params", "artifact", "text"},
    "RUN_STAGE": {"params"},
    "SAVE_CHECKPOINT": {"artifact"},
}
"""By name the kinds that cannot be recorded without it."""

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_name_costs_what_it_is_for_and_nothing_else(
    name: str,
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: PrivateName = getattr(private, name)
    assert known.lost
    monkeypatch.setattr(private, name, known._replace(name="of_another_release"))
    monkeypatch.setattr(guard, "raises", False)  # a hook that finds nothing says so, and training goes on
    capture.checkpoints = "best"
    hooks = _LightningHooks("lightning.pytorch")
    hooks.enable()
    try:
        trainer = make_trainer(
            pl, tmp_path, enable_checkpointing=True, enable_model_summary=True, max_epochs=1
        )
        trainer.fit(make_model(pl, lr=0.1), data(), data(2))
    finally:
        hooks.disable()
    metric_log().drain()
    found = {kind for kind in ("params", "artifact", "text") if capture.of(kind)}
    found |= {"points"} if capture.points else set()
    assert found == {"points", "params", "artifact", "text"} - LOST.get(name, set())
