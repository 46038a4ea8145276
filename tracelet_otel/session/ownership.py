"""Which of the processes that write one run describes it and says how it ends: exactly one.

That is the process that opened the run. Of the ranks of a launch it is rank 0, if that logs, else the first
one that did: Megatron-LM, for example, logs on the last rank only.

The ranks of a machine find out by sockets in Linux's abstract namespace. These are gone as soon as their
process is, so nothing is left for the next attempt of a job. Rank 0 has one from when it opens the run. The
first other rank that finds none has another: the claim. Rank 0 connects to that, and says there when it has
ended the run; so a claim is good again if rank 0 is killed. Elsewhere, only rank 0 owns the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys

from tracelet_otel.foundation.forks import in_child
from tracelet_otel.resource.launcher import Launch
from tracelet_otel.settings import RankPolicy

_RANK_0, _CLAIM, _NODE = "rank-0", "claim", "node"
_ENDED = b"."
_held: dict[str, socket.socket] = {}
"""The sockets of this process: its own, and those that it has connected to."""


class Ownership:
    """What this process is to the run of its session.

    Args:
        run_id: the run's.
        launch: how the process was launched.
        joined: whether the run is that of a parent process.
        ranks: whose values are recorded.
    """

    def __init__(self, run_id: str, launch: Launch, joined: bool, ranks: RankPolicy) -> None:
        self._run_id = run_id
        self._launch = launch
        self._ranks = sys.platform == "linux" and launch.rank is not None and not joined
        """Whether there are other ranks to agree with."""
        self.is_recorded = ranks == "all" or launch.rank in (None, 0)
        """Whether what this rank logs is recorded."""
        self._may_claim = self._ranks and self.is_recorded and launch.may_own
        user = os.getuid() if hasattr(os, "getuid") else 0
        self._name = "\0tracelet-otel-" + hashlib.sha256(f"{user} {run_id}".encode()).hexdigest()[:32]
        self._calls: list[socket.socket] = []
        """From rank 0, one for each time it opened the run."""
        self.describes = not joined and launch.rank in (None, 0)
        """Whether this process records environment and parameters. Known once the run is open here."""
        self.may_measure = not joined and (launch.is_first_of_node or self._may_claim)
        """Whether this process is ever the one to measure its machine."""

    def open(self, run_id: str) -> None:
        """A run opens in this process. Other runs than the session's are this process's alone."""
        if not self._ranks or run_id != self._run_id:
            return
        if self._launch.is_first_of_node:
            self._listen(_NODE)
        if self._launch.rank == 0:
            self._listen(_RANK_0)
            if (claim := self._connect(_CLAIM)) is not None:
                _held[f"{self._name}to {_CLAIM}"] = claim
        elif self._may_claim and self._listen(_CLAIM):
            self.describes = not self._is_there(_RANK_0)
            if not self.describes:
                self._release(_CLAIM)

    @property
    def ends(self) -> bool:
        """Whether this process is the one to say now how the run ends."""
        if (claim := _held.get(self._name + _CLAIM)) is None:
            return self.describes
        with contextlib.suppress(OSError):  # no more calls
            while True:
                self._calls.append(claim.accept()[0])
        return not self._calls or _was_left(self._calls[-1])

    @property
    def measures(self) -> bool:
        """Whether this process measures the machine now. Its first rank does, if that opened the run."""
        return self._launch.is_first_of_node or (self.describes and not self._is_there(_NODE))

    def close(self, *, has_ended: bool) -> None:
        """The session ends. ``has_ended``: and so does the run, as far as this process has to say it."""
        if not has_ended:
            return
        if (claim := _held.get(f"{self._name}to {_CLAIM}")) is not None:
            with contextlib.suppress(OSError):
                claim.send(_ENDED)
        for name in [name for name in _held if name.startswith(self._name)]:
            _held.pop(name).close()

    def _is_there(self, what: str) -> bool:
        if (found := self._connect(what)) is not None:
            found.close()
        return found is not None

    def _connect(self, what: str) -> socket.socket | None:
        """A connection to the process that listens there; None where none does."""
        connection = _socket()
        try:
            connection.connect(self._name + what)
        except BlockingIOError:  # more have asked than it has room for
            pass
        except OSError:
            connection.close()
            return None
        return connection

    def _listen(self, what: str) -> bool:
        """Whether this process listens there now, and no other one."""
        if self._name + what in _held:
            return True
        listener = _socket()
        try:
            listener.bind(self._name + what)
            listener.listen()
        except OSError:  # another process has the name
            listener.close()
            return False
        _held[self._name + what] = listener
        return True

    def _release(self, what: str) -> None:
        _held.pop(self._name + what).close()


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


def _was_left(call: socket.socket) -> bool:
    """Whether rank 0 is gone, and did not say before that it has ended the run."""
    try:
        return not call.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _forget() -> None:
    for held in _held.values():  # else a worker that outlives this process would seem to be it
        held.close()
    _held.clear()


in_child(_forget)
