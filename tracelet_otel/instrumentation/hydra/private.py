"""Hydra's private names that we use. Without them no configuration is recorded, and everything else works."""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

HYDRA: Final = PrivateNames("Hydra", "hydra-core")

# The functions that run a job are imported by name in several places, and may have been by now.
_CALLBACKS: Final = "hydra._internal.callbacks:Callbacks"

JOB_START: Final = HYDRA.optional(f"{_CALLBACKS}.on_job_start", "the configuration of jobs is not recorded")
JOB_END: Final = HYDRA.optional(
    f"{_CALLBACKS}.on_job_end", "what is logged after a job counts as the job's, until the next one"
)
# The public property raises a failed job's error, and prints about it.
RETURN_VALUE: Final = HYDRA.optional(
    "hydra.core.utils:JobReturn()._return_value", "a failed job's own run ends as finished"
)
