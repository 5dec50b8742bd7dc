"""Every plugin that is installed keeps the contract of its kind: one test id a check and configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nqbench.api import Plugin
from nqbench.registry import KINDS, registry
from nqbench.testing import parametrize
from nqbench.testing.tiny import TinyNet

pytestmark = pytest.mark.timeout(60)  # a check takes milliseconds; one that does not end must not hold up the rest

WITHOUT_LOADING = {"described", "json_round_trip", "frozen", "pickles_to_a_worker"}
"""Checks of a model that neither find its data nor train it: all that is made of most models here."""


def _targets() -> list[type[Plugin] | Plugin]:
    return [entry.cls for entry in registry().all() if entry.cls.kind not in ("model", "engine")]


def test_the_projects_own_plugins_are_found_and_none_is_broken() -> None:
    ours = [entry for entry in registry().all() if entry.distribution == "nqbench"]
    assert {entry.cls.kind for entry in ours} >= KINDS.keys() - {"codec", "engine"}
    assert [broken for broken in registry().broken if broken.distribution == "nqbench"] == []


@parametrize(*_targets())
def test_conformance(check: Callable[[], None]) -> None:
    check()


@parametrize(*(entry.cls for entry in registry().all("model")), only=WITHOUT_LOADING)
def test_conformance_of_models_without_loading(check: Callable[[], None]) -> None:
    check()


@parametrize(
    TinyNet, *([registry().make("model", "lenet300", {"data": "digits"})] if registry().names("model") else [])
)
def test_conformance_of_models_that_load_in_seconds(check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_OFFLINE", "1")
    check()
