"""Networks have the published numbers of parameters, and the given weights their published accuracy."""

from __future__ import annotations

import pytest
import torch
from nqbench_models.alexnet import AlexNet, network, random_state
from nqbench_models.lenet import LeNet5, LeNet300
from nqbench_models.resnet import CifarResNet, ResNet32, flip_and_shift
from nqbench_models.transformer import Transformer
from torch import nn

from nqbench.api import Model
from nqbench.api.toolkit.paths import find_data


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LeNet300().build(), 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        (LeNet300(data="digits").build(), 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        (LeNet5().build(), 431_080),
        (CifarResNet(3), 269_722),
        (CifarResNet(5), 464_154),
    ],
)
def test_published_numbers_of_parameters(module: nn.Module, expected: int) -> None:
    assert parameters(module) == expected


def test_alexnet_has_61_million_parameters_under_torchvision_names() -> None:
    with torch.device("meta"):
        module = network()
    assert parameters(module) == 61_100_840
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes["features.10.weight"] == (256, 256, 3, 3)
    assert shapes["classifier.6.weight"] == (1000, 4096)


def test_random_alexnet_weights_are_laplacian_with_their_layers_deviation() -> None:
    state = random_state(nn.Sequential(nn.Linear(300, 2000)), seed=1)
    w = state["0.weight"]
    assert float(w.std()) == pytest.approx((1 / 900) ** 0.5, rel=0.01)
    # E|w| = deviation / sqrt 2 for a Laplacian
    assert float(w.abs().mean() / w.std()) == pytest.approx(0.5**0.5, rel=0.01)
    assert not state["0.bias"].any()


def test_alexnet_without_data_has_no_metric_and_no_split() -> None:
    model = AlexNet(weights="random", data="none")
    model.prepare()
    assert model.metric() is None
    assert not model.has_split("train")


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (LeNet300(data="digits"), 96.5),
        (LeNet5(data="digits", epochs=4), 95.0),
        (Transformer(data="digits", depth=1, width=32, epochs=12), 88.0),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_models_on_the_digits_are_good_and_come_from_the_store_the_second_time(model: Model, least: float) -> None:
    module = model.load(torch.device("cpu"))
    evaluation = model.evaluate(module)
    assert evaluation.metrics["accuracy"] >= least
    assert evaluation.correct is not None
    assert evaluation.metrics["accuracy"] == pytest.approx(100 * float(evaluation.correct.double().mean()))
    again = model.load(torch.device("cpu"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in module.state_dict().items())
    moments = model.moments(torch.device("cpu"))
    assert moments is not None
    assert {name: v.shape for name, v in moments.items()} == {n: p.shape for n, p in module.named_parameters()}


@pytest.mark.skipif(
    find_data("weights/resnet32-cifar10.safetensors") is None or find_data("cifar-10-batches-py") is None,
    reason="needs CIFAR-10 and the given weights in NQBENCH_DATA",
)
def test_the_given_resnet32_is_right_on_the_first_thousand_test_images() -> None:
    model = ResNet32()
    module = model.load(torch.device("cpu"))
    correct = []
    with torch.no_grad():
        for x, y in model.batches("test", batch_size=100):
            correct.append(module(x).argmax(1) == y)
            if len(correct) == 10:
                break
    # 92.63 % on all 10,000; the first thousand within 3 standard errors of it
    assert 0.9263 - 0.025 < float(torch.cat(correct).double().mean()) < 0.9263 + 0.025


def test_option_a_shortcuts_subsample_and_pad_with_zeros() -> None:
    block = CifarResNet(3).layer2[0].eval()
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()  # the branch gives 0: what is left is the shortcut
        x = torch.rand(2, 16, 8, 8)
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_augmentation_flips_and_shifts_by_whole_pixels() -> None:
    image = torch.arange(1, 3 * 6 * 6 + 1, dtype=torch.uint8).reshape(1, 3, 6, 6)
    seen = set()
    for seed in range(200):
        out = flip_and_shift(image, torch.Generator().manual_seed(seed), reach=1)
        padded = nn.functional.pad(image, (1, 1, 1, 1))
        matches = [
            (i, j, flip)
            for i in range(3)
            for j in range(3)
            for flip in (False, True)
            if torch.equal(out, (lambda w, f: w.flip(3) if f else w)(padded[:, :, i : i + 6, j : j + 6], flip))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 18
