"""What fills up short sequences takes no part in second moments: the same sentences give the same, however wide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from nqbench_models.sentences import Pairs, filled, trimmed
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import Sequential
from torch import Tensor, nn

from nqbench.api import Batch, Model, Moments, Split, Task

WIDE = 9
LENGTHS = [3, 7, 1, 5, 2, 7, 4, 1, 6, 2]


class Encoder(nn.Module):
    """(B, T) words, 0 for padding -> (B, 3): a classifier of each sentence's mean word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        kept = (ids != 0)[:, :, None]
        x = self.second(torch.tanh(self.first(self.words(ids))))
        out: Tensor = self.head((x * kept).sum(1) / kept.sum(1))
        return out


class Padded(Model, name="padded"):
    """Ten sentences, filled up to a width."""

    width: int = WIDE
    tells: bool = True

    def fingerprint(self) -> str:
        return f"padded {self.width}"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Encoder().eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        drawn = torch.Generator().manual_seed(1)
        ids = torch.zeros(len(LENGTHS), self.width, dtype=torch.int64)
        for row, length in zip(ids, LENGTHS, strict=True):
            row[:length] = torch.randint(1, 20, (length,), generator=drawn)
        for part in ids.split(batch_size):
            yield part, torch.zeros(len(part), dtype=torch.int64)

    def attention_mask(self, batch: Batch) -> Tensor | None:
        mask: Tensor = batch[0] != 0
        return mask if self.tells else None


def task_of(model: Model) -> Task:
    module = model.load(torch.device("cpu"))
    return Task(
        model, module, model.compressible(module), quantizer=GPTQ(step=0.1), granularity="layer",
        sensitivity=SecondMoments(),
    )  # fmt: skip


def moments(model: Model) -> dict[str, Tensor]:
    task = task_of(model)
    packed = SecondMoments().sense(task, task.names)
    return {name: Moments.of(packed[name]).gram for name in task.names}


def test_second_moments_are_those_of_words_alone() -> None:
    model = Padded()
    (batch, _), module = next(iter(model.batches("train"))), model.load(torch.device("cpu"))
    assert isinstance(module, Encoder)
    words = batch[batch != 0]
    x = module.words(words).detach()
    y = torch.tanh(module.first(x)).detach()
    found = moments(model)
    for name, rows in (("first.weight", x), ("second.weight", y)):
        expected = (rows.T @ rows / len(rows))[None]
        torch.testing.assert_close(found[name].reshape(expected.shape), expected)
    torch.testing.assert_close(
        found["words.weight"].flatten(), torch.bincount(words, minlength=20).float() / len(words)
    )


@pytest.mark.parametrize("name", ["words.weight", "first.weight", "second.weight", "head.weight"])
def test_the_width_changes_no_second_moments(name: str) -> None:
    narrow, wide = moments(Padded(width=7))[name], moments(Padded(width=30))[name]
    torch.testing.assert_close(narrow, wide)
    if name != "head.weight":  # a model that does not tell shows that padding is otherwise most of them
        assert not torch.allclose(moments(Padded(width=30, tells=False))[name], wide, rtol=0.1)


@pytest.mark.parametrize("memory", [4096, 1e-6])
@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_the_width_changes_no_weight_that_is_quantized_in_passing(memory: float, correction: float) -> None:
    def weights(model: Model) -> dict[str, Tensor]:
        task = task_of(model)
        how = Sequential(correction=correction, memory=memory, blocks=100)
        return task.reconstruct(how.train(task, None).groups)

    narrow, wide, blind = (weights(m) for m in (Padded(width=7), Padded(width=30), Padded(width=30, tells=False)))
    for name in narrow:
        torch.testing.assert_close(narrow[name], wide[name])
    assert any(not torch.allclose(wide[name], blind[name]) for name in wide)


def test_a_batch_of_hugging_faces_kind_says_where_its_padding_is() -> None:
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    model = Padded()
    assert Model.attention_mask(model, (ids, ids)) is None
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    for batch in (inputs, (inputs, ids), [inputs]):
        mask = Model.attention_mask(model, batch)
        assert mask is not None
        assert torch.equal(mask, ids != 0)


def test_a_batch_is_as_wide_as_its_longest_sentence() -> None:
    ids = filled([[5, 6], [7], [8, 9, 10, 11], [12]], 0)
    pairs = Pairs(ids.reshape(2, 2, 4), torch.zeros(2))
    assert [batch[0].shape for batch in pairs.batches(1, "test", None)] == [(1, 2, 2), (1, 2, 4)]
    assert trimmed(torch.zeros(2, 3, dtype=torch.int64), 0).shape == (2, 1)
    assert torch.equal(trimmed(torch.tensor([[0, 3, 0], [0, 0, 0]]), 0), torch.tensor([[0, 3], [0, 0]]))
