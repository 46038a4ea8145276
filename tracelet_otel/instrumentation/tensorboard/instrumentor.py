"""Hooks into TensorBoard's writers: ``torch.utils.tensorboard`` and tensorboardX.

Everything that TensorBoard shows of a run passes ``EventFileWriter.add_event``, except embeddings, which
are files of their own. The event files stay as they would be without us.

A tensorboardX writer with ``write_to_disk=False`` has no event-file writer and is not recorded: scripts
use it to silence all ranks but one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from tracelet_otel import recording, semconv
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, Wrap, around, silenced
from tracelet_otel.instrumentation.tensorboard import private
from tracelet_otel.instrumentation.tensorboard.events import Scalar, Undecodable, decode, time_unix_nano
from tracelet_otel.instrumentation.tensorboard.trials import Trial, trials_of
from tracelet_otel.instrumentation.tensorboard.writers import (
    WritingCall,
    calling,
    event_writer_of,
    state_of,
    with_types,
)
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.semconv import Status

_recorder = recording.current


def _add_event(original: Callable[..., Any], wrap: Wrap) -> Callable[..., Any]:
    def add_event(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if wrap.on and (recorder := _recorder()) is not None and not silenced():
            try:
                _record(recorder, self, args[0] if args else kwargs["event"])
            except Exception:
                with Guard("recording a TensorBoard event"):  # entered only now: this is the hot path
                    raise
        return result

    return add_event


def _record(recorder: Recorder, event_writer: Any, event: Any) -> None:
    """Records an event that was written. What one scalar costs here, training pays for each."""
    values = event.summary.value
    if len(values) == 1:
        value = values[0]
        number = value.simple_value
        # Only the zero may be that of another kind of value.
        if number or value.HasField("simple_value"):
            try:
                state = event_writer._tracelet
            except AttributeError:  # its first value, or one of an add_hparams
                _record_all(recorder, event_writer, event)
                return
            if state.closed and getattr(event_writer, state.closed):
                return
            run = recorder.scope.entered()
            if run is None:
                run = state.bound
                if run.ended:
                    run = recorder.scope.current()
            last_run, tags = state.tags
            tag = value.tag
            tag = tags[tag] if run is last_run and tag in tags else state.name(recorder, run, tag)
            seconds = event.wall_time
            nanoseconds = round(seconds * 1e9) if 0.0 < seconds < 9e9 else None
            recorder.scalar((tag, number, event.step, nanoseconds, True, run))
            return
    _record_all(recorder, event_writer, event)


def _record_all(recorder: Recorder, event_writer: Any, event: Any) -> None:
    if getattr(event_writer, private.CLOSED.attribute, False):
        return
    time = time_unix_nano(event)
    call = calling.get()
    trial = call.trial if call is not None else None
    for item in decode(event):
        with Guard("decoding a TensorBoard value"):
            state = state_of(recorder, event_writer)  # not before: a file's first event holds nothing
            run = state.run(recorder)
            if isinstance(item, Scalar):
                if trial is not None:
                    trial.recording(recorder, (item, event.step, time), str(event_writer.get_logdir()))
                tag = state.name(recorder, run, item.tag)
                recorder.scalar((tag, item.value, event.step, time, item.single, run))
                continue
            record = item.record if isinstance(item, Undecodable) else item
            record = record._replace(time_unix_nano=time, run=run)
            if record.kind == "params" and call is not None:
                record = with_types(record, call.hparams or {})
            if trial is not None:
                trial.recording(recorder, record, str(event_writer.get_logdir()))
            tag = state.name(recorder, run, record.tag) if record.tag else ""
            recorder.event(record._replace(tag=tag))
            if isinstance(item, Undecodable):
                raise item.error


# -- calls that write through further writers, or past the event files --------------------------
def _inside(call: Call, described: WritingCall) -> Any:
    """Makes a call, and lets :func:`_record` see that an event comes from it."""
    if _recorder() is None:
        return call()
    token = calling.set(described)
    try:
        return call()
    finally:
        calling.reset(token)


def _add_scalars(call: Call, writer: Any, *_: Any, **__: Any) -> Any:
    return _inside(call, WritingCall(writer))


def _add_hparams(call: Call, writer: Any, hparam_dict: Any = None, *_: Any, **__: Any) -> Any:
    trial = None
    with Guard("finding the trial of hyperparameters"):
        trial = _trial(writer, hparam_dict)
    described = WritingCall(writer, hparam_dict, trial)
    if trial is None or (recorder := _recorder()) is None:
        return _inside(call, described)
    status: Status = "failed"
    try:
        with recorder.scope.inside(trial.run):
            result = _inside(call, described)
        status = "finished"
        return result
    finally:
        with Guard("the end of a trial"):
            trial.end(recorder, status)


def _trial(writer: Any, hparams: Any) -> Trial | None:
    if (recorder := _recorder()) is None or silenced() or not isinstance(hparams, dict):
        return None
    recorder.scope.current()  # which may start a session, and so another recorder
    event_writer = event_writer_of(writer)
    if (recorder := _recorder()) is None or event_writer is None:
        return None
    state = state_of(recorder, event_writer)
    return trials_of(state.run(recorder)).find(state.folder, cast("dict[str, Any]", hparams))


_EMBEDDING_FILES = {
    "tensors.tsv": ("", "text/tab-separated-values"),
    "metadata.tsv": ("metadata", "text/tab-separated-values"),
    "sprite.png": ("label_img", "image/png"),
}
"""By name: the argument without which the file is not written, and its type."""


def _add_embedding(call: Call, writer: Any, *_: Any, **__: Any) -> Any:
    result = call()
    if (recorder := _recorder()) is not None and not silenced():
        with Guard("recording a TensorBoard embedding"):
            bound = inspect.signature(call.func).bind(*call.args, **call.keywords)
            bound.apply_defaults()
            _record_embedding(recorder, writer, bound.arguments)
    return result


def _record_embedding(recorder: Recorder, writer: Any, arguments: dict[str, Any]) -> None:
    event_writer = event_writer_of(writer)
    if event_writer is None:
        return
    step, tag = arguments["global_step"] or 0, arguments["tag"]
    home = event_writer.get_logdir()
    folder = f"{home}/{str(step).zfill(5)}/{private.ENCODE_TAG.get(writer, str)(tag)}"
    files = {
        f"{folder}/{name}": mime_type
        for name, (argument, mime_type) in _EMBEDDING_FILES.items()
        if not argument or arguments[argument] is not None
    }
    files[f"{home}/projector_config.pbtxt"] = "text/plain"
    state = state_of(recorder, event_writer)
    run = state.run(recorder)
    name = state.name(recorder, run, tag)
    for path, mime_type in files.items():
        attributes = {semconv.FILE_NAME: path.rpartition("/")[2]}
        recorder.event(LoggedEvent("embedding", name, int(step), _read(path), mime_type, attributes, run=run))


def _read(path: str) -> bytes:
    if "://" in path:
        from tensorboard.compat import tf

        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:  # noqa: PTH123 - tensorboardX writes "s3://x" to such a local path
        return file.read()


def _hooks(event_file_writer: str, writer: str) -> Hooks:
    return Hooks(
        [
            Target(event_file_writer, "EventFileWriter", "add_event", _add_event),
            Target(writer, "SummaryWriter", "add_scalars", around(_add_scalars)),
            Target(writer, "SummaryWriter", "add_hparams", around(_add_hparams)),
            Target(writer, "SummaryWriter", "add_embedding", around(_add_embedding)),
        ]
    )


class TensorBoardInstrumentor(HooksInstrumentor):
    """Hooks into the writer of the package ``tensorboard``, which ``torch.utils.tensorboard`` writes with."""

    dependencies = ("tensorboard >= 2.0",)
    hooks = _hooks("tensorboard.summary.writer.event_file_writer", "torch.utils.tensorboard.writer")


class TensorBoardXInstrumentor(HooksInstrumentor):
    """Hooks into the package ``tensorboardX``."""

    dependencies = ("tensorboardX >= 2.0",)
    hooks = _hooks("tensorboardX.event_file_writer", "tensorboardX.writer")
