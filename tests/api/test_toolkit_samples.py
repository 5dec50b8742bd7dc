"""Which training samples estimates are made of, and the note where they stand for some classes only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nqbench.api import Batch, Model, Split, Task
from nqbench.api.batches import count
from nqbench.api.errors import Note
from nqbench.api.toolkit.samples import first_samples


class Labelled(Model, name="labelled"):
    """Examples 0, 1, 2, ... with given labels, in one of the forms that batches have."""

    def __init__(self, labels: Tensor, form: str = "pair") -> None:
        super().__init__()
        self._given, self._form = labels, form

    def fingerprint(self) -> str:
        return "labelled"

    def load(self, device: torch.device) -> nn.Module:
        return nn.Linear(1, 3)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        for chosen in torch.arange(len(self._given)).split(batch_size):
            x, y = chosen.float()[:, None], self._given[chosen]
            forms: dict[str, Any] = {"pair": (x, y), "alone": (x,), "dict": {"x": x, "labels": y}}
            yield forms[self._form]


def notes_of(labels: Tensor, samples: int, form: str = "pair") -> list[str]:
    model = Labelled(labels, form)
    task = Task(model, model.load(torch.device("cpu")), ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in first_samples(task, samples, 10):
            pass
    return [str(w.message) for w in caught if issubclass(w.category, Note)]


@pytest.mark.parametrize(("there", "samples", "batch_size"), [(96, 7, 50), (96, 50, 50), (96, 70, 50), (30, 70, 16)])
def test_the_first_samples_are_given_and_no_more(there: int, samples: int, batch_size: int) -> None:
    model = Labelled(torch.arange(there) % 3)
    task = Task(model, model.load(torch.device("cpu")), ())
    found = list(first_samples(task, samples, batch_size))
    assert [count(batch) for batch, _ in found] == [size for _, size in found]
    given = torch.cat([batch[0] for batch, _ in found]).flatten()
    assert given.tolist() == list(range(min(there, samples)))


def test_classes_in_order_are_told_with_what_is_to_be_done() -> None:
    up = torch.arange(200) // 40
    (note,) = notes_of(up, 100)
    assert "the first 100 training samples are in the order of their classes, 0 to 2" in note
    assert "shuffled" in note
    assert "0 to 2" not in notes_of(up.flip(0), 100)[0]
    assert "all of class 0" in notes_of(up, 40)[0]


@pytest.mark.parametrize(
    ("labels", "samples", "form"),
    [
        (torch.arange(200) % 5, 100, "pair"),
        (torch.arange(200) // 40, 31, "pair"),  # as few may be in order by chance
        (torch.arange(200.0), 100, "pair"),  # no classes
        (torch.zeros(200, 4, dtype=torch.long), 100, "pair"),  # a label for each word
        (torch.arange(200) // 40, 100, "alone"),
        (torch.arange(200) // 40, 100, "dict"),  # for a model whose loss knows where labels are
    ],
)
def test_nothing_is_told_of_samples_that_are_mixed_or_have_no_class(labels: Tensor, samples: int, form: str) -> None:
    assert notes_of(labels, samples, form) == []
