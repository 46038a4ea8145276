"""Trackers' clients that are imported at once."""

from __future__ import annotations

import threading
from importlib import import_module

import pytest

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING
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
