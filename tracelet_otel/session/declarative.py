"""The file that ``OTEL_CONFIG_FILE`` names: OpenTelemetry's declarative configuration.

Readers and processors whose exporter is one of our backends become our session's; everything else is set up
by the package ``opentelemetry-configuration``, as it is without us. That package is imported only where the
variable is set, and its API may change between its releases.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider

from tracelet_otel.backends.deliveries import check_options
from tracelet_otel.backends.names import LOGS_GROUP, METRICS_GROUP, available, is_ours, is_tracker
from tracelet_otel.delivery.summary import say
from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.foundation import private
from tracelet_otel.instrumentation import instrumentors
from tracelet_otel.session.providers import DeclaredSdk
from tracelet_otel.settings import ConfigurationError, Settings, declare

if TYPE_CHECKING:
    from opentelemetry.configuration import OpenTelemetryConfiguration

OTEL_CONFIG_FILE: Final = "OTEL_CONFIG_FILE"
DISTRIBUTION: Final = "tracelet"
"""Our name in the file's section ``distribution``."""
_DEVELOPMENT: Final = "/development"
"""With which the schema marks what is not stable; a component may be named with or without it."""
_ELSEWHERE: Final = frozenset({"backends", "export_interval"})
"""Settings that have a place in the schema itself."""
_UNUSED: Final = ("timeout", "max_export_batch_size_development", "producers", "cardinality_limits")
"""What a reader may have that means nothing for a backend of ours."""


@dataclass(slots=True)
class Declared:
    """A configuration file, divided into what is ours and what is OpenTelemetry's own."""

    path: str
    sdk: OpenTelemetryConfiguration
    backends: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict[str, "tuple[Any, str]"])
    """From a setting's name to its value, and the place in the file that it comes from."""
    switched_off: frozenset[str] = frozenset()
    """The instrumentations that are."""

    def place(self, key: str) -> str:
        """A key's place, for messages."""
        return f"{self.path}: {key}"


def path() -> str:
    """The file that the variable names; empty for none."""
    return os.environ.get(OTEL_CONFIG_FILE, "").strip()


def read(path: str) -> Declared:
    """Reads and checks a file, and puts its settings in the place of the variables'.

    Raises:
        ConfigurationError: the file, a backend in it or a setting is wrong; the message names the key.
    """
    declared = Declared(path, _load(path))
    _take_readers(declared)
    _take_processors(declared)
    _take_instrumentations(declared)
    _take_settings(declared)
    declared.settings["backends"] = (declared.backends, declared.place("meter_provider.readers"))
    declare(declared.settings)
    instrumentors.switch_off(declared.switched_off)
    return declared


def set_up(declared: Declared) -> DeclaredSdk:
    """Sets up what is OpenTelemetry's own.

    Raises:
        ConfigurationError: a component cannot be made.
    """
    from opentelemetry.configuration import ConfigurationError as FileError
    from opentelemetry.configuration import configure_sdk
    from opentelemetry.configuration.file import create_resource
    from opentelemetry.configuration.models import AttributeNameValue
    from opentelemetry.configuration.models import Resource as ResourceConfig

    sdk = declared.sdk
    try:
        resource = create_resource(sdk.resource)
        # Detected once: a second time there would be another service.instance.id.
        values: Mapping[str, Any] = resource.attributes
        attributes = [AttributeNameValue(name, value) for name, value in values.items()]
        sdk.resource = ResourceConfig(attributes, schema_url=resource.schema_url or None)
        configure_sdk(sdk)
    except (FileError, ImportError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{declared.path}: {error}") from error
    provider = metrics.get_meter_provider() if sdk.meter_provider is not None else None
    return DeclaredSdk(
        resource,
        provider if isinstance(provider, MeterProvider) else None,
        has_readers=sdk.meter_provider is not None and bool(sdk.meter_provider.readers),
    )


def _load(path: str) -> OpenTelemetryConfiguration:
    try:
        from opentelemetry.configuration import ConfigurationError as FileError
        from opentelemetry.configuration import load_config_file
    except ImportError as error:
        raise ConfigurationError(
            f"{OTEL_CONFIG_FILE} needs a package: pip install 'tracelet-otel[declarative]': {error}"
        ) from error
    with _without_tracebacks(private.FILE_LOADER_LOGGER):
        try:
            return load_config_file(path)
        except FileError as error:
            raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error


@contextmanager
def _without_tracebacks(logger_name: str) -> Generator[None]:
    """The package logs each error that it raises, with a traceback: one line is enough."""

    def is_warning(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logger = logging.getLogger(logger_name)
    logger.addFilter(is_warning)
    try:
        yield
    finally:
        logger.removeFilter(is_warning)


def _take_readers(declared: Declared) -> None:
    if declared.sdk.meter_provider is None:
        return
    kept: list[Any] = []
    intervals: list[tuple[int, str]] = []
    for number, reader in enumerate(declared.sdk.meter_provider.readers):
        periodic = reader.periodic
        key = f"meter_provider.readers[{number}].periodic"
        if periodic is None or not _take(declared, f"{key}.exporter", periodic.exporter, METRICS_GROUP):
            kept.append(reader)
            continue
        if periodic.interval is not None:
            intervals.append((periodic.interval, declared.place(f"{key}.interval")))
        for name in _UNUSED:
            if getattr(periodic, name) is not None:
                say(f"{declared.place(key)}.{name} is not used: every point is delivered, whenever it can be")
    declared.sdk.meter_provider.readers = kept
    if intervals:  # one reader serves them all
        declared.settings["export_interval"] = min(intervals)


def _take_processors(declared: Declared) -> None:
    if declared.sdk.logger_provider is None:
        return
    kept: list[Any] = []
    for number, processor in enumerate(declared.sdk.logger_provider.processors):
        kind = "batch" if processor.batch is not None else "simple"
        key = f"logger_provider.processors[{number}].{kind}"
        chosen = processor.batch or processor.simple
        if chosen is None or not _take(declared, f"{key}.exporter", chosen.exporter, LOGS_GROUP):
            kept.append(processor)
    declared.sdk.logger_provider.processors = kept


def _take(declared: Declared, key: str, exporter: Any, group: str) -> bool:
    """Takes an exporter of the file as a backend, if it is one of ours.

    Raises:
        ConfigurationError: there is no such exporter, or it does not take its options.
    """
    components = cast("Mapping[str, Mapping[str, Any] | None]", exporter.additional_properties)
    for component, given in components.items():  # the schema allows one
        name = component.removesuffix(_DEVELOPMENT)
        place = declared.place(f"{key}.{component}")
        can_be = is_ours if group == METRICS_GROUP else is_tracker
        if not can_be(name):
            if installed.find(group, component) is None:
                known = ", ".join(item for item in available() if can_be(item))
                raise ConfigurationError(f"{place}: no such exporter is installed; ours are {known}")
            return False
        options = dict(given or {})
        if name in declared.backends and options and options != declared.backends[name]:
            raise ConfigurationError(f"{place}: there is a {name} already, with other options")
        try:
            check_options(name, options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from error
        declared.backends.setdefault(name, options)
        return True
    return False


def _take_instrumentations(declared: Declared) -> None:
    section = declared.sdk.instrumentation_development
    if section is None or section.python is None:
        return
    options = section.python
    off = {name for name, given in options.items() if given.get("enabled") is False}
    declared.switched_off = frozenset(off)
    section.python = {
        name: given for name, given in options.items() if name not in off and name not in instrumentors.PARTS
    }


def _take_settings(declared: Declared) -> None:
    given = (declared.sdk.distribution or {}).get(DISTRIBUTION, {})
    known = set(Settings.__dataclass_fields__) - _ELSEWHERE
    for name, value in given.items():
        place = declared.place(f"distribution.{DISTRIBUTION}.{name}")
        if name not in known:
            raise ConfigurationError(f"{place}: no such setting; allowed are {', '.join(sorted(known))}")
        if value is not None:  # a variable without a value
            declared.settings[name] = value, place
