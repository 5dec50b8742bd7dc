"""BERT's encoder [arXiv:1810.04805], with the parameter names of Hugging Face's checkpoints, and sentence vectors as
the mean over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a BERT: the defaults are MiniLM-L6-H384's."""

    words: int = 30522
    places: int = 512
    width: int = 384
    hidden: int = 1536
    heads: int = 12
    layers: int = 6
    epsilon: float = 1e-12


class Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.words, shape.width)
        self.position_embeddings = nn.Embedding(shape.places, shape.width)
        self.token_type_embeddings = nn.Embedding(2, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        kinds = self.token_type_embeddings(torch.zeros_like(ids))
        out: Tensor = self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(places) + kinds)
        return out


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (n, width). mask: (B, T) bool, True for the n tokens, False for padding."""
        shape = (*mask.shape, self.heads, -1)
        q, k, v = (spread(part(x), mask).reshape(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None, :])
        return mixed.transpose(1, 2).flatten(2)[mask]


class Output(nn.Module):
    """A linear layer with a residual connection, then a layer norm."""

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(hidden) + x)
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(shape), "output": Output(shape.width, shape)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.width, shape.hidden)})
        self.output = Output(shape.hidden, shape)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        out: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return out


class SentenceEncoder(nn.Module):
    """(B, T) tokens, 0 for padding -> (B, width): the mean of the last layer's outputs over tokens.

    Layers get the tokens alone, one after another; padding stands beside them in attention only. It would be most of
    the work, and most of what the layers' second moments are of.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(shape) for _ in range(shape.layers))})

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != 0
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        x = self.embeddings(ids[mask], places[mask])
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, mask)
        return mean_of_words(spread(x, mask), mask)


def spread(words: Tensor, mask: Tensor) -> Tensor:
    """(B, T, width): words in their places, zeros elsewhere. words: (n, width); mask: (B, T) bool, True n times."""
    out = words.new_zeros(*mask.shape, words.shape[-1])
    out[mask] = words
    return out


def mean_of_words(x: Tensor, mask: Tensor) -> Tensor:
    """(B, width): the mean over a sentence's tokens. x: (B, T, width); mask: (B, T) bool, False for padding."""
    kept = mask[:, :, None].to(x.dtype)
    return (x * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
