"""Names of other libraries that are not part of their interface: each may go with their next release."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any

from tracelet_otel.foundation.guard import log_once


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A private name, and what is lost without it.

    Args:
        where: the module that has the name, or a description of the object that has it as attribute.
        name: the name itself.
        lost: what does not work without it, as a sentence.
    """

    where: str
    name: str
    lost: str

    def imported(self) -> Any:
        """The name of the module ``where``. None without it: then what is lost was logged."""
        try:
            return self.of(importlib.import_module(self.where))
        except ImportError:
            return self.of(None)

    def of(self, owner: Any) -> Any:
        """The name of this module or object. None without it: then what is lost was logged."""
        found = getattr(owner, self.name, None)
        if found is None:
            log_once(
                f"private {self.where} {self.name}",
                logging.WARNING,
                "this version of the library has no %s in %s: %s",
                self.name,
                self.where,
                self.lost,
            )
        return found
