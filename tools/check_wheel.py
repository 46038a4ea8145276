"""Builds the sdist, and from it the wheel, and checks the wheel in an environment without anything else.

It compares the wheel's files with the source tree and checks the metadata. It imports every module and loads
every entry point from another folder, with only the core dependencies. It runs a program under
``opentelemetry-instrument``.

With ``--other-pythons``, it checks the wheel in ``dist/`` with every other supported Python that it finds on
``PATH`` or in pyenv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = {"tracelet_otel": ROOT, "tracelet_otel_exporters": ROOT / "exporters"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

LOAD = """
import functools, importlib, importlib.metadata, pkgutil, sys

# A module that needs one of these may import it at its top; the module of an entry point may not.
OPTIONAL = {"aim", "clearml", "lightning", "mlflow", "pytorch_lightning"}
OPTIONAL |= {"tensorboard", "tensorboardX", "torch", "wandb"}
OPTIONAL |= {"grpc", "opentelemetry.exporter.prometheus", "prometheus_client"}
imported, skipped, failed = [], [], []


def attempt(name, load, optional=frozenset()):
    try:
        load()
        imported.append(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and {missing, missing.partition(".")[0]} & optional:
            skipped.append(f"{name} (needs {missing})")
        else:
            failed.append(f"{name}: {error!r}")


distribution = importlib.metadata.distribution("tracelet-otel")
for point in distribution.entry_points:
    attempt(f"{point.group}: {point.name} = {point.value}", point.load)
points = len(imported)
for package in sys.argv[1:]:
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, package + ".", onerror=lambda name: None):
        if module.name.endswith(".__main__"):  # it would run
            continue
        attempt(module.name, functools.partial(importlib.import_module, module.name), OPTIONAL)
for line in failed:
    print(f"FAILED  {line}", file=sys.stderr)
print(f"{points} entry points and {len(imported) - points} modules load", *skipped, sep="; not ")
sys.exit(bool(failed) or not points)
"""


def run(*command: str | Path, cwd: Path = ROOT, constrain_builds: bool = False) -> str:
    """The command's standard output. If the command fails, the check ends with all its output."""
    foreign = ("OTEL_", "TRACELET_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    if constrain_builds:  # build has no option for it; each pip reads one of the two
        environment["PIP_CONSTRAINT"] = environment["PIP_BUILD_CONSTRAINT"] = str(CONSTRAINTS)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}exit {done.returncode}")
    return done.stdout


def built_wheel() -> Path:
    """The one wheel in ``dist/``."""
    wheels = list(DIST.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{DIST} must contain one wheel, but has {len(wheels)}")
    return wheels[0]


def check_content(wheel: Path) -> None:
    """The wheel holds both packages, py.typed and the licence, valid metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        metadata = Metadata.from_email(archive.read(f"{info}/METADATA"), validate=True)
    packaged = {name for name in names if not name.startswith(info + "/")}
    expected = {
        file.relative_to(root).as_posix()
        for package, root in PACKAGES.items()
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    problems = [f"not in the wheel: {name}" for name in sorted(expected - packaged)]
    problems += [f"does not belong in the wheel: {name}" for name in sorted(packaged - expected)]
    required = {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    required |= {f"{name}/py.typed" for name in PACKAGES}
    problems += [f"not in the wheel: {name}" for name in sorted(required - names)]
    if not (metadata.description or "").strip() or metadata.description_content_type != "text/markdown":
        problems.append("the metadata does not contain the README")
    if metadata.license_expression != "Apache-2.0":
        problems.append(f"the metadata's licence is {metadata.license_expression}")
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"{wheel.name}: {len(packaged)} files, metadata valid")


def check_installed(wheel: Path, python: str) -> None:
    """The wheel works in a new environment of ``python``, without any extra."""
    with tempfile.TemporaryDirectory(prefix="tracelet-wheel-") as folder:
        home = Path(folder)
        run(python, "-m", "venv", home / "venv", cwd=home)
        scripts = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
        installed = scripts / "python"
        pip = (installed, "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "-qq", "--constraint", CONSTRAINTS, wheel, cwd=home)
        run(*pip, "check", cwd=home)
        version = run(installed, "--version", cwd=home).strip()
        load = home / "load.py"
        load.write_text(LOAD, encoding="utf-8")
        print(f"{version}: {run(installed, load, *PACKAGES, cwd=home).strip()}")
        greeting = run(scripts / "opentelemetry-instrument", installed, "-c", "print('trained')", cwd=home)
        if greeting.split() != ["trained"]:
            raise SystemExit(f"opentelemetry-instrument changed what the program prints: {greeting!r}")


def find_python(version: str) -> str | None:
    """A Python of this version that can make an environment. Some do not even run: pyenv has such shims."""
    found = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        versions = Path(run(pyenv, "root").strip()) / "versions"
        found += sorted(str(path) for path in versions.glob(f"{version}.*/bin/python"))
    probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for python in filter(None, found):
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return python
    return None


def main() -> None:
    """Runs the checks; exits with a message if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other-pythons", action="store_true", help="check the wheel in dist/ with them")
    if not parser.parse_args().other_pythons:
        shutil.rmtree(DIST, ignore_errors=True)
        run(sys.executable, "-m", "build", "--outdir", DIST, constrain_builds=True)
        check_content(built_wheel())
        check_installed(built_wheel(), sys.executable)
        return
    for version in PYTHONS:
        if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            continue
        if python := find_python(version):
            check_installed(built_wheel(), python)
        else:
            print(f"Python {version}: skipped, not on this machine")


if __name__ == "__main__":
    main()
