"""A model in Hugging Face's layout, for which the user writes no code: network and tokenizer are loaded from its
folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, DataMissing, Evaluation, Metric, PerExample, Split, as_outputs
from nqbench.api.toolkit.paths import in_suite_folder
from nqbench_models.bert import mean_of_words
from nqbench_models.checkpoint import files_of, tensor_bytes
from nqbench_models.chosen import Chosen
from nqbench_models.contents import Seen, content, contents
from nqbench_models.data_files import file_of, images_of, labelled_texts
from nqbench_models.ordering import in_batches
from nqbench_models.sentences import (
    Pairs,
    column,
    cosines,
    filled,
    half_squares,
    ranked,
    read_pairs,
    trimmed,
)
from nqbench_models.windows_of_text import Windows, window_losses

What = Literal["text-generation", "sentence-similarity", "text-classification", "image-classification"]
_PADDING = -1
_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "sentence-similarity": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
)
_METRICS = {
    "text-generation": Metric("perplexity", "", higher_is_better=False),
    "sentence-similarity": Metric("Spearman", ""),
    "text-classification": Metric(),
    "image-classification": Metric(),
}


class HuggingFace(Chosen, name="hf", computes_with=("transformers", "tokenizers", "torchvision", "pillow")):
    """A model in Hugging Face's layout (config.json, weights, tokenizer), by its folder or its name in the local cache.

    ``data`` is a folder, or the common beginning of file paths, with one file per split: ``*train*``, ``*valid*`` or
    ``*dev*``, ``*test*``. Content and metric depend on the task. text-generation: plain text (.txt), perplexity over
    whole windows. sentence-similarity: pairs with a score (the columns of STS-B, or score, sentence1, sentence2), rank
    correlation with the cosines of mean token vectors. text-classification: lines of text and label (tab-separated,
    with or without a header), accuracy. image-classification: one folder per class, accuracy. For the last two, also
    agreement with, and divergence from, the float network. If there is no train file, the validation file is used for
    calibration. Nothing is downloaded, and no code of the model's is run.
    """

    folder: str
    """A folder with config.json, relative to the suite's file, or the name of a model in Hugging Face's cache."""
    task: What = "text-generation"
    """The task, which determines the head of the network, the form of the data and the metric."""
    data: str | None = None
    """A folder of data files, or the common beginning of their paths. None: no data (rate and distortion only)."""
    length: int = Field(128, ge=2)
    """Number of tokens in a window (text-generation), or at which a text is truncated."""
    examples: int | None = Field(None, ge=1)
    """Number of windows, pairs, texts or images that are used, from the beginning of each split. None: all."""

    def prepare(self) -> None:
        folder = self._folder()
        if not (folder / "config.json").is_file():
            raise DataMissing(f"model 'hf': {folder} has no config.json: name a folder in Hugging Face's layout")
        files_of(folder)
        _transformers()
        if self.data is not None:
            for split in ("train", "test"):
                if not self.has_split(split):
                    raise DataMissing(f"model 'hf': {self._data()} has no file for the split '{split}' (*{split}*)")
            next(iter(self.batches("test", batch_size=1)))

    def fingerprint(self) -> str:
        files = files_of(self._folder())
        files = list(dict.fromkeys([*files, *_tokenizers_in(self._folder())]))
        found = [f"hf 4 {self.canonical_json()}", *(content(file) for file in files)]
        splits = [] if self.data is None else [self._file(split) for split in ("train", "validation", "test")]
        return " ".join([*found, *(_data_seen(split).digest for split in splits if split is not None)])

    def load(self, device: torch.device) -> nn.Module:
        kind = getattr(_transformers(), _CLASSES[self.task])
        try:
            module, found = kind.from_pretrained(
                str(self._folder()), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:240]
            raise BadInput(f"model 'hf': {self._folder()} cannot be loaded for {self.task}: {reason}") from None
        assert isinstance(module, nn.Module)
        self._settle(module, sorted(found["missing_keys"]))
        config: Any = module.config
        if self.task == "text-classification" and self.data is not None and _padding(config) is None:
            config.get_text_config().pad_token_id = _tokenizer(_folder_seen(self._folder())).pad_token_id
        return module.to(device).eval()

    def stored_bytes(self) -> int:
        return tensor_bytes(self._folder())

    def _settle(self, module: nn.Module, missing: Sequence[str]) -> None:
        """transformers draws what a checkpoint lacks at random, anew at every load. Only a pooler may be lacking where
        nothing reads its outputs: it becomes zeros. Raises BadInput for anything else, such as the head of a task that
        the model was not trained for."""
        unread = [name for name in missing if self.task == "sentence-similarity" and name.startswith("pooler.")]
        for name in unread:
            module.get_parameter(name).data.zero_()
        lacking = [name for name in missing if name not in unread]
        if lacking:
            more = f" (nor {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise BadInput(
                f"model 'hf': {self._folder()} has no '{lacking[0]}'{more}, which {type(module).__name__} has: it was "
                f"not trained for {self.task}"
            )

    def metric(self) -> Metric | None:
        return None if self.data is None else _METRICS[self.task]

    def has_split(self, split: Split) -> bool:
        return self.data is not None and self._file(split) is not None

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        found = None if self.data is None else self._file(split)
        if found is None:
            raise BadInput(f"model 'hf' was given no data for the split '{split}'")
        folder, file = _folder_seen(self._folder()), _data_seen(found)
        if self.task == "text-generation":
            windows = _windows(folder, file, self.length, self.examples)
            yield from windows.batches(batch_size, _config(folder).vocab_size, split, shuffle)
        elif self.task == "sentence-similarity":
            yield from _pairs(folder, file, self.length, self.examples).batches(batch_size, split, shuffle)
        else:
            kind = _texts if self.task == "text-classification" else _images
            inputs, labels = kind(folder, file, self.length, self.examples)
            texts = self.task == "text-classification"
            for part in in_batches(len(labels), batch_size if texts else min(batch_size, 64), split, shuffle):
                yield trimmed(inputs[part], _PADDING) if texts else inputs[part], labels[part]

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        if self.task == "image-classification":
            return as_outputs(module(pixel_values=batch[0]))
        if self.task == "text-generation":
            return as_outputs(module(input_ids=batch[0], use_cache=False))
        ids, mask = batch[0].flatten(0, -2), self.attention_mask(batch)
        assert mask is not None
        padding = _padding(module.config)
        if padding is None and self.task == "text-classification" and len(ids) > 1 and hasattr(module, "score"):
            raise BadInput(
                f"model 'hf': {self._folder()} names no `pad_token_id`, by which {type(module).__name__} finds the end "
                "of a text: write the one it was trained with into config.json"
            )
        out = module(input_ids=ids.masked_fill(~mask, padding or 0), attention_mask=mask.long())
        if self.task == "text-classification":
            return as_outputs(out)
        words: Tensor = out.last_hidden_state
        return column(cosines(mean_of_words(words, mask)))

    def attention_mask(self, batch: Batch) -> Tensor | None:
        if self.task not in ("sentence-similarity", "text-classification"):
            return None
        ids: Tensor = batch[0].flatten(0, -2)
        return ids != _PADDING

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        if self.task == "text-generation":
            return window_losses(outputs, batch[0])
        if self.task == "sentence-similarity":
            return half_squares(outputs, batch[1])
        return super().losses(outputs, batch)

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        kinds: dict[str, Literal["gaussian", "other"]] = {"text-generation": "other", "sentence-similarity": "gaussian"}
        return kinds.get(self.task, "categorical")

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]:
        return "categorical" if self.task == "text-generation" else self.likelihood()

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.flatten(0, 1) if self.task == "text-generation" else super().logits(outputs, batch)

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        if self.task == "text-generation":
            return {"perplexity": PerExample(window_losses(outputs, batch[0]), "exp-mean")}
        if self.task == "sentence-similarity":
            return {"Spearman": ranked(outputs, batch[1])}
        return super().scores(outputs, batch)

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        return Evaluation() if self.data is None else super().evaluate(module, split)

    # -- where things are ------------------------------------------------------------------------------------------
    def _folder(self) -> Path:
        """The model's folder, or the newest copy in Hugging Face's cache of the model of that name."""
        path = in_suite_folder(self.folder)
        return path if path.is_dir() else _cached(self.folder) or path

    def _data(self) -> Path:
        return in_suite_folder(str(self.data))

    def _file(self, split: Split) -> Path | None:
        found = file_of(self._data(), split)
        return file_of(self._data(), "validation") if found is None and split == "train" else found


def _tokenizers_in(folder: Path) -> list[Path]:
    return [folder / name for name in _TOKENIZERS if (folder / name).is_file()]


def _folder_seen(folder: Path) -> Seen:
    """A model's folder, and what its configuration and its tokenizer are now."""
    files = dict.fromkeys([*sorted(folder.glob("*.json")), *_tokenizers_in(folder)])
    return Seen(folder, contents((file.name, file) for file in files))


def _data_seen(path: Path) -> Seen:
    """A split's file, or its folder of images with their labels."""
    if not path.is_dir():
        return Seen(path, content(path))
    paths, labels = images_of(path)
    return Seen(path, contents((f"{label}/{image.name}", image) for image, label in zip(paths, labels, strict=True)))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BadInput("model 'hf' needs the package transformers: pip install 'nqbench[transformers]'") from None
    return transformers


def _cached(name: str) -> Path | None:
    """The path of the model's configuration in Hugging Face's cache; None where there is none, nor the package."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _padding(config: Any) -> int | None:
    """The token that fills up texts. What a decoder says of a text is read at its last other token, whatever the
    attention mask."""
    found: int | None = getattr(config.get_text_config(), "pad_token_id", None)
    return found


@cache
def _config(folder: Seen) -> Any:
    return _transformers().AutoConfig.from_pretrained(str(folder.path), local_files_only=True)


@cache
def _tokenizer(folder: Seen) -> Any:
    if not _tokenizers_in(folder.path):
        # transformers would create an empty one
        raise BadInput(f"model 'hf': {folder.path} has no tokenizer: expected one of {', '.join(_TOKENIZERS)}")
    try:
        return _transformers().AutoTokenizer.from_pretrained(str(folder.path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"model 'hf': {folder.path} has no tokenizer that can be loaded: {reason}") from None


def _encoded(folder: Seen, texts: Sequence[str], length: int) -> list[list[int]]:
    tokenizer = _tokenizer(folder)
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=length)["input_ids"] if texts else []
    return found


@cache
def _windows(folder: Seen, file: Seen, length: int, most: int | None) -> Windows:
    text = file.path.read_text(encoding="utf-8")
    ids = _tokenizer(folder)(text, add_special_tokens=False, verbose=False)["input_ids"]
    config = _config(folder)
    positions = getattr(config, "max_position_embeddings", None) or length
    if length > positions:
        raise BadInput(
            f"model 'hf': {folder.path} has {positions} positions, less than one window of {length}: lower `length`"
        )
    if max(ids, default=0) >= config.vocab_size:
        raise BadInput(f"model 'hf': {folder.path} has {config.vocab_size} tokens, and its tokenizer gives {max(ids)}")
    windows = Windows.of(ids, length, most)
    if not len(windows.ids):
        raise BadInput(
            f"model 'hf': {file.path} has {len(ids)} tokens, less than one window of {length}: lower `length`"
        )
    return windows


@cache
def _pairs(folder: Seen, file: Seen, length: int, most: int | None) -> Pairs:
    pairs = read_pairs(file.path, lambda texts: _encoded(folder, texts, length), length, _PADDING)
    return Pairs(pairs.ids[:most], pairs.scores[:most], _PADDING)


@cache
def _texts(folder: Seen, file: Seen, length: int, most: int | None) -> tuple[Tensor, Tensor]:
    """(N, T) tokens, _PADDING at their ends, and (N,) labels."""
    texts, names = labelled_texts(file.path)
    ids = filled(_encoded(folder, texts[:most], length), _PADDING)
    return ids, _labels(folder, file, names[:most])


def _labels(folder: Seen, file: Seen, names: Sequence[str]) -> Tensor:
    """Labels as numbers: unchanged if they are numbers, otherwise by the names in the configuration."""
    known = {str(name).lower(): int(number) for name, number in (_config(folder).label2id or {}).items()}
    numbers = [int(name) if name.isdigit() else known.get(name.lower(), -1) for name in names]
    if -1 in numbers:
        odd = names[numbers.index(-1)]
        raise BadInput(f"{file.path}: '{odd}' is no label of the model, which has {', '.join(list(known)[:6])}")
    classes = int(_config(folder).num_labels)
    if max(numbers, default=0) >= classes:
        raise BadInput(
            f"{file.path}: {max(numbers)} is no label of the model, which has {classes} classes, the first being 0"
        )
    return torch.tensor(numbers)


@cache
def _images(folder: Seen, file: Seen, length: int, most: int | None) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) outputs of the model's image processor, and (N,) labels."""
    paths, names = images_of(file.path)
    try:
        processor = _transformers().AutoImageProcessor.from_pretrained(str(folder.path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"model 'hf': {folder.path} has no image processor that can be loaded: {reason}") from None
    from PIL import Image

    found = []
    for path in paths[:most]:
        with Image.open(path) as image:
            found.append(torch.as_tensor(processor(image.convert("RGB"), return_tensors="np")["pixel_values"][0]))
    return torch.stack(found), _labels(folder, file, names[:most])
