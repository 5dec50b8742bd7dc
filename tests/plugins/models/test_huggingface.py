"""Models in Hugging Face's layout, made here in a folder with their tokenizers, for each of the tasks."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import pytest
import torch
from nqbench_models.data_files import file_of, images_of, labelled_texts
from nqbench_models.huggingface import HuggingFace
from nqbench_models.timm_model import Timm
from nqbench_training.second_moments import SecondMoments
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from nqbench.api import BadInput, DataMissing, Evaluation, Model, Moments, Task
from nqbench.api.toolkit.judging import judging
from nqbench.pipeline.network import Network

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", "f", "g"]
BERT = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "data").mkdir()
    return tmp_path


def made(folder: Path, task: str, **fields: object) -> HuggingFace:
    model = HuggingFace(folder=str(folder / "model"), data=str(folder / "data"), task=task, **fields)  # type: ignore[arg-type]
    model.prepare()
    return model


def beside_itself(model: Model, module: nn.Module) -> Evaluation:
    with judging() as judgement:
        model.evaluate(module)
    with judging(judgement.outputs, judgement.pace, compares=True):
        return model.evaluate(module)


def test_text_generation_is_judged_by_perplexity_in_windows(folder: Path) -> None:
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(folder / "model")
    tokenizer(folder / "model")
    (folder / "data" / "wiki.valid.txt").write_text("a b c d " * 6)
    (folder / "data" / "wiki.test.txt").write_text("a b c d e f g " * 3)
    model = made(folder, "text-generation", length=6)
    module = model.load(CPU)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 5, 6, 7, 8, 9], [10, 11, 5, 6, 7, 8]])
    logits = theirs(ids).logits
    nats = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    found = beside_itself(model, module).metrics
    assert found["perplexity"] == pytest.approx(math.exp(float(nats)), rel=1e-5)
    assert found["agreement"] == 100
    assert found["divergence"] == pytest.approx(0, abs=1e-9)
    assert not model.metric().higher_is_better  # type: ignore[union-attr]
    names = model.compressible(module)
    sensed = SecondMoments(samples=3).sense(Task(model, module, names), names)
    # GPT-2's weights lie (inputs, outputs), and its embedding is its output layer
    assert Moments.of(sensed["transformer.h.0.mlp.c_fc.weight"]).layout == 1
    assert Moments.of(sensed["transformer.wte.weight"]).layout == 0


def test_sentences_are_ranked_by_their_mean_words(folder: Path) -> None:
    theirs = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    theirs.save_pretrained(folder / "model")
    tokenizer(folder / "model")
    pairs = [("a b", "a b c", 4.0), ("a", "f g d", 1.0), ("b c d", "b c", 3.5), ("g", "g", 5.0)]
    for split in ("train", "test"):
        lines = ["score\tsentence1\tsentence2", *(f"{s}\t{one}\t{two}" for one, two, s in pairs)]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(lines))
    model = made(folder, "sentence-similarity")
    module = model.load(CPU)
    batch = next(model.batches("test"))
    for row, (one, two, _) in enumerate(pairs):
        vectors = []
        for text in (one, two):
            ids = torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])
            vectors.append(theirs(input_ids=ids).last_hidden_state.mean(1)[0])
        expected = functional.cosine_similarity(vectors[0], vectors[1], dim=0)
        torch.testing.assert_close(model.predict(module, batch)[row, 0], expected, rtol=1e-4, atol=1e-5)
    assert -1 <= model.evaluate(module).metrics["Spearman"] <= 1


@pytest.mark.parametrize("header", ["text\tlabel\n", "label\tsentence\n", ""])
def test_texts_are_classified(folder: Path, header: str) -> None:
    config = transformers.BertConfig(**BERT, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    rows = [("a b", "good"), ("c", "bad"), ("d e f", "1")]
    swapped = header.startswith("label")
    lines = "\n".join("\t".join((label, text) if swapped else (text, label)) for text, label in rows)
    for split in ("train", "test"):
        (folder / "data" / f"{split}.tsv").write_text(header + lines)
    model = made(folder, "text-classification")
    module = model.load(CPU)
    _, labels = next(model.batches("test"))
    assert labels.tolist() == [1, 0, 1]
    evaluation = beside_itself(model, module)
    assert evaluation.metrics["agreement"] == 100
    assert evaluation.correct is not None
    assert evaluation.metrics["accuracy"] == pytest.approx(100 * float(evaluation.correct.double().mean()))
    (folder / "data" / "test.tsv").write_text(header + ("great\ta" if swapped else "a\tgreat"))
    with pytest.raises(BadInput, match="'great' is no label of the model, which has bad, good"):
        made(folder, "text-classification", examples=1)


@pytest.mark.parametrize("padding", ["configuration", "tokenizer"])
def test_a_decoder_reads_each_text_at_its_last_token_whatever_it_is_padded_by(folder: Path, padding: str) -> None:
    own = {"pad_token_id": 4} if padding == "configuration" else {}
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2, num_labels=2, **own)
    theirs = transformers.GPT2ForSequenceClassification(config).eval()
    theirs.save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.tsv").write_text("a b c d e\t0\nf\t1\ng a b\t0")
    model = made(folder, "text-classification")
    module = model.load(CPU)
    batch = next(model.batches("test", batch_size=3))
    alone = [theirs(ids[ids >= 0][None]).logits[0] for ids in batch[0]]
    torch.testing.assert_close(model.predict(module, batch), torch.stack(alone))


def test_a_decoder_that_names_no_padding_is_refused_in_a_line(folder: Path) -> None:
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2, num_labels=2)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.tsv").write_text("a b\t0\nf\t1")
    model = made(folder, "text-classification")
    module = model.load(CPU)
    module.config.pad_token_id = None  # as where the tokenizer has none either
    with pytest.raises(BadInput, match=r"names no `pad_token_id`.*GPT2ForSequenceClassification finds"):
        model.predict(module, next(model.batches("test")))


@pytest.mark.parametrize("suffix", ["tsv", "txt"])
def test_a_quotation_mark_between_tabs_is_one_of_the_text(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"test.{suffix}"
    file.write_text('"so it begins\t0\nand "so" on\t1\nthe end"\t0\n')
    assert labelled_texts(file) == (['"so it begins', 'and "so" on', 'the end"'], ["0", "1", "0"])
    (tmp_path / "test.csv").write_text('"a, b",0\n')
    assert labelled_texts(tmp_path / "test.csv") == (["a, b"], ["0"])


def test_a_model_in_bfloat16_is_as_large_as_its_file(folder: Path) -> None:
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).bfloat16()
    theirs.save_pretrained(folder / "model")
    network = Network.load(HuggingFace(folder=str(folder / "model")), CPU)
    assert network.own_bytes() == 2 * sum(p.numel() for p in theirs.parameters()) == network.float_bytes() / 2


def vit(folder: Path, *labels: str) -> None:
    """A small network for images of two classes, with its image processor."""
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    transformers.ViTForImageClassification(config).save_pretrained(folder / "model")
    (folder / "model" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}'
    )


def made_of_images(folder: Path) -> HuggingFace:
    try:
        model = made(folder, "image-classification")
    except BadInput as missing:
        if "image processor" in str(missing):
            pytest.skip("transformers' image processors need torchvision")
        raise
    return model


def test_images_are_classified(folder: Path) -> None:
    from PIL import Image

    vit(folder, "dark", "light")
    for split in ("train", "test"):
        for number, name in enumerate(("dark", "light")):
            (folder / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 7), (200 * number,) * 3).save(folder / "data" / split / name / "x.png")
    model = made_of_images(folder)
    images, labels = next(model.batches("test"))
    assert images.shape == (2, 3, 8, 8)
    assert labels.tolist() == [0, 1]
    assert beside_itself(model, model.load(CPU)).metrics["agreement"] == 100


def test_what_is_missing_is_told_in_one_line(folder: Path) -> None:
    with pytest.raises(DataMissing, match=r"has no config\.json"):
        made(folder, "text-generation")
    (folder / "model" / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="folder without weights"):
        made(folder, "text-generation")
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    with pytest.raises(DataMissing, match=r"no file for the split 'train' \(\*train\*\)"):
        made(folder, "text-generation")
    (folder / "data" / "train.txt").write_text("a b")
    (folder / "data" / "test.txt").write_text("a b")
    with pytest.raises(BadInput, match="has no tokenizer: expected one of tokenizer"):
        made(folder, "text-generation")
    with pytest.raises(DataMissing, match="no/such has no config"):
        HuggingFace(folder="no/such").prepare()


def test_files_of_splits_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("sts-train.csv", "sts-dev.csv", "sts-test.csv", "other.csv"):
        (tmp_path / name).write_text("x")
    assert file_of(tmp_path, "validation") == tmp_path / "sts-dev.csv"
    assert file_of(tmp_path / "sts-", "train") == tmp_path / "sts-train.csv"
    assert file_of(tmp_path / "other", "train") is None
    with pytest.raises(BadInput, match="expected lines of text and label"):
        labelled_texts(tmp_path / "other.csv")
    with pytest.raises(BadInput, match="expected a folder with images for each class"):
        images_of(tmp_path)


@pytest.mark.parametrize(
    ("names", "train", "validation", "test"),
    [
        (["retrieval_train.tsv", "retrieval_test.tsv"], 0, None, 1),
        (["evaluation-test.txt", "evaluation-train.txt"], 1, None, 0),
        (["latest-dev.txt", "latest-test.txt", "latest-training.txt"], 2, 0, 1),
        (["pretrained-train.csv", "pretrained-validation.csv", "pretrained-testing.csv"], 0, 1, 2),
        (["wiki.test.raw", "wiki.train.raw", "wiki.valid.raw"], 1, 2, 0),
        (["mytest.txt", "mytrain.txt", "myval.txt"], 1, 2, 0),
        (["TRAIN", "VAL", "TEST"], 0, 1, 2),
        (["interval_train.txt"], 0, None, None),
    ],
)
def test_a_split_s_file_is_none_of_another_s(
    names: list[str], train: int | None, validation: int | None, test: int | None, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    for split, wanted in (("train", train), ("validation", validation), ("test", test)):
        found = file_of(tmp_path, split)
        assert (None if found is None else found.name) == (None if wanted is None else names[wanted])


def test_timm_builds_a_network_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="pip install timm"):
        Timm(network="tiny").load(CPU)
    fake = types.ModuleType("timm")
    fake.list_models = lambda: ["tiny", "other"]  # type: ignore[attr-defined]
    fake.create_model = lambda name, pretrained, num_classes=3: nn.Linear(4, num_classes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", fake)
    torch.save({"state_dict": {f"module.{n}": t for n, t in nn.Linear(4, 5).state_dict().items()}}, tmp_path / "w.pth")
    model = Timm(network="tiny", checkpoint=str(tmp_path / "w.pth"), classes=5)
    with pytest.warns(UserWarning, match="'module.' removed from the names"):
        model.prepare()
    assert model.load(CPU).out_features == 5
    assert Timm.model_validate_json(model.canonical_json()).fingerprint() == model.fingerprint()
    with pytest.raises(BadInput, match="no network 'tny'; did you mean 'tiny'"):
        Timm(network="tny", checkpoint=str(tmp_path / "w.pth")).load(CPU)
    with pytest.raises(BadInput, match="comes without weights"):
        Timm(network="tiny").prepare()


def test_what_a_checkpoint_lacks_is_not_drawn_at_random(folder: Path) -> None:
    theirs = transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False)
    theirs.save_pretrained(folder / "model")
    with pytest.raises(BadInput, match=r"has no 'bert.pooler.dense.bias' \(nor 3 more\), which BertForSequence.* has"):
        HuggingFace(folder=str(folder / "model"), task="text-classification").load(CPU)
    pooler = HuggingFace(folder=str(folder / "model"), task="sentence-similarity").load(CPU).pooler
    assert not pooler.dense.weight.any(), "nothing reads it, and it is the same at every load"


def test_windows_and_labels_that_the_network_has_no_room_for_are_told(folder: Path) -> None:
    config = transformers.GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.txt").write_text("a b c d e f g " * 3)
    with pytest.raises(BadInput, match="has 8 positions, less than one window of 9: lower `length`"):
        made(folder, "text-generation", length=9)
    with pytest.raises(BadInput, match="has 8 tokens, and its tokenizer gives 11"):
        made(folder, "text-generation", length=6)


def test_a_label_beyond_the_classes_is_told(folder: Path) -> None:
    transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.tsv").write_text("a b\t0\nc\t2\n")
    with pytest.raises(BadInput, match="2 is no label of the model, which has 2 classes"):
        made(folder, "text-classification")


def test_data_tokenizer_and_configuration_that_were_changed_are_read_again(folder: Path) -> None:
    """Their fingerprint is another one at once: in one process, what was read before would be kept under it."""
    config = transformers.BertConfig(**BERT, label2id={"no": 0, "yes": 1}, id2label={0: "no", 1: "yes"})
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.tsv").write_text("a b\tno\nc\tyes\n")
    model = made(folder, "text-classification")
    seen = [next(model.batches("test"))]
    (folder / "data" / "test.tsv").write_text("a b\tno\nd\tno\nc\tyes\n")
    seen.append(next(model.batches("test")))
    assert [labels.tolist() for _, labels in seen] == [[0, 1], [0, 0, 1]]
    words = (folder / "model" / "tokenizer.json").read_text()
    (folder / "model" / "tokenizer.json").write_text(words.replace('"a": 5', '"a": 6').replace('"b": 6', '"b": 5'))
    assert next(model.batches("test"))[0][0].tolist() == [2, 6, 5, 3]
    text = (folder / "model" / "config.json").read_text()
    other = text.replace('"no": 0', '"no": 1').replace('"yes": 1', '"yes": 0')
    (folder / "model" / "config.json").write_text(other)
    assert next(model.batches("test"))[1].tolist() == [1, 1, 0]


@pytest.mark.parametrize("task", ["text-generation", "sentence-similarity"])
def test_texts_and_pairs_that_were_changed_are_read_again(folder: Path, task: str) -> None:
    rows = ("a b c d", "d c b a") if task == "text-generation" else ("score\tsentence1\tsentence2\n1\ta b\tc d",) * 2
    suffix = "txt" if task == "text-generation" else "tsv"
    if task == "text-generation":
        config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    else:
        transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(folder / "model")
    tokenizer(folder / "model")
    for split in ("train", "test"):
        (folder / "data" / f"{split}.{suffix}").write_text(rows[0])
    model = made(folder, task, length=4)
    before = next(model.batches("test"))[0]
    (folder / "data" / f"test.{suffix}").write_text(rows[1].replace("a b", "b a"))
    assert not torch.equal(next(model.batches("test"))[0], before)


def test_images_that_were_changed_are_read_again(folder: Path) -> None:
    from PIL import Image

    vit(folder, "0", "1")
    for split in ("train", "test"):
        for name in "0", "1":
            (folder / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "data" / split / name / "a.png")
    model = made_of_images(folder)
    before = next(model.batches("test"))[0]
    Image.new("RGB", (8, 8), (10, 10, 200)).save(folder / "data" / "test" / "1" / "a.png")
    after = next(model.batches("test"))[0]
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_other_images_or_another_vocabulary_make_another_model(tmp_path: Path) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    for split in ("train", "test"):
        (data / split / "cat").mkdir(parents=True)
        (data / split / "cat" / "1.png").write_bytes(b"one")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "vocab.txt").write_text("a b")
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    model = HuggingFace(folder=str(folder), task="image-classification", data=str(data))
    seen = [model.fingerprint()]
    (data / "test" / "cat" / "1.png").write_bytes(b"two")
    seen.append(model.fingerprint())
    (data / "test" / "cat").rename(data / "test" / "dog")  # another label
    seen.append(model.fingerprint())
    (folder / "vocab.txt").write_text("b a")
    seen.append(model.fingerprint())
    assert len(set(seen)) == 4
