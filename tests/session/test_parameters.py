"""Each run has the parameters of what was done in it, however the script got them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.recorded import TO_A_FILE, recorded
from tests.support.scripts import run_command, run_script, script_command, write_script
from tests.support.trackers import TRACKERS, backends, subjects_in
from tracelet_otel_exporters.shared.params import as_text, flatten

pytestmark = pytest.mark.slow

TRANSFORMERS = Path(sys.prefix, "transformers")
"""Where ``make install`` puts it."""
Run = tuple[str, dict[str, str], dict[str, list[float]]]


def stored(folder: Path) -> list[Run]:
    """Status, parameters as trackers show them, and values of each run."""
    found = recorded(folder / "state")
    return sorted(((run.status, flat(run.params), run.values) for run in found), key=str)


def flat(params: dict[str, Any]) -> dict[str, str]:
    return {name: as_text(value) for name, value in flatten(params)}


def run(
    folder: Path, code: str, *arguments: str, zero_code: bool = True, returns: int = 0, **variables: str
) -> str:
    variables |= TO_A_FILE
    done = run_script(folder, code, *arguments, zero_code=zero_code, variables=variables)
    assert done.returncode == returns, done.stderr
    return done.stderr


JOB = """
import hydra
import tracelet_otel

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    {configure}
    tracelet_otel.log_scalar("loss", cfg.lr * 2, 0)
    if cfg.lr > 1:
        raise RuntimeError("diverged")
    return cfg.lr

{call}
"""
PLAIN = JOB.format(configure="", call="main()")
CONFIGURES = JOB.format(configure="tracelet_otel.configure(run_name=f'lr {cfg.lr}')", call="main()")
SWEEP = ("-m", "+lr=0.5,0.25")
TWO_RUNS: list[Run] = [
    ("finished", {"lr": "0.25"}, {"loss": [0.5]}),
    ("finished", {"lr": "0.5"}, {"loss": [1.0]}),
]


def test_hydra_the_composed_configuration(tmp_path: Path) -> None:
    words = ["+lr=0.5", "+net={width:8,depth:${lr},api_key:xyz}", '+lost="${nowhere}"', "+copy=${net}"]
    run(tmp_path, PLAIN, *words, "hydra.verbose=true")
    expected = {"lr": "0.5", "lost": "${nowhere}"}
    for node in ("net", "copy"):
        expected |= {f"{node}/width": "8", f"{node}/depth": "0.5", f"{node}/api_key": "***"}
    assert stored(tmp_path) == [("finished", expected, {"loss": [1.0]})]


@pytest.mark.parametrize(
    ("code", "zero_code"),
    [(PLAIN, True), (CONFIGURES, True), (CONFIGURES, False)],
    ids=["zero code", "zero code and configure()", "configure()"],
)
def test_hydra_each_job_of_a_multirun_is_a_run(tmp_path: Path, code: str, zero_code: bool) -> None:
    run(tmp_path, code, *SWEEP, zero_code=zero_code)
    assert stored(tmp_path) == TWO_RUNS


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("code", "zero_code"), [(PLAIN, True), (CONFIGURES, False)], ids=["zero", "configure"]
)
def test_hydra_with_joblib(tmp_path: Path, code: str, zero_code: bool, workers: int) -> None:
    words = (*SWEEP, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}")
    run(tmp_path, code, *words, zero_code=zero_code)
    assert stored(tmp_path) == TWO_RUNS


def test_hydra_a_job_that_fails_is_a_failed_run(tmp_path: Path) -> None:
    run(tmp_path, PLAIN, "-m", "+lr=0.5,2", returns=1)
    assert stored(tmp_path) == [
        ("failed", {"lr": "2"}, {"loss": [4.0]}),
        ("finished", {"lr": "0.5"}, {"loss": [1.0]}),
    ]


def test_hydra_what_follows_a_multirun_has_no_jobs_parameters(tmp_path: Path) -> None:
    call = "main()\ntracelet_otel.log_scalar('best', 0.5, 0)"
    run(tmp_path, JOB.format(configure="", call=call), *SWEEP)
    assert stored(tmp_path) == [*TWO_RUNS, ("finished", {}, {"best": [0.5]})]


def test_hydra_two_calls_in_a_process(tmp_path: Path) -> None:
    call = "import sys\nmain()\nsys.argv[1] = '+lr=0.25'\nmain()"
    run(tmp_path, JOB.format(configure="", call=call), "+lr=0.5")
    assert stored(tmp_path) == TWO_RUNS


def test_all_trackers_have_the_parameters_of_each_job(tmp_path: Path, database: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        before = f"tracelet_otel.configure(backends={backends(tmp_path)!r}, run_id='sweep')\nmain()"
        run(work, JOB.format(configure="", call=before), *SWEEP, zero_code=False)
        for name in TRACKERS:
            for number, rate in enumerate([0.5, 0.25]):
                id = f"sweep-{number}"
                assert subjects[name].params(id) == {"lr": str(rate)}, name
                points = {
                    tag: [one.value for one in points] for tag, points in subjects[name].points(id).items()
                }
                assert points["loss"] == [rate * 2], name


PARSES = """
from dataclasses import dataclass, field
{before}
import tracelet_otel

@dataclass
class Optimizer:
    lr: float = 0.1
    api_key: str = "xyz"

@dataclass
class Config:
    seed: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)

def main(seed: int = 1, optimizer: Optimizer = Optimizer()):
    tracelet_otel.configure(run_name=f"seed {{seed}}")
    tracelet_otel.log_scalar("loss", seed, 0)

{call}
"""
NESTED = {"seed": "3", "optimizer/lr": "0.5", "optimizer/api_key": "***"}


@pytest.mark.parametrize(
    ("before", "call", "expected"),
    [
        (
            "import argparse",
            """
p = argparse.ArgumentParser()
p.add_argument("--seed", type=int)
p.add_argument("--optimizer.lr", type=float)
main(p.parse_args().seed)
""",
            {"seed": "3", "optimizer.lr": "0.5"},
        ),
        ("from tyro import cli", "config = cli(Config)\nmain(config.seed)", NESTED),
        ("import tyro", "tyro.cli(main)", NESTED),
        (
            "from typing import Union\nimport tyro",
            "config = tyro.cli(Union[Config, Optimizer], args=None)\nmain(config.seed)",
            NESTED,
        ),
        ("import jsonargparse", "jsonargparse.auto_cli(main)", NESTED),
        (
            "from jsonargparse import ArgumentParser",
            "p = ArgumentParser()\np.add_class_arguments(Config)\nconfig = p.parse_args()\nmain(config.seed)",
            NESTED,
        ),
    ],
    ids=["argparse", "tyro class", "tyro function", "tyro union", "jsonargparse function", "jsonargparse"],
)
def test_what_is_parsed_before_configure(
    tmp_path: Path, before: str, call: str, expected: dict[str, str]
) -> None:
    words = ["config"] if "Union" in call else []
    code = PARSES.format(before=before, call=call)
    run(tmp_path, code, *words, "--seed", "3", "--optimizer.lr", "0.5", zero_code=False)
    [(status, params, values)] = stored(tmp_path)
    assert (status, values) == ("finished", {"loss": [3.0]})
    assert {name: value for name, value in params.items() if name != "config"} == expected


def test_each_session_has_the_command_line_that_was_parsed_for_it(tmp_path: Path) -> None:
    code = """
    import argparse, sys
    import tracelet_otel
    for words in (["--lr", "0.5", "--first", "1"], ["--lr", "0.25"]):
        sys.argv[1:] = words
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float)
        if "--first" in words:
            parser.add_argument("--first")
        lr = parser.parse_args().lr
        tracelet_otel.configure(run_name=f"lr {lr}")
        tracelet_otel.log_scalar("loss", lr * 2, 0)
    """
    said = run(tmp_path, code, zero_code=False)
    assert "another command line" in said
    assert stored(tmp_path) == [
        ("finished", {"lr": "0.25"}, {"loss": [0.5]}),
        ("finished", {"lr": "0.5", "first": "1"}, {"loss": [1.0]}),
    ]


def test_a_switched_off_hook_records_nothing(tmp_path: Path) -> None:
    code = PARSES.format(before="import tyro", call="tyro.cli(main)")
    done = run_script(
        tmp_path,
        code,
        "--seed",
        "3",
        zero_code=False,
        variables={"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "tyro", **TO_A_FILE},
    )
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("finished", {}, {"loss": [3.0]})]


TRAINS = "import tracelet_otel\ntracelet_otel.log_scalar('loss', 1.0, 0)\n"
TAKES_A_SCRIPT = """
import argparse, runpy, sys
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", default=2)
    parser.add_argument("script")
    script = parser.parse_args().script
    sys.argv[:] = [script]
    runpy.run_path(script, run_name="__main__")
if __name__ == "__main__":
    main()
"""


def installed(folder: Path, package: str, code: str) -> dict[str, str]:
    """The environment in which a package is installed."""
    home = folder / "env" / "site-packages" / package
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "program.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": str(home.parent), **TO_A_FILE}


def test_an_installed_programs_command_line(tmp_path: Path) -> None:
    code = (
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\n"
        f"def main():\n    parser.parse_args()\nmain()\n{TRAINS}"
    )
    variables = installed(tmp_path, "trainer", code)
    command = [*script_command(Path("-m"), "trainer.program", "--lr", "0.5")]
    assert run_command(command, tmp_path, variables).returncode == 0
    assert stored(tmp_path) == [("finished", {"lr": "0.5"}, {"loss": [1.0]})]


def test_a_librarys_parser_is_not_the_scripts(tmp_path: Path) -> None:
    code = """
import argparse
def ready():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default=1)
    parser.parse_known_args()
"""
    variables = installed(tmp_path, "cluster", code)
    script = write_script(tmp_path, f"from cluster.program import ready\nready()\n{TRAINS}")
    done = run_command(script_command(script, "--lr", "0.5"), tmp_path, variables)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("finished", {}, {"loss": [1.0]})]


@pytest.mark.parametrize("package", ["scalene", "submitit"])
def test_a_launchers_command_line(tmp_path: Path, package: str) -> None:
    variables = installed(tmp_path, package, TAKES_A_SCRIPT)
    script = write_script(tmp_path, TRAINS)
    done = run_command(script_command(Path("-m"), f"{package}.program", str(script)), tmp_path, variables)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("finished", {}, {"loss": [1.0]})]


def test_a_script_that_a_launcher_runs_has_its_own_command_line_alone(tmp_path: Path) -> None:
    variables = installed(
        tmp_path, "unknown_launcher", TAKES_A_SCRIPT.replace("[script]", "[script, '--lr', '3']")
    )
    script = write_script(
        tmp_path,
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\n"
        f"parser.parse_args()\n{TRAINS}",
    )
    command = script_command(Path("-m"), "unknown_launcher.program", str(script))
    done = run_command(command, tmp_path, variables)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("finished", {"lr": "3"}, {"loss": [1.0]})]


def test_a_worker_process_of_joblib_has_no_parameters(tmp_path: Path) -> None:
    code = """
    import joblib
    def train(number):
        import tracelet_otel
        tracelet_otel.log_scalar("loss", number, 0)
    if __name__ == "__main__":
        joblib.Parallel(n_jobs=2)(joblib.delayed(train)(number) for number in range(2))
    """
    run(tmp_path, code)
    assert {str(params) for _, params, _ in stored(tmp_path)} == {"{}"}


def test_pytest_has_no_parameters(tmp_path: Path) -> None:
    write_script(tmp_path, f"def test_training():\n    {TRAINS.replace(chr(10), ';')}", "test_training.py")
    command = script_command(Path("-m"), "pytest", "-q", "-p", "no:cacheprovider", "test_training.py")
    done = run_command(command, tmp_path, TO_A_FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(tmp_path) == [("finished", {}, {"loss": [1.0]})]


def test_each_run_block_has_what_was_found_inside(tmp_path: Path) -> None:
    code = JOB.format(
        configure="",
        call="import sys\nfor rate in (0.5, 0.25):\n    sys.argv[1:] = [f'+lr={rate}']\n"
        "    with tracelet_otel.run(f'lr {rate}'):\n        main()",
    )
    run(tmp_path, code)
    assert stored(tmp_path) == TWO_RUNS


def test_transformers_the_arguments_of_a_trainer(tmp_path: Path) -> None:
    if not (TRANSFORMERS / "transformers").is_dir():
        pytest.skip("transformers is not installed for it")
    code = """
    import torch
    from transformers import HfArgumentParser, Trainer, TrainingArguments
    import tracelet_otel

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x, labels=None):
            output = self.layer(x)
            return {"loss": (output - labels).square().mean(), "logits": output}

    words = ["--output_dir", "out", "--max_steps", "2", "--logging_steps", "1", "--use_cpu", "true"]
    [arguments] = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(
        [*words, "--report_to", "tensorboard", "--learning_rate", "0.5", "--hub_token", "xyz"]
    )
    tracelet_otel.configure()
    arguments.weight_decay = 0.25
    data = [{"x": torch.ones(2), "labels": torch.ones(1)} for _ in range(8)]
    Trainer(model=Model(), args=arguments, train_dataset=data).train()
    """
    run(tmp_path, code, zero_code=False, PYTHONPATH=str(TRANSFORMERS))
    [(status, params, values)] = stored(tmp_path)
    assert status == "finished"
    assert len(values["train/loss"]) == 2
    assert {name: params[name] for name in ("learning_rate", "weight_decay", "max_steps", "hub_token")} == {
        "learning_rate": "0.5",
        "weight_decay": "0.25",
        "max_steps": "2",
        "hub_token": "***",
    }
