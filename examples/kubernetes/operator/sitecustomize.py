"""Python runs this when it starts in a container into which the OpenTelemetry Operator has put our folder.

The Operator puts two entries at the front of the path: the folder of this file, and the folder that it has
mounted. Packages in these would replace the application's own versions. So our packages are in a third
folder, at the end of the path: the application keeps its packages, and ours use them. If one of these does
not fit ours, nothing of ours is loaded and a message says so; the application runs as it would without us.

Source: opentelemetry-operator, internal/instrumentation/python.go.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).absolute().parent
PACKAGES = str(HERE.parents[2] / "tracelet-otel-packages")


def start() -> None:
    """Makes our packages importable, behind the application's, and acts like opentelemetry-instrument."""
    path, outer = list(sys.path), os.environ.get("PYTHONPATH", "")
    # Programs that we start meanwhile, for git or the GPUs, must not be instrumented.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        entry for entry in outer.split(os.pathsep) if Path(entry).absolute() != HERE
    )
    sys.path.append(PACKAGES)
    try:
        if sys.version_info < (3, 10):  # noqa: UP036, here it may be any
            raise ImportError("Python 3.10 or newer is needed")
        if misfit := find_misfit(path):
            raise ImportError(misfit)
        # Names the distribution to load, unless the user did.
        importlib.import_module("tracelet_otel_exporters.environment_variables")
        importlib.import_module("tracelet_otel")  # an error of this import is reported here
        from opentelemetry.instrumentation.auto_instrumentation import initialize
    except Exception as error:
        sys.path.remove(PACKAGES)
        print(f"tracelet-otel: nothing is recorded: {error}", file=sys.stderr)
    else:
        initialize()
    finally:
        os.environ["PYTHONPATH"] = outer


def find_misfit(path: list[str]) -> str:
    """The first of the application's own packages on ``path`` that ours cannot use; else empty."""
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    ours = {canonicalize_name(found.name): found for found in distributions(path=[PACKAGES])}
    theirs: dict[str, str] = {}
    for found in distributions(path=path):
        if found.metadata["Name"]:  # an uninstall that failed leaves empty metadata
            theirs.setdefault(canonicalize_name(found.name), found.version)
    for name in sorted(ours.keys() - theirs.keys()):
        for line in ours[name].requires or ():
            needed = Requirement(line)
            needed_name = canonicalize_name(needed.name)
            version = theirs.get(needed_name)
            # Packages that are not in our folder are for the command line or other extras, or are optional.
            if version is None or needed_name not in ours:
                continue
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            if not needed.specifier.contains(version, prereleases=True):
                return f"this application has {needed.name} {version}, {name} needs {line}"
    return ""


def run_next() -> None:
    """Runs the image's own sitecustomize, which ours hides."""
    path = [entry for entry in sys.path if Path(entry).absolute() != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


run_next()
start()
