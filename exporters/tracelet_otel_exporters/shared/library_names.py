"""Names that a tracker's library keeps for itself, each with what is lost without it.

Any version of the library may rename or remove them. A name without which nothing can be delivered is looked
for when the library is loaded: if it is missing, the delivery reports that and keeps everything in its spool.
Without any other name only what it is for is lost, which is logged once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Generator, Iterator
from typing import Any

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel_exporters.shared.importing import passes


class LibraryNames:
    """All private names of one library.

    Args:
        title: what people call the library.
        package: its import name, and its name on PyPI.
        supported: the version in which all its names are there.
    """

    def __init__(self, title: str, package: str, supported: str) -> None:
        self.title = title
        self.package = package
        self.supported = supported
        self._names: list[LibraryName] = []

    def __iter__(self) -> Iterator[LibraryName]:
        return iter(self._names)

    def needed(self, path: str) -> LibraryName:
        """Declares a name without which nothing can be delivered."""
        return self.optional(path, "")

    def needed_members(self, owner: str, *members: str) -> None:
        """Declares members that only :meth:`check` looks for; the code uses them as they are."""
        for member in members:
            self.needed(f"{owner}.{member}")

    def optional(self, path: str, lost: str) -> LibraryName:
        """Declares a name without which everything but ``lost`` works."""
        self._names.append(LibraryName(self, path, lost))
        return self._names[-1]

    def check(self) -> None:
        """Looks for the needed names of modules and classes.

        Raises:
            PermanentError: one is not there.
        """
        for name in self:
            if name.is_needed and name.is_static:
                name.get()


class LibraryName:
    """One private name.

    Args:
        library: the library that has it.
        path: ``module:name`` or ``module:Class.member``; ``module:Class().member`` for what only objects of
            the class have.
        lost: what does not work without it; empty: nothing can be delivered.
    """

    def __init__(self, library: LibraryNames, path: str, lost: str) -> None:
        self.path = path
        self.module, _, self._place = path.partition(":")
        self.attribute = self._place.rpartition(".")[2]
        self.lost = lost
        self.is_needed = not lost
        self.is_static = "()" not in path
        self.is_reported = False
        self._library = library

    def get(self, owner: object = None, default: Any = None) -> Any:
        """The value: of the object ``owner``, else of the module or class.

        Returns: ``default`` where an optional name is not there; what is lost is logged once.

        Raises:
            PermanentError: a needed name is not there.
        """
        library = self._library
        try:
            return getattr(self._owner() if owner is None else owner, self.attribute)
        except (AttributeError, ImportError) as error:
            if passes(error) or (isinstance(error, ModuleNotFoundError) and error.name == library.package):
                raise
            client = f"{library.title} {importlib.metadata.version(library.package)}"
            if self.is_needed:
                wanted = f"{library.package} {library.supported}"
                raise PermanentError(
                    f"{client} has no {self.path}, which is needed: install {wanted}"
                ) from error
        if not self.is_reported:
            self.is_reported = True
            get_logger(__name__).warning("%s has no %s, so %s; all else works", client, self.path, self.lost)
        return default

    def set(self, value: object, owner: object = None) -> None:
        """Gives it a value, where it is there: in the object ``owner``, else in the module or class.

        Raises:
            PermanentError: a needed name is not there.
        """
        if self.get(owner, self) is not self:
            setattr(self._owner() if owner is None else owner, self.attribute, value)

    @contextlib.contextmanager
    def replaced(self, value: object) -> Generator[None]:
        """Has another value meanwhile, where it is there."""
        before = self.get()
        self.set(value)
        try:
            yield
        finally:
            self.set(before)

    def _owner(self) -> Any:
        owner: Any = importlib.import_module(self.module)
        for part in self._place.split(".")[:-1]:
            owner = getattr(owner, part)
        return owner
