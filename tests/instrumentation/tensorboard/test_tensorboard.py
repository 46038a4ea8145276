"""The TensorBoard hooks, with the real writers; the event files are read back by TensorBoard's loader."""

from __future__ import annotations

import gc
import inspect
import io
import json
import logging
import math
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wrapt

from tests.instrumentation.conftest import Captured, Library
from tests.support import event_files
from tests.support.scripts import run_command
from tracelet_otel import recording
from tracelet_otel.foundation import guard
from tracelet_otel.instrumentation.hooks import silence_loggers
from tracelet_otel.instrumentation.tensorboard.instrumentor import (
    TensorBoardInstrumentor,
    TensorBoardXInstrumentor,
)
from tracelet_otel.recording.reservoir import shortest_float32
from tracelet_otel.recording.run import Run

# matplotlib, moviepy and Pillow warn of each other's futures.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")

torch = pytest.importorskip("torch")


def in_file(library: Library, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of a folder as they should be recorded."""
    return {
        tag: [(step, shortest_float32(value) if math.isfinite(value) else value) for step, value in points]
        for tag, points in library.points(folder).items()
    }


# -- scalars ------------------------------------------------------------------------------------
def test_every_scalar_of_the_file_is_recorded(library: Library, captured: Captured, tmp_path: Path) -> None:
    values = [
        0.001,
        -0.0,
        0,
        1,
        1e-45,
        3.4028235e38,
        -1 / 3,
        np.float32(0.1),
        np.array([2.5]),
        torch.tensor(7),
    ]
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        for step, value in enumerate(values):
            writer.add_scalar("Loss/train", value, step)
            writer.add_scalar("lr", value)
    assert captured.by_tag() == in_file(library, tmp_path / "x")
    assert [value for _, value in captured.by_tag()["Loss/train"]][:4] == [0.001, 0.0, 0.0, 1.0]
    assert captured.log_dirs() == [(captured.scope.default.id, str(tmp_path / "x"))]


def test_nan_and_infinities(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        for step, value in enumerate([math.nan, math.inf, -math.inf, 1e39]):
            writer.add_scalar("loss", value, step)
    points = sorted(captured.points(), key=lambda point: point.step)
    assert [str(point.value) for point in points] == ["nan", "inf", "-inf", "inf"]


def test_wall_time_and_step_are_those_of_the_event(
    library: Library, captured: Captured, tmp_path: Path
) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("a", 1, 2**62, walltime=1_600_000_000.25)
        writer.add_scalar("a", 1, -3, walltime=1.5)
        writer.add_scalar("a", 1, np.int64(4), walltime=-1.0)
        writer.add_scalar("a", 1, 5, walltime=math.inf)
    points = captured.points()
    assert [point.step for point in points] == [2**62, -3, 4, 5]
    # A float of seconds since 1970 is exact to a quarter of a microsecond.
    assert points[0].time_unix_nano == pytest.approx(1_600_000_000_250_000_000, abs=256)
    assert points[1].time_unix_nano == 1_500_000_000
    assert all(1.7e18 < point.time_unix_nano < 9e18 for point in points[2:]), "not a time: now"


@pytest.mark.parametrize(
    "tag", ["", "a" * 10_000, "Ü/ñ 漢字 \U0001f600", "../../etc/passwd", "a\nb\x00", "//"]
)
def test_any_tag_passes_as_it_is(library: Library, captured: Captured, tmp_path: Path, tag: str) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar(tag, 1, 1)
        writer.add_text(tag, "text", 1)
    (written,) = library.points(tmp_path / "x")
    assert list(captured.by_tag()) == [written]
    assert captured.one("text").tag == tag + "/text_summary"


def test_new_style_scalars(captured: Captured, tmp_path: Path) -> None:
    library = Library("torch")
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("single", 0.1, 1, new_style=True)
        writer.add_scalar("double", 0.1 + 1e-12, 1, new_style=True, double_precision=True)
    library.instrumentor.uninstrument()
    assert captured.by_tag() == {"single": [(1, 0.1)], "double": [(1, 0.1 + 1e-12)]}


def test_a_scalar_with_a_display_name(captured: Captured, tmp_path: Path) -> None:
    library = Library("tensorboardX")
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("a", 0.5, 1, display_name="A", summary_description="an A")
    library.instrumentor.uninstrument()
    assert captured.by_tag() == {"a": [(1, 0.5)]}


KEY_MARKS = {"torch": "/:", "tensorboardX": "/::"}
"""Between the main tag and the key of ``add_scalars``."""


@pytest.mark.parametrize("main", ["m", "a/b", "a_b/c"])
def test_add_scalars_is_main_tag_and_key(
    library: Library, captured: Captured, tmp_path: Path, main: str
) -> None:
    writer = library.SummaryWriter(str(tmp_path / "x"))
    for step in range(3):
        writer.add_scalars(main, {"train": step, "b_c": 2 * step, "x/y": 3 * step}, step)
    writer.add_scalars(tag_scalar_dict={"train": 9}, main_tag=main, global_step=9)
    writer.add_scalar("loss", 1, 1)
    writer.close()
    mark = KEY_MARKS[library.name]
    assert captured.by_tag() == {
        f"{main}{mark}train": [(0, 0.0), (1, 1.0), (2, 2.0), (9, 9.0)],
        f"{main}{mark}b_c": [(0, 0.0), (1, 2.0), (2, 4.0)],
        f"{main}{mark}x/y": [(0, 0.0), (1, 3.0), (2, 6.0)],
        "loss": [(1, 1.0)],
    }
    assert captured.log_dirs() == [(captured.scope.default.id, str(tmp_path / "x"))]


def test_two_main_tags_that_share_a_folder(captured: Captured, tmp_path: Path) -> None:
    library = Library("torch")
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalars("a", {"b_c": 1}, 1)
        writer.add_scalars("a_b", {"c": 2}, 1)
        writer.add_scalars("a/b", {"c": 3}, 1)
    library.instrumentor.uninstrument()
    assert captured.by_tag() == {"a/:b_c": [(1, 1.0)], "a_b/:c": [(1, 2.0)], "a/b/:c": [(1, 3.0)]}


def test_add_scalars_of_a_writer_that_was_there_before(captured: Captured, tmp_path: Path) -> None:
    for name in ("torch", "tensorboardX"):
        library = Library(name)
        writer = library.SummaryWriter(str(tmp_path / name))
        writer.add_scalars(f"{name}/m", {"a": 0}, 0)
        library.instrumentor.instrument()
        writer.add_scalars(f"{name}/m", {"a": 1}, 1)
        writer.add_scalar(f"{name}/s", 1, 1)
        library.instrumentor.uninstrument()
        writer.close()
    assert captured.by_tag() == {
        "torch/m/:a": [(1, 1.0)],
        "torch/s": [(1, 1.0)],
        "tensorboardX::/tensorboardX/m/::a": [(1, 1.0)],
        "tensorboardX::/tensorboardX/s": [(1, 1.0)],
    }


def test_add_hparams(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_hparams(
            {"lr": 0.1, "batch": 32, "big": 2**53 + 1, "adam": True, "name": "ü", "one": 1.0},
            {"hparam/acc": 0.5},
        )
        writer.add_scalar("loss", 1, 1)
    params = captured.one("params").json
    assert params == {"lr": 0.1, "batch": 32, "big": 2**53 + 1, "adam": True, "name": "ü", "one": 1.0}
    assert list(params) == ["lr", "batch", "big", "adam", "name", "one"]
    assert [type(value) for value in params.values()] == [float, int, int, bool, str, float]
    assert captured.by_tag() == {"hparam/acc": [(0, 0.5)], "loss": [(1, 1.0)]}
    assert captured.log_dirs() == [(captured.scope.default.id, str(tmp_path / "x"))]


def test_an_add_scalar_of_another_folder_stays_where_it_is(
    library: Library, captured: Captured, tmp_path: Path
) -> None:
    for trial in ("a", "b"):
        with library.SummaryWriter(str(tmp_path / trial)) as writer:
            writer.add_scalars("m", {"k": 1})
            writer.add_hparams({"lr": 0.1}, {"acc": 0.5})
    own, mark = captured.scope.default.id, KEY_MARKS[library.name]
    tags = [point.tag for point in captured.points() if point.run_id == own]
    assert tags == [f"m{mark}k", "acc", f"b::/m{mark}k"]


# -- records ------------------------------------------------------------------------------------
IMAGE = np.random.default_rng(0).integers(0, 255, (3, 8, 6), dtype=np.uint8)


def only_value(folder: Path) -> Any:
    """The only value in the event files of a folder."""
    (value,) = (value for event in event_files.events(folder) for value in event.summary.value)
    return value


def figure() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure((1, 1))
    figure.subplots().plot([1, 2])
    return figure


IMAGES: dict[str, Callable[[Any], Any]] = {
    "add_image": lambda writer: writer.add_image("i", IMAGE, 3),
    "add_image HW": lambda writer: writer.add_image("i", IMAGE[0], 3, dataformats="HW"),
    "add_images": lambda writer: writer.add_images("i", np.stack([IMAGE, IMAGE]), 3),
    "add_image_with_boxes": lambda writer: writer.add_image_with_boxes(
        "i", IMAGE, np.array([[1, 1, 4, 4]]), 3
    ),
}


@pytest.mark.parametrize("method", IMAGES)
def test_images(library: Library, captured: Captured, tmp_path: Path, method: str) -> None:
    from PIL import Image

    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        IMAGES[method](writer)
    record = captured.one("image")
    assert (record.tag, record.step, record.mime_type) == ("i", 3, "image/png")
    assert record.payload == only_value(tmp_path / "x").image.encoded_image_string
    width, height = Image.open(io.BytesIO(record.payload)).size
    assert record.attributes == {"tracelet.image.width": width, "tracelet.image.height": height}


def test_figure(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_figure("f", figure(), 3)
    assert captured.one("image").payload == only_value(tmp_path / "x").image.encoded_image_string


def test_video(library: Library, captured: Captured, tmp_path: Path) -> None:
    pytest.importorskip("moviepy.editor")
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_video("v", torch.rand(1, 3, 3, 8, 8), 3)
    record = captured.one("video")
    assert (record.tag, record.step, record.mime_type) == ("v", 3, "image/gif")
    assert record.payload == only_value(tmp_path / "x").image.encoded_image_string


def test_audio(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_audio("a", torch.rand(100) - 0.5, 3, sample_rate=8000)
    record = captured.one("audio")
    assert (record.tag, record.step, record.mime_type) == ("a", 3, "audio/wav")
    assert record.attributes == {"tracelet.audio.sample_rate": 8000}
    assert record.payload == only_value(tmp_path / "x").audio.encoded_audio_string


def test_text(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_text("note", "# Ü\n\n*it*", 3)
    record = captured.one("text")
    assert (record.tag, record.step, record.mime_type) == ("note/text_summary", 3, "text/markdown")
    assert record.payload.decode() == "# Ü\n\n*it*"


def test_histogram(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_histogram("h", np.random.default_rng(0).normal(size=1000), 3)
    record = captured.one("histogram")
    written = only_value(tmp_path / "x").histo
    assert (record.tag, record.step, record.mime_type) == ("h", 3, "application/json")
    assert record.json == {
        "min": written.min,
        "max": written.max,
        "num": 1000.0,
        "sum": written.sum,
        "sum_squares": written.sum_squares,
        "bucket_limits": list(written.bucket_limit),
        "bucket_counts": list(written.bucket),
    }
    assert sum(record.json["bucket_counts"]) == 1000


def test_raw_histogram(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_histogram_raw("h", 0, 3, 4, 6, 14, [1, 2, 3], [1, 1, 2], 3)
    assert captured.one("histogram").json == {
        "min": 0.0,
        "max": 3.0,
        "num": 4.0,
        "sum": 6.0,
        "sum_squares": 14.0,
        "bucket_limits": [1.0, 2.0, 3.0],
        "bucket_counts": [1.0, 1.0, 2.0],
    }


def test_pr_curve(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_pr_curve("p", np.array([0, 1, 1]), np.array([0.1, 0.8, 0.4]), 3, num_thresholds=5)
    record = captured.one("pr_curve")
    assert (record.tag, record.step) == ("p", 3)
    curve = record.json
    assert curve["thresholds"] == [0, 0.25, 0.5, 0.75, 1]
    assert curve["true_positives"] == [2, 2, 1, 1, 0]
    assert curve["false_positives"] == [1, 0, 0, 0, 0]
    assert curve["recall"] == [1, 1, 0.5, 0.5, 0]
    assert {len(values) for values in curve.values()} == {5}


def test_raw_pr_curve(library: Library, captured: Captured, tmp_path: Path) -> None:
    rows = [[2, 1], [1, 0], [0, 1], [0, 1], [0.5, 1], [1, 0.5]]
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_pr_curve_raw("p", *rows, 3, num_thresholds=2)
    assert list(captured.one("pr_curve").json.values()) == [*rows, [0, 1]]


def test_mesh_is_one_record(library: Library, captured: Captured, tmp_path: Path) -> None:
    vertices = torch.tensor([[[1.0, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]])
    colors = torch.tensor([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 255]]])
    faces = torch.tensor([[[0, 2, 3], [0, 3, 1]]])
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_mesh("m", vertices, colors, faces, {"camera": {"fov": 75}}, 3)
        writer.add_mesh("points", vertices, global_step=4)
    first, second = captured.records()
    assert (first.kind, first.tag, first.step, first.mime_type) == ("mesh", "m", 3, "application/x-npz")
    assert json.loads(first.attributes["tracelet.mesh.config"]) == {"camera": {"fov": 75}}
    arrays = np.load(io.BytesIO(first.payload))
    assert set(arrays) == {"vertices", "colors", "faces"}
    assert np.array_equal(arrays["vertices"], vertices)
    assert np.array_equal(arrays["colors"], colors)
    assert np.array_equal(arrays["faces"], faces)
    assert arrays["faces"].dtype.kind == "i"
    assert set(np.load(io.BytesIO(second.payload))) == {"vertices"}
    assert (second.tag, second.attributes["tracelet.mesh.config"]) == ("points", "{}")


LAYOUTS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "add_custom_scalars": (
        lambda writer: writer.add_custom_scalars({"C": {"t": ["Multiline", ["a", "b"]]}}),
        {"category": [{"title": "C", "chart": [{"title": "t", "multiline": {"tag": ["a", "b"]}}]}]},
    ),
    "add_custom_scalars_multilinechart": (
        lambda writer: writer.add_custom_scalars_multilinechart(["a", "b"], "C", "t"),
        {"category": [{"title": "C", "chart": [{"title": "t", "multiline": {"tag": ["a", "b"]}}]}]},
    ),
    "add_custom_scalars_marginchart": (
        lambda writer: writer.add_custom_scalars_marginchart(["v", "l", "u"], "C", "t"),
        {
            "category": [
                {
                    "title": "C",
                    "chart": [
                        {"title": "t", "margin": {"series": [{"value": "v", "lower": "l", "upper": "u"}]}}
                    ],
                }
            ]
        },
    ),
}


@pytest.mark.parametrize("method", LAYOUTS)
def test_custom_scalars(library: Library, captured: Captured, tmp_path: Path, method: str) -> None:
    call, layout = LAYOUTS[method]
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        call(writer)
    record = captured.one("layout")
    assert record.json == layout
    assert (record.tag, record.step, record.mime_type) == (
        "custom_scalars__config__",
        None,
        "application/json",
    )


@pytest.mark.filterwarnings("ignore")
def test_graph(library: Library, captured: Captured, tmp_path: Path) -> None:
    from tensorboard.compat.proto.graph_pb2 import GraphDef  # pyright: ignore[reportAttributeAccessIssue]

    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_graph(torch.nn.Linear(2, 1), torch.rand(1, 2))
        writer.file_writer.add_onnx_graph(GraphDef())  # add_onnx_graph itself needs the package onnx
    graph, metadata, onnx = captured.records("graph")
    assert len(captured.records()) == 3
    events = [
        event for event in event_files.events(tmp_path / "x") if event.WhichOneof("what") != "file_version"
    ]
    assert graph.payload == events[0].graph_def
    assert metadata.payload == events[1].tagged_run_metadata.run_metadata
    assert onnx.payload == b""
    assert GraphDef.FromString(graph.payload).node
    parts = [record.attributes["tracelet.graph.part"] for record in (graph, metadata)]
    assert parts == ["graph_def", "run_metadata"]
    assert metadata.tag == events[1].tagged_run_metadata.tag


def test_tensor_is_an_artifact(captured: Captured, tmp_path: Path) -> None:
    library = Library("torch")
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_tensor("../a/t", torch.tensor([1.0, 2.0]), 3)
    library.instrumentor.uninstrument()
    record = captured.one("artifact")
    assert (record.tag, record.step) == ("../a/t", 3)
    assert record.attributes == {"tracelet.file.name": "tensorboard/tensor/%2E%2E/a/t/3.pb"}
    assert record.payload == only_value(tmp_path / "x").SerializeToString()


def test_embedding(library: Library, captured: Captured, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with library.SummaryWriter(str(folder)) as writer:
        writer.add_embedding(torch.rand(4, 2), list("abcd"), torch.rand(4, 3, 2, 2), 3, "words/a%")
        writer.add_embedding(mat=torch.rand(4, 2))
    records = captured.records("embedding")
    assert [(record.tag, record.step, record.attributes["tracelet.file.name"]) for record in records] == [
        ("words/a%", 3, "tensors.tsv"),
        ("words/a%", 3, "metadata.tsv"),
        ("words/a%", 3, "sprite.png"),
        ("words/a%", 3, "projector_config.pbtxt"),
        ("default", 0, "tensors.tsv"),
        ("default", 0, "projector_config.pbtxt"),
    ]
    (named,) = (folder / "00003").iterdir()
    for record in records[:3]:
        assert record.payload == (named / record.attributes["tracelet.file.name"]).read_bytes()
    assert records[0].mime_type == "text/tab-separated-values"
    assert records[5].payload == (folder / "projector_config.pbtxt").read_bytes()
    assert captured.log_dirs() == [(captured.scope.default.id, str(folder))]


def test_embedding_of_a_method_that_another_tool_wrapped(
    library: Library, captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        assert isinstance(instance, library.SummaryWriter)
        return wrapped(*args, **kwargs)

    library.instrumentor.uninstrument()
    original = library.SummaryWriter.add_embedding
    monkeypatch.setattr(library.SummaryWriter, "add_embedding", wrapt.FunctionWrapper(original, wrapper))
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_embedding(torch.rand(4, 2), tag="t")
    library.instrumentor.uninstrument()
    assert [record.tag for record in captured.records("embedding")] == ["t", "t"]


def test_no_event_file_no_record(captured: Captured, tmp_path: Path) -> None:
    library = Library("tensorboardX")
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x"), write_to_disk=False) as writer:
        writer.add_scalar("a", 1)
        writer.add_scalars("a", {"b": 1})
        writer.add_embedding(torch.rand(4, 2))
    event_writer = library.EventFileWriter(str(tmp_path / "y"))
    event_writer.close()
    event_writer.add_event(library.Event(step=1))
    closed = library.Event()
    closed.summary.value.add(tag="a", simple_value=1)
    event_writer.add_event(closed)
    closed.summary.value.add(tag="b", simple_value=1)
    event_writer.add_event(closed)
    library.instrumentor.uninstrument()
    assert captured.points() == []
    assert captured.records() == []


# -- folders and runs ---------------------------------------------------------------------------
def test_another_folder_is_a_prefix(library: Library, captured: Captured, tmp_path: Path) -> None:
    folders = ["runs/a", "runs/a", "runs/b", "runs/a/sub", "runs", "elsewhere/b", "runs/./b/", "runs/a"]
    for step, folder in enumerate(folders):
        with library.SummaryWriter(str(tmp_path / folder)) as writer:
            writer.add_scalar("loss", 1, step)
    assert {tag: [step for step, _ in points] for tag, points in captured.by_tag().items()} == {
        "loss": [0, 1, 7],
        "b::/loss": [2, 6],
        "sub:/loss": [3],
        "::/loss": [4],
        "elsewhere/b:::/loss": [5],
    }
    assert captured.log_dirs() == [(captured.scope.default.id, str(tmp_path / "runs/a"))]


def test_folders_that_would_share_a_prefix(library: Library, captured: Captured, tmp_path: Path) -> None:
    for folder in ("r/first", "r/b", "b"):
        with library.SummaryWriter(str(tmp_path / folder)) as writer:
            writer.add_scalar("loss", 1, 0)
    assert list(captured.by_tag()) == ["loss", "b::/loss", "b:::/loss"]


def test_a_relative_folder_and_a_path(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter("runs") as writer:
        writer.add_scalar("loss", 1, 0)
    with library.SummaryWriter(tmp_path / "runs") as writer:
        writer.add_scalar("loss", 1, 1)
        writer.add_scalars("m", {"a": 1}, 1)
    assert captured.by_tag() == {
        "loss": [(0, 1.0), (1, 1.0)],
        f"m/{':' * (1 + (library.name == 'tensorboardX'))}a": [(1, 1.0)],
    }


def test_each_run_has_its_own_first_folder(library: Library, captured: Captured, tmp_path: Path) -> None:
    runs = [Run(id="one"), Run(id="two")]
    for run in runs:
        captured.scope.enter(run)
        with library.SummaryWriter(str(tmp_path / run.id)) as writer:
            writer.add_scalar("loss", 1, 0)
        captured.scope.leave(run, None)
    assert [(point.run_id, point.tag) for point in captured.points()] == [("one", "loss"), ("two", "loss")]
    assert captured.log_dirs() == [("one", str(tmp_path / "one")), ("two", str(tmp_path / "two"))]


def test_whose_a_point_is(library: Library, captured: Captured, tmp_path: Path) -> None:
    scope, inner, other = captured.scope, Run(id="inner"), Run(id="other")
    writer = library.SummaryWriter(str(tmp_path / "x"))
    scope.enter(inner)
    writer.add_scalar("bound", 1, 0)
    scope.leave(inner, None)
    writer.add_scalar("left_not_ended", 1, 1)
    writer.add_scalars("m", {"sub-writer": 1}, 1)
    scope.enter(other)
    writer.add_scalar("entered", 1, 2)
    thread = threading.Thread(target=writer.add_scalar, args=("another_thread", 1, 3))
    thread.start()
    thread.join()
    scope.leave(other, inner)
    scope.leave(inner, None)
    inner.ended = True
    writer.add_scalar("ended", 1, 4)
    writer.add_text("ended", "text", 4)
    writer.close()
    assert {(point.tag, point.run_id) for point in captured.points()} == {
        ("bound", "inner"),
        ("left_not_ended", "inner"),
        (f"m{KEY_MARKS[library.name]}sub-writer", "inner"),
        ("entered", "other"),
        ("another_thread", "inner"),
        ("ended", scope.default.id),
    }
    assert captured.one("text").run_id == scope.default.id


def test_a_writer_keeps_no_run_and_no_run_a_writer(
    library: Library, captured: Captured, tmp_path: Path
) -> None:
    import weakref

    writer = library.SummaryWriter(str(tmp_path / "x"))
    writer.add_scalar("a", 1)
    run = Run(id="short")
    captured.scope.enter(run)
    writer.add_scalar("a", 1)
    captured.scope.leave(run, None)
    writer.add_scalar("a", 1)
    reference = weakref.ref(run)
    del run
    gc.collect()
    assert reference() is None
    writer.close()


# -- the hooks ----------------------------------------------------------------------------------
def test_the_event_file_stays_as_it_is(library: Library, captured: Captured, tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, list[bytes]]:
        torch.manual_seed(0)
        with library.SummaryWriter(str(folder), purge_step=1) as writer:
            writer.add_scalar("a", 0.5, 1)
            writer.add_scalars("m", {"a": 1, "b": 2}, 1)
            writer.add_hparams(
                {"lr": 1}, {"acc": 1}, **{"name" if library.name != "torch" else "run_name": "hp"}
            )
            writer.add_image("i", IMAGE, 1)
            writer.add_text("t", "text", 1)
            writer.add_histogram("h", np.arange(10), 1)
            writer.add_mesh("m", torch.rand(1, 4, 3))
            writer.add_pr_curve("p", np.array([0, 1]), np.array([0.1, 0.8]))
            writer.add_embedding(np.eye(2), ["a", "b"])
        found: dict[str, list[bytes]] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_dir() or path.suffix == ".tsv"):
            name = str(path.relative_to(folder))
            found[name] = [path.read_bytes()] if path.is_file() else []
        for name in ("", *(name for name, content in found.items() if not content)):
            for event in event_files.events(folder / name):
                event.wall_time = 0
                found.setdefault(name, []).append(event.SerializeToString(deterministic=True))
        return found

    hooked = write(tmp_path / "hooked")
    library.instrumentor.uninstrument()
    assert hooked == write(tmp_path / "plain")
    assert len(hooked) >= 6
    assert captured.records()


def test_what_the_original_raises_passes_and_is_not_recorded(
    library: Library, captured: Captured, tmp_path: Path
) -> None:
    writer = library.SummaryWriter(str(tmp_path / "x"))
    event_writer = writer.file_writer.event_writer
    with pytest.raises(TypeError, match="event"):
        event_writer.add_event()
    with pytest.raises(TypeError):
        writer.add_scalars()
    with pytest.raises(TypeError, match="should be dictionary"):
        writer.add_hparams(1, 2)
    with pytest.raises(AssertionError):
        writer.add_embedding(torch.rand(4))
    writer.close()
    if library.name == "torch":
        with pytest.raises(TypeError, match="Expected an event_pb2"):
            event_writer.add_event("no event")
        with pytest.raises(OSError, match="closed"):
            event_writer.add_event(library.Event(summary={"value": [{"tag": "a", "simple_value": 1}]}))
    assert captured.points() == []
    assert captured.records() == []


def test_arguments_and_results_are_untouched(library: Library, captured: Captured, tmp_path: Path) -> None:
    event = library.Event(step=1, wall_time=2.0)
    event.summary.value.add(tag="a", simple_value=1)
    before = event.SerializeToString()
    library.instrumentor.uninstrument()
    signatures = {
        name: inspect.signature(getattr(owner, name))
        for owner, name in [(library.EventFileWriter, "add_event"), (library.SummaryWriter, "add_scalars")]
    }
    library.instrumentor.instrument()
    writer = library.EventFileWriter(str(tmp_path / "x"))
    assert writer.add_event(event=event) is None
    writer.close()
    assert event.SerializeToString() == before
    assert captured.by_tag() == {"a": [(1, 1.0)]}
    assert inspect.signature(library.EventFileWriter.add_event) == signatures["add_event"]
    assert inspect.signature(library.SummaryWriter.add_scalars) == signatures["add_scalars"]
    assert library.EventFileWriter.add_event.__qualname__ == "EventFileWriter.add_event"


@pytest.mark.filterwarnings("ignore")
def test_a_value_that_cannot_be_decoded_costs_no_other(
    library: Library,
    captured: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(guard, "raises", False)
    monkeypatch.setattr(guard, "_last", {})
    event = library.Event(step=1)
    event.summary.value.add(tag="before", simple_value=1)
    broken: Any = None
    for _ in range(3):
        broken = event.summary.value.add(tag="broken")
        broken.tensor.dtype = 1
        broken.metadata.plugin_data.plugin_name = "pr_curves"
    event.summary.value.add(tag="after", simple_value=2)
    writer = library.EventFileWriter(str(tmp_path / "x"))
    with caplog.at_level(logging.WARNING, "tracelet_otel"):
        writer.add_event(event)
    writer.close()
    assert captured.by_tag() == {"before": [(1, 1.0)], "after": [(1, 2.0)]}
    assert [record.payload for record in captured.records("artifact")] == [broken.SerializeToString()] * 3
    assert len(caplog.records) == 1
    assert "decoding a TensorBoard value" in caplog.text


def test_silenced_is_not_recorded(library: Library, captured: Captured, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        with silence_loggers():
            writer.add_scalar("a", 1)
            writer.add_text("a", "text")
            writer.add_scalars("a", {"b": 1})
            writer.add_hparams({"lr": 1}, {"acc": 1})
            writer.add_embedding(torch.rand(4, 2))
        writer.add_scalar("b", 1)
    assert captured.by_tag() == {"b": [(0, 1.0)]}
    assert captured.records() == []


def test_nothing_happens_without_a_recorder(library: Library, tmp_path: Path) -> None:
    recording.install(None)
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        writer.add_scalar("a", 1)
        writer.add_scalars("a", {"b": 1})
        writer.add_embedding(torch.rand(4, 2))
        assert not hasattr(writer.file_writer.event_writer, "_tracelet")


def test_existing_writers_and_repeated_instrumentation(
    captured: Captured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("torch", "tensorboardX"):
        library = Library(name)
        original = library.EventFileWriter.__dict__["add_event"]
        methods = dict(vars(library.SummaryWriter))
        with library.SummaryWriter(str(tmp_path / "x")) as writer:
            writer.add_scalar(name, 0, 0)
            for cycle in range(3):
                for _ in range(3):
                    library.instrumentor.instrument()
                writer.add_scalar(name, 1, cycle)
                for _ in range(3):
                    library.instrumentor.uninstrument()
                writer.add_scalar(name, 2, cycle)
                assert library.EventFileWriter.__dict__["add_event"] is original
                assert dict(vars(library.SummaryWriter)) == methods
        assert captured.by_tag()[name] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert caplog.text == ""


def foreign(kind: str, owner: Any, calls: list[str]) -> Any:
    """Wraps ``add_event`` as another tool would, and returns its wrapper."""
    original = owner.__dict__["add_event"]
    if kind == "wrapt":

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            calls.extend(value.tag for value in args[0].summary.value)
            return wrapped(*args, **kwargs)

        owner.add_event = wrapt.FunctionWrapper(original, wrapper)
    else:

        def hidden(self: Any, event: Any) -> Any:
            calls.extend(value.tag for value in event.summary.value)
            return original(self, event)

        owner.add_event = hidden
    return owner.__dict__["add_event"]


@pytest.fixture
def restored(library: Library) -> Any:
    """The library's own functions are back after the test."""
    library.instrumentor.uninstrument()
    original = library.EventFileWriter.__dict__["add_event"]
    yield original
    library.instrumentor.uninstrument()
    library.EventFileWriter.add_event = original


@pytest.mark.parametrize("kind", ["wrapt", "hidden"])
def test_a_foreign_wrap_before_ours(
    library: Library, captured: Captured, tmp_path: Path, restored: Any, kind: str
) -> None:
    calls: list[str] = []
    theirs = foreign(kind, library.EventFileWriter, calls)
    for cycle in range(3):
        library.instrumentor.instrument()
        with library.SummaryWriter(str(tmp_path / "x")) as writer:
            writer.add_scalar("a", 1, cycle)
        library.instrumentor.uninstrument()
        assert library.EventFileWriter.__dict__["add_event"] is theirs
    assert captured.by_tag() == {"a": [(0, 1.0), (1, 1.0), (2, 1.0)]}
    assert calls == ["a"] * 3


@pytest.mark.parametrize("kind", ["wrapt", "hidden"])
def test_a_foreign_wrap_after_ours(
    library: Library, captured: Captured, tmp_path: Path, restored: Any, kind: str
) -> None:
    calls: list[str] = []
    library.instrumentor.instrument()
    theirs = foreign(kind, library.EventFileWriter, calls)
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        for cycle in range(4):
            library.instrumentor.instrument()
            library.instrumentor.instrument()
            writer.add_scalar("a", 1, cycle)
            library.instrumentor.uninstrument()
            writer.add_scalar("off", 1, cycle)
            assert library.EventFileWriter.__dict__["add_event"] is theirs
    assert captured.by_tag() == {"a": [(step, 1.0) for step in range(4)]}
    assert calls == ["a", "off"] * 4


def test_another_tool_restores_the_original(
    library: Library, captured: Captured, tmp_path: Path, restored: Any
) -> None:
    library.instrumentor.instrument()
    with library.SummaryWriter(str(tmp_path / "x")) as writer:
        library.EventFileWriter.add_event = restored
        writer.add_scalar("lost", 1, 0)
        library.instrumentor.instrument()
        writer.add_scalar("a", 1, 1)
        library.EventFileWriter.add_event = restored
        library.instrumentor.uninstrument()
        assert library.EventFileWriter.__dict__["add_event"] is restored
        library.instrumentor.instrument()
        writer.add_scalar("a", 1, 2)
    assert captured.by_tag() == {"a": [(1, 1.0), (2, 1.0)]}


def test_a_class_put_in_the_place_of_the_librarys(
    library: Library, captured: Captured, tmp_path: Path, restored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As wandb.tensorboard.patch() does.
    module = sys.modules[library.EventFileWriter.__module__]
    before = library.SummaryWriter(str(tmp_path / "x"))
    derived = type("Patched", (library.EventFileWriter,), {})
    monkeypatch.setattr(module, "EventFileWriter", derived)
    monkeypatch.setattr(sys.modules[library.SummaryWriter.__module__], "EventFileWriter", derived)
    for cycle in range(2):
        library.instrumentor.instrument()
        after = library.SummaryWriter(str(tmp_path / "x"))
        before.add_scalar("before", 1, cycle)
        after.add_scalar("after", 1, cycle)
        after.close()
        library.instrumentor.uninstrument()
    before.close()
    assert captured.by_tag() == {"before": [(0, 1.0), (1, 1.0)], "after": [(0, 1.0), (1, 1.0)]}
    assert "add_event" not in vars(derived)


@pytest.mark.parametrize("shared", [True, False], ids=["one writer", "a writer each"])
def test_threads(library: Library, captured: Captured, tmp_path: Path, shared: bool) -> None:
    one = library.SummaryWriter(str(tmp_path / "x"))
    start = threading.Barrier(8)

    def work(number: int) -> None:
        writer = one if shared else library.SummaryWriter(str(tmp_path / "x"))
        start.wait()
        for step in range(200):
            writer.add_scalar(f"a/{number}", step, step)
            writer.add_scalar("together", step, step)
        if not shared:
            writer.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    found = captured.by_tag()
    expected = [(step, float(step)) for step in range(200)]
    assert {tag: points for tag, points in found.items() if tag != "together"} == {
        f"a/{number}": expected for number in range(8)
    }
    assert sorted(found["together"]) == sorted(expected * 8)
    assert len(captured.log_dirs()) == 1


def test_a_large_image_is_passed_on_once(library: Library, captured: Captured, tmp_path: Path) -> None:
    size = 20_000_000
    event = library.Event(step=1)
    event.summary.value.add(tag="i").image.encoded_image_string = bytes(size)

    class Sink:
        def get_logdir(self) -> str:
            return str(tmp_path)

        def add_event(self, event: Any) -> None:
            """Writes nothing: what is measured is the hook."""

    from tracelet_otel.instrumentation.hooks import Wrap
    from tracelet_otel.instrumentation.tensorboard.instrumentor import _add_event

    Wrap(Sink, "add_event", _add_event)
    tracemalloc.start()
    Sink().add_event(event)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * size
    assert len(captured.one("image").payload) == size


# -- processes of their own ---------------------------------------------------------------------
def run(code: str, *command: str) -> str:
    done = run_command([*(command or (sys.executable,)), "-c", textwrap.dedent(code)], Path.cwd())
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


COLLECT = """
    import sys, tempfile, warnings
    warnings.simplefilter("ignore")
    from tracelet_otel import recording
    from tracelet_otel.instrumentation.tensorboard.instrumentor import (
        TensorBoardInstrumentor,
        TensorBoardXInstrumentor,
    )
    from tracelet_otel.recording.run import Run, RunScope

    class Recorder(recording.Recorder):
        def __init__(self):
            self.scope = RunScope(Run())
        def scalar(self, point):
            tag, value, *_ = point
            print(tag, value)
        def event(self, *arguments):
            pass

    recording.install(Recorder())
"""


def test_instrumenting_imports_nothing_and_later_imports_are_hooked() -> None:
    output = run(
        COLLECT
        + """
    TensorBoardInstrumentor().instrument()
    TensorBoardXInstrumentor().instrument()
    heavy = {"torch", "tensorboard", "tensorboardX", "tensorflow", "numpy"} & set(sys.modules)
    assert not heavy, heavy
    TensorBoardXInstrumentor().uninstrument()
    from torch.utils.tensorboard import SummaryWriter
    import tensorboardX
    folder = tempfile.mkdtemp()
    for SummaryWriter in (SummaryWriter, tensorboardX.SummaryWriter):
        with SummaryWriter(folder) as writer:
            writer.add_scalar(SummaryWriter.__module__, 1)
            writer.add_scalars(SummaryWriter.__module__, {"a": 1})
    TensorBoardXInstrumentor().instrument()
    with SummaryWriter(folder) as writer:
        writer.add_scalar("again", 1)
    """
    )
    assert output.splitlines() == [
        "torch.utils.tensorboard.writer 1.0",
        "torch.utils.tensorboard.writer/:a 1.0",
        "again 1.0",
    ]


def test_one_library_without_the_other() -> None:
    output = run(
        COLLECT
        + """
    for name in ("torch", "tensorboard"):
        sys.modules[name] = None
    TensorBoardInstrumentor().instrument()
    TensorBoardXInstrumentor().instrument()
    import tensorboardX
    with tensorboardX.SummaryWriter(tempfile.mkdtemp()) as writer:
        writer.add_scalar("a", 1)
        writer.add_hparams({"lr": 1}, {"acc": 1})
    """
    )
    assert output.splitlines() == ["a 1.0", "acc 1.0"]


def test_each_instrumentor_needs_its_own_library() -> None:
    assert list(TensorBoardInstrumentor().instrumentation_dependencies()) == ["tensorboard >= 2.0"]
    assert list(TensorBoardXInstrumentor().instrumentation_dependencies()) == ["tensorboardX >= 2.0"]


def test_zero_code_imports_no_library() -> None:
    opentelemetry_instrument = str(Path(sys.executable).parent / "opentelemetry-instrument")
    output = run(
        """
    import sys
    print({"torch", "tensorboard", "tensorboardX", "lightning"} & set(sys.modules))
    """,
        opentelemetry_instrument,
        "--traces_exporter=none",
        "--metrics_exporter=none",
        "--logs_exporter=none",
        sys.executable,
    )
    assert "set()" in output
