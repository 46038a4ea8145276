"""Changes the code in one place at a time, and lists the changes that the fast tests do not notice.

    python -m tools.mutants [--count N] [--seed N] [--tests PATH] [PATH ...]

mutmut makes these mutants, and runs for each the tests that call the changed function. ``[tool.mutmut]`` in
pyproject.toml names the code and the tests. What it found stays in ``mutants/``. A whole run takes hours.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mutmut.__main__ import cli
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name

NOTICED = {"killed", "timeout", "segfault"}


def main() -> None:
    """Runs the mutants and prints the score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, help="only so many mutants, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of that choice; default: %(default)s")
    parser.add_argument("paths", nargs="*", type=Path, help="only these files and folders; default: all")
    parser.add_argument("--tests", action="append", help="only with these tests; may be given more than once")
    arguments = parser.parse_args()

    mutants = {
        get_mutant_name(file, name): file
        for file in chosen_files(arguments.paths)
        for name in mutate_file_contents(str(file), file.read_text(encoding="utf-8")).mutant_names
    }
    if not mutants:
        parser.error("there is nothing to change; see [tool.mutmut] in pyproject.toml")
    names = sorted(mutants)
    if arguments.count is not None and arguments.count < len(names):
        names = sorted(random.Random(arguments.seed).sample(names, arguments.count))
    print(f"{len(names):,} mutants", flush=True)

    shutil.rmtree("mutants", ignore_errors=True)
    config().only_mutate = sorted({str(mutants[name]) for name in names})
    if arguments.tests:
        config().pytest_add_cli_args_test_selection = arguments.tests
    cli.main(["run", "--max-children", "1", *names], standalone_mode=False)
    report({name: mutants[name] for name in names})


def chosen_files(paths: list[Path]) -> list[Path]:
    """The files that may be changed which are one of the paths, or below one."""
    wanted = [path.resolve() for path in paths]
    return [
        file
        for file in sorted(walk_mutatable_files())
        if not wanted or any(file.resolve().is_relative_to(path) for path in wanted)
    ]


def report(mutants: Mapping[str, Path]) -> None:
    """Prints each mutant that was not noticed, and how many were, for each file and for all."""
    outcomes: dict[Path, Counter[str]] = {}
    for name, file in mutants.items():
        data = SourceFileMutationData(path=file)
        data.load()
        outcome = status_by_exit_code[data.exit_code_by_key[name]]
        outcomes.setdefault(file, Counter())[outcome] += 1
        if outcome not in NOTICED:
            changes = get_diff_for_mutant(name, path=file).splitlines()
            print(f"\n{outcome}: {name}", *(line for line in changes if line[0] in "+-"), sep="\n")
    print()
    for what, found in [*outcomes.items(), ("all", sum(outcomes.values(), Counter[str]()))]:
        count, noticed = sum(found.values()), sum(found[outcome] for outcome in NOTICED)
        others = ", ".join(
            f"{number} {outcome}" for outcome, number in found.items() if outcome not in NOTICED
        )
        print(f"{what!s:45} {noticed:5} of {count:5} noticed, {noticed / count:4.0%}  {others}")


if __name__ == "__main__":
    sys.exit(main())
