"""Which steps are replayed, which are taken alone, and what becomes of a step that cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nqbench.api.toolkit.optimise import Recipe, fit
from nqbench.api.toolkit.replayed import WARM, Replayed, cloned, leaves


class Recorder:
    """Stands for a GPU's graphs: what is recorded is repeated on the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.recordings = 0
        self.replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


def batch(value: float, size: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.full((size,), value), {"labels": torch.full((size,), int(value))}


def test_every_batch_is_taken_once_in_order_whatever_its_shape() -> None:
    seen: list[tuple[float, int, int]] = []
    record = Recorder()
    step = Replayed(lambda b: seen.append((float(b[0][0]), int(b[1]["labels"][-1]), len(b[0]))), record)
    sizes = [4] * 9 + [2] + [4] * 3
    for number, size in enumerate(sizes):
        step(batch(number, size))
    assert seen == [(float(n), n, size) for n, size in enumerate(sizes)]
    assert record.recordings == 1
    assert record.replays == len(sizes) - WARM - 1


def test_what_is_recorded_anew_reads_what_is_so_then() -> None:
    rate, seen, record = 1.0, [], Recorder()

    def step(x: Tensor) -> None:
        seen.append(rate * float(x))

    replayed = Replayed(step, record)
    for epoch in range(3):
        rate = float(epoch)
        replayed.renew()
        for _ in range(5):
            replayed(torch.tensor(2.0))
    assert seen == [2.0 * epoch for epoch in range(3) for _ in range(5)]
    assert record.recordings == 3


def test_a_step_that_cannot_be_recorded_is_taken_alone_after_one_warning() -> None:
    def record(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    seen: list[float] = []
    step = Replayed(lambda x: seen.append(float(x)), record)

    def steps() -> None:
        for number in range(8):
            step(torch.tensor(float(number)))
            step.renew()

    with pytest.warns(UserWarning, match=r"not replayed as a CUDA graph.*permitted when stream is capturing$") as said:
        steps()
    assert len(said) == 1
    assert seen == [float(n) for n in range(8)]


def test_batches_are_copied_with_their_strides() -> None:
    images = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    given = [(images, "a"), {"n": 3}]
    copy = cloned(given)
    assert leaves(copy)[1:] == ["a", 3]
    assert torch.equal(copy[0][0], images)
    assert copy[0][0].stride() == images.stride()
    assert copy[0][0] is not images


def test_on_the_cpu_nothing_is_replayed() -> None:
    ends = []
    for replay in (False, True):
        w = torch.zeros(2, requires_grad=True)
        loss = lambda x, w=w: (x * w - 1).square().sum()  # noqa: E731
        fit(Recipe(epochs=2, lr=0.1), {"w": w}, lambda _: [1.0] * 6, loss, replay=replay)
        ends.append(w.detach().clone())
    assert torch.equal(*ends)


def test_between_steps_runs_after_each_step() -> None:
    w, seen = torch.zeros(1, requires_grad=True), []
    fit(
        Recipe(epochs=2, lr=0.1, momentum=0),
        {"w": w},
        lambda _: [1.0, 2.0],
        lambda x: x * w.sum(),
        between_steps=lambda: seen.append(round(float(w.detach()), 3)),
    )
    assert seen == [-0.1, -0.3, -0.4, -0.6]


def test_one_cycle_rises_over_a_fifth_and_falls_to_nothing() -> None:
    rates = [Recipe(epochs=10, lr=0.4, schedule="one-cycle").rate(epoch) for epoch in range(10)]
    # at the middles 0.05, 0.15 of the rise and 0.25 ... 0.95 of the fall
    expected = [0.1, 0.3, *(0.4 * (1 - m) / 0.8 for m in (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95))]
    assert rates == pytest.approx(expected)
