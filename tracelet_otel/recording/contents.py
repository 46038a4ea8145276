"""What ``log_text``, ``log_image`` and their like are given, as the payload of a record.

The formats are those of :mod:`tracelet_otel.otlp.records`. numpy, Pillow and matplotlib are the user's:
they are imported only when a value of theirs comes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import mimetypes
import os
import wave
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tracelet_otel import semconv
from tracelet_otel.recording.media import MAX_INLINE_BYTES, MediaFolder

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
)
_MAX_DEPTH = 32
_MAX_TEXT = 10_000
"""Characters kept of the text of an object, such as a model."""
_MAX_ELEMENTS = 100
"""Elements up to which a tensor or array among parameters is written out."""


@dataclass(frozen=True, slots=True)
class Content:
    """The payload of a record, its type, and attributes that describe it."""

    payload: bytes | None
    mime_type: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


def mime_type_of(data: bytes) -> str:
    """The type of an encoded image or sound, by its first bytes."""
    if data[:4] == b"RIFF":
        return {b"WAVE": "audio/wav", b"WEBP": "image/webp"}.get(data[8:12], "application/octet-stream")
    return next((kind for start, kind in _SIGNATURES if data.startswith(start)), "application/octet-stream")


def text(value: Any) -> Content:
    """A text; lone surrogates are spelled out."""
    if not isinstance(value, str):
        raise TypeError(f"a text must be str, got {type(value).__name__}")
    return Content(value.encode("utf-8", "backslashreplace"), "text/plain")


def params(value: Any) -> Content:
    """Parameters as JSON."""
    if not isinstance(value, Mapping):
        if not hasattr(value, "__dict__"):
            raise TypeError(f"params must be a mapping of names to values, got {type(value).__name__}")
        value = cast("Mapping[str, Any]", vars(value))  # argparse.Namespace and its like
    return Content(json.dumps(plain(value)).encode("ascii"), "application/json")


def plain(value: Any, _depth: int = 0) -> Any:
    """``value`` as JSON has it; what has no form there as its text. Raises nothing.

    Mappings, lists, sets (sorted), namespaces, dataclasses and arrays of up to 100 elements are kept, to a
    depth of 32. A NaN or infinity is text. A class or function is its name, an open file its path.
    """
    try:
        return _plain(value, _depth)
    except Exception:  # a value's own code may raise anything
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= _MAX_DEPTH:
        return str(value)[:_MAX_TEXT]
    if isinstance(value, Namespace):
        return _plain(vars(value), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return _plain(members, depth)
    if isinstance(value, Mapping):  # OmegaConf's too
        mapping = cast("Mapping[Any, Any]", value)
        return {str(key): _member(mapping, key, depth + 1) for key in mapping}
    if isinstance(value, Set):
        return sorted((plain(item, depth + 1) for item in cast("Set[Any]", value)), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview, range)):
        return [plain(item, depth + 1) for item in cast("Sequence[Any]", value)]
    other: Any = cast("Any", value)
    if callable(getattr(other, "tolist", None)):
        shape = tuple(getattr(other, "shape", ()))
        if math.prod(shape) <= _MAX_ELEMENTS:
            return plain(other.tolist(), depth + 1)
        return f"{type(other).__name__}(shape={shape}, dtype={other.dtype})"
    if not isinstance(value, type) and callable(getattr(other, "read", None)) and hasattr(other, "name"):
        return str(other.name)
    if isinstance(value, type) or (callable(other) and hasattr(other, "__qualname__")):
        return f"{other.__module__}.{other.__qualname__}"  # no address in memory
    return str(other)[:_MAX_TEXT]


def _member(mapping: Mapping[Any, Any], key: Any, depth: int) -> Any:
    try:
        return plain(mapping[key], depth)
    except Exception as error:  # OmegaConf: an interpolation that leads nowhere, a missing value
        return f"<{type(error).__name__}>"


def image(value: Any) -> Content:
    """An image as encoded bytes; see :func:`tracelet_otel.log_image` for what it may be.

    Raises:
        TypeError, ValueError: it is something else.
        ImportError: Pillow is needed and not installed.
        OSError: a path that cannot be read.
    """
    encoded = _encoded(value)
    if encoded is not None:
        return encoded
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("an image that is not encoded needs Pillow: pip install pillow") from None
    picture: Any = value
    if not isinstance(value, Image.Image):
        picture = Image.fromarray(_pixels(value))
    buffer = io.BytesIO()
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        picture = picture.convert("RGB")
    picture.save(buffer, format="PNG")
    return Content(
        buffer.getvalue(), "image/png", {semconv.WIDTH: picture.width, semconv.HEIGHT: picture.height}
    )


def _pixels(value: Any) -> Any:
    import numpy as np

    array: Any = _array(value)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # torch's order
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"an image must have shape (H, W), (H, W, C) or (C, H, W), got {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        array = (np.nan_to_num(array).clip(0, 1) * 255).round()
    return np.ascontiguousarray(array.clip(0, 255).astype(np.uint8))


def figure(value: Any) -> Content:
    """A matplotlib figure as PNG.

    Raises:
        TypeError: it is not a figure.
    """
    if not hasattr(value, "savefig"):
        raise TypeError(f"a figure must be a matplotlib figure, got {type(value).__name__}")
    buffer = io.BytesIO()
    value.savefig(buffer, format="png")
    return Content(buffer.getvalue(), "image/png")


def audio(value: Any, sample_rate: int) -> Content:
    """A sound as encoded bytes; an array becomes 16-bit PCM WAV.

    Raises:
        TypeError, ValueError: it is not a sound.
        OSError: a path that cannot be read.
    """
    encoded = _encoded(value)
    if encoded is not None:
        return encoded
    import numpy as np

    array: Any = _array(value)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] > 32:
        raise ValueError(f"a sound must have shape (N,) or (N, channels), got {array.shape}")
    if array.dtype.kind == "f":
        array = (np.nan_to_num(array).clip(-1, 1) * 32767).round()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(array.shape[1])
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        file.writeframes(np.ascontiguousarray(array.astype("<i2")).tobytes())
    return Content(buffer.getvalue(), "audio/wav", {semconv.SAMPLE_RATE: int(sample_rate)})


def histogram(values: Any, bins: int | str) -> Content:
    """The distribution of an array, or a pair (counts, edges), as JSON.

    Raises:
        TypeError, ValueError: neither.
    """
    import numpy as np

    edges: Any
    if isinstance(values, tuple) and len(cast("tuple[Any, ...]", values)) == 2:
        counts, edges = (np.asarray(part, dtype=float) for part in cast("tuple[Any, Any]", values))
        if counts.ndim != 1 or edges.shape != (counts.size + 1,):
            raise ValueError("a histogram must be (counts, edges) with one edge more than counts")
        centres: Any = (edges[:-1] + edges[1:]) / 2
        total, squares = float(counts @ centres), float(counts @ centres**2)
        low, high = float(edges[0]), float(edges[-1])
    else:
        data: Any = _array(values).astype(float).ravel()
        data = data[np.isfinite(data)]
        if not data.size:
            raise ValueError("a histogram needs at least one finite value")
        counts, edges = np.histogram(data, bins=cast("Any", bins))
        total, squares = float(data.sum()), float((data**2).sum())
        low, high = float(data.min()), float(data.max())
    described = {
        "min": low,
        "max": high,
        "num": float(counts.sum()),
        "sum": total,
        "sum_squares": squares,
        # TensorBoard's form: a bucket reaches from the limit before it to its own, so the first one is empty.
        "bucket_limits": [float(edge) for edge in edges],
        "bucket_counts": [0.0, *(float(count) for count in counts)],
    }
    return Content(json.dumps(described).encode("ascii"), "application/json")


def file(path: Path, name: str, media: MediaFolder) -> Content:
    """A file's content; a large one is copied into the media folder, so that it may change afterwards.

    Raises:
        OSError: it cannot be read or copied.
    """
    mime_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    attributes: dict[str, Any] = {semconv.FILE_NAME: name}
    if path.stat().st_size <= MAX_INLINE_BYTES:
        return Content(path.read_bytes(), mime_type, attributes)
    stored = media.store_file(path)
    attributes[semconv.PAYLOAD_URI], attributes[semconv.PAYLOAD_SHA256], attributes[semconv.PAYLOAD_SIZE] = (
        stored
    )
    return Content(None, mime_type, attributes)


def _encoded(value: Any) -> Content | None:
    """The content if ``value`` is encoded bytes or the path of a file, else None."""
    if isinstance(value, (str, os.PathLike)):
        value = Path(cast("str | os.PathLike[str]", value)).read_bytes()
    if isinstance(value, (bytes, bytearray)):
        data = bytes(value)
        return Content(data, mime_type_of(data))
    return None


def _array(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
            value = value.float()
        value = value.numpy()
    array: Any = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"an array of numbers is needed, got {type(value).__name__} of {array.dtype}")
    return array
