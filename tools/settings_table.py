"""Prints the table of settings, made from the fields of `tracelet_otel.settings.Settings`.

With `--write`, it writes the table into docs/settings.md, between its two marks.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from tracelet_otel.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
MARKS = "<!-- settings: made by tools/settings_table.py -->\n", "<!-- end of settings -->\n"


def settings_table() -> str:
    """A table with one row for each setting, as Markdown."""
    defaults = Settings()
    lines = ["| `configure()` | variable | default | meaning |\n", "|---|---|---|---|\n"]
    for field in fields(Settings):
        variable, unit, meaning = (field.metadata[key] for key in ("variable", "unit", "meaning"))
        default = _shown(getattr(defaults, field.name), unit)
        lines.append(f"| `{field.name}` | `{variable}` | {default} | {meaning} |\n")
    return "".join(lines)


def _shown(default: Any, unit: str) -> str:
    if isinstance(default, Mapping):
        default = ",".join(cast("Mapping[str, Any]", default))
    if isinstance(default, (int, float)):
        return f"{default:,.0f} {unit}"
    return f"`{default}`" if default else ""


def with_table(text: str) -> str:
    """The page with the current table."""
    start, end = (re.escape(mark) for mark in MARKS)
    new, count = re.subn(f"(?<={start}).*?(?={end})", lambda _: settings_table(), text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{PAGE} must have both marks once, but has them {count} times")
    return new


def main() -> None:
    """Prints the table, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/settings.md")
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(settings_table(), end="")


if __name__ == "__main__":
    main()
