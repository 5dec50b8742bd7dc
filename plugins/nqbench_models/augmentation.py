"""Data augmentation of training images, with random numbers that are the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flip_and_shift(pixels: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Each image mirrored with probability 1/2 and shifted by up to ``reach`` pixels along each axis, padded with
    zeros."""
    corners = _corners(pixels, generator, reach)
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    return _cropped(pixels, reach, corners, mirrored)


def shifted(pixels: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Each image shifted by up to ``reach`` pixels along each axis, padded with zeros."""
    corners = _corners(pixels, generator, reach)
    return _cropped(pixels, reach, corners, torch.zeros(len(pixels), dtype=torch.bool))


def _corners(pixels: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """(2, B, 1, 1): the first row and column of each image in the padded one."""
    return torch.randint(0, 2 * reach + 1, (2, len(pixels), 1, 1), generator=generator)


def _cropped(pixels: Tensor, reach: int, corners: Tensor, mirrored: Tensor) -> Tensor:
    """A window of the padded image from each corner, as large as the image."""
    count, _, height, width = pixels.shape
    device = pixels.device
    padded = nn.functional.pad(pixels, (reach,) * 4)
    top, left = corners.to(device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(mirrored.to(device)[:, None], columns.flip(1), columns)
    rows = top + torch.arange(height, device=device)[:, None]
    places = left + columns[:, None, :]
    # advanced indices around a slice: (count, height, width, channels)
    return padded[torch.arange(count, device=device)[:, None, None], :, rows, places].permute(0, 3, 1, 2)


def cut_out(pixels: Tensor, generator: torch.Generator, size: int, value: int) -> Tensor:
    """A random square of ``size`` x ``size`` pixels in each image becomes ``value`` (arXiv:1708.04552, but always
    completely inside the image)."""
    count, _, height, width = pixels.shape
    reach = torch.tensor([height - size + 1, width - size + 1])
    corners = (torch.rand(2, count, generator=generator) * reach[:, None]).long().to(pixels.device)
    down = torch.arange(height, device=pixels.device) - corners[0][:, None]
    right = torch.arange(width, device=pixels.device) - corners[1][:, None]
    inside = ((down >= 0) & (down < size))[:, :, None] & ((right >= 0) & (right < size))[:, None, :]
    return pixels.masked_fill(inside[:, None], value)
