"""Dynamic network surgery against its equations: two thresholds, weights that come back, exact shares at the end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from nqbench_training.compact import Live
from nqbench_training.dynamic_surgery import DynamicSurgery, Surgery, lamp, largest_left_out, mean_and_deviations
from nqbench_training.magnitude import Magnitude
from test_sensitivities import Rounded
from tiny_network import make_task

from nqbench.api import BadInput, Pruned, Task


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


def kept(pruned: Pruned) -> int:
    return sum(int(m.sum()) for m in pruned.masks.values())


def weights(task: Task) -> int:
    return sum(task.parameter(name).numel() for name in task.names)


def test_a_mask_falls_below_a_rises_above_b_and_stays_between() -> None:
    task = make_task()
    surgery = Surgery(DynamicSurgery(c=0.0, margin=0.2), task)
    name = task.names[0]
    w, t = surgery.weights[name], surgery.fixed[name]
    flat, mask = w.reshape(-1), surgery.masks[name].reshape(-1)
    flat[:6] = t * torch.tensor([0.79, -0.79, 0.9, -1.1, 1.21, -1.21])
    mask[:6] = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    surgery._renew()
    assert surgery.masks[name].reshape(-1)[:6].tolist() == [0, 0, 1, 0, 1, 1]
    assert torch.equal(task.parameter(name).detach(), w * surgery.masks[name])


def test_thresholds_are_the_mean_and_deviations_of_each_layer() -> None:
    w = torch.tensor([1.0, -3.0, 0.0, 4.0])
    # |w| has mean 2 and variance (1 + 1 + 4 + 4) / 4
    assert float(mean_and_deviations(w, 0.5)) == pytest.approx(2 + 0.5 * 2.5**0.5)
    assert float(mean_and_deviations(w, -9.0)) == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_that_are_masked_learn_in_half_precision_too(
    dtype: Literal["float16", "bfloat16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Surgery] = []
    begin = Surgery.__init__

    def noted(self: Surgery, *given: Any) -> None:
        begin(self, *given)
        made.append(self)

    monkeypatch.setattr(Surgery, "__init__", noted)
    sizes = []
    for half in (False, True):
        task = make_task(Rounded(dtype=dtype, half=half))
        first = {name: w.clone() for name, w in task.weights().items()}
        DynamicSurgery(keep=0.2, epochs=6, lr=3e-3, batch_size=4).prune(task)
        (last,) = made[-1:]
        off = {name: mask == 0 for name, mask in last.masks.items()}
        assert all((last.weights[name][at] != 0).all() for name, at in off.items())
        moved = [(last.weights[name].float() - first[name].float())[at].abs().sum() for name, at in off.items()]
        sizes.append(float(torch.stack(moved).sum()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_a_score_is_the_square_over_those_that_are_not_smaller() -> None:
    w = torch.tensor([[1.0, -3.0], [2.0, 0.0]])
    torch.testing.assert_close(lamp(w), torch.tensor([[1 / 14, 1.0], [4 / 13, 0.0]]))
    # one's scale is nothing to it, and the largest of each tensor stays whatever the others are
    torch.testing.assert_close(lamp(1e-3 * w), lamp(w))
    assert not lamp(torch.zeros(3)).any()
    many = 1e-4 * torch.randn(3000, generator=torch.Generator().manual_seed(0))  # squares and sums that float16 has not
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(lamp(many.to(dtype)), lamp(many.to(dtype).float()))


def test_scores_keep_as_much_of_a_layer_whatever_its_scale() -> None:
    shares = []
    for scale in (1.0, 0.01):
        task = make_task()
        task.assign({task.names[0]: scale * task.parameter(task.names[0]).detach()})
        shares.append(
            {n: int(m.sum()) for n, m in DynamicSurgery(keep=0.3, threshold="lamp", epochs=0).prune(task).masks.items()}
        )
    assert shares[0] == shares[1]
    assert min(shares[0].values()) > 0


def test_the_share_of_the_largest_lies_above_its_threshold() -> None:
    values = torch.randn(101, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.1, 0.5, 1.0):
        assert int((values.abs() > largest_left_out(values, share)).sum()) == round(share * 101)


def test_pruned_weights_move_by_the_gradient_at_the_pruned_network_and_come_back() -> None:
    """One step of plain SGD: W - lr dL/dV at V = W * T, for all of W."""
    task = make_task()
    plugin = DynamicSurgery(keep=0.4, epochs=1, lr=0.1, momentum=0.0, margin=0.0, ramp=0.0, settled=1.0, rate=1.0)
    before = task.weights()
    # the same by hand
    hand = make_task()
    masks = Magnitude(keep=0.4, epochs=0).masks(hand)
    hand.assign({name: w * masks[name] for name, w in before.items()})
    batch = next(iter(hand.batches("train", batch_size=1000, shuffle=plugin.recipe(hand.seed).epoch_seed(0))))
    hand.module.train()
    hand.loss(batch).backward()  # type: ignore[no-untyped-call]
    moved = {name: w - 0.1 * hand.parameter(name).grad for name, w in before.items()}  # type: ignore[operator]
    hand.assign(moved)
    expected = Magnitude(keep=0.4, epochs=0).masks(hand)

    pruned = plugin.model_copy(update={"batch_size": 1000}).prune(task)
    returned = sum(int((pruned.masks[name] & ~masks[name]).sum()) for name in task.names)
    assert returned > 0
    for name in task.names:
        assert torch.equal(pruned.masks[name], expected[name])
        torch.testing.assert_close(pruned.state[name], moved[name] * expected[name])


@pytest.mark.parametrize("threshold", ["global", "layer", "lamp"])
@pytest.mark.parametrize("settled", [0.6, 1.0])
@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_exactly_the_share_is_kept(threshold: str, settled: float, epochs: int) -> None:
    task = make_task()
    fields = {"keep": 0.3, "threshold": threshold, "settled": settled, "epochs": epochs, "lr": 0.05, "batch_size": 8}
    pruned = DynamicSurgery.model_validate(fields).prune(task)
    if threshold != "layer":
        assert kept(pruned) == round(0.3 * weights(task))
    for name, mask in pruned.masks.items():
        if threshold == "layer":
            assert int(mask.sum()) == round(0.3 * mask.numel())
        assert bool((pruned.state[name][~mask] == 0).all())
        assert torch.equal(task.parameter(name).detach(), pruned.state[name])


def test_without_training_the_largest_are_kept() -> None:
    expected = Magnitude(keep=0.25, epochs=0).prune(make_task())
    found = DynamicSurgery(keep=0.25, epochs=0).prune(make_task())
    for name, mask in expected.masks.items():
        assert torch.equal(found.masks[name], mask)


def test_masks_stay_once_they_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    begin = Surgery.begin

    def spy(self: Surgery, epoch: int) -> None:
        begin(self, epoch)
        seen.append((epoch, torch.cat([m.reshape(-1).clone() for m in self.masks.values()])))

    monkeypatch.setattr(Surgery, "begin", spy)
    plugin = DynamicSurgery(keep=0.3, epochs=8, ramp=0.25, settled=0.5, lr=0.2, batch_size=8, rate=1.0)
    pruned = plugin.prune(make_task())
    last = torch.cat([m.reshape(-1) for m in pruned.masks.values()]).float()
    changes = [not torch.equal(mask, last) for epoch, mask in seen]
    assert changes == [True] * 4 + [False] * 4


def test_a_run_that_was_interrupted_ends_with_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = DynamicSurgery(keep=0.3, epochs=6, ramp=0.4, settled=0.6, lr=0.1, batch_size=8, rate=0.5, decay=0.01)
    whole = plugin.prune(make_task())
    begin = Surgery.begin
    for stop in (1, 2, 4, 5):
        monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / str(stop)))

        def interrupted(self: Surgery, epoch: int, stop: int = stop) -> None:
            if epoch == stop:
                raise KeyboardInterrupt
            begin(self, epoch)

        with monkeypatch.context() as patched:
            patched.setattr(Surgery, "begin", interrupted)
            with pytest.raises(KeyboardInterrupt):
                plugin.prune(make_task())
        again = plugin.prune(make_task())
        for name, value in whole.state.items():
            assert torch.equal(again.state[name], value), (stop, name)


def test_the_kept_share_falls_by_the_cubic() -> None:
    surgery = Surgery(DynamicSurgery(keep=0.2, epochs=8, ramp=0.5), make_task())
    shares = []
    for epoch in range(6):
        surgery.begin(epoch)
        shares.append(surgery.share)
    # s_t = s (1 - (1 - t / n)^3) of the weights are pruned, n = 4
    assert shares == pytest.approx([1 - 0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4, 4, 4)])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"keep": 0.1, "c": 1.0}, "not both"), ({"keep": 0.1, "ramp": 0.8, "settled": 0.5}, "before the end of the ramp")],
)
def test_settings_that_contradict_are_told(fields: dict[str, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DynamicSurgery.model_validate(fields)


# -- units that are cut ------------------------------------------------------------------------------------------------
NAMES = ("0.weight", "3.weight", "6.weight", "6.bias", "8.weight")  # one of the biases is compressible, too
UNITS = (("0.weight", 3), ("6.weight", 4))


def test_units_that_are_cut_are_those_of_the_smallest_norms_and_nothing_of_them_is_left() -> None:
    task = make_task()
    norms = task.parameter("6.weight").detach().norm(dim=1)
    kept = norms.topk(4).indices
    pruned = DynamicSurgery(keep=0.2, epochs=2, batch_size=8, lr=0.05, units=UNITS, threshold="lamp").prune(task)
    rows = torch.zeros(6, dtype=torch.bool)
    rows[kept] = True
    assert not bool(pruned.masks["6.weight"][~rows].any())
    assert not bool(pruned.state["6.bias"][~rows].any())
    assert bool(pruned.state["6.bias"][rows].all())
    # what they fed has no effect: its places are pruned, too
    assert not bool(pruned.masks["8.weight"][:, ~rows].any())
    total = sum(m.numel() for m in pruned.masks.values())
    assert sum(int(m.sum()) for m in pruned.masks.values()) == round(0.2 * total)


def test_a_training_of_what_is_left_is_that_of_the_whole_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps with units cut by their masks alone: equal up to the rounding of sums. Without a folder for its
    checkpoints a training leaves none in the working folder either."""
    monkeypatch.chdir(tmp_path)
    ends = []
    for small in (True, False):
        task = make_task()
        plugin = DynamicSurgery(keep=0.3, epochs=3, batch_size=8, lr=0.05, units=UNITS)
        if not small:
            live = Surgery(plugin, make_task()).live
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Surgery, "smaller", lambda self: contextlib.nullcontext())
                patch.setattr(Surgery, "reveal", _kept_out(Surgery.reveal, live))
                found = plugin._made(task, None)
        else:
            found = plugin._made(task, None)
        ends.append(found.state)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == []


def _kept_out(reveal: Callable[[Surgery], None], live: dict[str, Live]) -> Callable[[Surgery], None]:
    """Gradients of what is cut are taken away before the update, as if it had not been computed."""

    def inner(self: Surgery) -> None:
        owned = dict(self.task.module.named_parameters())
        for name, part in live.items():
            for each in (name, name.removesuffix("weight") + "bias"):
                if each in owned and owned[each].grad is not None:
                    owned[each].grad *= part.over(owned[each].shape)  # type: ignore[operator]
        reveal(self)

    return inner


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ((("nothing.weight", 2),), "units of 'nothing.weight': there are 0.weight, 6.weight, 8.weight"),
        ((("3.weight", 2),), "units of '3.weight': there are 0.weight"),  # has groups
        ((("6.bias", 2),), "units of '6.bias': there are 0.weight"),
        ((("6.weight", 7),), "units: 7 of 6.weight, which has 6"),
        ((("6.weight", 0),), "units: 0 of 6.weight, which has 6"),
    ],
)
def test_units_that_there_are_not_are_told(units: tuple[tuple[str, int], ...], told: str) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        DynamicSurgery(keep=0.1, epochs=1, units=units).prune(make_task(names=NAMES))


def test_more_weights_than_the_units_have_are_told() -> None:
    with pytest.raises(BadInput, match=r"keep asks for .* weights, and the units that are kept have"):
        DynamicSurgery(keep=0.9, epochs=1, units=UNITS).prune(make_task())


def test_more_weights_than_the_units_of_one_layer_have_are_told() -> None:
    """With a share for each layer a cut one may have too few, although there are enough in all."""
    fields: dict[str, Any] = {"keep": 0.6, "epochs": 1, "units": (("6.weight", 2),)}
    DynamicSurgery(**fields).prune(make_task())
    with pytest.raises(BadInput, match=r"keep asks for 58 weights, and the units that are kept have 32"):
        DynamicSurgery(**fields, threshold="layer").prune(make_task())


def test_thresholds_are_those_of_the_whole_layer_where_units_are_cut() -> None:
    whole, cut = (Surgery(DynamicSurgery(c=0.5, units=units), make_task()) for units in ((), (("6.weight", 2),)))
    for name, threshold in whole.fixed.items():
        assert float(cut.fixed[name]) == float(threshold)
