"""Private names of the TensorBoard libraries that we use. Without one only what it says is lost."""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

TENSORBOARD: Final = PrivateNames("TensorBoard", "tensorboard")

CLOSED: Final = TENSORBOARD.optional(
    "tensorboard.summary.writer.event_file_writer:EventFileWriter._closed",
    "what is written to a closed writer, and so is in no file, is recorded too",
)
ENCODE_TAG: Final = TENSORBOARD.optional(
    "torch.utils.tensorboard:SummaryWriter._encode",
    "embeddings whose tag has other characters than letters and digits are not found",
)
