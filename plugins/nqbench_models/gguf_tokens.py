"""A GGUF file's tokenizer: byte-level BPE [Sennrich et al. 2016, arXiv:1508.07909] from the file's own tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nqbench.api import BadInput


def tokens_of(path: Path, text: str) -> list[int]:
    """The tokens of a text. Raises BadInput if the file's tokenizer is of another kind or a package is missing."""
    try:
        from gguf import GGUFReader
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        raise BadInput(f"{path}: needs the packages gguf and tokenizers: pip install 'nqbench[networks]'") from None
    fields = GGUFReader(path).fields
    kind, cut = (_contents(fields, f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or cut not in ("smollm", "gpt-2"):
        raise BadInput(f"{path} has a tokenizer of the kind {kind}/{cut}; known: gpt2/smollm, gpt2/gpt-2")
    words = {word: number for number, word in enumerate(_contents(fields, "tokenizer.ggml.tokens"))}
    merges = [tuple(pair.split(" ")) for pair in _contents(fields, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(words, merges))
    cuts = [pre_tokenizers.Digits(individual_digits=True)] if cut == "smollm" else []
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, whole])
    found: list[int] = tokenizer.encode(text).ids
    return found


def _contents(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise BadInput(f"the GGUF file has no '{name}'")
    return fields[name].contents()
