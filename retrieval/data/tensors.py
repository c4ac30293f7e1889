"""Decoded photos as tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_bytes(image: Image.Image) -> Tensor:
    """(3, H, W) uint8, channels last in memory as in the image: a quarter of what the network takes."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, H, W) float32, normalised."""
    return normalised(to_bytes(image)[None], mean, std)[0]


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 (x / 255 - mean) / std, on the device where the pixels are."""
    center, spread = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return pixels.float().div_(255).sub_(center).div_(spread)


class Batch(NamedTuple):
    """pixels (B, 3, H, W), channels last in memory; sizes (B, 2): the real height and width of each, None where
    nothing is padded."""

    pixels: Tensor
    sizes: Tensor | None


def padded(photos: Sequence[Tensor]) -> Batch:
    """Photos (3, h, w) in one batch of the largest height and width, each at the top left with 0 beside it."""
    sizes = [(photo.shape[1], photo.shape[2]) for photo in photos]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    whole = photos[0].new_zeros(len(photos), height, width, 3).permute(0, 3, 1, 2)
    for place, photo in zip(whole, photos, strict=True):
        place[:, : photo.shape[1], : photo.shape[2]] = photo
    return Batch(whole, torch.tensor(sizes) if len(set(sizes)) > 1 else None)
