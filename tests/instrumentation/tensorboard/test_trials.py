"""The parameters and metrics of an ``add_hparams`` are one trial: with others, each has a child run."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from tests.instrumentation.conftest import Captured, Library
from tracelet_otel import recording
from tracelet_otel.instrumentation.tensorboard.trials import Trial, trials_of
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.run import Run
from tracelet_otel.semconv import RUN_STATUS

Pair = tuple[dict[str, Any], dict[str, list[float]]]


def child_trials(captured: Captured) -> list[Trial]:
    """The trials that have child runs."""
    return list(trials_of(captured.scope.default).others.values())


def pairs(captured: Captured) -> dict[str, Pair]:
    """By run: its parameters, and the values of its metrics."""
    found: dict[str, Pair] = {}
    for record in captured.records("params"):
        found.setdefault(record.run_id, ({}, {}))[0].update(record.json)
    for point in captured.points():
        found.setdefault(point.run_id, ({}, {}))[1].setdefault(point.tag, []).append(point.value)
    return found


def test_each_trial_has_a_child_run(library: Library, captured: Captured, tmp_path: Path) -> None:
    trials: list[Pair] = [
        ({"lr": 1 / 2**i, "hidden": 32 << i}, {"acc": [i / 4], "nan": [math.nan]}) for i in range(3)
    ]
    with library.SummaryWriter(str(tmp_path)) as writer:
        for params, metrics in trials:
            writer.add_hparams(params, {name: value for name, [value] in metrics.items()})
    found = pairs(captured)
    own = found.pop(captured.scope.default.id)
    children = sorted(found.values(), key=lambda pair: pair[0]["hidden"])
    assert str([own, *children]) == str([trials[0], *trials])
    statuses = {record.run_id: record.attributes[RUN_STATUS] for record in captured.records("status")}
    assert statuses == dict.fromkeys(found, "finished")
    names = sorted(child.run.name for child in child_trials(captured))
    assert names == ["lr=0.25, hidden=128", "lr=0.5, hidden=64", "lr=1.0, hidden=32"]


def test_the_copy_of_the_first_trial_is_exact(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path)) as writer:
        for epoch in range(3):
            writer.add_hparams({"lr": 0.1}, {"acc": epoch / 7}, global_step=epoch)
        writer.add_hparams({"lr": 0.2}, {})
    [child] = [trial.run.id for trial in child_trials(captured) if "0.1" in trial.key]
    by_run = {
        run: [point[1:] for point in captured.points() if point.run_id == run]
        for run in (captured.scope.default.id, child)
    }
    assert by_run[child] == by_run[captured.scope.default.id]
    assert len(by_run[child]) == 3


def test_trials_of_two_threads_both_end_after_their_values(captured: Captured, tmp_path: Path) -> None:
    recorder = recording.current()
    assert recorder is not None
    trials = trials_of(captured.scope.default)
    first, second = (trials.find(f"{tmp_path}/{number}", {"lr": number}) for number in range(2))
    for trial in (second, first):
        params = json_event("params", b'{"lr": 0}', trial.run)
        trial.recording(recorder, params, "1795915774.06")
        recorder.event(params)
    second.end(recorder, "finished")
    first.recording(recorder, json_event("tags", b"{}", first.run), "1795915774.06")
    first.end(recorder, "finished")
    for child in child_trials(captured):
        kinds = [one.kind for one in captured.records() if one.run_id == child.run.id]
        assert [kind for kind in kinds if kind in ("params", "status")] == ["params", "status"]
        assert kinds[-1] == "status"


def test_the_same_parameters_are_the_same_trial(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path)) as writer:
        for epoch in range(3):
            for lr in (1, 2):
                writer.add_hparams({"lr": lr}, {"acc": lr + epoch / 4}, global_step=epoch)
    found = pairs(captured)
    assert found.pop(captured.scope.default.id) == ({"lr": 1}, {"acc": [1.0]})
    assert sorted(found.values(), key=str) == [
        ({"lr": 1}, {"acc": [1.0, 1.25, 1.5]}),
        ({"lr": 2}, {"acc": [2.0, 2.25, 2.5]}),
    ]
    assert len(captured.records("status")) == 2


def test_a_writer_of_each_trial(library: Library, captured: Captured, tmp_path: Path) -> None:
    for seed in range(2):
        with library.SummaryWriter(str(tmp_path / f"seed{seed}")) as writer:
            writer.add_hparams({"lr": 0.5}, {"acc": seed})
    found = pairs(captured)
    assert found.pop(captured.scope.default.id) == ({"lr": 0.5}, {"acc": [0.0]})
    assert sorted(found.values(), key=str) == [({"lr": 0.5}, {"acc": [float(seed)]}) for seed in range(2)]


def settled(run: Run) -> None:
    """What a session does as a run opens."""
    run.settle()


def test_in_a_block_they_are_its_children(library: Library, captured: Captured, tmp_path: Path) -> None:
    block = Run(on_open=settled)
    with captured.scope.inside(block), library.SummaryWriter(str(tmp_path)) as writer:
        for lr in (1, 2):
            writer.add_hparams({"lr": lr}, {"acc": lr})
    assert {trial.run.parent for trial in trials_of(block).others.values()} == {block.id}
    assert pairs(captured)[block.id] == ({"lr": 1}, {"acc": [1.0]})
    assert captured.scope.default.id not in pairs(captured)


def test_a_process_that_joins_a_run_leaves_its_parameters_alone(
    library: Library, captured: Captured, tmp_path: Path
) -> None:
    captured.scope.default.owner = os.getppid()
    with library.SummaryWriter(str(tmp_path)) as writer:
        writer.add_hparams({"lr": 1}, {"acc": 1})
    [(run_id, pair)] = pairs(captured).items()
    assert run_id != captured.scope.default.id
    assert pair == ({"lr": 1}, {"acc": [1.0]})


def test_a_call_that_fails_is_no_trial(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path)) as writer:
        for wrong in (1, {"lr": object()})[: 2 if library.name == "torch" else 1]:  # the other takes any
            try:
                writer.add_hparams(wrong, {})
            except (TypeError, ValueError):
                pass
            else:
                raise AssertionError
        writer.add_hparams({"lr": 1}, {"acc": 1}, global_step=7)
        writer.add_scalar("loss", 1, 1)
    own = captured.scope.default.id
    assert pairs(captured) == {own: ({"lr": 1}, {"acc": [1.0], "loss": [1.0]})}


def test_a_name_shows_no_secret(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path)) as writer:
        for key in ("canary-1", "canary-2"):
            writer.add_hparams({"api_key": key}, {})
    assert "canary" not in str([trial.run.name for trial in child_trials(captured)])


def test_a_name_that_the_script_gave(library: Library, captured: Captured, tmp_path: Path) -> None:
    argument = "run_name" if library.name == "torch" else "name"
    with library.SummaryWriter(str(tmp_path)) as writer:
        for lr in (1, 2):
            writer.add_hparams({"lr": lr}, {"acc": 1}, **{argument: f"trial{lr}"})
    assert [trial.run.name for trial in child_trials(captured)] == [
        "trial2",
        "trial1",
    ]
