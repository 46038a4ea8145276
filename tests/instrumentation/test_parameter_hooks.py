"""The hooks into other libraries that find parameters: their private names, and what they leave alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from tests.support.private_names import rename, uses_elsewhere
from tracelet_otel.foundation.private_names import PrivateName, PrivateNames
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.hooks import HooksInstrumentor
from tracelet_otel.instrumentation.hydra import private as hydra_private
from tracelet_otel.instrumentation.hydra.instrumentor import HydraInstrumentor, resolved
from tracelet_otel.instrumentation.tyro import private as tyro_private
from tracelet_otel.instrumentation.tyro.instrumentor import TyroInstrumentor

NAMES = [*hydra_private.HYDRA, *tyro_private.TYRO]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_the_installed_releases_have_the_private_names(name: PrivateName) -> None:
    if "()" in name.path:
        hydra_utils = pytest.importorskip("hydra.core.utils")
        assert name.get(hydra_utils.JobReturn(), default=name) is None
    else:
        assert callable(name.get())


@pytest.mark.parametrize(
    ("module", "library"), [(hydra_private, "hydra"), (tyro_private, "tyro")], ids=["hydra", "tyro"]
)
def test_private_names_are_in_one_module(module: ModuleType, library: str) -> None:
    assert uses_elsewhere(module, library) == []


def test_a_configuration_is_resolved_as_far_as_it_can_be() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {
            "lr": 0.1,
            "half": "${lr}",
            "lost": "${nowhere}",
            "missing": "???",
            "layers": [1, "${lr}", {"deep": "${nowhere.at.all}"}],
            "copy": "${node}",
            "node": {"a": "${lr}", "b": "${nowhere}"},
            "text": "lr is ${lr}",
            "loop": "${loop}",
            "nothing": None,
            "hydra": {"job": {"num": 0}},
        }
    )
    node = {"a": 0.1, "b": "${nowhere}"}
    assert resolved(config) == {
        "lr": 0.1,
        "half": 0.1,
        "lost": "${nowhere}",
        "missing": "???",
        "layers": [1, 0.1, {"deep": "${nowhere.at.all}"}],
        "copy": node,
        "node": node,
        "text": "lr is 0.1",
        "loop": "${loop}",
        "nothing": None,
    }


@pytest.fixture
def own_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "_parsed", {})
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.5"])
    TyroInstrumentor().instrument()


def rate(lr: float = 0.1) -> float:
    return lr


def parse(words: Sequence[str] | None) -> float:
    tyro = pytest.importorskip("tyro")
    return tyro.cli(rate, args=words)


@pytest.mark.usefixtures("own_parses")
@pytest.mark.parametrize(
    ("words", "expected"), [(None, {"lr": 0.5}), (["--lr", "0.5"], {"lr": 0.5}), (["--lr", "3"], {})]
)
def test_tyro_the_own_command_line_only(words: list[str] | None, expected: dict[str, float]) -> None:
    assert parse(words) == (0.5 if expected else 3.0)
    assert parameters.command_line()[0] == expected


@pytest.mark.usefixtures("own_parses")
def test_tyro_a_release_without_the_private_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rename(monkeypatch, tyro_private.CALLABLE)
    assert parse(None) == 0.5


@pytest.mark.usefixtures("own_parses")
@pytest.mark.parametrize("instrumentor", [TyroInstrumentor, HydraInstrumentor])
def test_hooks_are_reversible(instrumentor: type[HooksInstrumentor]) -> None:
    private: PrivateNames = tyro_private.TYRO if instrumentor is TyroInstrumentor else hydra_private.HYDRA
    name = next(iter(private))
    made = instrumentor()
    made.instrument()
    wrapped = name.get()
    assert hasattr(wrapped, "__wrapped__")
    made.uninstrument()
    assert name.get() is wrapped.__wrapped__
    made.instrument()
