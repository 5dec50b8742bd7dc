"""The order in which models give their examples: the training split's first ones stand for all of it."""

from __future__ import annotations

import pytest
import torch
from nqbench_models.ordering import in_batches, in_order
from nqbench_models.sentences import Pairs
from nqbench_models.windows_of_text import Windows

from nqbench.api import BadInput, DataMissing, Model, Split
from nqbench.registry import registry


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("shuffle", [None, 0, 3])
def test_every_example_comes_once(split: Split, shuffle: int | None) -> None:
    numbers = torch.cat(list(in_batches(103, 10, split, shuffle)))
    assert sorted(numbers.tolist()) == list(range(103))
    assert torch.equal(numbers, in_order(103, split, shuffle))
    stored = shuffle is None and split != "train"
    assert (numbers.tolist() == list(range(103))) is stored


def test_the_first_windows_are_of_all_the_text() -> None:
    windows = Windows.of(list(range(4000)), 10)
    first = torch.cat([batch[0][:, 0] for batch in windows.batches(8, 100, "train", None)])[:32]
    assert [int(((first // 1000) == quarter).sum()) >= 4 for quarter in range(4)] == [True] * 4


def test_the_first_pairs_are_of_all_the_file() -> None:
    pairs = Pairs(torch.arange(2000).reshape(1000, 2, 1), torch.zeros(1000), -1)
    first = torch.cat([batch[0][:, 0, 0] for batch in pairs.batches(8, "train", None)])[:32]
    assert [int(((first // 500) == quarter).sum()) >= 4 for quarter in range(4)] == [True] * 4


@pytest.mark.parametrize("name", ["minilm-l6", "efficientnet-lite0", "smollm2-135m"])
def test_real_networks_training_examples_are_shuffled_also_without_a_seed(name: str) -> None:
    """STS-B is stored by source (its first thousand pairs are captions of videos), images by class, text by article."""
    model = registry().make("model", name, {})
    assert isinstance(model, Model)
    try:
        model.prepare()
        given, seeded = (next(model.batches("train", batch_size=16, shuffle=seed)) for seed in (None, 0))
    except (BadInput, DataMissing) as missing:
        pytest.skip(str(missing))
    assert torch.equal(given[0], seeded[0])
    if name == "efficientnet-lite0":
        assert len(torch.unique(given[1] // 100)) >= 5
