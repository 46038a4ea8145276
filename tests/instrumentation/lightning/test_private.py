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
from tests.support.private_names import rename
from tracelet_otel.foundation import guard
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.instrumentation.lightning.instrumentor import _LightningHooks
from tracelet_otel.instrumentation.lightning.metrics import metric_log

LOST = {
    private.LOG_METRICS: {"points"},
    private.RUN: {"params", "artifact", "text"},
    private.RUN_STAGE: {"params"},
    private.SAVE_CHECKPOINT: {"artifact"},
}
"""By name the kinds that cannot be recorded without it."""

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [*private.LIGHTNING], ids=lambda name: name.path)
def test_a_missing_name_costs_what_it_is_for_and_nothing_else(
    name: PrivateName,
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rename(monkeypatch, name)
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
