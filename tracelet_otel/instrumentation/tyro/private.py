"""tyro's private names that we use. Without them its command lines are not recorded; all else is."""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

TYRO: Final = PrivateNames("tyro", "tyro")

# `tyro.cli` calls the function that it is given, which trains, before it returns.
CALLABLE: Final = TYRO.optional(
    "tyro._calling:callable_with_args", "what tyro parses is not recorded as parameters"
)
ROOT_FIELD: Final = "__tyro_dummy_inner__"
"""The one argument where the type is a union of dataclasses."""
