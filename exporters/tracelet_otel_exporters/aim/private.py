"""All that we use of AIM's own although it is not meant for others, and what is lost without each.

How a missing name is noticed and reported: :mod:`tracelet_otel.foundation.private_names`. The keys of
AIM's storage, which no name stands for, belong to a version of its data, which is checked as AIM is loaded.
"""

from __future__ import annotations

import atexit
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.private_names import PrivateNames

AIM: Final = PrivateNames("AIM", "aim", "3.29")
"""Names for every repository."""
ON_DISK: Final = PrivateNames("AIM", "aim", "3.29")
"""Names for repositories on disk."""
ON_SERVER: Final = PrivateNames("AIM", "aim", "3.29")
"""Names for repositories behind a server."""

_CLEANUP: Final = "aim.ext.cleanup:AutoClean"
_MESSAGES: Final = "aim.ext.transport.message_utils"
_AT_EXIT: Final = "AIM's clean-up runs at the exit of the process"

DATA_VERSION: Final = AIM.needed("aim.sdk.data_version:DATA_VERSION")
CONTEXT: Final = AIM.needed("aim.storage.context:Context")
HASH: Final = AIM.needed("aim.storage.hashing:hash_auto")
ARTIFACT: Final = AIM.optional(
    "aim.sdk.objects.artifact:Artifact", "files are kept as content of texts, and big ones not at all"
)
MEMORY_TREE: Final = AIM.optional(
    "aim.storage.inmemorytreeview:InMemoryTreeView", "images, sounds and figures are kept as files"
)
BLOB: Final = AIM.optional(
    "aim.storage.types:BLOB", "images, sounds and figures are kept as files, and a server gets no files"
)

CONTAINER: Final = ON_DISK.needed("aim.storage.rockscontainer:RocksContainer")
ENCODE: Final = ON_DISK.needed("aim.storage.encoding:encode")
ENCODE_PATH: Final = ON_DISK.needed("aim.storage.encoding:encode_path")
ENCODE_TREE: Final = ON_DISK.needed("aim.storage.treeutils:encode_tree")
ARRAY_FLAG: Final = ON_DISK.needed("aim.storage.utils:ArrayFlag")
DATABASE: Final = ON_DISK.needed("aim.storage.structured.db:DB")
REPOSITORY_STATUS: Final = ON_DISK.needed("aim.sdk.repo:Repo.check_repo_status")
MIGRATION_COMMAND: Final = ON_DISK.optional(
    "aim.storage.migrations.utils:create_migration_cmd", "a repository is not made: make it with `aim init`"
)
_EXIT_REGISTERED: Final = ON_DISK.optional(f"{_CLEANUP}._registered_with_atexit", _AT_EXIT)
_EXIT_FINALIZERS: Final = ON_DISK.optional(
    f"{_CLEANUP}._finalizers", "AIM's clean-up at exit waits for our files too"
)
_EXIT_CLEANUP: Final = ON_DISK.optional(f"{_CLEANUP}.cleanup", _AT_EXIT)

PACK: Final = ON_SERVER.needed(f"{_MESSAGES}:pack_args")
UNPACK: Final = ON_SERVER.needed(f"{_MESSAGES}:unpack_args")
ENCODE_MESSAGE: Final = ON_SERVER.needed(f"{_MESSAGES}:encode_tree")
DECODE_MESSAGE: Final = ON_SERVER.needed(f"{_MESSAGES}:decode_tree")
RESOURCE: Final = ON_SERVER.optional(
    f"{_MESSAGES}:ResourceObject", "queries find a run only after `aim storage reindex` on the server"
)

# Variables and a command, by which nothing is found any more where AIM calls them differently.
REPOSITORY_NAME: Final = "__AIM_REPO_NAME__"
"""Names the folder of a repository, which is ``.aim`` otherwise."""
CERTIFICATES_FILE: Final = "__AIM_CLIENT_SSL_CERTIFICATES_FILE__"
"""Names the certificates that a client trusts."""
SERVED_REPOSITORY: Final = "__AIM_UI_MOUNT_REPO_PATH__"
"""Names the repository, to the processes of ``aim up``."""
USER_INTERFACE: Final = "aim.web.run:app"
"""In the command line of the processes of ``aim up``."""

DATA_VERSIONS: Final = ((1, 3),)
"""Versions of AIM's storage whose keys are these; AIM 3.29 has 1.3."""

Key = tuple["str | int", ...]
LISTED_AS: Final[Mapping[str, str]] = {
    "float": "metric",
    "aim.image": "images",
    "aim.audio": "audios",
    "aim.text": "texts",
    "aim.distribution": "distributions",
    "aim.figure": "figures",
}
"""By type of values: what AIM's pages list a sequence under."""


def check_version() -> None:
    """Looks whether AIM's storage is known.

    Raises:
        PermanentError: it is not.
    """
    AIM.check()
    if tuple(DATA_VERSION.get()) not in DATA_VERSIONS:
        version = importlib.metadata.version("aim")
        raise PermanentError(f"AIM {version} stores runs in a way that is not known here; use 3.29")


def run_key(run_hash: str, *rest: str | int) -> Key:
    """Where a run's own content is in the tree ``meta``."""
    return ("meta", "chunks", run_hash, *rest)


def values_key(run_hash: str, is_metric: bool, *rest: str | int) -> Key:
    """Where a run's values are in the tree ``seqs``."""
    return ("seqs", *(("v2",) if is_metric else ()), "chunks", run_hash, *rest)


def open_container(path: Path) -> Any:
    """Opens one of AIM's key-value stores for writing; the caller closes it.

    AIM registers each for a clean-up at exit that waits without limit when one of its steps raises. This one
    is taken out of it again.

    Raises:
        Exception: of aimrocks, where another process or another object of this one has it open.
    """
    was_registered = _EXIT_REGISTERED.get(default=True)
    container = CONTAINER.get()(str(path), read_only=False, timeout=0)
    finalizers = _EXIT_FINALIZERS.get(default={container: None})
    finalizers.pop(container, None)
    if not was_registered and not finalizers and (clean_up := _EXIT_CLEANUP.get()):
        atexit.unregister(clean_up)  # as it was before us: AIM registers it again when it needs it
        _EXIT_REGISTERED.set(False)
    return container


def media_object(kind: Any, described: Mapping[str, object], content: bytes | str) -> Any | None:
    """One of AIM's objects with this content as it is; None where AIM no longer keeps them as we know."""
    tree, blob = MEMORY_TREE.get(), BLOB.get()
    if tree is None or blob is None:
        return None
    # a storage of its own: the default of CustomObject.__new__ is one that all objects would share
    made = kind.__new__(kind, _storage=tree(container={}))
    for name, value in described.items():
        made.storage[name] = value
    made.storage["data"] = blob(data=content)
    return made
