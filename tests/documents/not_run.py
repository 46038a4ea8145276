"""The blocks that are not run as they stand, and why. Their commands and data are checked all the same."""

from __future__ import annotations

INSTALLED = "the tests run in an environment that has it"
SERVES = "it serves until it is stopped"
CLUSTER = "it needs a cluster; tests/collector checks the files that it names"
RECEIVER = "it needs a receiver; tests/delivery/otlp has some"
CHAIN = "tests/collector/test_chain.py runs the whole chain"
LAUNCHERS = "tests/collector/test_launchers.py runs it, with the example's train.py"

NOT_RUN = {
    "README.md": {
        "$ make demo": "tests/test_examples.py runs the demo",
        "$ pip install": INSTALLED,
        "$ mlflow ui": SERVES,
    },
    "docs/add-a-tracker.md": {
        '"""A tracker that is a folder': "a module, which tests/test_add_a_tracker.py runs",
        "$ OTEL_METRICS_EXPORTER=json_folder": "tests/test_add_a_tracker.py installs the tracker first",
        "$ pytest": "a part of the tests",
    },
    "docs/aim.md": {"$ pip install": INSTALLED, "$ aim up": SERVES},
    "docs/benchmarks.md": {"$ make bench": "it takes an hour or two; tests/test_benchmarks.py runs a part"},
    "docs/clearml.md": {"$ pip install": f"{INSTALLED}; clearml-init asks for credentials"},
    "docs/declarative.md": {
        "$ OTEL_CONFIG_FILE=otel.yaml opentelemetry-instrument python train.py\n": (
            "tests/session/test_declarative.py has mistakes of every kind"
        )
    },
    "docs/distributed.md": {"$ opentelemetry-instrument torchrun": LAUNCHERS},
    "docs/gateway.md": {"$ pip install": f"{SERVES}; tests/gateway runs it"},
    "docs/import.md": {
        "$ tracelet-otel import": "tests/cli/test_import.py runs these on folders of event files"
    },
    "docs/offline.md": {
        "$ tracelet-otel replay /mnt": "tests/cli/test_replay.py has folders elsewhere and several backends",
        "$ tracelet-otel doctor": "tests/cli/test_doctor.py runs these; W&B without a key is a problem found",
    },
    "docs/otlp.md": {"$ export OTEL_EXPORTER_OTLP_ENDPOINT": RECEIVER, "import tracelet_otel": RECEIVER},
    "docs/quick-start.md": {
        "$ pip install": INSTALLED,
        "$ mlflow ui": SERVES,
        # It gives a backend 15 s, which a busy machine may need for the import of two clients.
        "$ tracelet-otel doctor": "tests/cli/test_doctor.py runs it",
    },
    "docs/trackers.md": {
        "import tracelet_otel": "it needs two servers; tests/test_examples.py runs to_all.py",
        "import json": "tests/test_add_a_tracker.py runs it on a companion file",
    },
    "docs/wandb.md": {"$ pip install": INSTALLED},
    "examples/collector/README.md": {
        "pip install": CHAIN,
        "otelcol-contrib": CHAIN,
        "export OTEL_METRICS_EXPORTER=otlp": CHAIN,
    },
    "examples/kubernetes/README.md": {
        "docker build": CLUSTER,
        "kubectl apply": CLUSTER,
        "kubectl kustomize": CLUSTER,
        "kubectl label": CLUSTER,
    },
    "examples/kubernetes/operator/README.md": {"docker build": CLUSTER},
    "examples/slurm/README.md": {"sbatch": "tests/collector/test_launchers.py runs it, with a small srun"},
    "examples/torchrun/README.md": {
        "opentelemetry-instrument torchrun --nproc-per-node": LAUNCHERS,
        "opentelemetry-instrument torchrun --nnodes 2": "it needs two nodes",
        "export OTEL_METRICS_EXPORTER=otlp": "it needs a Collector; " + LAUNCHERS,
    },
}
"""By page and what the block begins with."""


def reason(page: str, code: str) -> str:
    """Why a block is not run; empty for one that is."""
    return next((why for start, why in NOT_RUN.get(page, {}).items() if code.startswith(start)), "")
