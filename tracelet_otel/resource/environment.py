"""Where and with what the process runs: the payload of the record ``environment``.

Every key is optional:

=============  ===========================================================================================
git            ``commit``, ``branch``, ``repository`` (URL without credentials), ``root`` (folder), ``dirty``
python         ``version``, ``executable``
packages       name to version, of every installed distribution
command        list: the command line, secrets masked
entry_point    the script, relative to ``working_dir`` where it is below it; ``-m package`` for a module
working_dir    absolute
host           ``name``, ``os``, ``cpu_count`` (logical), ``memory_bytes``, ``user``
gpus           list of ``name`` and ``memory_bytes``
variables      those environment variables of :data:`VARIABLES` that are set, secrets masked
launcher       see :func:`tracelet_otel.resource.launcher.describe`
=============  ===========================================================================================

:func:`snapshot` costs microseconds and is for the moment at which the run begins, since scripts change their
folder and arguments. :func:`environment_record` starts processes and reads files, for up to seconds: it is
for a thread that training does not wait for.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.machine.gpu import visible_gpus
from tracelet_otel.instrumentation.ray.script import task_script
from tracelet_otel.resource import git, launcher
from tracelet_otel.secrets.redaction import is_secret_name, redacted_command, redacted_text

VARIABLES: Final = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("TORCH_CUDNN_V8_API_ENABLED", "TORCH_DISTRIBUTED_DEBUG", "TORCH_NCCL_ASYNC_ERROR_HANDLING"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("PYTHONHASHSEED", "PYTHONOPTIMIZE", "PL_GLOBAL_SEED", "TOKENIZERS_PARALLELISM", "XLA_FLAGS"),
    *("TF_CPP_MIN_LOG_LEVEL", "TF_DETERMINISTIC_OPS", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR"),
    *("MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"),
    *("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST", "SLURM_NNODES"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_CLUSTER_NAME"),
    *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_PER_TASK"),
    *("CONDA_DEFAULT_ENV", "VIRTUAL_ENV"),
)
"""The environment variables that are recorded, and with them those that begin with ``NCCL_`` or ``GLOO_``."""
_PREFIXES: Final = ("NCCL_", "GLOO_")
_NAME: Final = re.compile(r"^Name:[ \t]*(\S+)", re.MULTILINE)
_VERSION: Final = re.compile(r"^Version:[ \t]*(\S+)", re.MULTILINE)


class Snapshot(NamedTuple):
    """What a script may change while it runs."""

    command: Sequence[str]
    working_dir: str
    variables: Mapping[str, str]
    module: str = ""
    """The package's name for ``python -m package``."""
    script: str = ""
    """The script, where the command line is a launcher's."""


def snapshot() -> Snapshot:
    """The process as it is now. Raises nothing."""
    try:
        folder = os.getcwd()  # noqa: PTH109 - a Path costs more
    except OSError:  # it was deleted
        folder = ""
    script = task_script()
    module = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", "") or ""
    variables = {name: value for name, value in os.environ.items() if _is_allowed(name)}
    return Snapshot([*getattr(sys, "argv", ())], folder, variables, module.removesuffix(".__main__"), script)


def environment_record(now: Snapshot | None = None, *, gpus: bool = True) -> dict[str, Any]:
    """The record's payload, all of it JSON. What cannot be found out is left out; raises nothing.

    Args:
        now: the process as it was when the run began; None: as it is.
        gpus: whether to ask NVIDIA's driver, which may take it a second without its persistence mode.
    """
    now = now or snapshot()
    record: dict[str, Any] = {}
    parts: dict[str, Callable[[], Any]] = {
        "git": lambda: _git(now),
        "python": lambda: {"version": platform.python_version(), "executable": sys.executable},
        "packages": packages,
        "command": lambda: redacted_command(now.command),
        "entry_point": lambda: _entry_point(now),
        "working_dir": lambda: now.working_dir,
        "host": _host,
        "gpus": visible_gpus if gpus else list,
        "variables": lambda: {name: redacted_text(value) for name, value in sorted(now.variables.items())},
        "launcher": launcher.describe,
    }
    for name, find in parts.items():
        with Guard(f"describing the environment: {name}"):
            if found := find():
                record[name] = found
    return record


def packages() -> dict[str, str]:
    """Every installed distribution and its version; of two with one name that which Python imports."""
    found: dict[str, str] = {}
    for distribution in distributions():
        with contextlib.suppress(Exception):  # a broken installation of another package is not our matter
            # The first lines only: parsing the whole of a METADATA file takes ten times as long.
            text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
            header = text.partition("\n\n")[0]
            name, version = _NAME.search(header), _VERSION.search(header)
            if name and version:
                found.setdefault(name[1], version[1])
            elif distribution.metadata["Name"] and distribution.version:
                found.setdefault(distribution.metadata["Name"], distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _is_allowed(name: str) -> bool:
    return (name in VARIABLES or name.startswith(_PREFIXES)) and not is_secret_name(name)


def _git(now: Snapshot) -> dict[str, Any]:
    """Of the script's repository; else, as for a script that pip installed, of the working folder's."""
    script = _script(now)
    folders = [*([script.parent] if script else []), *([Path(now.working_dir)] if now.working_dir else [])]
    for folder in dict.fromkeys(folders):
        if folder.is_dir() and (found := git.describe(folder)):
            return found
    return {}


def _script(now: Snapshot) -> Path | None:
    name = now.script or (now.command[0] if now.command else "")
    if name in ("", "-c", "-m", "-"):
        return None
    path = Path(os.path.normpath(Path(now.working_dir or "/", name)))
    return path if path.is_file() else None


def _entry_point(now: Snapshot) -> str:
    if now.module:
        return f"-m {now.module}"
    script = _script(now)
    if script and now.working_dir and script.is_relative_to(now.working_dir):
        return script.relative_to(now.working_dir).as_posix()
    return str(script or "")


def _host() -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": socket.gethostname(),
        "os": platform.platform(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user without a name
        found["user"] = getpass.getuser()
    return {name: value for name, value in found.items() if value}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        import psutil

        return psutil.virtual_memory().total
