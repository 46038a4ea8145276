"""What a tracker's client raises, as the delivery's two types of error."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.importing import passes

TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Codes of HTTP answers after which the same request may work."""
_TRANSIENT_WORDS: Final = ("Timeout", "Connection")
_PERMANENT_ERRNO: Final = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL),
}


class ClientErrors:
    """How the client of one tracker fails. ``with errors():`` raises delivery errors instead of the client's.

    Args:
        name: the tracker's name as its users write it.
        library: the client's import name, which is also the name of the extra that installs it.
        words: parts of the names of exception classes that may pass, besides those of time-outs and
            connections.
        own: what is known of this client's exceptions only. It returns None where the rules for all hold.
    """

    def __init__(
        self,
        name: str,
        library: str,
        words: Sequence[str] = (),
        own: Callable[[Exception], DeliveryError | None] = lambda _: None,
    ) -> None:
        self._name = name
        self._library = library
        self._words = (*_TRANSIENT_WORDS, *words)
        self._own = own

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Raises what the client and the libraries below it raise as delivery errors."""
        try:
            yield
        except DeliveryError:
            raise
        except Exception as error:
            raise self.translated(error) from error

    def translated(self, error: Exception) -> DeliveryError:
        """The delivery error for an exception of the client or of the libraries below it."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == self._library:
            return PermanentError(
                f'{self._name} is not installed: pip install "tracelet-otel[{self._library}]"'
            )
        if passes(error):
            return TransientError(text)
        if (known := self._own(error)) is not None:
            return known
        names = [kind.__name__ for kind in type(error).__mro__]
        if any(word in name for name in names for word in self._words):
            return TransientError(text)
        if isinstance(error, OSError) and error.errno not in _PERMANENT_ERRNO:
            return TransientError(text)  # a full disk, a network folder that went away
        return PermanentError(text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer's ``Retry-After`` asks to wait; None for a date or without the header."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", "")))
    return None
