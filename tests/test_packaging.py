"""What the distribution declares: dependencies that are pinned, entry points that load and stay light."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("", *(distribution("tracelet-otel").metadata.get_all("Provides-Extra") or ()))


def pins() -> dict[str, Version]:
    """The constraints that hold for this Python."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                (pin,) = requirement.specifier
                assert pin.operator == "=="
                assert canonicalize_name(requirement.name) not in found
                found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


def test_every_declared_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for line in distribution("tracelet-otel").requires or ():
        requirement = Requirement(line)
        wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in EXTRAS)
        if wanted and requirement.name != "tracelet-otel":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_no_pin_names_a_build_or_a_place() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.findall(r"^[^#\n]*(?:\+|://| @ |--).*$", text, re.MULTILINE)


def test_every_entry_point_loads_and_imports_no_framework_and_no_tracker() -> None:
    code = """
import sys
from importlib.metadata import distribution
points = distribution("tracelet-otel").entry_points
for point in points:
    point.load()
heavy = {"aim", "clearml", "wandb"}
heavy |= {"lightning", "mlflow", "pytorch_lightning", "tensorboard", "tensorboardX", "torch"}
print(len(points), sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == f"{len(distribution('tracelet-otel').entry_points)} []\n"
