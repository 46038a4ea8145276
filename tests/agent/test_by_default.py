"""What other tests show with trackers' clients in training's process, for a user who sets nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support import mlflow_content as mlflow
from tests.support.agents import Agents
from tests.support.scripts import run_script


def test_configure_again_refines_a_run_and_then_begins_another(
    tmp_path: Path, database: Path, agents: Agents
) -> None:
    code = """
    import threading
    from tensorboardX import SummaryWriter
    import tracelet_otel
    writer = SummaryWriter("logs")
    writer.add_scalar("loss", 0.0, 0)
    stop, count = threading.Event(), 0
    def work():
        global count
        while not stop.wait(0.005):
            tracelet_otel.log_scalar("thread", float(count), count)
            count += 1
    thread = threading.Thread(target=work)
    thread.start()
    for wrong in ({"backends": "mlfow"}, {"backends": {"mlflow": {"uri": "x"}}}, {"project": 3}):
        try:
            tracelet_otel.configure(**wrong)
        except tracelet_otel.ConfigurationError:
            print("refused")
    tracelet_otel.configure(run_name="refined")  # of what opentelemetry-instrument has set up
    writer.add_scalar("loss", 1.0, 1)
    stop.set()
    thread.join()
    print(count)
    tracelet_otel.configure(project="vision", run_name="second")
    writer.add_scalar("loss", 2.0, 2)
    with tracelet_otel.run(name="swept"):
        tracelet_otel.log_scalar("loss", 3.0, 3)
    writer.close()
    """
    done = run_script(tmp_path, code, variables=agents.variables)
    assert done.returncode == 0, done.stderr
    *refused, count = done.stdout.split()
    assert refused == ["refused"] * 3
    agents.wait_until_gone_without_a_trace()
    runs = {run.name: run for run in mlflow.runs(database)}
    assert {name: (run.experiment, run.status) for name, run in runs.items()} == {
        "refined": ("Default", "FINISHED"),
        "second": ("vision", "FINISHED"),
        "swept": ("vision", "FINISHED"),
    }
    stored = {name: mlflow.points(database, run.id) for name, run in runs.items()}
    steps = {name: [point.step for point in points["loss"]] for name, points in stored.items()}
    assert steps == {"refined": [0, 1], "second": [2], "swept": [3]}
    assert [point.step for point in stored["refined"]["thread"]] == list(range(int(count)))


def test_forked_and_spawned_children_join(tmp_path: Path, database: Path, agents: Agents) -> None:
    code = """
    import multiprocessing, os, signal, sys
    import tracelet_otel

    def work():
        for step in range(20):
            tracelet_otel.log_scalar("child", step * 1.0, step)

    def log(steps):
        for step in steps:
            tracelet_otel.log_scalar("loss", step / 7, step)

    if __name__ == "__main__":
        log(range(100))  # on their way to the agent when the children begin
        logs = os.fork()
        if logs == 0:
            log(range(500, 550))
            sys.exit(0)
        ended = os.fork()
        if ended == 0:
            while True:
                signal.pause()
        os.kill(ended, signal.SIGTERM)
        spawned = multiprocessing.get_context("spawn").Process(target=work)
        spawned.start()
        log(range(100, 200))
        assert os.waitpid(logs, 0)[1] == 0
        assert os.waitpid(ended, 0)[1] == signal.SIGTERM
        spawned.join()
        assert spawned.exitcode == 0
        log(range(200, 300))
    """
    done = run_script(tmp_path, code, variables=agents.variables)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "mlflow: captured 300 points, delivered all" in done.stderr
    agents.wait_until_gone_without_a_trace()
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    stored = mlflow.points(database)
    steps = [*range(300), *range(500, 550)]
    assert sorted((point.step, point.value) for point in stored["loss"]) == [(n, n / 7) for n in steps]
    assert [point.step for point in stored["child"]] == list(range(20))


def test_bad_input_and_a_hundred_megabyte_image(tmp_path: Path, database: Path, agents: Agents) -> None:
    code = r"""
    from pathlib import Path
    import numpy as np
    import tracelet_otel
    for tag in ["", "a" * 5000, "größe/損失 🎉", "ctrl\x00\x01\n\t", "a//b", "../up", "_x0041_"]:
        tracelet_otel.log_scalar(tag, 1.0, 1)
    for bad in ("text", np.zeros(3), None, object(), 10**400):
        tracelet_otel.log_scalar("value", bad, 1)
    for bad in (2**70, 1.5, "one"):
        tracelet_otel.log_scalar("step", 1.0, bad)
    tracelet_otel.log_image("picture", "no/such/file.png")
    tracelet_otel.log_image("picture", np.zeros((2, 2, 2, 2)))
    tracelet_otel.log_audio("sound", object())
    tracelet_otel.log_histogram("histogram", ["a"])
    tracelet_otel.log_params(3)
    tracelet_otel.log_text("text", 3)
    tracelet_otel.log_artifact("no/such/file")
    huge = Path("huge.png")
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(100_000_000))
    tracelet_otel.log_image("huge", huge, 1)
    huge.write_bytes(b"")  # what was logged is what it was
    tracelet_otel.log_scalar("last", 1.0, 1)
    """
    done = run_script(tmp_path, code, variables=agents.variables)
    assert done.returncode == 0, done.stderr
    for said in (
        *("log_scalar('value')", "log_scalar('step')", "log_image('picture')", "log_audio('sound')"),
        *("log_histogram('histogram')", "log_params()", "log_text('text')", "log_artifact('no/such/file')"),
    ):
        assert done.stderr.count(f"{said}: skipped: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    agents.wait_until_gone_without_a_trace()
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    stored = mlflow.points(database)
    assert "last" in stored
    assert len([tag for tag in stored if not tag.startswith("system/")]) == 7 + 1
    [image] = [content for content in mlflow.artifacts(run).values() if len(content) > 100_000_000]
    assert image == b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(100_000_000)
