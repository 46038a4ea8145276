"""What a configuration of the OpenTelemetry Collector must be, for a history to pass through it whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tracelet_otel.delivery.otlp import forward
from tracelet_otel.gateway.http_messages import MAX_BYTES

GATEWAY: Final = "gateway"
"""The name, behind the slash, of the exporters that the exact pipelines end in."""
LARGEST_ITEM: Final = max(forward.MOST_BYTES.values()) + forward.RESOURCE_BYTES
"""Bytes that a single data point or record may have; the largest are payloads of files."""
GATEWAY_LIMIT: Final = MAX_BYTES
"""Bytes of a request that the gateway takes."""
HARMLESS: Final = frozenset({"memory_limiter"})
"""Processors that neither change nor hold nor drop what they have accepted."""

_TLS_SERVER: Final = {"cert_file": {}, "key_file": {}, "reload_interval": {}, "client_ca_file": {}}
_TLS_CLIENT: Final = {
    "ca_file": {}, "cert_file": {}, "key_file": {}, "reload_interval": {}, "insecure": {},
    "server_name_override": {},
}  # fmt: skip
_AUTH: Final = {"authenticator": {}}
_QUEUE: Final = {
    "enabled": {}, "storage": {}, "sizer": {}, "queue_size": {}, "block_on_overflow": {}, "num_consumers": {},
    "batch": {"sizer": {}, "min_size": {}, "max_size": {}, "flush_timeout": {}},
}  # fmt: skip
_RETRY: Final = {"enabled": {}, "initial_interval": {}, "max_interval": {}, "max_elapsed_time": {}}
_OTLP: Final = {
    "endpoint": {}, "tls": _TLS_CLIENT, "auth": _AUTH, "compression": {}, "timeout": {},
    "retry_on_failure": _RETRY, "sending_queue": _QUEUE,
}  # fmt: skip
_ANY: Final = "anything"

KEYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "extensions": {
        "bearertokenauth": {"filename": {}},
        "file_storage": {
            "directory": {}, "create_directory": {}, "timeout": {}, "fsync": {},
            "compaction": {"on_start": {}, "on_rebound": {}, "directory": {}, "cleanup_on_start": {}},
        },
        "health_check": {"endpoint": {}},
    },
    "receivers": {
        "otlp": {
            "protocols": {
                "grpc": {"endpoint": {}, "max_recv_msg_size_mib": {}, "tls": _TLS_SERVER, "auth": _AUTH},
                "http": {"endpoint": {}, "max_request_body_size": {}, "tls": _TLS_SERVER, "auth": _AUTH},
            }
        }
    },
    "processors": {
        "memory_limiter": {
            "check_interval": {}, "limit_mib": {}, "spike_limit_mib": {}, "limit_percentage": {},
            "spike_limit_percentage": {},
        },
        "transform": {"error_mode": {}, "metric_statements": _ANY},
    },
    "exporters": {
        "otlp_grpc": _OTLP,
        "load_balancing": {
            "routing_key": {}, "routing_attributes": _ANY, "timeout": {}, "retry_on_failure": _RETRY,
            "sending_queue": _QUEUE,
            "protocol": {"otlp": {key: keys for key, keys in _OTLP.items() if key != "endpoint"}},
            "resolver": {"static": {"hostnames": _ANY}},
        },
        "prometheus": {
            "endpoint": {}, "tls": _TLS_SERVER, "enable_open_metrics": {}, "metric_expiration": {},
            "without_scope_info": {},
        },
    },
}  # fmt: skip
"""The keys in use of each type of component. Source: each one's documentation, versions 0.154 to 0.162."""


def read(path: Path) -> dict[str, Any]:
    """A configuration file as the Collector parses it; variables stay as they are written."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a configuration, none if it may be deployed."""
    undefined = list(_undefined(config))
    yield from undefined
    if undefined:  # the other rules look things up
        return
    for section, kinds in KEYS.items():
        for name, settings in config.get(section, {}).items():
            kind = name.partition("/")[0]
            if kind not in kinds:
                yield f"{section}: {name} is of a type that nobody has checked"
            else:
                yield from _unknown(f"{section}.{name}", settings or {}, kinds[kind])
    exact = {
        name: pipeline
        for name, pipeline in config["service"]["pipelines"].items()
        if any(exporter.partition("/")[2] == GATEWAY for exporter in pipeline["exporters"])
    }
    for signal in ("metrics", "logs"):
        if sum(name.partition("/")[0] == signal for name in exact) != 1:
            yield f"not exactly one pipeline brings {signal} to the gateway"
    for name, pipeline in exact.items():
        yield from _inexact(config, name, pipeline)


def _undefined(config: Mapping[str, Any]) -> Iterator[str]:
    service = config["service"]
    used = {"extensions": set(service["extensions"])}
    for name, pipeline in service["pipelines"].items():
        if name.partition("/")[0] not in ("metrics", "logs", "traces"):
            yield f"pipeline {name} is of no signal"
        for section in ("receivers", "processors", "exporters"):
            used.setdefault(section, set()).update(pipeline.get(section, ()))
    for section, names in used.items():
        defined = set(config.get(section, {}))
        yield from (f"{section}: {name} is used and not defined" for name in names - defined)
        yield from (f"{section}: {name} is defined and not used" for name in defined - names)
    named = {*_values(config, "authenticator"), *_values(config, "storage")}
    yield from (f"{name} is named and no extension in use" for name in named - used["extensions"])


def _unknown(where: str, settings: Any, keys: Any) -> Iterator[str]:
    if keys == _ANY or not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if key not in keys:
            yield f"{where}: unknown key {key}"
        else:
            yield from _unknown(f"{where}.{key}", value, keys[key])


def _inexact(config: Mapping[str, Any], name: str, pipeline: Mapping[str, Any]) -> Iterator[str]:
    processors = pipeline.get("processors", [])
    if processors[:1] != ["memory_limiter"]:
        yield f"{name}: memory_limiter is not the first processor"
    yield from (f"{name}: {one} may lose data" for one in processors if one.partition("/")[0] not in HARMLESS)
    if len(pipeline["exporters"]) != 1:
        yield f"{name}: another exporter could hold up the gateway's"
    for exporter in pipeline["exporters"]:
        settings = config["exporters"][exporter]
        if settings.get("retry_on_failure", {}).get("max_elapsed_time") != 0:
            yield f"{exporter}: drops a batch after some time"
        queue = settings.get("sending_queue", {})
        storage = config["extensions"].get(queue.get("storage"), {})
        if queue.get("enabled") is not True or storage.get("fsync") is not True:
            yield f"{exporter}: acknowledges before data is durable"
        if queue.get("sizer") != "bytes" or queue.get("block_on_overflow") is not True:
            yield f"{exporter}: the queue is not bounded in bytes, or refuses when it is full"
        batch = queue.get("batch", {})
        if batch.get("sizer") != "bytes":
            yield f"{exporter}: batches are not counted in bytes"
        if not LARGEST_ITEM <= batch.get("max_size", 0) <= GATEWAY_LIMIT // 2:
            yield f"{exporter}: a batch may be too small for one item, or too large for the gateway"
        if not batch.get("min_size", 0) <= batch.get("max_size", 0) <= queue.get("queue_size", 0):
            yield f"{exporter}: the queue's and the batch's sizes contradict each other"
    for receiver in pipeline["receivers"]:
        protocols = config["receivers"][receiver]["protocols"]
        if (
            protocols["grpc"].get("max_recv_msg_size_mib", 4) * 1024**2 != GATEWAY_LIMIT
            or protocols["http"].get("max_request_body_size") != GATEWAY_LIMIT
        ):
            yield f"{receiver}: takes less at once than the gateway, or more"


def _values(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            yield from _values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
