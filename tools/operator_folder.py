"""Builds and checks the folder of the image that the OpenTelemetry Operator copies into a pod.

``operator_folder.py WHEEL FOLDER``: the wheel of tracelet-otel, and the folder to make, which must not exist.

The Operator adds ``FOLDER/opentelemetry/instrumentation/auto_instrumentation`` and ``FOLDER`` to the front of
the path. The first contains only our ``sitecustomize.py``, and the second nothing that can be imported. All
packages are in ``FOLDER/tracelet-otel-packages``, which ``sitecustomize.py`` adds to the end of the path.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

OPERATOR = Path(__file__).resolve().parents[1] / "examples" / "kubernetes" / "operator"
REQUIREMENTS = OPERATOR / "requirements.txt"
SITECUSTOMIZE = OPERATOR / "sitecustomize.py"
FIRST = "opentelemetry/instrumentation/auto_instrumentation"
PACKAGES = "tracelet-otel-packages"
TRACKERS = {"aim", "clearml", "mlflow", "mlflow-skinny", "wandb"}
COMPILED = {".so", ".pyd", ".dylib", ".dll"}
OLDEST = "3.10"


def build(wheel: Path, folder: Path) -> None:
    """Makes the folder from wheels that are pure Python, for the oldest Python that we support."""
    (folder / FIRST).mkdir(parents=True)
    shutil.copy(SITECUSTOMIZE, folder / FIRST)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(folder / PACKAGES), "--no-deps", "--no-compile", "--only-binary=:all:"]
    command += ["--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", OLDEST]
    subprocess.run([*command, "--requirement", str(REQUIREMENTS), str(wheel)], check=True)
    shutil.rmtree(folder / PACKAGES / "bin", ignore_errors=True)  # their first line names this Python


def problems(folder: Path) -> Iterator[str]:
    """The problems of a folder; none if it can be used in any pod."""
    in_front = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    in_front -= {path for path in in_front if path.startswith(f"{PACKAGES}/")}
    for path in sorted(in_front - {f"{FIRST}/{SITECUSTOMIZE.name}"}):
        yield f"{path} is in front of the application's packages"
    for path in sorted(folder.rglob("*")):
        if path.suffix in COMPILED or path.is_symlink():
            yield f"{path.relative_to(folder)} is not pure Python"
    installed = {item.name.lower().replace("_", "-") for item in distributions(path=[str(folder / PACKAGES)])}
    for name in sorted(installed & (TRACKERS | {"grpcio", "psutil"})):
        yield f"{name} does not belong here"
    if "tracelet-otel" not in installed:
        yield "tracelet-otel is missing"


def main() -> None:
    """Builds and checks; exits with a message if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    build(arguments.wheel, arguments.folder)
    if found := list(problems(arguments.folder)):
        raise SystemExit("\n".join(found))
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 1024**2:.1f} MiB, pure Python, nothing in front of the application's")


if __name__ == "__main__":
    main()
