"""A small vision transformer (arXiv:2010.11929) on MNIST or on scikit-learn's digits, trained in a minute or two."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api.toolkit.optimise import Recipe
from nqbench_models.lenet import GreyDigits


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm and with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        # written out: the fused kernel has no second derivatives, which Hutchinson's estimate needs
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(count, tokens, width))
        hidden = nn.functional.gelu(self.fc1(self.norm2(x)))
        x = x + self.fc2(hidden)
        return x


class ViT(nn.Module):
    """(B, 1, H, W) -> (B, 10): 16 patches with learned position embeddings, ``depth`` blocks, classification of the
    mean token."""

    def __init__(self, size: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, size // 4, stride=size // 4)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


class Transformer(GreyDigits, name="transformer", paper="arXiv:2010.11929"):
    """A vision transformer of a few blocks on MNIST (patches of 7 x 7 pixels) or scikit-learn's digits (2 x 2)."""

    width: int = Field(64, ge=8, multiple_of=4)
    """Dimension of a token's vector."""
    depth: int = Field(3, ge=1)
    """Blocks."""
    heads: int = Field(4, ge=1)
    """Number of attention heads, a divisor of the width."""

    epochs: int = Field(20, ge=1)
    """Passes over the training images."""

    def build(self) -> nn.Module:
        return ViT(28 if self.data == "mnist" else 8, self.width, self.depth, self.heads)

    def compressible(self, module: nn.Module) -> tuple[str, ...]:
        """The weights of linear and convolution layers; position embeddings and norms are not compressed."""
        return tuple(name for name in super().compressible(module) if name != "place")

    def recipe(self) -> Recipe:
        batch_size = 128 if self.data == "mnist" else 32
        return Recipe(
            epochs=self.epochs, lr=2e-3, optimizer="adam", batch_size=batch_size, schedule="cosine", weight_decay=0.05
        )
