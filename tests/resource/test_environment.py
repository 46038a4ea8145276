"""What is found out about the process and its machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import get_aggregated_resources

from tests.support import nvml as stand_in
from tracelet_otel.resource import environment, git, launcher
from tracelet_otel.resource.environment import Snapshot, environment_record, snapshot

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def run_git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print()\n")
    run_git(tmp_path, "init", "-q", "-b", "work", str(folder))
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "-m", "first")
    run_git(folder, "remote", "add", "origin", "https://user:ghp_secret@example.org/team/repo.git?x=1")
    return folder


# -- git ------------------------------------------------------------------------------------------------


@needs_git
def test_git(repository: Path) -> None:
    expected = {
        "commit": run_git(repository, "rev-parse", "HEAD"),
        "branch": "work",
        "repository": "https://example.org/team/repo.git",
        "root": str(repository.resolve()),
        "dirty": False,
    }
    assert git.describe(repository / "src") == expected
    (repository / "new.txt").write_text("git does not track it")
    assert git.describe(repository)["dirty"] is False
    (repository / "src" / "train.py").write_text("print(1)\n")
    assert git.describe(repository)["dirty"] is True
    run_git(repository, "checkout", "-q", "--detach")
    run_git(repository, "remote", "rename", "origin", "upstream")
    found = git.describe(repository)
    assert "branch" not in found
    assert found["repository"] == "https://example.org/team/repo.git"


@needs_git
def test_git_before_the_first_commit_and_outside(tmp_path: Path) -> None:
    assert git.describe(tmp_path) == {}
    assert git.describe(tmp_path / "none") == {}
    run_git(tmp_path, "init", "-q", "-b", "main")
    assert git.describe(tmp_path) == {"branch": "main", "root": str(tmp_path.resolve()), "dirty": False}


@needs_git
def test_git_leaves_the_repository_as_it_is(repository: Path) -> None:
    (repository / "src" / "train.py").touch()  # git would write what it finds out to its index
    index = repository / ".git" / "index"
    before = (index.read_bytes(), index.stat().st_mtime_ns)
    git.describe(repository)
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def fake_git(folder: Path, script: str) -> str:
    folder.mkdir()
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@needs_git
def test_a_slow_git_is_given_up(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("git")
    slow = f'case "$*" in *status*) exec sleep 30;; *) exec {real} "$@";; esac'
    monkeypatch.setenv("PATH", fake_git(tmp_path / "bin", slow))
    monkeypatch.setattr(git, "TIMEOUT_S", 0.5)
    start = time.monotonic()
    found = git.describe(repository)
    assert time.monotonic() - start < 5
    assert "dirty" not in found
    assert found["branch"] == "work"
    monkeypatch.setenv("PATH", fake_git(tmp_path / "hangs", "exec sleep 30"))
    start = time.monotonic()
    assert git.describe(repository) == {}
    assert git.GitResourceDetector().detect().attributes == {}
    assert time.monotonic() - start < 5


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.describe(tmp_path) == {}


@needs_git
def test_the_resource_detector(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.semconv._incubating.attributes import vcs_attributes as names

    monkeypatch.chdir(repository)
    found = get_aggregated_resources([git.GitResourceDetector()]).attributes
    assert found[names.VCS_REF_HEAD_REVISION] == run_git(repository, "rev-parse", "HEAD")
    assert found[names.VCS_REF_HEAD_NAME] == "work"
    assert found[names.VCS_REF_HEAD_TYPE] == "branch"
    assert found[names.VCS_REPOSITORY_URL_FULL] == "https://example.org/team/repo.git"


# -- the record -----------------------------------------------------------------------------------------


@needs_git
def test_the_record(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["src/train.py", "--lr", "0.1", "--api-key", "abc", "--token=hf_x"])
    for name in os.environ.keys() & snapshot().variables.keys():  # of the machine that runs the tests
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_SECRET_TOKEN", "abc")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc")
    monkeypatch.setenv("SOMETHING_ELSE", "abc")
    monkeypatch.delattr(sys.modules["__main__"], "__spec__")
    now = snapshot()
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", ["other"])
    with stand_in.driver(stand_in.l4()):
        record = environment_record(now)
    assert json.loads(json.dumps(record)) == record
    assert record["git"]["branch"] == "work"
    assert record["command"] == ["src/train.py", "--lr", "0.1", "--api-key", "***", "--token=***"]
    assert record["entry_point"] == "src/train.py"
    assert record["working_dir"] == str(repository)
    assert record["variables"] == {"CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO"}
    assert record["python"] == {"version": sys.version.split()[0], "executable": sys.executable}
    assert record["host"]["name"] == socket.gethostname()
    assert record["host"]["memory_bytes"] > 2**28
    assert record["gpus"] == [{"name": "NVIDIA L4", "memory_bytes": 23034 * stand_in.MIB}]
    assert "abc" not in json.dumps({**record, "packages": {}, "git": {}})


def test_a_record_without_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("PATH", "")
    record = environment_record(snapshot(), gpus=False)
    assert {"python", "packages", "host"} <= record.keys()
    assert not {"git", "command", "working_dir", "gpus"} & record.keys()


def test_packages_are_those_that_python_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import version

    def install(folder: Path, name: str, text: str) -> None:
        info = folder / f"{name}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(text)

    install(tmp_path / "a", "one-1", "Metadata-Version: 2.1\nName: one\nVersion: 1\n\nName: no\nVersion: 0\n")
    install(tmp_path / "b", "one-2", "Metadata-Version: 2.1\nName: one\nVersion: 2\n")
    install(tmp_path / "b", "broken-2", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b"), *sys.path])
    found = environment.packages()
    assert found["one"] == "1"
    assert found["numpy"] == version("numpy")
    assert "broken" not in found


def test_entry_points(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()

    def entry_point(command: list[str], module: str = "") -> Any:
        now = Snapshot(command, str(tmp_path / "folder"), {}, module)
        return environment_record(now, gpus=False).get("entry_point")

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "own.py").touch()
    assert entry_point(["own.py"]) == entry_point([str(tmp_path / "folder" / "own.py")]) == "own.py"
    assert entry_point([str(script)]) == str(script)
    assert entry_point(["../train.py"]) == str(script)
    assert entry_point(["-c"]) is None
    assert entry_point(["/x/pkg/__main__.py"], "pkg") == "-m pkg"


# -- launchers ------------------------------------------------------------------------------------------

SLURM = {
    "SLURM_JOB_ID": "42",
    "SLURM_CLUSTER_NAME": "alps",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM)
    launch = launcher.detect()
    assert (launch.rank, launch.local_rank, launch.is_first_of_node) == (5, 1, False)
    monkeypatch.setenv("SLURM_PROCID", "4")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert launcher.detect().run_id == launch.run_id
    assert launcher.detect().is_first_of_node
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert launcher.detect().run_id not in ("", launch.run_id)
    assert launcher.describe()["slurm"]["world_size"] == 8


def test_a_batch_script_that_runs_python_once_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"SLURM_JOB_ID": "42", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    assert launcher.detect() == launcher.Launch()
    set_all(monkeypatch, {"SLURM_STEP_NUM_TASKS": "1"})
    assert launcher.detect() == launcher.Launch()


def test_torchrun_inside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**SLURM, "SLURM_STEP_NUM_TASKS": "2"})
    ranks = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "TORCHELASTIC_RUN_ID": "job"}
    set_all(monkeypatch, ranks)
    launch = launcher.detect()
    assert (launch.rank, launch.local_rank) == (3, 1)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert launcher.detect() == launch
    assert launcher.describe()["name"] == "torchrun"
    assert launcher.describe()["torchrun"] == {"rank": 3, "world_size": 16, "local_rank": 1, "id": "job"}


def test_ranks_that_a_script_takes_from_slurm_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM)
    alone = launcher.detect().run_id
    set_all(monkeypatch, {"RANK": "5", "WORLD_SIZE": "8"})
    assert launcher.detect().run_id == alone


def test_kubernetes_describes_and_gives_no_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher.describe() == {}
    set_all(
        monkeypatch,
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAMESPACE": "ml", "JOB_COMPLETION_INDEX": "2"},
    )
    found = launcher.describe()
    assert found["name"] == "kubernetes"
    assert found["kubernetes"] == {"pod": socket.gethostname(), "namespace": "ml", "completion_index": "2"}
    assert launcher.detect() == launcher.Launch()
