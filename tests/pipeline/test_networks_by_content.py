"""Networks enter the keys of what follows by their content: what is in the store of trained networks, and not how it
should have come there."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import Own
from torch import nn
from trials import choice, trial

from nqbench.api import Pruned, Pruner, Task
from nqbench.api.toolkit.store import Trained, save_trained, trained, trained_path
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.trial import Choice, Trial
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import Registered, Registry, registry

CALLS: list[str] = []


def net(value: float) -> nn.Module:
    module = nn.Linear(6, 3)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-value, value, 18).reshape(3, 6))
        module.bias.zero_()
    return module


class Stored(Own, name="stored"):
    """Trained once, as far as anyone knows: weights from -1 to 1."""

    def load(self, device: torch.device) -> nn.Module:
        CALLS.append("load")
        module = net(0.0)
        module.load_state_dict(trained("stored", {"network": self.network}, self._train).state)
        return module.to(device)

    def _train(self, workdir: Path) -> Trained:
        CALLS.append("train")
        return Trained(net(1.0).state_dict())


class Shaped(Pruner, name="shaped"):
    """Keeps the larger half, and its result in the store of trained networks."""

    def prune(self, task: Task) -> Pruned:
        CALLS.append("prune")
        state = trained("shaped", task.recipe(), lambda _: self._train(task)).state
        return Pruned(dict(state), {"weight": state["weight"] != 0})

    def _train(self, task: Task) -> Trained:
        CALLS.append("train pruned")
        state = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
        state["weight"][state["weight"].abs() < state["weight"].abs().median()] = 0.0
        return Trained(state)


def known() -> Registry:
    own = {
        ("model", "stored"): Registered(Stored, "tests", "0"),
        ("pruner", "shaped"): Registered(Shaped, "tests", "0"),
    }
    return dataclasses.replace(registry(), found={**registry().found, **own})


def stored(*, pruned: bool = False, k: int = 4) -> Trial:
    base = trial(quantizer=("levels", {"k": k}))
    pruner = Choice("pruner", "shaped") if pruned else None
    positions = choice("positions", "zero") if pruned else None
    return dataclasses.replace(
        base, model=Choice("model", "stored", '{"network":"x"}'), pruner=pruner, positions=positions
    )


PATH = lambda: trained_path("stored", {"network": "x"})  # noqa: E731


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> Iterator[Callable[..., Workbench]]:
    """Makes benches of one cache and one store, each a worker of its own."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    made: list[Workbench] = []

    def make(cache: bool = True) -> Workbench:
        root = tmp_path / "cache" / "stages" if cache else None
        made.append(Workbench(known(), Cache(root), torch.device("cpu"), decoder=decoder))
        return made[-1]

    CALLS.clear()
    yield make
    for one in made:
        one.close()


def keys_of(one: Trial) -> Any:
    """As the parent of workers makes them."""
    return KeyMaker(known(), "cpu", Cache.default()).keys(one)


@pytest.mark.parametrize("pruned", [False, True])
def test_keys_wait_for_a_network_that_nobody_knows_and_then_hold_what_it_is(
    bench: Callable[..., Workbench], tmp_path: Path, pruned: bool
) -> None:
    one = stored(pruned=pruned)
    before = keys_of(one)
    assert before.waits == before.stages["load"]
    told = bench().stage(one, "prune")
    after = keys_of(one)
    assert after.waits is None
    assert told["contents"][after.stages["load"]] == after.stands["load"]
    assert after.trial != before.trial
    figures = bench().run(one, tmp_path / "files")
    assert (tmp_path / "files" / f"{after.trial[:32]}.nqz").stat().st_size == figures["file_bytes"]
    assert keys_of(one) == after


@pytest.mark.parametrize("pruned", [False, True])
def test_two_networks_by_one_recipe_share_no_key_and_no_result(
    bench: Callable[..., Workbench], tmp_path: Path, pruned: bool
) -> None:
    one = stored(pruned=pruned)
    first, keys = bench().run(one, tmp_path), keys_of(one)
    save_trained(PATH(), Trained(net(3.0).state_dict()), {"network": "x"})
    waiting = keys_of(one)
    assert waiting.waits == keys.stages["load"]
    second, other = bench().run(one, tmp_path), keys_of(one)
    assert second["decoded_sha256"] != first["decoded_sha256"]
    assert second["network_sha256"] != first["network_sha256"]
    assert second["mse"] == pytest.approx(9 * first["mse"], rel=1e-5)
    assert other.stages["load"] == keys.stages["load"]
    assert other.trial != keys.trial
    assert {other.stages[s] for s in other.stages if s != "load"}.isdisjoint(keys.stages.values())
    assert "quantize" not in second["cached"]
    if pruned:
        assert CALLS.count("train pruned") == 2  # pruned anew, from the network that there is now
    save_trained(PATH(), Trained(net(1.0).state_dict()), {"network": "x"})
    third = bench().run(one, tmp_path)
    assert keys_of(one).trial == keys.trial
    assert third["decoded_sha256"] == first["decoded_sha256"]


def test_a_worker_that_holds_another_network_than_the_store_has_since_says_which_it_used(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    """A network that is in a worker's memory is one, whatever has become of its file."""
    worker = bench()
    first = worker.run(stored(), tmp_path)
    save_trained(PATH(), Trained(net(3.0).state_dict()), {"network": "x"})
    again = worker.run(stored(k=3), tmp_path)
    assert again["network_sha256"] == first["network_sha256"]
    other = bench().run(stored(k=3), tmp_path)
    assert other["network_sha256"] != first["network_sha256"]
    assert other["decoded_sha256"] != again["decoded_sha256"]


@pytest.mark.parametrize("damage", ["bits", "cut", "empty"])
@pytest.mark.parametrize("cache", [True, False])
def test_a_damaged_network_changes_no_figure_and_no_key(
    bench: Callable[..., Workbench], tmp_path: Path, damage: str, cache: bool
) -> None:
    wanted = [bench(cache).run(stored(k=k), tmp_path) for k in (3, 4, 5)]
    data = bytearray(PATH().read_bytes())
    for at in range(len(data) - 60, len(data), 3):
        data[at] ^= 0x40
    PATH().write_bytes({"bits": data, "cut": data[: len(data) // 2], "empty": b""}[damage])
    CALLS.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [bench(cache).run(stored(k=k), tmp_path) for k in (3, 4, 5, 6)]
    named = [str(one.message) for one in told if PATH().name in str(one.message)]
    assert len(named) == 1
    assert CALLS.count("train") == 1
    for figures, first in zip(found, wanted, strict=False):
        same = ("decoded_sha256", "network_sha256", "metric", "mse", "file_bytes")
        assert {name: figures[name] for name in same} == {name: first[name] for name in same}


def test_a_network_that_is_another_each_time_it_is_loaded_is_told_apart(
    bench: Callable[..., Workbench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter(range(1, 100))

    def load(self: Stored, device: torch.device) -> nn.Module:
        return net(float(next(values)))

    monkeypatch.setattr(Stored, "load", load)
    seen = set()
    for k in (3, 4, 5):
        figures = bench().run(stored(k=k), tmp_path)
        key = keys_of(stored(k=k)).trial
        assert (tmp_path / f"{key[:32]}.nqz").stat().st_size == figures["file_bytes"]
        seen.add(figures["network_sha256"])
    assert len(seen) == 3
