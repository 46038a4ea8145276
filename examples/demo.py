"""Runs two unchanged training scripts under `opentelemetry-instrument` and checks what landed in MLflow.

    python examples/demo.py

It compares each point and record in TensorBoard's event files with what MLflow's own client reads back: the
step, value (as float32, as in event files) and wall time of every point, and the exact content of every
record. It exits with 1 if anything differs. A second call adds two more runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import struct
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent
SCRIPTS = {
    "tensorboard_digits": "PyTorch and a SummaryWriter",
    "lightning_digits": "Lightning and its TensorBoardLogger",
}
MAX_TIME_DIFFERENCE_MS = {
    "tensorboard_digits": 1.0,
    # Our points have the time at which Lightning logs a value. Lightning calls its logger after that, so the
    # time in the event file is later, the more so for the first value, before which the file is opened.
    "lightning_digits": 1000.0,
}

Point = tuple[int, bytes, float]
"""Step, the bytes of the value as float32, and milliseconds since the epoch."""


@dataclass
class Content:
    """What one run logged: points by tag, and records by kind and name, in a form that can be compared."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    records: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))


# -- the event files, with TensorBoard's own loader -----------------------------------------------
def read_event_files(folder: Path) -> Content:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    proto: Any = event_pb2  # its classes are made at import
    content = Content()
    for file in sorted(folder.rglob("*tfevents*")):
        for serialized in RawEventFileLoader(str(file)).Load():
            event = proto.Event.FromString(serialized)
            for value in event.summary.value:
                read_value(content, event, value)
    for points in content.points.values():
        points.sort()
    return content


def read_value(content: Content, event: Any, value: Any) -> None:
    plugin = value.metadata.plugin_data.plugin_name
    name = f"{value.tag} at {event.step}"
    if value.HasField("simple_value"):
        point = event.step, struct.pack("<f", value.simple_value), event.wall_time * 1000
        content.points.setdefault(value.tag, []).append(point)
    elif value.HasField("histo"):
        histogram = list(value.histo.bucket_limit), list(value.histo.bucket)
        content.records["histograms"][name] = histogram
    elif value.HasField("image"):
        content.records["images"][name] = value.image.encoded_image_string
    elif plugin == "text":
        content.records["texts"][name] = value.tensor.string_val[0]
    elif plugin == "hparams":
        content.records["parameters"].update(read_hparams(value.metadata.plugin_data.content))
    else:
        content.records[plugin or "other"][name] = value.SerializeToString()


def read_hparams(content: bytes) -> dict[str, str]:
    from tensorboard.plugins.hparams import plugin_data_pb2

    data: Any = plugin_data_pb2
    params = data.HParamsPluginData.FromString(content).session_start_info.hparams
    values = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in params.items()}
    return {name: comparable(value) for name, value in values.items()}


def comparable(value: object) -> str:
    """A parameter's text. An event file stores integers as floats; MLflow has the logged integer."""
    with contextlib.suppress(ValueError):
        return str(float(str(value)))
    return str(value)


def read_checkpoints(folder: Path) -> dict[str, int]:
    """The sizes of the checkpoints that Lightning has left, by name."""
    return {file.name: file.stat().st_size for file in folder.rglob("*.ckpt")}


# -- MLflow, with its own client ------------------------------------------------------------------
def read_mlflow(client: Any, run: Any) -> Content:
    content = Content()
    for key in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, key)  # all pages of it
        points = [(metric.step, struct.pack("<f", metric.value), metric.timestamp) for metric in history]
        content.points[key] = sorted(points)
    if run.data.params:
        content.records["parameters"] = {name: comparable(v) for name, v in run.data.params.items()}
    root = Path(client.download_artifacts(run.info.run_id, ""))
    for path in list_artifacts(client, run.info.run_id):
        read_artifact(content, path, root / path)
    return content


def list_artifacts(client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from list_artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def read_artifact(content: Content, path: str, file: Path) -> None:
    kind, _, rest = path.partition("/")
    tag, _, step = rest.removesuffix(file.suffix).rpartition("/")
    if kind == "histogram":
        histogram = json.loads(file.read_bytes())
        content.records["histograms"][f"{tag} at {step}"] = (
            histogram["bucket_limits"],
            histogram["bucket_counts"],
        )
    elif kind == "images" and file.suffix == ".png":
        tag, _, step, *_ = rest.split("+")  # as MLflow's log_image names them
        if not tag.startswith("histogram~"):  # drawn for MLflow's charts, not logged
            content.records["images"][f"{tag.replace('~', '/')} at {step}"] = file.read_bytes()
    elif kind == "text":
        content.records["texts"][f"{tag} at {step}"] = file.read_bytes()
    elif kind == "checkpoints" and file.suffix == ".json":
        content.records["checkpoints"][file.stem] = json.loads(file.read_bytes())["size"]


# -- the comparison -------------------------------------------------------------------------------
def compare(script: str, logged: Content, landed: Content) -> bool:
    rows: list[tuple[str, int, int, bool]] = []
    for tag in sorted(logged.points.keys() | landed.points.keys()):
        ours, theirs = logged.points.get(tag, []), landed.points.get(tag, [])
        equal = same_points(ours, theirs, MAX_TIME_DIFFERENCE_MS[script])
        rows.append((tag, len(ours), len(theirs), equal))
    for kind in sorted(logged.records.keys() | landed.records.keys()):
        before, after = logged.records.get(kind, {}), landed.records.get(kind, {})
        rows.append((kind, len(before), len(after), before == after))
    width = max(len(text) for text in (SCRIPTS[script], *(row[0] for row in rows)))
    print(f"{SCRIPTS[script]:<{width}}  event files  MLflow  equal")
    for what, ours, theirs, equal in rows:
        print(f"{what:<{width}}  {ours:>11,}  {theirs:>6,}  {'yes' if equal else 'NO'}")
    print()
    return all(row[3] for row in rows)


def same_points(logged: list[Point], landed: list[Point], max_difference_ms: float) -> bool:
    return len(logged) == len(landed) and all(
        ours[:2] == theirs[:2] and abs(ours[2] - theirs[2]) <= max_difference_ms
        for ours, theirs in zip(logged, landed, strict=True)
    )


def without_what_lightning_keeps(logged: Content, landed: Content, folder: Path) -> None:
    """Removes what Lightning logs to only one of MLflow and its event files."""
    # The TensorBoardLogger itself adds this placeholder, for TensorBoard's page of hyperparameters.
    logged.points.pop("hp_metric", None)
    # Checkpoints and the model's summary are not in event files. A checkpoint that a better one replaced
    # is only in MLflow.
    files = read_checkpoints(folder)
    logged.records["checkpoints"] = files
    known = landed.records["checkpoints"]
    landed.records["checkpoints"] = {name: size for name, size in known.items() if name in files}
    landed.records.pop("texts", None)


def train(script: str, output: Path, options: Mapping[str, int | None], run_id: str) -> Path:
    """Runs one script as a user would, and returns the folder with its event files."""
    folder = output / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{run_id[:4]}" / script
    command = [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable]
    command += [str(EXAMPLES / f"{script}.py"), "--output", str(folder)]
    command += [word for name, value in options.items() if value for word in (f"--{name}", str(value))]
    steering = ("OTEL_", "TRACELET_", "MLFLOW_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(steering)},
        # Event files do not contain the command line and the machine's metrics, so these are switched off.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "argparse,system_metrics,gpu",
        "OTEL_METRICS_EXPORTER": "mlflow",
        "MLFLOW_TRACKING_URI": f"sqlite:///{output / 'mlflow.db'}",
        "TRACELET_PROJECT": "digits",
        "TRACELET_RUN_ID": run_id,
        "OMP_NUM_THREADS": "1",  # more threads would only wait for each other, as the models are small
    }
    print(f"$ opentelemetry-instrument python examples/{script}.py")
    with (output / f"{script}.log").open("w", encoding="utf-8") as log:
        training = subprocess.Popen(
            command, cwd=output, env=environment, stdout=log, stderr=subprocess.PIPE, text=True
        )
        assert training.stderr is not None
        for line in training.stderr:
            log.write(line)
            if line.startswith("tracelet-otel:"):
                print(line, end="")
    if training.wait():
        sys.exit(f"{script}.py ended with {training.returncode}: see {log.name}")
    return folder


def check(client: Any, script: str, run_id: str, folder: Path) -> bool:
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], f"tags.`tracelet.run.id` = '{run_id}'")
    assert len(runs) == 1, f"{len(runs)} runs in MLflow"
    logged, landed = read_event_files(folder), read_mlflow(client, runs[0])
    if script == "lightning_digits":
        without_what_lightning_keeps(logged, landed, folder)
    equal = compare(script, logged, landed)
    if runs[0].info.status != "FINISHED":
        print(f"the run's status is {runs[0].info.status}, not FINISHED\n")
    return equal and runs[0].info.status == "FINISHED"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=EXAMPLES.parent / "demo-output", help="folder for all")
    parser.add_argument("--epochs", type=int, help="of each script; the scripts' own if not given")
    options = parser.parse_args()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)

    runs = {script: uuid.uuid4().hex for script in SCRIPTS}
    folders = {
        script: train(script, output, {"epochs": options.epochs}, run_id) for script, run_id in runs.items()
    }
    print()

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = f"sqlite:///{output / 'mlflow.db'}"
    client = MlflowClient(uri)
    equal = [check(client, script, run_id, folders[script]) for script, run_id in runs.items()]
    if not all(equal):
        sys.exit("MLflow does not hold what the event files hold")
    version = importlib.metadata.version("mlflow")
    print(f"Everything is in MLflow {version}, exact. Look at it:\n")
    print(f"  {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {uri}")


if __name__ == "__main__":
    main()
