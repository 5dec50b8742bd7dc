"""Data are read as their formats say, and never before their hash is right."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nqbench_models import cifar, mnist
from nqbench_models.digits import digits
from nqbench_models.folder import Folder, prepared
from nqbench_models.images import Images
from nqbench_models.lenet import LeNet5, LeNet300
from nqbench_models.resnet import ResNet20

from nqbench.api import DataMissing, Split
from nqbench.api.toolkit.download import Remote
from nqbench.api.toolkit.paths import find_data


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder and a cache of their own, and no network."""
    monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NQBENCH_OFFLINE", "1")
    return tmp_path


def test_an_idx_file_is_read_by_its_header() -> None:
    data = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 10, 11, 12, 20, 21, 22])
    assert mnist.read_idx(data, "x").tolist() == [[[10, 11, 12]], [[20, 21, 22]]]
    with pytest.raises(DataMissing, match="holds 5 bytes where its header promises"):
        mnist.read_idx(data[:-1], "x")
    with pytest.raises(DataMissing, match="not an idx file"):
        mnist.read_idx(b"\x1f\x8b", "x")


def test_missing_mnist_is_told_in_one_line(empty: Path) -> None:
    with pytest.raises(DataMissing) as caught:
        LeNet300().prepare()
    assert "\n" not in str(caught.value)
    assert str(empty / "data" / "MNIST/raw/train-images-idx3-ubyte.gz") in str(caught.value)


def test_a_file_with_a_wrong_hash_is_refused(empty: Path) -> None:
    raw = empty / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\0"))
    with pytest.raises(DataMissing, match="not 9fb629c4189551a2d022fa330f9573f3: replace it"):
        mnist._read(mnist.FILES["t10k-images-idx3-ubyte.gz"])


def test_a_cifar_pickle_is_not_opened_before_its_hash_is_right(empty: Path) -> None:
    folder = empty / "data" / cifar.FOLDER
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DataMissing, match="has the md5"):
        cifar._read("test_batch")


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the pickle ran",))


def test_a_pickle_that_names_anything_but_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(pickle.UnpicklingError, match="has no place in a CIFAR-10 batch"):
        cifar.unpickle(tmp_path / "p")


def test_a_cifar_batch_is_read_and_kept_as_safetensors(
    empty: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = empty / "data" / cifar.FOLDER
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    # numpy 1's module name, as in the official files
    content = pickle.dumps({b"data": pixels, b"labels": [3, 1, 0, 9]}, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    (folder / "test_batch").write_bytes(content)
    monkeypatch.setitem(cifar._MD5, "test_batch", hashlib.md5(content).hexdigest())
    cifar.cifar10.cache_clear()
    request.addfinalizer(cifar.cifar10.cache_clear)
    data = cifar.cifar10("test")
    assert torch.equal(data.pixels, torch.from_numpy(pixels).reshape(4, 3, 32, 32))
    assert data.labels.tolist() == [3, 1, 0, 9]
    (folder / "test_batch").unlink()
    cifar.cifar10.cache_clear()
    assert torch.equal(cifar.cifar10("test").pixels, data.pixels)


def test_digits_are_split_without_overlap_and_stay_the_same() -> None:
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1198, 599)
    assert train.pixels.shape[1:] == (1, 8, 8)
    joined = torch.cat([train.labels, test.labels])
    assert joined.bincount(minlength=10).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert int(test.labels[:5] @ torch.tensor([1, 10, 100, 1000, 10000])) == int("29630")


def test_held_out_images_are_the_last_and_leave_training() -> None:
    model = LeNet300(data="digits", holdout=198)
    assert model.has_split("validation")
    assert not LeNet300(data="digits").has_split("validation")
    train = torch.cat([y for _, y in model.batches("train")])
    held = torch.cat([y for _, y in model.batches("validation")])
    assert torch.equal(torch.cat([train, held]), digits("train").labels)
    assert len(held) == 198
    assert model.fingerprint() != LeNet300(data="digits").fingerprint()


def test_held_out_test_images_leave_the_test_and_training_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"by others")

    def images(split: str) -> Images:
        count = 120 if split == "train" else 100
        return Images(torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.arange(count) + (split == "test") * 1000)

    monkeypatch.setattr("nqbench_models.resnet.cifar.cifar10", images)
    recipe: dict[str, Any] = {"weights_from": "recipe"}
    given: dict[str, Any] = {}
    monkeypatch.setattr(ResNet20, "_file", lambda model: weights)
    for parameters in (given, {"compared": 7}, recipe, recipe | {"distilled_from": ("resnet9", "resnet20")}):
        whole = ResNet20(**parameters)
        halves = ResNet20(holdout=30, held_from="test", **parameters)
        splits: tuple[Split, ...] = ("train", "validation", "test")
        train, held, test = (halves.examples(split).labels for split in splits)
        assert torch.equal(train, whole.examples("train").labels)
        assert halves.has_split("validation")
        assert held.tolist() == list(range(1000, 1030))
        assert test.tolist() == list(range(1030, 1037 if parameters.get("compared") else 1100))
        # evaluated otherwise, and trained the same
        assert halves.fingerprint() not in (whole.fingerprint(), ResNet20(holdout=30, **parameters).fingerprint())
        assert halves.full_recipe() == whole.full_recipe()
        if parameters.get("distilled_from"):
            assert [t.fingerprint() for t in halves._teachers()] == [t.fingerprint() for t in whole._teachers()]


@pytest.mark.parametrize("holdout", [0, 10_000, 20_000])
def test_both_parts_of_a_divided_test_have_images(holdout: int) -> None:
    with pytest.raises(ValueError, match=r"give holdout between 1 and 9,999, not"):
        ResNet20(holdout=holdout, held_from="test")


def test_shuffled_batches_hold_every_image_once_in_an_order_of_the_seed() -> None:
    model = LeNet300(data="digits")

    def rows(seed: int | None) -> list[bytes]:
        return [x.numpy().tobytes() for xs, _ in model.batches("train", batch_size=100, shuffle=seed) for x in xs]

    assert sorted(rows(3)) == sorted(rows(None))
    assert rows(3) == rows(3)
    assert rows(3) != rows(4)


def test_shuffled_batches_are_the_normalised_images_in_the_order_of_the_seed() -> None:
    for model in (LeNet300(data="digits", holdout=100), LeNet5(data="digits", holdout=100)):
        data = model.examples("train")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(5))
        for start, (x, y) in enumerate(model.batches("train", batch_size=100, shuffle=5)):
            chosen = order[100 * start : 100 * start + 100]
            expected = model.normalise(data.pixels[chosen])
            assert torch.equal(x, expected)
            assert x.stride() == expected.stride()  # convolutions round by them
            assert torch.equal(y, data.labels[chosen])


def test_a_batch_is_a_copy_that_a_network_may_spoil() -> None:
    model = LeNet300(data="digits")
    (first, _), *_ = model.batches("train", batch_size=100, shuffle=1)
    kept = first.clone()
    first.zero_()
    assert torch.equal(next(model.batches("train", batch_size=100, shuffle=1))[0], kept)


def test_images_are_resized_on_the_short_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    # left half black, right half white, twice as wide as high: the crop's middle column is the border
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:, 256:] = 255
    (tmp_path / "a").mkdir()
    image_module.fromarray(pixels).save(tmp_path / "a" / "x.png")
    out = prepared(tmp_path / "a" / "x.png")
    assert out.shape == (3, 224, 224)
    assert not out[:, :, :112].any()
    assert bool((out[:, :, 112:] == 255).all())
    folder = Folder.of(tmp_path, [("a", 7)])
    ((x, y),) = folder.batches(8, [0])
    assert y.tolist() == [7]
    assert float(x[0, 0, 0, 0]) == pytest.approx(-0.485 / 0.229, rel=1e-5)


@pytest.mark.skipif(find_data("MNIST/raw") is None, reason="needs MNIST in NQBENCH_DATA")
def test_mnist_is_whole() -> None:
    mnist.prepare()
    test = mnist.mnist("test")
    assert test.pixels.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert isinstance(mnist.FILES["t10k-images-idx3-ubyte.gz"], Remote)
