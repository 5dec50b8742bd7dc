"""Llama's decoder [arXiv:2302.13971], with the parameter names of GGUF files and their order of rotated pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama: the defaults are SmolLM2-135M's."""

    words: int = 49152
    width: int = 576
    hidden: int = 1536
    layers: int = 30
    heads: int = 9
    key_heads: int = 3
    base: float = 100000.0
    epsilon: float = 1e-5


class Rotation(nn.Module):
    """Rotary position embedding [arXiv:2104.09864] of pairs of adjacent numbers."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, heads, T, d)."""
        tokens, d = x.shape[-2:]
        rates = self.base ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
        angles = torch.arange(tokens, device=x.device)[:, None] * rates
        cos, sin = angles.cos(), angles.sin()
        first, second = x.reshape(*x.shape[:-1], d // 2, 2).unbind(-1)
        return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


class Layer(nn.Module):
    """Attention and a gated perceptron, each after a norm and with a residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_heads = shape.heads, shape.key_heads
        narrow = shape.width // shape.heads * shape.key_heads
        self.attn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, narrow, bias=False)
        self.attn_v = nn.Linear(shape.width, narrow, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)
        self.rotate = Rotation(shape.base)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn_output(self._attention(self.attn_norm(x)))
        h = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        count, tokens, _ = x.shape
        q = self.attn_q(x).reshape(count, tokens, self.heads, -1).transpose(1, 2)
        each = self.heads // self.key_heads
        k, v = (
            part(x).reshape(count, tokens, self.key_heads, -1).transpose(1, 2).repeat_interleave(each, 1)
            for part in (self.attn_k, self.attn_v)
        )
        mixed = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return mixed.transpose(1, 2).reshape(count, tokens, -1)


class Llama(nn.Module):
    """(B, T) tokens -> (B, T, vocabulary) logits of the next token; the output layer is tied to the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(shape.words, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x)
        return functional.linear(self.output_norm(x), self.token_embd.weight)
