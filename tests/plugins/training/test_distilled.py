"""Distillation on outputs of every kind: the mean KL divergence of what they say, whatever their shape."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from nqbench_training.optimised import Distilled
from tiny_network import Tiny, make_task
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence

from nqbench.api import BadInput, Batch

GENERATOR = torch.Generator().manual_seed(7)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


class Text(Tiny, name="text"):
    """Logits of the next word at each place, (B, T, words)."""

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.square().mean((1, 2))

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.flatten(0, 1)


class Odd(Text, name="odd"):
    """Something else."""

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]:
        return "other"


class Fixed(nn.Module):
    """A teacher whose outputs are given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _: Tensor) -> Tensor:
        return self.outputs


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_of_classes_and_of_words_it_is_the_softened_divergence_of_each_place(temperature: float) -> None:
    taught = Distilled(distill=0.25, temperature=temperature)
    for task, shape in ((make_task(Tiny()), (6, 3)), (make_task(Text()), (6, 5, 4))):
        batch = (drawn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        outputs, wanted = drawn(*shape), drawn(*shape)
        p, q = (
            Categorical(logits=wanted / temperature),
            Categorical(logits=outputs / temperature),
        )  # along the last axis
        expected = 0.75 * task.losses(outputs, batch).mean() + 0.25 * temperature**2 * kl_divergence(p, q).mean()
        torch.testing.assert_close(taught.loss(task, batch, outputs, Fixed(wanted)), expected)
        same = Distilled(distill=1).loss(task, batch, wanted, Fixed(wanted))
        assert same == pytest.approx(0, abs=1e-6)


def test_of_real_numbers_it_is_that_of_normal_distributions_and_does_not_vanish() -> None:
    task, outputs, wanted = make_task(Tiny(kind_of_loss="gaussian")), drawn(6, 3), drawn(6, 3)
    batch = (drawn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    expected = kl_divergence(Normal(wanted, 1.0), Normal(outputs, 1.0)).sum(1).mean()
    torch.testing.assert_close(Distilled(distill=1).loss(task, batch, outputs, Fixed(wanted)), expected)


def test_what_is_no_distribution_is_a_line() -> None:
    with pytest.raises(BadInput, match="nothing to distill: leave distill out"):
        Distilled(distill=0.5).teacher(make_task(Odd()))
    assert Distilled().teacher(make_task(Odd())) is None
    batch = (drawn(6, 2), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(BadInput, match=r"two classes or more, and those of a batch have the shape \(6, 1\)"):
        Distilled(distill=0.5).loss(make_task(Text()), batch, drawn(6, 1, 1), Fixed(drawn(6, 1, 1)))
