"""The gateway's image, without Docker: what it would install, run and ask, with the manifest's arguments."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import sys
import urllib.request
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.collector import chain
from tests.collector.test_kubernetes import named

ROOT = Path(__file__).resolve().parents[2]
LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ").strip() for line in LINES if line.startswith(f"{name} ")]


def container() -> dict[str, Any]:
    [found] = named("StatefulSet")["tracelet-gateway"]["spec"]["template"]["spec"]["containers"]
    return found


def test_it_installs_extras_that_are_there() -> None:
    [extras] = [line.partition("=")[2] for line in instructions("ARG")]
    assert set(extras.split(",")) <= set(
        distribution("tracelet-otel").metadata.get_all("Provides-Extra") or ()
    )
    assert {"gateway", "mlflow"} <= set(extras.split(","))


def test_it_runs_as_the_user_that_owns_the_volume() -> None:
    pod = named("StatefulSet")["tracelet-gateway"]["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert instructions("USER") == [f"{user}:{pod['securityContext']['runAsGroup']}"]
    [volume] = instructions("VOLUME")
    assert volume in [mount["mountPath"] for mount in container()["volumeMounts"]]
    assert f"--home-dir {volume}" in "".join(instructions("RUN"))
    [environment] = instructions("ENV")
    assert f"TRACELET_SPOOL_DIR={volume}" in environment


@pytest.mark.slow
def test_the_manifests_arguments_start_it_and_it_is_healthy(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    (tmp_path / "gateway.token").write_text("secret")
    ports = {"4317": str(chain.free_port()), "4318": str(chain.free_port())}
    arguments: list[str] = []
    for argument in container()["args"]:
        if argument.startswith("/"):
            arguments.append(str(tmp_path / Path(argument).name))
        else:
            host, colon, port = argument.rpartition(":")
            arguments.append(f"{host}:{ports[port]}" if colon else argument)
    [entry] = instructions("ENTRYPOINT")
    program, *rest = json.loads(entry)
    command = [str(Path(sys.executable).parent / program), *rest, *arguments]
    [probe] = [line[line.index("CMD ") + 4 :] for line in instructions("HEALTHCHECK")]
    check = [sys.executable, *json.loads(probe)[1:]]
    assert "127.0.0.1:4318/healthz" in check[-1]
    check[-1] = check[-1].replace("4318", ports["4318"])
    assert subprocess.run(check, check=False).returncode == 1  # nothing is there yet
    state = {"TRACELET_SPOOL_DIR": str(tmp_path / "state"), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with chain.process(command, tmp_path, "gateway.log", **state):
        for path in ("healthz", "readyz"):
            url = f"https://localhost:{ports['4318']}/{path}"

            def answers(url: str = url) -> bool:
                with contextlib.suppress(OSError), urllib.request.urlopen(url, context=context) as answer:
                    return answer.status == 200
                return False

            chain.until(answers, path)
        assert subprocess.run(check, check=False).returncode == 0
    assert (tmp_path / "state").is_dir()
