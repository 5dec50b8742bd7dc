"""Networks have the published numbers of parameters, and the given weights their published accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nqbench_models.alexnet import AlexNet, network, random_state
from nqbench_models.augmentation import cut_out, flip_and_shift, shifted
from nqbench_models.images import ImageModel
from nqbench_models.lenet import LeNet5, LeNet300
from nqbench_models.resnet import CifarResNet, ResNet20, ResNet32
from nqbench_models.resnet9 import MeanLogits, ResNet9
from nqbench_models.transformer import Transformer
from pydantic import ValidationError
from torch import nn

from nqbench.api import DataMissing, Model
from nqbench.api.toolkit.paths import find_data
from nqbench.registry import registry

TWO = ("resnet9", {"resnet9": {"train_seed": 1}})
"""Two teachers of different seeds."""


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


def test_shifted_images_are_windows_of_the_padded_one_and_each_place_occurs() -> None:
    images = torch.arange(1, 401, dtype=torch.int32).reshape(4, 1, 10, 10)
    seen: list[set[tuple[int, int]]] = [set() for _ in images]
    for seed in range(150):
        out = shifted(images, torch.Generator().manual_seed(seed), reach=1)
        for image, window, places in zip(images, out, seen, strict=True):
            padded = nn.functional.pad(image, (1, 1, 1, 1))
            found = [
                (i, j) for i in range(3) for j in range(3) if torch.equal(window, padded[:, i : i + 10, j : j + 10])
            ]
            assert len(found) == 1
            places.add(found[0])
    assert [len(places) for places in seen] == [9] * 4


def test_a_lenet_shifts_its_training_images_and_no_others() -> None:
    plain, moved = LeNet300(data="digits"), LeNet300(data="digits", shift=1)
    assert torch.equal(next(plain.batches("test"))[0], next(moved.batches("test"))[0])
    assert torch.equal(next(plain.batches("train"))[0], next(moved.batches("train"))[0])  # what a Gram matrix is of
    drawn, same = next(moved.batches("train", shuffle=3)), next(plain.batches("train", shuffle=3))
    assert torch.equal(drawn[1], same[1])
    assert not torch.equal(drawn[0], same[0])
    assert "shift" not in plain.full_recipe()["parameters"]  # networks trained before the parameter was there are kept
    assert plain.fingerprint() != moved.fingerprint()


def test_a_cut_out_square_lies_wholly_inside_and_everywhere() -> None:
    pixels = torch.full((2000, 1, 6, 5), 9, dtype=torch.uint8)
    cut = cut_out(pixels, torch.Generator().manual_seed(0), size=3, value=1)
    assert bool(((cut == 1).sum((1, 2, 3)) == 9).all())
    corners = {(int(rows[0]), int(columns[0])) for rows, columns in (torch.nonzero(c[0] == 1).T for c in cut)}
    assert corners == {(row, column) for row in range(4) for column in range(3)}


def test_several_teachers_are_one_network_of_their_mean_logits() -> None:
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    x = torch.randn(5, 4)
    torch.testing.assert_close(MeanLogits(networks)(x), (networks[0](x) + networks[1](x)) / 2)


def test_resnet9_is_eight_convolutions_and_a_linear_layer() -> None:
    w = 8
    convolutions = [(3, w), (w, 2 * w), *[(2 * w, 2 * w)] * 2, (2 * w, 4 * w), (4 * w, 8 * w), *[(8 * w, 8 * w)] * 2]
    expected = sum(9 * a * b + 2 * b for a, b in convolutions) + 10 * 8 * w
    module = ResNet9(width=w).build()
    assert parameters(module) == expected
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_teachers_change_what_is_made_of_a_network_and_not_the_network() -> None:
    plain, one, two = (ResNet20(weights_from="recipe", distilled_from=t) for t in ((), ("resnet9",), TWO))
    assert plain.full_recipe() == one.full_recipe() == two.full_recipe()
    assert len({plain.fingerprint(), one.fingerprint(), two.fingerprint()}) == 3
    assert hash(two) == hash(ResNet20(weights_from="recipe", distilled_from=TWO))
    assert len({plain, one, two}) == 3
    assert one.untaught().fingerprint() == two.untaught().fingerprint() == plain.fingerprint()


def test_a_model_is_taught_by_itself_unless_it_has_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []

    def load(model: Model, device: torch.device) -> nn.Module:
        loaded.append(model)
        return nn.Identity()

    monkeypatch.setattr(ImageModel, "load", load)
    plain, taught = ResNet20(holdout=50), ResNet20(holdout=50, distilled_from=(*TWO, "resnet32"))
    plain.teacher(torch.device("cpu"))
    taught.teacher(torch.device("cpu"))
    networks = [ResNet9(holdout=50), ResNet9(holdout=50, train_seed=1), ResNet32(holdout=50)]
    assert loaded == [plain, *networks]


@pytest.mark.parametrize(
    ("teachers", "said"),
    [
        (["resnet10"], "there is no teacher 'resnet10': resnet9, resnet20, resnet32"),
        ([{"resnet9": {"widht": 3}}], "'resnet9': widht: Extra inputs are not permitted"),
        ([{"resnet9": {"width": 0}}], "'resnet9': width: Input should be greater than or equal to 1"),
        ([{}], "{} is not one network"),
        ([{"resnet9": {}, "resnet20": {}}], "is not one network"),
        ([{"resnet20": {"distilled_from": ["resnet9"]}}], "'resnet20': a teacher has no teachers of its own"),
    ],
)
def test_teachers_that_are_none_are_refused_in_a_line(teachers: list[object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ResNet20.model_validate({"distilled_from": teachers})
    assert said in str(caught.value)


def test_what_the_teachers_lack_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(model: ResNet20) -> Path:
        if model.name == "resnet32":
            raise DataMissing("no resnet32")
        return Path("weights")

    monkeypatch.setattr(ResNet20.__base__, "_file", found)
    monkeypatch.setattr("nqbench_models.resnet.cifar.prepare", lambda: None)
    ResNet20().prepare()
    with pytest.raises(DataMissing, match="no resnet32"):
        ResNet20(distilled_from=("resnet32",)).prepare()


@pytest.mark.parametrize(("before", "now"), [(0, 0), (1, 1), (2, 2)])
def test_teachers_of_records_of_before_were_a_number(before: int, now: int) -> None:
    model = registry().make("model", "resnet20", {"teachers": before, "weights_from": "recipe"})
    assert isinstance(model, ResNet20)
    assert model._teachers() == [ResNet9(train_seed=i) for i in range(now)]
