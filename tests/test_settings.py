from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import tracelet_otel
from tests.support.scripts import OURS
from tracelet_otel.settings import ConfigurationError, Settings, resolve


@pytest.fixture(autouse=True)
def no_variable_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name)


def test_nothing_set_is_mlflow() -> None:
    assert resolve() == Settings()
    assert resolve().backends == {"mlflow": {}}


def test_an_argument_wins_over_its_variable_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACELET_PROJECT", "from-variable")
    assert resolve({"project": None}).project == "from-variable"
    assert resolve({"project": "from-argument"}).project == "from-argument"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "")
    monkeypatch.setenv("TRACELET_SHUTDOWN_TIMEOUT", " ")
    assert resolve() == Settings()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mlflow, otlp", {"mlflow": {}, "otlp": {}}),
        (["mlflow"], {"mlflow": {}}),
        (
            {"mlflow": {"tracking_uri": "http://h"}, "otlp": None},
            {"mlflow": {"tracking_uri": "http://h"}, "otlp": {}},
        ),
        ("none", {}),
        ([], {}),
    ],
)
def test_backends_in_every_form(value: Any, expected: dict[str, Any]) -> None:
    assert resolve({"backends": value}).backends == expected


def test_variables_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_TAGS", "team=vision, model = a=b")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
    monkeypatch.setenv("TRACELET_MAX_QUEUE_BYTES", "1e6")
    settings = resolve()
    assert settings.tags == {"team": "vision", "model": "a=b"}
    assert settings.export_interval == 500
    assert settings.max_queue_bytes == 1_000_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"projekt": "x"}, "unknown setting 'projekt'; allowed are backends"),
        ({"project": 3}, "argument project must be text, got int"),
        ({"backends": 3}, "argument backends must be a name, a list of names"),
        ({"backends": {"mlflow": "x"}}, "must map names to options"),
        ({"checkpoints": "some"}, "must be one of all, best, none"),
        ({"shutdown_timeout": -1}, "must be above 0"),
        ({"shutdown_timeout": True}, "must be a number"),
        ({"export_interval": "soon"}, "must be a number"),
        ({"tags": "novalue"}, "must look like key=value"),
        ({"tags": 3}, "must be a mapping"),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        resolve(arguments)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_SHUTDOWN_TIMEOUT", "long")
    with pytest.raises(
        ConfigurationError, match="environment variable TRACELET_SHUTDOWN_TIMEOUT must be a number"
    ):
        resolve()


def test_every_setting_is_an_argument() -> None:
    arguments = inspect.signature(tracelet_otel.configure).parameters
    assert sorted(arguments) == sorted(field.name for field in fields(Settings))
