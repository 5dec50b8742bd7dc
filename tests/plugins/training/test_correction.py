"""Weights corrected for the inputs that quantized layers give, against least squares on the samples."""

from __future__ import annotations

import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.correction import corrected
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import Sequential
from tiny_network import Levels, make_task
from torch import Tensor, nn

from nqbench.api import QuantizedModel, Task


def samples(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(O, m) weights, (N, m) old inputs, (N, m) new inputs; float64."""
    generator = torch.Generator().manual_seed(seed)
    w, x = torch.randn(4, 6, generator=generator).double(), torch.randn(50, 6, generator=generator).double()
    return w, x, x + 0.3 * torch.randn(50, 6, generator=generator).double()


def moments(w: Tensor, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    return (seen.T @ seen / len(x))[None], w @ (x - seen).T @ seen / len(x)


def ridge_regression(seen: Tensor, wanted: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """argmin mean (wanted - seen w)^2 + ridge |w - prior|^2, as least squares on stacked rows."""
    root = (ridge * len(seen)) ** 0.5 * torch.eye(seen.shape[1], dtype=torch.float64)
    stacked = torch.cat([seen, root])
    return torch.linalg.lstsq(stacked, torch.cat([wanted, root @ prior])[:, None]).solution[:, 0]


def test_the_corrected_rows_are_the_ridge_regression_on_the_samples() -> None:
    w, x, seen = samples()
    h, missing = moments(w, x, seen)
    got = corrected(w, h, missing, 0.05)
    ridge = 0.05 * float(h[0].diagonal().mean())
    for row, result in zip(w, got, strict=True):
        torch.testing.assert_close(result, ridge_regression(seen, x @ row, row, ridge))


def test_pruned_rows_are_corrected_within_their_kept_columns() -> None:
    w, x, seen = samples()
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2] = False
    w = w * mask
    h, missing = moments(w, x, seen)
    got = corrected(w, h, missing, 0.05, mask)
    ridge = 0.05 * float(h[0].diagonal().mean())
    assert bool((got[~mask] == 0).all())
    for row, result, kept in zip(w, got, mask, strict=True):
        if kept.any():
            wanted = ridge_regression(seen[:, kept], x @ row, row[kept], ridge)
            torch.testing.assert_close(result[kept], wanted, rtol=1e-4, atol=1e-5)


def test_equal_inputs_and_no_inputs_leave_the_weights() -> None:
    w, x, _ = samples()
    assert torch.equal(corrected(w, *moments(w, x, x), 0.01), w)
    assert torch.equal(corrected(w, torch.zeros(1, 6, 6), torch.zeros(4, 6), 0.01), w)


def deployed(correction: float, **fields: object) -> tuple[Task, QuantizedModel]:
    task = make_task(
        quantizer=fields.pop("quantizer", GPTQ(step=0.2)), granularity="layer", sensitivity=SecondMoments(), **fields
    )
    return task, Sequential(correction=correction, ridge=1e-4).train(task, None)


def test_layers_aim_at_the_real_networks_outputs() -> None:
    errors = []
    for correction in (0.0, 1.0):
        task, _ = deployed(correction)
        x, _ = next(task.batches("train", batch_size=100))
        with torch.no_grad():
            errors.append(float((make_task().module[:7](x) - task.module[:7](x)).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_the_first_layer_is_left_and_the_second_is_the_correction_of_its_samples() -> None:
    _, plain = deployed(0.0, quantizer=Levels(k=3))
    task, moved = deployed(1.0, quantizer=Levels(k=3))
    first = [task.reconstruct(result.groups)["0.weight"] for result in (plain, moved)]
    assert torch.equal(*first)
    x, _ = next(task.batches("train", batch_size=100))
    real = make_task().module
    with torch.no_grad():
        old = nn.functional.unfold(real[:3](x), 3, stride=2).reshape(24, 2, 18, 4)
        behind = nn.Sequential(*[task.module[i] for i in range(3)])
        new = nn.functional.unfold(behind(x), 3, stride=2).reshape(24, 2, 18, 4)
    h = torch.einsum("bgil,bgjl->gij", new, new) / (24 * 4)
    shift = torch.einsum("bgil,bgjl->gij", old - new, new) / (24 * 4)
    rows = real[3].weight.detach().reshape(len(h), -1, h.shape[1])
    aimed = corrected(real[3].weight, h, rows @ shift, 1e-4)
    fresh = make_task(quantizer=Levels(k=3), granularity="layer", sensitivity=SecondMoments())
    (group,) = fresh.quantize({"3.weight": aimed}, names=["3.weight"], sensed={"3.weight": h})
    torch.testing.assert_close(
        fresh.reconstruct([group])["3.weight"], task.reconstruct(moved.groups)["3.weight"], rtol=1e-3, atol=1e-4
    )


def test_pruned_places_stay_zero_and_no_hook_stays() -> None:
    mask = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    task, result = deployed(0.7, masks={"3.weight": mask})
    assert bool((task.reconstruct(result.groups)["3.weight"][~mask] == 0).all())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in task.module.modules())
