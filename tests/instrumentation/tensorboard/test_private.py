"""What is still recorded of a script when a TensorBoard library has one private name fewer."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from tests.instrumentation.conftest import Captured, Library
from tests.support.private_names import rename
from tracelet_otel.foundation import guard
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.instrumentation.tensorboard import private

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")

FOUND = {"point a", "point s", "text t", "params", "embedding word", "embedding a/b"}
"""What is recorded with every name there, by kind and tag."""

LOST = {private.ENCODE_TAG: {"embedding a/b"}}
"""By name what is not recorded without it."""


@pytest.mark.parametrize("name", [None, *private.TENSORBOARD], ids=lambda name: name and name.path)
def test_a_missing_name_costs_what_it_is_for_and_nothing_else(
    library: Library,
    name: PrivateName | None,
    captured: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if name is not None:
        rename(monkeypatch, name)
        monkeypatch.setattr(guard, "raises", False)  # a hook that finds nothing says so, and training goes on
    with caplog.at_level(logging.WARNING, "tracelet_otel"), library.SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1)
        writer.add_scalars("s", {"b": 2})
        writer.add_text("t", "text")
        writer.add_hparams({"lr": 0.1}, {"a": 1})
        for tag in ("word", "a/b"):
            writer.add_embedding(torch.rand(4, 2), tag=tag)
        event_writer = writer.file_writer.event_writer
    late = library.Event(step=2)
    late.summary.value.add(tag="closed", simple_value=1)
    with contextlib.suppress(OSError):  # TensorBoard's own writer refuses it, tensorboardX's ignores it
        event_writer.add_event(late)

    found = {f"point {tag.partition('/:')[0]}" for tag in captured.by_tag()}
    found |= {
        f"{record.kind} {record.tag}".strip().removesuffix("/text_summary")
        for record in captured.records()
        if record.attributes.get("tracelet.file.name") != "projector_config.pbtxt"
    }
    more = {"point closed"} if name is private.CLOSED and library.name == "tensorboardX" else set[str]()
    assert found == (FOUND - LOST.get(name, set[str]()) if name else FOUND) | more
    assert (f"has no {private.ENCODE_TAG.path}" in caplog.text) == (name is private.ENCODE_TAG)
