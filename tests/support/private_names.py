"""What the tests of every tracker's private names ask of a package's source."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

from tracelet_otel.foundation.private_names import PrivateName


def rename(monkeypatch: pytest.MonkeyPatch, name: PrivateName) -> None:
    """The library calls this differently now: our code looks for a name that is not there."""
    monkeypatch.setattr(name, "attribute", f"{name.attribute}_as_renamed")
    monkeypatch.setattr(name, "is_reported", False)


def uses_elsewhere(private: ModuleType, library: str) -> list[str]:
    """Private members, and imports from inside the library, in the package's other modules."""
    found: list[str] = []
    path = Path(str(private.__file__))
    for module in sorted(path.parent.glob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                names = [ast.unparse(argument).strip("'") for argument in node.args]
            is_inside = any(name.startswith(f"{library}.") for name in names)
            is_member = (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and node.attr != "_replace"  # a named tuple's
                and not (isinstance(node.value, ast.Name) and node.value.id == "self")
            )
            if (is_inside or is_member) and module != path:
                found.append(f"{module.name}:{getattr(node, 'lineno', 0)}")
    return found
