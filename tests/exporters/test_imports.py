"""A tracker's client that could not be imported once can be imported later, without a new agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import run_script
from tracelet_otel_exporters.clearml.library import COPY

SCRIPT = """
import errno, importlib, sys
from tracelet_otel.foundation.errors import DeliveryError
from tracelet_otel.foundation.importing import say_own_process

class NoDescriptor:
    failed = False

    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")

sys.meta_path.insert(0, finder := NoDescriptor())
say_own_process()
load = {load}
try:
    load()
except (DeliveryError, OSError) as error:
    print(error)
assert finder.failed
load()
"""


LOADS = {
    "mlflow": ("tracker", "MLflowTracker('http://[::1]:9').load"),
    "wandb": ("tracker", "WandbTracker(mode='offline').load"),
    "aim": ("tracker", "AimTracker('aim://[::1]:9').load"),
    "clearml": ("library", "load_library"),
}
FAILING = {
    "mlflow": "mlflow.tracking.client",
    "wandb": "wandb.sdk",
    "aim": "aim.sdk",
    "clearml": f"{COPY}.backend_api.session.defs",
}


@pytest.mark.parametrize("name", LOADS)
def test_a_client_that_failed_to_be_imported_is_imported_later(tmp_path: Path, name: str) -> None:
    module, load = LOADS[name]
    load = f"importlib.import_module('tracelet_otel_exporters.{name}.{module}').{load}"
    done = run_script(tmp_path, SCRIPT.format(module=FAILING[name], load=load), zero_code=False)
    assert done.returncode == 0, done.stderr
    assert "Too many open files" in done.stdout
