"""Files in an MLflow run: exact bytes, safe names, and pictures that MLflow's charts show."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import DeliveryError
from tracelet_otel.otlp.records import Record
from tracelet_otel.semconv import INDEX, RANK
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.mlflow.runs import MLflowRun
from tracelet_otel_exporters.shared import safe_names
from tracelet_otel_exporters.shared.record_content import file_suffix, fingerprint, number_attribute

MAX_PICTURE_BYTES: Final = 20_000_000
MAX_PIXELS: Final = 40_000_000
"""Above either, a picture is kept as a file and not decoded for a thumbnail."""
_THUMBNAIL: Final = 256
_NAMESPACE: Final = uuid.UUID("5d0b9a3e-7c1f-4d55-9f0c-3f6a2f7e8b11")


def write(run: MLflowRun, path: str, content: bytes | Path) -> None:
    """Writes one artifact; the same path is overwritten. A file is not read into memory.

    Raises:
        OSError: the file cannot be read.
    """
    parent, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        file = Path(folder) / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            try:
                file.symlink_to(content.absolute())
            except OSError:  # Windows, without the right to
                shutil.copyfile(content, file)
        with run.connection.calls():
            run.connection.client.log_artifact(run.id, str(file), parent or None)


def write_json(run: MLflowRun, path: str, content: object) -> None:
    """Writes a readable JSON artifact."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    write(run, path, text.encode(errors="surrogatepass"))


def read(run: MLflowRun, path: str) -> bytes | None:
    """An artifact's bytes, or None where the run has none, or none that can be read now."""
    try:
        found = read_all(run, path.rpartition("/")[0], lambda other: other == path)
    except (DeliveryError, OSError):
        return None
    return found[0] if found else None


def read_all(run: MLflowRun, folder: str, is_wanted: Callable[[str], bool]) -> list[bytes]:
    """The artifacts of a folder whose paths are wanted.

    Raises:
        DeliveryError: they cannot be read now.
    """
    connection = run.connection
    with connection.calls(), tempfile.TemporaryDirectory(prefix="tracelet-") as target:
        paths = [info.path for info in connection.client.list_artifacts(run.id, folder or None)]
        return [
            Path(connection.client.download_artifacts(run.id, path, target)).read_bytes()
            for path in sorted(filter(is_wanted, paths))
        ]


def read_json(run: MLflowRun, path: str) -> Mapping[str, object]:
    """The object in a JSON artifact, or an empty one."""
    try:
        value: object = json.loads(read(run, path) or b"null")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def file_path(run: MLflowRun, name: str) -> str:
    """The name as a path inside the run, and noted if that is another."""
    path = safe_names.path(name)
    run.note("files", path, name)
    return path


def tag_path(run: MLflowRun, record: Record) -> str:
    """The record's kind and tag as a path; ranks above 0 have a folder of their own."""
    path = f"{record.kind}/{file_path(run, record.tag)}"
    rank = number_attribute(record, RANK)
    return f"{path}/rank_{rank}" if rank else path


def write_step(run: MLflowRun, record: Record, content: bytes) -> str:
    """Writes the file of a tag and a step, and returns its path.

    A second record of the same tag and step gets its time into its name, so neither is lost; a
    retry of the first finds its own name.
    """
    digest, suffix = fingerprint(record), file_suffix(record)
    stem = f"{tag_path(run, record)}/{record.step}"
    if index := number_attribute(record, INDEX):
        stem += f"_{index}"
    path = stem + suffix
    owner = run.files.get(path)
    if owner is None and run.is_resumed and read(run, path) not in (None, content):
        owner = "another process"
    if owner not in (None, digest):
        path = f"{stem}-{record.time_unix_nano}-{digest[:8]}{suffix}"
    write(run, path, content)
    run.files[path] = digest
    return path


def write_picture(run: MLflowRun, key_prefix: str, record: Record, content: bytes) -> bool:
    """Writes a picture as MLflow's ``log_image`` would, so that its charts show it.

    The PNG keeps its exact bytes, and names are the same at each retry (MLflow's own are random).

    Returns:
        False where nothing was written: Pillow is missing, or the picture is too big or broken.
    """
    if len(content) > MAX_PICTURE_BYTES or (drawn := _png_and_thumbnail(content)) is None:
        return False
    png, thumbnail = drawn
    tag = key_prefix + record.tag + (f"/{index}" if (index := number_attribute(record, INDEX)) else "")
    key = names.image_key(tag).replace("/", "~")
    unique = uuid.uuid5(_NAMESPACE, f"{key_prefix}{fingerprint(record)}")
    stem = f"images/{key}+step+{record.step}+timestamp+{record.time_unix_nano // 1_000_000}+{unique}"
    write(run, f"{stem}.png", png)
    write(run, f"{stem}+compressed.webp", thumbnail)
    if not run.has_images:
        run.set_tags({"mlflow.loggedImages": "True"})
        run.has_images = True
    return True


def _png_and_thumbnail(content: bytes) -> tuple[bytes, bytes] | None:
    """The picture as PNG (the bytes themselves if they are one) and a small WebP, as MLflow's charts need."""
    try:
        from PIL import Image

        opened: Any = Image.open(io.BytesIO(content))
        with opened as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                return None
            png = content if image.format == "PNG" else _encoded(image, "PNG")
            scale = _THUMBNAIL / max(width, height)
            small = image if image.mode in {"L", "RGB", "RGBA"} else image.convert("RGBA")
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            return png, _encoded(small.resize(size), "WEBP")
    except Exception:  # no Pillow, or one of the many types that it raises for a broken file, which is kept
        return None


def _encoded(image: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
