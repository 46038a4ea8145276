"""Metrics that Lightning logs, as points: those on the CPU at once, those on a device when collected.

Reading a tensor that lives on a device makes the reader wait until the device has caught up. Lightning
itself waits only if it has loggers; so that training without them does not wait for us either, such
values are copied on their device, which is asynchronous, and read by the pipeline's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span

from tracelet_otel import recording, semconv
from tracelet_otel.foundation.forks import in_child
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.lightning.writers import Writer
from tracelet_otel.recording.coercion import to_value

if TYPE_CHECKING:
    import torch

METRICS_EVENT = "training.metrics"
"""Span event with the metrics of one epoch: the tags are attributes, beside ``tracelet.step``."""

_guard = Guard("reading metrics from a device")


@dataclass(slots=True)
class _Call:
    """What the metrics of one call have in common."""

    writer: Writer
    time_unix_nano: int
    span: Span | None

    def record(self, numbers: Mapping[str, tuple[float, bool]], step: int) -> None:
        """Records points, and their event on the span."""
        # The writer's recorder: another one may be in use by the time.
        writer, scalar = self.writer, self.writer.recorder.scalar
        for tag, (value, single) in numbers.items():
            scalar((writer.metric(tag), value, step, self.time_unix_nano, single, writer.run))
        if self.span is not None and numbers:
            attributes: dict[str, float] = {tag: value for tag, (value, _) in numbers.items()}
            self.span.add_event(METRICS_EVENT, {**attributes, semconv.STEP: step}, self.time_unix_nano)


@dataclass(slots=True)
class _Waiting:
    """Metrics of one call that are still on their device, in copies of our own."""

    call: _Call
    tags: list[str]
    values: list[torch.Tensor]
    """Flat; together as long as ``tags``."""
    step: int | torch.Tensor
    stream: Any
    context: Context


class MetricLog:
    """Records metrics. Made only where torch is imported already; see :func:`metric_log`."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._float32 = torch.float32
        self._waiting: deque[_Waiting | partial[None]] = deque()
        """Metrics, and the ends of spans whose metrics wait too."""

    def log(self, writer: Writer, metrics: Mapping[str, Any], step: Any, span: Span | None = None) -> None:
        """Records metrics at one step.

        Args:
            writer: whose they are.
            metrics: numbers and one-element tensors by tag; a nested mapping's are ``tag/name``, and
                anything else is left out.
            step: an integer or a one-element tensor.
            span: gets an event with these metrics, if it records.
        """
        if span is not None and not span.is_recording():
            span = None
        call = _Call(writer, time_ns(), span)
        numbers: dict[str, tuple[float, bool]] = {}
        tensors: dict[str, torch.Tensor] = {}
        self._sort(metrics, numbers, tensors)
        if _is_tensor(step) and not step.is_cpu:
            for tag, (value, _) in numbers.items():  # they wait too, for their step
                tensors[tag] = self._torch.tensor(value, dtype=self._torch.float64)
            self._defer(call, tensors, step.detach().clone().reshape(1))
        else:
            call.record(numbers, int(step))
            if tensors:
                self._defer(call, tensors, int(step))

    def end(self, span: Span) -> None:
        """Ends a span, after the events of those of its metrics that are still on a device."""
        if any(isinstance(item, _Waiting) and item.call.span is span for item in tuple(self._waiting)):
            self._waiting.append(partial(span.end, time_ns()))
        else:
            span.end()

    def drain(self) -> None:
        """Reads what is still on a device and records it. Waits for the device: not for training's thread."""
        items = [self._waiting.popleft() for _ in range(len(self._waiting))]
        read = self._read(
            (values, item.stream)
            for item in items
            if isinstance(item, _Waiting)
            for values in ([*item.values] if isinstance(item.step, int) else [*item.values, item.step])
        )
        for item in items:
            with _guard:
                if isinstance(item, _Waiting):
                    self._record(item, read)
                else:
                    item()

    def forget(self) -> None:
        """In a forked child: what waits is the parent's, and a device cannot be read here."""
        self._waiting.clear()

    def _sort(
        self,
        metrics: Mapping[str, Any],
        numbers: dict[str, tuple[float, bool]],
        tensors: dict[str, torch.Tensor],
    ) -> None:
        """Sorts metrics into those that can be read without waiting, and those on a device."""
        for tag, value in metrics.items():
            if _is_tensor(value):
                if value.numel() != 1:  # Lightning refuses it, if it has a logger
                    continue
                if value.is_cpu:
                    numbers[tag] = float(value.item()), value.dtype is self._float32
                else:
                    tensors[tag] = value
            elif isinstance(value, Mapping):
                nested = cast("Mapping[str, Any]", value)
                self._sort({f"{tag}/{name}": item for name, item in nested.items()}, numbers, tensors)
            elif (number := to_number(value)) is not None:
                numbers[tag] = number

    def _defer(self, call: _Call, tensors: dict[str, torch.Tensor], step: int | torch.Tensor) -> None:
        alike: dict[Any, dict[str, torch.Tensor]] = {}
        for tag, value in tensors.items():
            alike.setdefault((value.device, value.dtype), {})[tag] = value
        # A copy, since the caller may change a tensor in place; one kernel for all of a kind.
        copies = [
            self._torch.stack([value.detach().reshape(()) for value in group.values()])
            for group in alike.values()
        ]
        tags = [tag for group in alike.values() for tag in group]
        # What was queued on a stream is complete for a reader on the same one.
        cuda = next((value.device for value in tensors.values() if value.device.type == "cuda"), None)
        stream = self._torch.cuda.current_stream(cuda) if cuda is not None else None
        self._waiting.append(_Waiting(call, tags, copies, step, stream, otel_context.get_current()))

    def _read(self, blocks: Iterable[tuple[torch.Tensor, Any]]) -> dict[int, list[float]]:
        """The numbers of each block by its ``id``: one copy, hence one wait, for each device and type."""
        alike: dict[Any, list[torch.Tensor]] = {}
        for values, stream in blocks:
            alike.setdefault((values.device, values.dtype, stream), []).append(values)
        read: dict[int, list[float]] = {}
        for (_, _, stream), group in alike.items():
            with _guard, self._torch.cuda.stream(stream) if stream is not None else nullcontext():
                flat = cast("list[float]", self._torch.cat(group).tolist())  # pyright: ignore[reportUnknownMemberType]
                numbers = iter(flat)
                for values in group:
                    read[id(values)] = list(islice(numbers, values.numel()))
        return read

    def _record(self, item: _Waiting, read: dict[int, list[float]]) -> None:
        step = item.step if isinstance(item.step, int) else int(read[id(item.step)][0])
        tags = iter(item.tags)
        numbers = {
            next(tags): (float(value), values.dtype is self._float32)
            for values in item.values
            for value in read[id(values)]
        }
        # The exemplars carry the ids of the span that was current when the value was logged.
        token = otel_context.attach(item.context)
        try:
            item.call.record(numbers, step)
        finally:
            otel_context.detach(token)


_log: MetricLog | None = None


def metric_log() -> MetricLog:
    """The one of this process, drained before each collection."""
    global _log
    if _log is None:
        _log = MetricLog()
        recording.before_collect(_log.drain)
    return _log


def _forget() -> None:
    if _log is not None:
        _log.forget()


in_child(_forget)


def to_number(value: object) -> tuple[float, bool] | None:
    """A number as float and whether it had single precision; None if it is not a number."""
    try:
        return to_value(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    return hasattr(value, "is_cpu")
