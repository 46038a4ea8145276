"""Names that a library keeps for itself, each with what is lost without it.

Any version of the library may rename or remove them. Without most of them only what they are for is lost,
which is logged once. Without a name that a tracker needs nothing can be delivered: it is looked for when its
library is loaded, and if it is missing, the delivery reports that and keeps everything in its spool.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Generator, Iterator
from typing import Any

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.importing import passes
from tracelet_otel.foundation.logs import get_logger


class PrivateNames:
    """All private names of one library.

    Args:
        title: what people call the library.
        package: its name on PyPI.
        supported: the version in which all its names are there.

    Example:
        >>> _NAMES = PrivateNames("AIM", "aim", "3.29")
        >>> BLOB = _NAMES.optional("aim.storage.types:BLOB", "images are kept as files")
    """

    def __init__(self, title: str, package: str, supported: str = "") -> None:
        self.title = title
        self.package = package
        self.supported = supported
        self._names: list[PrivateName] = []

    def __iter__(self) -> Iterator[PrivateName]:
        return iter(self._names)

    def needed(self, path: str) -> PrivateName:
        """Declares a name without which nothing can be delivered."""
        return self.optional(path, "")

    def needed_members(self, owner: str, *members: str) -> None:
        """Declares members that only :meth:`check` looks for; the code uses them as they are."""
        for member in members:
            self.needed(f"{owner}.{member}")

    def optional(self, path: str, lost: str) -> PrivateName:
        """Declares a name without which everything but ``lost`` works."""
        self._names.append(PrivateName(self, path, lost))
        return self._names[-1]

    def installed(self) -> str:
        """The title, with the version that is installed."""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{self.title} {importlib.metadata.version(self.package)}"
        return self.title

    def check(self) -> None:
        """Looks for the needed names of modules and classes.

        Raises:
            PermanentError: one is not there.
        """
        for name in self:
            if name.is_needed and name.is_static:
                name.get()


class PrivateName:
    """One private name.

    Args:
        library: the library that has it.
        path: ``module:name`` or ``module:Class.member``; ``module:Class().member`` for what only objects of
            the class have.
        lost: what does not work without it; empty: nothing can be delivered.
    """

    def __init__(self, library: PrivateNames, path: str, lost: str) -> None:
        self.path = path
        self.module, _, place = path.partition(":")
        self.owner, _, self.attribute = place.rpartition(".")
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
            if self.is_needed:
                wanted = f"{library.package} {library.supported}"
                raise PermanentError(
                    f"{library.installed()} has no {self.path}, which is needed: install {wanted}"
                ) from error
        if not self.is_reported:
            self.is_reported = True
            message = "%s has no %s, so %s; all else works"
            get_logger(__name__).warning(message, library.installed(), self.path, self.lost)
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
        return getattr(owner, self.owner) if self.owner else owner
