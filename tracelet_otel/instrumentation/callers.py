"""Whose command line a parser reads: the user's, or that of a launcher or a worker process.

A parser is judged by the code that has it parse. The user's code lies neither in ``site-packages`` nor in the
standard library. A library's parser counts only where the library is the program itself: no code of the user
is on the stack, as in an installed package with a console script or ``python -m package.train``, and no known
launcher is.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

_WRAPPERS = frozenset({"argparse", "jsonargparse", "simple_parsing", "tracelet_otel", "tyro", "wrapt"})
"""Packages that parse for their callers."""
_LAUNCHERS = frozenset(
    {
        *(
            "accelerate",
            "deepspeed",
            "horovod",
            "lightning",
            "lightning_fabric",
            "mpi4py",
            "pytorch_lightning",
        ),
        *("torch", "torch_xla", "torchx", "xformers"),
        *("celery", "dask", "distributed", "joblib", "loky", "parsl", "ray", "submitit"),
        *("_pytest", "execnet", "ipykernel", "ipykernel_launcher", "IPython", "jupyter_client", "nbclient"),
        *("nbconvert", "papermill", "pytest", "traitlets", "xdist"),
        *(
            "coverage",
            "debugpy",
            "kernprof",
            "line_profiler",
            "memray",
            "opentelemetry",
            "scalene",
            "viztracer",
        ),
        *("aim", "clearml", "guild", "hydra", "mlflow", "sagemaker_training", "skypilot", "wandb"),
    }
)
"""Packages whose programs start the user's code or work for it."""

Home = Literal["user", "library", "neutral"]
_NONE: Final = object()


def is_users(parser: object = _NONE) -> bool:
    """Whether the parse that is under way is of the user's own command line.

    Args:
        parser: the parser, if there is one. A function that was given it, as its own methods are, parses for
            its caller.
    """
    homes = [_home(frame) for frame in _outward() if not _parses_for_its_caller(frame, parser)]
    caller = next((home for home, _ in homes if home != "neutral"), "user")
    if caller == "user":
        return True
    return all(home != "user" and package not in _LAUNCHERS for home, package in homes)


def argument(package: str, name: str) -> Any:
    """What the user's code gave to the function of a package that is under way; None: there is no such."""
    found = None
    for frame in _outward():
        if _package(frame) == package:
            found = frame.f_locals.get(name)
    return found


def users_files() -> Iterator[str]:
    """The files of the user's code that is under way, the innermost first."""
    for frame in _outward():
        path = frame.f_code.co_filename
        if _package(frame) not in _WRAPPERS and _home(frame)[0] == "user" and Path(path).is_file():
            yield path


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _outward() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _parses_for_its_caller(frame: FrameType, parser: object) -> bool:
    if _package(frame) in _WRAPPERS:
        return True
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values: dict[str, Any] = frame.f_locals if names else {}
    return any(values.get(name) is parser for name in names)


def _home(frame: FrameType) -> tuple[Home, str]:
    """Where a frame's code lies, and the library's package."""
    # Generated code has a file name like "<string>", but the globals of the module that it is for.
    path = str(frame.f_globals.get("__file__") or frame.f_code.co_filename)
    parts = path.replace(os.sep, "/").split("/")
    for site in ("site-packages", "dist-packages"):
        if site in parts:
            return "library", parts[len(parts) - parts[::-1].index(site)].removesuffix(".py")
    if path.startswith(("<frozen", _STANDARD_LIBRARY)) or Path(path).parent == _SCRIPTS:
        return "neutral", ""
    return "user", ""


_STANDARD_LIBRARY = str(Path(os.__file__).parent) + os.sep
_SCRIPTS = Path(sysconfig.get_path("scripts"))
