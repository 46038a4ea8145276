"""OTLP requests as lines of OTLP JSON, and back.

``protobuf``'s own JSON mapping converts the messages, except for what is different in OTLP: ids are
hexadecimal and enums are numbers. Exemplars, of which there is one for every point, are converted here,
directly: that mapping takes some thirty times as long for each.

Source: OpenTelemetry specification, "OpenTelemetry Protocol File Exporter" and "JSON Protobuf Encoding".
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Literal, cast

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.otlp import traversal
from tracelet_otel.otlp.exemplars import spans

Signal = Literal["metrics", "logs"]

_POINT_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram")
_IDS = ("traceId", "spanId")
_STEP = f',"filteredAttributes":[{{"key":"{semconv.STEP}","value":{{"intValue":"'
_PLACE = secrets.token_hex(16)
"""Stands for a list of exemplars in JSON. A sender cannot know it."""


def metrics_line(request: ExportMetricsServiceRequest) -> str:
    """A metrics request as one line, without the line's end. ``request`` loses its exemplars."""
    exemplars: list[str] = []
    for point in _points(request):
        exemplars.append(_exemplars_text(point))
        del point.exemplars[:]
    content = json_format.MessageToDict(request, use_integers_for_enums=True)
    for point, text in zip(_json_points(content), exemplars, strict=True):
        if text:
            point["exemplars"] = _PLACE
    parts = _dumps(content).split(f'"{_PLACE}"')
    texts = [text for text in exemplars if text]
    return "".join(f"{part}[{text}]" for part, text in zip(parts[:-1], texts, strict=True)) + parts[-1]


def logs_line(request: ExportLogsServiceRequest) -> str:
    """A logs request as one line, without the line's end."""
    content = json_format.MessageToDict(request, use_integers_for_enums=True)
    for record in _json_records(content):
        _with_hexadecimal_ids(record)
    return _dumps(content)


def parse_line(line: str | bytes) -> ExportMetricsServiceRequest | ExportLogsServiceRequest | None:
    """The request of one line; None for traces and for an empty line.

    Raises:
        ValueError: the line is not OTLP JSON.
    """
    if not line.strip():
        return None
    content: Any = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if "resourceMetrics" in content:
        return _parse_metrics(cast("dict[str, Any]", content))
    if "resourceLogs" in content:
        return _parse_logs(cast("dict[str, Any]", content))
    if "resourceSpans" in content:
        return None
    raise ValueError("no resourceMetrics, resourceLogs or resourceSpans")


def _parse_metrics(content: dict[str, Any]) -> ExportMetricsServiceRequest:
    try:
        exemplars = [
            cast("list[dict[str, Any]]", point.pop("exemplars", [])) for point in _json_points(content)
        ]
        request = json_format.ParseDict(content, ExportMetricsServiceRequest(), ignore_unknown_fields=True)
        for point, found in zip(_points(request), exemplars, strict=True):
            for item in found:
                _parse_exemplar(point.exemplars.add(), item)
    except (json_format.ParseError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not OTLP metrics: {error!r}") from error
    return request


def _parse_logs(content: dict[str, Any]) -> ExportLogsServiceRequest:
    try:
        for record in _json_records(content):
            for name in _IDS:
                if record.get(name):
                    record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
        return json_format.ParseDict(content, ExportLogsServiceRequest(), ignore_unknown_fields=True)
    except (json_format.ParseError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not OTLP logs: {error!r}") from error


def _exemplars_text(point: NumberDataPoint) -> str:
    """The exemplars of a data point as JSON, without the brackets of their list."""
    texts: list[str] = []
    for span in spans(point):
        layout = span.layout
        if layout is None:
            some = point.exemplars[span.first : span.first + span.length]
            texts += [_dumps(_exemplar_json(item)) for item in some]
            continue
        ends = (
            [
                f',"spanId":"{span_id.hex()}","traceId":"{trace_id.hex()}"}}'
                for span_id, trace_id in span.ids()
            ]
            if layout.has_ids
            else repeat("}")
        )
        texts += [
            f'{{"timeUnixNano":"{time}","asDouble":{value if value - value == 0 else _quoted(value)}'
            f'{_STEP}{step}"}}}}]{end}'
            for (step, value, time), end in zip(span.points(), ends, strict=False)
        ]
    return ",".join(texts)


def _quoted(value: float) -> str:
    return f'"{semconv.nonfinite_name(value)}"'


def _exemplar_json(exemplar: Exemplar) -> dict[str, Any]:
    return _with_hexadecimal_ids(json_format.MessageToDict(exemplar))


def _with_hexadecimal_ids(content: dict[str, Any]) -> dict[str, Any]:
    for name in _IDS:
        if name in content:
            content[name] = base64.b64decode(content[name]).hex()
    return content


def _parse_exemplar(exemplar: Exemplar, content: dict[str, Any]) -> None:
    exemplar.time_unix_nano = int(content.get("timeUnixNano", 0))
    if "asInt" in content:
        exemplar.as_int = int(content["asInt"])
    else:
        exemplar.as_double = float(content.get("asDouble", 0.0))  # "NaN" and "Infinity" too
    for item in content.get("filteredAttributes", ()):
        value = item.get("value", {})
        attribute = exemplar.filtered_attributes.add(key=item.get("key", ""))
        if "intValue" in value:
            attribute.value.int_value = int(value["intValue"])
        else:
            json_format.ParseDict(value, attribute.value)
    exemplar.span_id = bytes.fromhex(content.get("spanId", ""))
    exemplar.trace_id = bytes.fromhex(content.get("traceId", ""))


def _points(request: ExportMetricsServiceRequest) -> Iterator[Any]:
    """The data points of all kinds that have exemplars, in order."""
    for metric in traversal.metrics(request):
        if metric.WhichOneof("data") != "summary":
            yield from traversal.data_points(metric)


def _json_points(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same points in JSON."""
    for resource in _list(content, "resourceMetrics"):
        for scope in _list(resource, "scopeMetrics"):
            for metric in _list(scope, "metrics"):
                for kind in _POINT_KINDS:
                    if kind in metric:
                        yield from _list(metric[kind], "dataPoints")


def _json_records(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in _list(content, "resourceLogs"):
        for scope in _list(resource, "scopeLogs"):
            yield from _list(scope, "logRecords")


def _list(content: dict[str, Any], name: str) -> Iterable[dict[str, Any]]:
    return content.get(name) or ()


def _dumps(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
