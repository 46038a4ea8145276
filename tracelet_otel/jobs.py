"""Which run a job gets: Hydra's, or a trial of a worker that does several."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from tracelet_otel import api
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.argparse import ArgparseInstrumentor
from tracelet_otel.instrumentation.hooks import HooksInstrumentor
from tracelet_otel.instrumentation.hydra.instrumentor import HydraInstrumentor
from tracelet_otel.instrumentation.instrumentors import disabled
from tracelet_otel.instrumentation.jsonargparse import JsonargparseInstrumentor
from tracelet_otel.instrumentation.ray_tune import RayTuneInstrumentor
from tracelet_otel.instrumentation.transformers import TransformersInstrumentor
from tracelet_otel.instrumentation.tyro.instrumentor import TyroInstrumentor
from tracelet_otel.session import process
from tracelet_otel.settings import sdk_disabled

_INSTRUMENTORS: Mapping[str, type[HooksInstrumentor]] = {
    "argparse": ArgparseInstrumentor,
    "hydra": HydraInstrumentor,
    "jsonargparse": JsonargparseInstrumentor,
    "ray_tune": RayTuneInstrumentor,
    "transformers_trainer": TransformersInstrumentor,
    "tyro": TyroInstrumentor,
}
"""By their entry points' names, which are looked up only by configure(): that takes milliseconds."""

_roots: dict[str, tuple[str, str]] = {}
"""By the id of a job's run: id and name of the run whose number it has. configure() inside a job goes on with
the job's run, so it is the run at hand where the next job begins."""


@contextmanager
def run_of_job(params: Mapping[str, Any], number: str, one_of_several: bool) -> Generator[None]:
    """The first job of a run that is not one of several is the run's own. Any other has a run of its own, so
    that no run shows the parameters of two jobs; its id is that of the run at hand, with the number.

    Args:
        params: the job's configuration.
        number: the job's number in this process, or among all jobs.
        one_of_several: whether it is one of several that were launched together.
    """
    session = process.session()
    if session is None or (not one_of_several and session.parameters.take_job(params)):
        yield
        return
    run = session.scope.current()
    root = _roots.get(run.id) or (run.id, run.name)
    id = f"{root[0]}-{number}"
    _roots[id] = root
    with api.run(f"{root[1]}-{number}" if root[1] else None, run_id=id):
        session.parameters.take_job(params)
        yield


def watch() -> None:
    """Hooks what tells parameters, as this package is imported: scripts parse before they configure."""
    parameters.on_job(run_of_job)
    if not sdk_disabled():
        for name, instrumentor in _INSTRUMENTORS.items():
            if not disabled(name):
                with Guard(f"instrumenting {name}"):
                    instrumentor().instrument(skip_dep_check=True)
