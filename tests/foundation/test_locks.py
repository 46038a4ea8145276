"""The lock of a file excludes other processes, and ends with the process that holds it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tracelet_otel.foundation.locks import acquire, acquire_folder, is_folder_locked

HOLDER = """
import sys
from pathlib import Path
from tracelet_otel.foundation.locks import acquire_folder
lock = acquire_folder(Path(sys.argv[1]))
print("held" if lock else "taken", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert not is_folder_locked(folder)
    assert not folder.exists()  # to look makes nothing
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_folder_locked(folder)
        assert acquire_folder(folder) is None
        holder.kill()
    assert not is_folder_locked(folder)
    lock = acquire_folder(folder)
    assert lock is not None
    lock.release()
    assert acquire_folder(folder) is not None


def test_who_waits_while_the_file_is_removed_gets_a_lock_that_others_see(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = acquire(path)
    assert first is not None
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(acquire(path, wait=60)))
    waiter.start()
    path.unlink()  # as an agent that ends does
    first.release()
    waiter.join()
    assert got[0] is not None
    assert path.exists()
    assert acquire(path) is None
