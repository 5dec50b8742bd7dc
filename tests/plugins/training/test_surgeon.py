"""The surgeon's costs and refits against least squares, its factors against explicit Jacobians, its stages by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nqbench_training import surgeon
from nqbench_training.correction import corrected, damped
from nqbench_training.magnitude import Magnitude
from nqbench_training.optimised import Distilled
from nqbench_training.saliency import cheapest_removed, output_curvature, removal_costs
from nqbench_training.surgeon import Surgeon
from pydantic import ValidationError
from tiny_network import Tiny, make_task
from torch import Tensor, nn
from torch.func import jacrev

from nqbench.api import Pruned, Task
from nqbench.api.toolkit.store import load_trained


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trained"


def problem(groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """(4, 6) weights, (groups, 100, 6) inputs, (4, 6) mask with an empty row; float64."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 6, generator=generator).double()
    x = (torch.randn(groups, 100, 6, generator=generator) @ torch.randn(6, 6, generator=generator)).double()
    mask = torch.rand(4, 6, generator=generator) < 0.7
    mask[3] = False
    return w, x, mask


def moments(x: Tensor) -> Tensor:
    return x.mT @ x / x.shape[1]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_weights_cost_is_the_least_rise_of_the_error_with_the_others_refitted(groups: int) -> None:
    w, x, mask = problem(groups)
    w = w * mask
    g = torch.tensor([1.0, 2.0, 0.5, 3.0]).double()
    costs = removal_costs(w, mask, moments(x), g)
    for o in range(4):
        inputs = x[o * groups // 4]
        for j in range(6):
            if not mask[o, j]:
                assert costs[o, j] == 0
                continue
            rest = mask[o].clone()
            rest[j] = False
            # the kept weights give zero error now; without j the best others do
            best = torch.linalg.lstsq(inputs[:, rest], inputs @ w[o]).solution
            rise = (inputs @ w[o] - inputs[:, rest] @ best).square().mean()
            torch.testing.assert_close(costs[o, j], 0.5 * g[o] * rise)


def test_one_inverse_serves_all_rows_where_their_own_would_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, mask = problem()
    g = torch.ones(4).double()
    shared = torch.linalg.inv(moments(x)[0]).diagonal()
    monkeypatch.setattr("nqbench_training.saliency._MOST_WORK", 0)
    expected = torch.where(mask, w.square() / (2 * shared), 0.0)
    torch.testing.assert_close(removal_costs(w, mask, moments(x), g), expected)


def test_rows_of_many_lengths_and_pieces_have_their_own_inverses(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 12, generator=generator).double()
    h = x.T @ x / 200 + 0.1 * torch.ones(12, 12).double()
    mask = torch.rand(30, 12, generator=generator) < torch.linspace(0, 1, 30)[:, None]
    mask[7], mask[8] = True, False
    w = torch.randn(30, 12, generator=generator).double()
    monkeypatch.setattr("nqbench_training.saliency._CHUNK_ENTRIES", 300)
    costs = removal_costs(w, mask, h[None], torch.ones(30).double())
    for row, kept, cost in zip(w, mask, costs, strict=True):
        inverse = torch.linalg.inv(h[kept][:, kept]).diagonal()
        torch.testing.assert_close(cost[kept], row[kept].square() / (2 * inverse))
        assert bool((cost[~kept] == 0).all())


@pytest.mark.parametrize("moved", [False, True])
def test_rows_refitted_from_elsewhere_are_the_ridge_regression_on_their_kept_columns(moved: bool) -> None:
    w, x, mask = problem()
    now = x[0] + 0.3 * torch.randn(100, 6, generator=torch.Generator().manual_seed(5)).double() if moved else x[0]
    h = now.T @ now / 100
    start = 0.9 * w
    missing = w @ (x[0] - now).T @ now / 100 if moved else None
    got = corrected(w, h[None], missing, 0.05, mask, start)
    ridge = 0.05 * float(h.diagonal().mean())
    assert bool((got[~mask] == 0).all())
    for row, result, begin, kept in zip(w, got, start, mask, strict=True):
        root = (ridge * 100) ** 0.5 * torch.eye(int(kept.sum()), dtype=torch.float64)
        stacked = torch.cat([now[:, kept], root])
        wanted = torch.cat([x[0] @ row, root @ begin[kept]])[:, None]
        best = torch.linalg.lstsq(stacked, wanted).solution[:, 0]
        torch.testing.assert_close(result[kept], best, rtol=1e-4, atol=1e-5)


def test_masks_keep_exactly_what_costs_most_and_never_bring_a_weight_back() -> None:
    costs = {"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([[3.0, 2.0], [9.0, 0.0]])}
    masks = {"a": torch.tensor([True, True, True]), "b": torch.tensor([[True, True], [False, True]])}
    chosen = cheapest_removed(costs, masks, 3)
    assert chosen["a"].tolist() == [True, False, True]
    assert chosen["b"].tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_output_curvature_is_the_gauss_newton_diagonal_of_a_layers_outputs(kind: str) -> None:
    task = make_task(Tiny(kind_of_loss=kind))
    x, _ = next(task.batches("train", batch_size=1000))
    found = output_curvature(task, task.names, 24)
    # the third layer's outputs, shifted: per sample and place J^T A J, J the Jacobian of what follows
    module = task.module
    before, after = nn.Sequential(*module[:4]), nn.Sequential(*module[4:])
    with torch.no_grad():
        z = before(x)
        total = torch.zeros(4, dtype=torch.float64)
        for one in z:
            j = jacrev(lambda v: after(v[None])[0])(one).flatten(2).double()
            p = after(one[None])[0].double().softmax(0)
            a = torch.diag(p) - p[:, None] * p if kind == "categorical" else torch.eye(3, dtype=torch.float64)
            total += torch.einsum("ckl,cd,dkl->k", j, a, j)
    torch.testing.assert_close(found["3.weight"], total / 24, rtol=1e-4, atol=1e-9)


def layer_error(task: Task, weights: dict[str, Tensor], name: str) -> float:
    """The mean squared error of the first layer's outputs on the training images."""
    x, _ = next(task.batches("train", batch_size=1000))
    old, new = (nn.functional.conv2d(x, w[name], padding=1) for w in (make_task().weights(), weights))
    return float((old - new).square().mean())


def test_it_keeps_exactly_its_share_and_moves_the_rest_to_make_up_for_it() -> None:
    task = make_task()
    pruned = Surgeon(keep=0.3, samples=24, scored=24).prune(task)
    n = sum(m.numel() for m in pruned.masks.values())
    assert sum(int(m.sum()) for m in pruned.masks.values()) == round(0.3 * n)
    for name, mask in pruned.masks.items():
        assert bool((pruned.state[name][~mask] == 0).all())
    refit = layer_error(task, dict(pruned.state), "0.weight")
    left = make_task().weights()["0.weight"] * pruned.masks["0.weight"]
    assert refit < layer_error(task, {"0.weight": left}, "0.weight")
    assert set(pruned.state) == set(make_task().module.state_dict())


def test_its_loss_is_below_magnitudes() -> None:
    """Of both, without any training, on the images that it looked at."""
    losses = []
    for pruner in (Surgeon(keep=0.4, samples=24, scored=24), Magnitude(keep=0.4, epochs=0)):
        task = make_task()
        batch = next(task.batches("train", batch_size=1000))
        before = task.predict(batch).detach()
        pruner.prune(task)
        losses.append(float((task.predict(batch) - before).square().mean()))
    assert losses[0] < 0.5 * losses[1]


TUNED = {"samples": 24, "scored": 24, "epochs": 2, "lr": 0.01, "batch_size": 8, "distill": 0.5}


def test_pruned_weights_stay_zero_while_the_others_train() -> None:
    plain = Surgeon(keep=0.3, samples=24, scored=24).prune(make_task())
    tuned = Surgeon(keep=0.3, **TUNED).prune(make_task())
    for name, mask in tuned.masks.items():
        assert torch.equal(mask, plain.masks[name])
        assert bool((tuned.state[name][~mask] == 0).all())
        assert not torch.equal(tuned.state[name], plain.state[name])


def test_networks_on_the_way_are_kept_and_found_again(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    first = Surgeon(keep=0.4, **TUNED).prune(make_task())
    whole = Surgeon(keep=0.2, through=(0.6, 0.4), **TUNED).prune(make_task())
    n = sum(mask.numel() for mask in whole.masks.values())
    assert sum(int(mask.sum()) for mask in whole.masks.values()) == round(0.2 * n)
    assert len(list(store.glob("surgeon-tiny-*.safetensors"))) == 4

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(surgeon, "fit_network", never)
    for pruner, known in ((Surgeon(keep=0.4, **TUNED), first), (Surgeon(keep=0.2, through=(0.6, 0.4), **TUNED), whole)):
        again = pruner.prune(make_task())
        assert all(torch.equal(again.state[n], known.state[n]) for n in known.state)
        assert all(torch.equal(again.masks[n], known.masks[n]) for n in known.masks)
    # a network on the way serves another end
    monkeypatch.undo()
    cuts: list[float] = []
    cut = Surgeon._cut
    monkeypatch.setenv("NQBENCH_CACHE", str(store.parent))
    monkeypatch.setattr(Surgeon, "_cut", lambda self, *rest: cuts.append(rest[-1]) or cut(self, *rest))
    Surgeon(keep=0.1, through=(0.6, 0.4), **TUNED).prune(make_task())
    assert cuts == [0.1]


def test_the_teacher_is_the_trained_network_whatever_has_become_of_it() -> None:
    task = make_task()
    batch = next(task.batches("train", batch_size=1000))
    before = task.predict(batch).detach()
    task.assign({name: torch.zeros_like(w) for name, w in task.weights().items()})
    teacher = Distilled(distill=0.5).teacher(task)
    assert teacher is not None
    assert not teacher.training
    torch.testing.assert_close(task.predict(batch, teacher), before)
    assert Distilled().teacher(task) is None


def test_a_teacher_holds_the_network_near_the_trained_one() -> None:
    def apart(distill: float) -> float:
        task = make_task()
        batch = next(task.batches("train", batch_size=1000))
        before = task.predict(batch).detach()
        Surgeon(keep=0.4, **(TUNED | {"distill": distill, "epochs": 30, "lr": 0.05})).prune(task)
        return float((task.predict(batch) - before).square().mean())

    assert apart(1.0) < 0.5 * apart(0.0)


def test_mistakes_are_told() -> None:
    for through, keep in ((0.2, 0.3), (1.5, 0.3), (-0.1, 0.3)):
        with pytest.raises(ValidationError, match=r"0.3\] \(through, then keep\) must not rise, and lie above 0"):
            Surgeon(keep=keep, through=(through,))
    for each in (
        {"epochs": (1, 2, 3)},
        {"replicas": (1, 2, 3)},
        {"precision": ("float32",) * 3},
        {"taught_by": ("itself",) * 3},
    ):
        with pytest.raises(ValidationError, match=f"{next(iter(each))}: 3 values for 2 shares"):
            Surgeon(keep=0.2, through=(0.4,), **each)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Surgeon(keep=0.2, epochs=-1)


def test_a_share_named_twice_is_fine_tuned_twice_with_the_same_masks() -> None:
    once, twice = (Surgeon(keep=0.3, through=t, **TUNED).prune(make_task()) for t in ((), (0.3,)))
    for name, mask in once.masks.items():
        assert torch.equal(mask, twice.masks[name])
        assert not torch.equal(once.state[name], twice.state[name])


def test_each_share_may_have_epochs_of_its_own(store: Path) -> None:
    whole = Surgeon(keep=0.4, through=(0.6,), **TUNED).prune(make_task())
    kept = set(store.glob("surgeon-tiny-*.safetensors"))
    cut = Surgeon(keep=0.2, through=(0.6, 0.4), **TUNED | {"epochs": (2, 2, 0)}).prune(make_task())
    assert set(store.glob("surgeon-tiny-*.safetensors")) == kept, (
        "both networks on the way are found, nothing is trained"
    )
    n = sum(mask.numel() for mask in cut.masks.values())
    assert sum(int(mask.sum()) for mask in cut.masks.values()) == round(0.2 * n)
    assert all(bool((whole.masks[name] | ~mask).all()) for name, mask in cut.masks.items())
    assert cut.moments is None
    for name in ("1.weight", "8.bias"):
        assert torch.equal(cut.state[name], whole.state[name]), "what is not refitted is as it was"
    longer = Surgeon(keep=0.4, through=(0.6,), **TUNED | {"epochs": (2, 3)}).prune(make_task())
    assert len(set(store.glob("surgeon-tiny-*.safetensors")) - kept) == 1
    assert all(torch.equal(longer.masks[name], mask) for name, mask in whole.masks.items())
    assert not torch.equal(longer.state["8.weight"], whole.state["8.weight"])


def test_replicas_are_kept_and_their_average_is_what_comes_of_them(store: Path) -> None:
    several = Surgeon(keep=0.3, replicas=2, **TUNED)
    pruned = several.prune(make_task())
    kept = {path.name: load_trained(path).state for path in store.glob("surgeon-tiny-*.safetensors")}
    assert len(kept) == 3  # the two, and their average
    one, other = (several.one(make_task(), (0.3,), number).state for number in (0, 1))
    alone = Surgeon(keep=0.3, **TUNED).prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 3, "who asks for one alone finds the first"
    for name, mask in pruned.masks.items():
        assert not torch.equal(one[name], other[name])
        assert torch.equal(one[name], alone.state[name])  # the first is what it would be alone
        torch.testing.assert_close(pruned.state[name], (one[name] + other[name]) / 2)
        assert torch.equal(mask, alone.masks[name])
        assert bool((pruned.state[name][~mask] == 0).all())


def test_what_follows_an_average_is_not_what_follows_one_alone(store: Path) -> None:
    several = Surgeon(keep=0.3, through=(0.5,), replicas=2, **TUNED).prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 6
    alone = Surgeon(keep=0.3, through=(0.5,), **TUNED).prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 7, "the first at 50 % is found"
    assert not torch.equal(several.state["0.weight"], alone.state["0.weight"])


def test_replicas_and_precision_of_one_share_leave_those_before_it_as_they_are(store: Path) -> None:
    plain = Surgeon(keep=0.3, through=(0.5,), **TUNED).prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 2
    several = Surgeon(keep=0.3, through=(0.5,), replicas=(1, 2), **TUNED)
    pruned = several.prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 4, "the second replica and the average are new"
    one, other = (several.one(make_task(), (0.5, 0.3), number).state for number in (0, 1))
    for name, mask in pruned.masks.items():
        assert torch.equal(one[name], plain.state[name])
        torch.testing.assert_close(pruned.state[name], (one[name] + other[name]) / 2)
        assert torch.equal(mask, plain.masks[name])
    half = Surgeon(keep=0.3, through=(0.5,), precision=("float32", "bfloat16"), **TUNED).prune(make_task())
    assert len(list(store.glob("*.safetensors"))) == 5, "the share before is found"
    for name, mask in half.masks.items():
        assert torch.equal(mask, plain.masks[name])
        assert not torch.equal(half.state[name], plain.state[name])
        assert half.state[name].dtype == torch.float32


def test_replicas_start_alike_after_a_share_that_is_only_cut() -> None:
    fields = TUNED | {"epochs": (0, 2), "replicas": 2}
    several = Surgeon(keep=0.5, through=(0.5,), **fields)
    pruned = several.prune(make_task())
    one, other = (several.one(make_task(), (0.5, 0.5), number).state for number in (0, 1))
    for name, mask in pruned.masks.items():
        assert torch.equal(one["mask:" + name], other["mask:" + name])
        assert torch.equal(mask, one["mask:" + name])
        assert bool((pruned.state[name][~mask] == 0).all())


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    h = torch.diag(torch.tensor([1.0, 3.0]))[None]
    assert torch.equal(damped(h, 0.5)[0], torch.diag(torch.tensor([2.0, 4.0]).double()))
    assert torch.equal(damped(torch.zeros(1, 2, 2), 0.5)[0], torch.eye(2).double())


class Taught(Tiny, name="tiny-taught"):
    """The tiny network, with a teacher that always says the same."""

    answer: int = 0

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} taught to say {self.answer}"

    def teacher(self, device: torch.device) -> nn.Module:
        class Says(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                said: Tensor = 8.0 * nn.functional.one_hot(torch.full((len(x),), answer), 3)
                return said

        answer = self.answer
        return Says()

    def untaught(self) -> Tiny:
        return Tiny()


def test_shares_that_the_network_taught_itself_are_found_and_the_teacher_teaches_the_last(store: Path) -> None:
    fields = {**TUNED, "distill": 1.0, "epochs": 10, "lr": 0.05}
    Surgeon(keep=0.5, **fields).prune(make_task())
    first = set(store.glob("*.safetensors"))
    plain = Surgeon(keep=0.4, through=(0.5,), **fields).prune(make_task())

    def taught(taught_by: tuple[str, str], answer: int) -> tuple[Pruned, float]:
        task = make_task()
        task = replace(task, model=Taught(answer=answer))
        pruned = Surgeon.model_validate({"keep": 0.4, "through": (0.5,), "taught_by": taught_by} | fields).prune(task)
        assert all(torch.equal(mask, plain.masks[name]) for name, mask in pruned.masks.items())
        outputs = task.predict(next(task.batches("train", batch_size=1000)))
        return pruned, float((outputs.argmax(1) == answer).float().mean())

    before = set(store.glob("surgeon*.safetensors"))
    assert first < before
    for answer in range(2):
        assert taught(("itself", "teacher"), answer)[1] > 0.9
    made = set(store.glob("surgeon*.safetensors"))
    assert len(made - before) == 2, (
        "the first share is the untaught network's; what two teachers taught is two networks"
    )
    own, _ = taught(("itself", "itself"), 0)
    assert all(torch.equal(own.state[name], plain.state[name]) for name in plain.state)
    assert set(store.glob("surgeon*.safetensors")) == made, "all is the untaught network's"
