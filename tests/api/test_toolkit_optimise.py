"""The training loop against its recurrences, and what it does when interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nqbench.api import BadInput
from nqbench.api.toolkit import optimise
from nqbench.api.toolkit.optimise import Recipe, fit, one_thread, seeded
from nqbench.api.toolkit.progress import tell, telling

TARGET = torch.tensor([1.0, -2.0])


def batches(seed: int) -> list[float]:
    """Two batches an epoch, in an order that the seed decides."""
    return [1.0, 3.0] if seed % 2 else [3.0, 1.0]


def run(recipe: Recipe, **options: object) -> tuple[Tensor, dict[str, Tensor]]:
    w = torch.zeros(2, requires_grad=True)
    moments = fit(recipe, {"w": w}, batches, lambda x: 0.5 * x * (w - TARGET).square().sum(), **options)  # type: ignore[arg-type]
    return w.detach(), moments


def test_sgd_with_nesterov_momentum_is_its_recurrence() -> None:
    recipe = Recipe(epochs=3, lr=0.05, momentum=0.9, weight_decay=0.1, schedule="exponential", gamma=0.5)
    w, b, v = torch.zeros(2), None, torch.zeros(2)
    for epoch in range(3):
        for x in batches(recipe.epoch_seed(epoch)):
            raw = x * (w - TARGET)
            v = 0.999 * v + 0.001 * raw**2
            g = raw + 0.1 * w
            b = g if b is None else 0.9 * b + g
            w = w - 0.05 * 0.5**epoch * (g + 0.9 * b)
    got, moments = run(recipe)
    torch.testing.assert_close(got, w)
    torch.testing.assert_close(moments["w"], v / (1 - 0.999**6))


def test_adam_is_its_recurrence_with_decoupled_decay() -> None:
    recipe = Recipe(epochs=2, lr=0.05, optimizer="adam", weight_decay=0.1)
    w, m, v, t = torch.zeros(2), torch.zeros(2), torch.zeros(2), 0
    for epoch in range(2):
        for x in batches(recipe.epoch_seed(epoch)):
            t += 1
            g = x * (w - TARGET)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w * (1 - 0.05 * 0.1) - 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    got, moments = run(recipe)
    torch.testing.assert_close(got, w)
    torch.testing.assert_close(moments["w"], v / (1 - 0.999**4))


def test_moments_are_kept_only_where_asked_and_change_nothing(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, lr=0.05)
    with_moments, kept = run(recipe, checkpoint=tmp_path / "c.safetensors")
    without, none = run(recipe, second_moments=False)
    assert torch.equal(with_moments, without)
    assert set(kept) == {"w"}
    assert none == {}


def test_a_checkpoint_without_the_moments_that_are_asked_for_is_ignored(tmp_path: Path) -> None:
    recipe, path = Recipe(epochs=2, lr=0.05), tmp_path / "c.safetensors"
    run(recipe, checkpoint=path, second_moments=False)
    assert torch.equal(run(recipe, checkpoint=path)[1]["w"], run(recipe)[1]["w"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_taken_in_the_recipes_precision_and_steps_in_float32(precision: str) -> None:
    x, seen = torch.tensor([[1.0, 1 / 3]]), []
    w = torch.tensor([[1 / 3], [0.7]], requires_grad=True)
    before = w.detach().clone()

    def loss(_: float) -> Tensor:
        out = x @ w
        seen.append(out.dtype)
        return out.float().sum()

    fit(Recipe(epochs=1, lr=0.5, momentum=0.0, precision=precision), {"w": w}, lambda seed: [1.0], loss)
    dtype = getattr(torch, precision)
    assert seen == [dtype]
    assert w.dtype == torch.float32
    torch.testing.assert_close(w.detach(), before - 0.5 * x.to(dtype).float().T, rtol=1e-6, atol=0)
    assert not torch.is_autocast_enabled("cpu")


def half_run(
    dtype: torch.dtype, recipe: Recipe, slope: float = 1.0, **options: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights at 1 under a loss that is linear in them: a gradient is the slope, wherever they are."""
    w = torch.ones(5, dtype=dtype, requires_grad=True)
    slopes = torch.linspace(-slope, slope, 5)
    moments = fit(recipe, {"w": w}, lambda seed: [0.25, 0.5] * 5, lambda x: x * (w.float() * slopes).sum(), **options)  # type: ignore[arg-type]
    return w.detach(), moments


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALVES
@pytest.mark.parametrize(
    ("recipe", "slope"),
    [
        (Recipe(epochs=20, lr=2e-4), 1.0),  # steps below a tenth of the spacing of float16 near 1
        (Recipe(epochs=20, lr=2e-4, momentum=0, weight_decay=0.1), 1.0),
        (Recipe(epochs=20, lr=2e-4, optimizer="adam"), 1.0),
        (Recipe(epochs=20, lr=2e-4, optimizer="adam"), 2.0**-13),  # the squares are 0 in float16
    ],
)
def test_weights_in_half_precision_end_where_those_in_float32_end(
    dtype: torch.dtype, recipe: Recipe, slope: float
) -> None:
    half, moments = half_run(dtype, recipe, slope)
    whole, expected = half_run(torch.float32, recipe, slope)
    assert torch.equal(half, whole.to(dtype))
    assert int((half != 1).sum()) >= 4
    assert moments["w"].dtype == torch.float32
    torch.testing.assert_close(moments["w"], expected["w"], rtol=1e-2, atol=0)


@HALVES
def test_what_a_mask_holds_in_half_precision_is_held(dtype: torch.dtype) -> None:
    w = torch.ones(4, dtype=dtype, requires_grad=True)
    mask = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype)
    seen = []

    def held() -> None:
        with torch.no_grad():
            w.mul_(mask)
        seen.append(w.detach().clone())

    fit(Recipe(epochs=3, lr=1e-3), {"w": w}, batches, lambda x: x * w.float().sum(), after_step=held)
    assert len(seen) == 6
    assert all(torch.equal(one == 0, mask == 0) for one in seen)
    assert torch.equal(w[1], w[3])
    with torch.no_grad():
        w.fill_(2)  # what is set between two epochs is gone on from, copy and all
    fit(
        Recipe(epochs=1, lr=1e-3, momentum=0),
        {"w": w},
        batches,
        lambda x: x * 0 * w.float().sum(),
        before_epoch=lambda epoch: w.data.fill_(3),
    )
    assert w.tolist() == [3.0] * 4


@HALVES
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_in_half_precision_equals_an_uninterrupted_one(
    dtype: torch.dtype, optimizer: str, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=6, lr=3e-4, optimizer=optimizer)  # type: ignore[arg-type]
    whole, moments = half_run(dtype, recipe)

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_run(dtype, recipe, checkpoint=tmp_path / "c.safetensors", before_epoch=stop)
    again, others = half_run(dtype, recipe, checkpoint=tmp_path / "c.safetensors")
    assert torch.equal(again, whole)
    assert torch.equal(others["w"], moments["w"])


def test_schedules() -> None:
    cosine = Recipe(epochs=4, lr=2.0, schedule="cosine")
    assert [cosine.rate(e) for e in range(4)] == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])
    steps = Recipe(epochs=8, lr=1.0, schedule="steps", gamma=0.1)
    assert [steps.rate(e) for e in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_equals_an_uninterrupted_one(optimizer: str, tmp_path: Path) -> None:
    recipe = Recipe(epochs=5, lr=0.03, optimizer=optimizer)  # type: ignore[arg-type]
    whole = run(recipe)

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, checkpoint=tmp_path / "c", before_epoch=stop)
    epochs: list[int] = []
    resumed = run(recipe, checkpoint=tmp_path / "c", before_epoch=epochs.append)
    assert epochs == [3, 4]
    assert torch.equal(whole[0], resumed[0])
    assert torch.equal(whole[1]["w"], resumed[1]["w"])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_checkpoint_is_told_and_not_gone_on_from(damage: str, tmp_path: Path) -> None:
    recipe, path = Recipe(epochs=3, lr=0.03), tmp_path / "c"

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, checkpoint=path, before_epoch=stop)
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    with pytest.warns(UserWarning, match="c: .*damaged.*starts over"):
        resumed = run(recipe, checkpoint=path)
    assert torch.equal(resumed[0], run(recipe)[0])


def test_a_checkpoint_of_another_recipe_is_ignored(tmp_path: Path) -> None:
    run(Recipe(epochs=2, lr=0.03), checkpoint=tmp_path / "c")
    other = Recipe(epochs=2, lr=0.02)
    assert torch.equal(run(other, checkpoint=tmp_path / "c")[0], run(other)[0])


def test_divergence_is_told() -> None:
    with pytest.raises(BadInput, match="diverged in epoch"):
        run(Recipe(epochs=200, lr=1e6))


def test_seeds_and_thread_counts_are_put_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with seeded(5):
        torch.rand(3)
    assert torch.equal(torch.rand(1), expected)
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_an_epoch_of_so_many_steps_is_the_first_of_its_batches() -> None:
    whole, short = Recipe(epochs=1, lr=0.05, momentum=0), Recipe(epochs=1, lr=0.05, momentum=0, steps=1)
    first = batches(whole.epoch_seed(0))[0]
    got, _ = run(short)
    torch.testing.assert_close(got, -0.05 * first * (0 - TARGET))
    assert not torch.equal(got, run(whole)[0])


def test_a_long_epoch_says_its_steps_and_what_a_step_does_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(optimise, "monotonic", lambda: next(seconds))
    heard: list[str] = []
    with telling(heard.append):
        tell("before")
        run(Recipe(epochs=2, lr=0.05, momentum=0), after_step=lambda: tell("tensor 3 of 3"))
        tell("after")
    first, second = (text.partition("loss ")[2] for text in (heard[2], heard[4]))
    assert float(first) > float(second) > 0
    assert heard == [
        "before",
        "epoch 1 of 2, step 2",
        f"epoch 1 of 2, loss {first}",
        f"epoch 2 of 2, step 2, loss {first} before",
        f"epoch 2 of 2, loss {second}",
        "after",
    ]
