"""Trackers' clients that are imported at once."""

from __future__ import annotations

import io
import sys
import threading
from importlib import import_module

import pytest

from tracelet_otel.foundation import importing
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING, without
from tracelet_otel_exporters.clearml.library import load_library


@pytest.mark.parametrize("module", ["aim.changes", "clearml.connection", "mlflow.connection", "wandb.core"])
def test_a_module_that_another_thread_is_importing_is_tried_again(module: str) -> None:
    translated = import_module(f"tracelet_otel_exporters.{module}").errors.translated
    # As CPython words it, Objects/moduleobject.c.
    halfway = AttributeError("partially initialized module 'x' has no attribute 'y' (circular import)")
    assert isinstance(translated(halfway), TransientError)
    assert isinstance(translated(AttributeError("module 'x' has no attribute 'y'")), PermanentError)


def test_clients_are_imported_one_after_the_other() -> None:
    done = threading.Event()

    def load() -> None:
        load_library()
        done.set()

    with IMPORTING:
        thread = threading.Thread(target=load)
        thread.start()
        assert not done.wait(0.3)
    assert done.wait(60)
    thread.join()


def test_a_package_is_hidden_from_one_thread_of_our_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    found: list[object] = []
    monkeypatch.setattr(importing, "_in_own_process", True)
    with without("this"):
        with pytest.raises(ModuleNotFoundError):
            import_module("this")
        thread = threading.Thread(target=lambda: found.append(import_module("this")))
        thread.start()
        thread.join()
    assert found
    del sys.modules["this"]
    assert import_module("this")
    monkeypatch.setattr(importing, "_in_own_process", False)
    del sys.modules["this"]
    with without("this"):
        assert import_module("this")
