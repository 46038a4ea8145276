"""The two ways in which a delivery fails; the type decides what happens to the data."""

from __future__ import annotations


class DeliveryError(Exception):
    """Base of the errors that an exporter raises on purpose."""


class TransientError(DeliveryError):
    """The same data may be taken later: it is kept and sent again.

    Args:
        message: what went wrong.
        retry_after: seconds that the backend asks to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(DeliveryError):
    """The same data will never be taken: it is dropped and counted."""
