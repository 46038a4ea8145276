"""What the launcher of this process says: rank, world size, and an id that all ranks agree on.

Sources: PyTorch documentation, "torchrun (Elastic Launch)", section "Environment Variables"; Lightning
documentation, `LightningEnvironment`; Slurm documentation, srun, section "OUTPUT ENVIRONMENT VARIABLES";
Kubernetes documentation, "Accessing the Kubernetes API from a Pod", and "Job", section "Completion mode".

Kubernetes gives no run id: a job that is submitted again under its name would go on in the old run. Set
``TRACELET_RUN_ID`` there, for example from the job's label ``batch.kubernetes.io/controller-uid``.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

_NAMESPACE = uuid.UUID("7b4f9f43-6a8b-5b5c-9d8e-0f6d0f1f9a4e")
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

_TORCHRUN: Final = {
    "rank": "RANK",
    "world_size": "WORLD_SIZE",
    "local_rank": "LOCAL_RANK",
    "node_rank": "GROUP_RANK",
    "id": "TORCHELASTIC_RUN_ID",
    "restarts": "TORCHELASTIC_RESTART_COUNT",
}
_SLURM: Final = {
    "rank": "SLURM_PROCID",
    "world_size": "SLURM_STEP_NUM_TASKS",
    "local_rank": "SLURM_LOCALID",
    "node_rank": "SLURM_NODEID",
    "nodes": "SLURM_NNODES",
    "id": "SLURM_JOB_ID",
    "name": "SLURM_JOB_NAME",
    "step": "SLURM_STEP_ID",
    "array_id": "SLURM_ARRAY_JOB_ID",
    "array_task": "SLURM_ARRAY_TASK_ID",
    "restarts": "SLURM_RESTART_COUNT",
    "cluster": "SLURM_CLUSTER_NAME",
    "partition": "SLURM_JOB_PARTITION",
}
_NUMBERS: Final = {"rank", "world_size", "local_rank", "node_rank", "nodes", "restarts", "array_task"}


class Launch(NamedTuple):
    """How this process was launched. Alone: rank None and no run id."""

    rank: int | None = None
    run_id: str = ""
    local_rank: int | None = None
    """Rank among the processes of this machine, where the launcher says it."""
    may_own: bool = True
    """Whether a run that rank 0 does not log to may be this process's: on rank 0's machine, or the last."""

    @property
    def is_first_of_node(self) -> bool:
        """Whether this is the one process of its machine to measure it."""
        return self.local_rank in (None, 0)


def detect() -> Launch:
    """Reads torchrun's variables, else those of Lightning's own launcher or of a Slurm job step.

    Without them, or with one rank, the process is alone. A Slurm job that is requeued keeps its id, so its
    run is resumed.
    """
    if (world_size := _number("WORLD_SIZE")) is not None and (rank := _number("RANK")) is not None:
        may_own = rank == world_size - 1 or _number("GROUP_RANK") == 0
        return Launch(rank, _torchrun_id(), _number("LOCAL_RANK"), may_own) if world_size > 1 else Launch()
    # Lightning does not say RANK to the scripts that it starts, and their number for each node to nobody.
    if world_size and world_size > 1 and "NODE_RANK" in os.environ and not _number("NODE_RANK"):
        local_rank = _number("LOCAL_RANK")
        return Launch(local_rank, "", local_rank)
    # Not SLURM_NTASKS, which is also set in a batch script that runs Python once, without srun.
    tasks, rank = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_PROCID")
    if tasks is None or rank is None or tasks < 2:
        return Launch()
    may_own = rank == tasks - 1 or _number("SLURM_NODEID") == 0
    return Launch(rank, _slurm_id(), _number("SLURM_LOCALID"), may_own)


def fingerprint() -> str:
    """What a launcher has said: the same in a process that it started and in those which that starts."""
    names = ("RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID")
    return "|".join(os.environ.get(name, "") for name in (*names, *slurm))


def describe() -> dict[str, Any]:
    """The launchers of this process and what they say, for people; empty where there is none.

    ``name`` is the innermost: ``torchrun``, ``slurm`` or ``kubernetes``. Each has an entry of its own:
    ``{"name": "torchrun", "torchrun": {"rank": 3, ...}, "slurm": {"id": "42", ...}}``.
    """
    found: dict[str, Any] = {}
    if "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        found["torchrun"] = _read(_TORCHRUN)
    if "SLURM_JOB_ID" in os.environ:
        found["slurm"] = _read(_SLURM)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        found["kubernetes"] = _kubernetes()
    return {"name": next(iter(found)), **found} if found else {}


def _read(variables: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, variable in variables.items():
        if value := os.environ.get(variable, ""):
            found[name] = int(value) if name in _NUMBERS and value.isdecimal() else value
    return found


def _kubernetes() -> dict[str, Any]:
    # A pod's host name is its name, unless its specification says otherwise.
    found = {
        "pod": os.environ.get("POD_NAME") or socket.gethostname(),
        "namespace": os.environ.get("POD_NAMESPACE") or _text(f"{_SERVICE_ACCOUNT}/namespace"),
        "node": os.environ.get("NODE_NAME"),
        "completion_index": os.environ.get("JOB_COMPLETION_INDEX"),
    }
    return {name: value for name, value in found.items() if value}


def _number(variable: str) -> int | None:
    try:
        return int(os.environ.get(variable, ""))
    except ValueError:
        return None


def _slurm_id() -> str:
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")
    values = [os.environ.get(name, "") for name in names]
    return uuid.uuid5(_NAMESPACE, f"slurm {' '.join(values)}").hex if values[1] else ""


def _torchrun_id() -> str:
    elastic_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if elastic_id and elastic_id != "none":
        return uuid.uuid5(_NAMESPACE, f"torchrun {elastic_id}").hex
    if elastic_id and os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        # One node without a rendezvous id: the ranks share their parent, and the moment it started.
        parent = os.getppid()
        return uuid.uuid5(_NAMESPACE, f"{socket.gethostname()} {parent} {_start_time(parent)}").hex
    # Several processes that Slurm starts and that a script gives ranks to, as many do for init_process_group.
    return _slurm_id() if _number("SLURM_STEP_NUM_TASKS") == _number("WORLD_SIZE") else ""


def _start_time(pid: int) -> str:
    # Field 22 of /proc/<pid>/stat, clock ticks after boot (proc(5)); elsewhere the pid must do.
    stat = _text(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
