"""How a photo is changed before it is trained on."""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import v2 as T

from retrieval.data import images
from retrieval.errors import InputError, flag

ASPECTS = ("square", "native")


@dataclass(frozen=True)
class Augment:
    """The part of the `data` config that changes pixels.

    aspect:
    - square: a random crop of a random aspect ratio, resized to a square; all photos of a batch share one shape.
    - native: the photo at its own aspect ratio, longer side at most the resolution, never enlarged; its sides are
      rounded to multiples of `bucket`, so that some photos of a batch share a shape (1: exact).
    crop: the least share of a photo that a random crop keeps; native photos are whole with 1. jitter: strength of
    colour changes. multiple: that the backbone needs each side to have.
    """

    aspect: str = "square"
    bucket: int = 32
    crop: float = 0.5
    flip: bool = True
    jitter: float = 0.2
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or self.jitter < 0:
            raise InputError(f"data.crop must be in (0, 1] and data.jitter >= 0, got {self.crop} and {self.jitter}")
        if self.aspect not in ASPECTS:
            raise InputError(f"data.aspect must be one of {', '.join(ASPECTS)}, got {self.aspect!r}")
        if not isinstance(self.bucket, int) or self.bucket < 1:
            raise InputError(f"data.bucket must be a whole number of pixels, at least 1, got {self.bucket}")
        flag("data.flip", self.flip)

    @property
    def steady(self) -> bool:
        """Whether a photo comes out the same whatever the seed: at its own aspect ratio, whole, in its own colours."""
        return self.aspect == "native" and self.crop == 1 and not self.flip and not self.jitter

    @property
    def sides(self) -> int:
        """What each side of a native photo is a multiple of."""
        return self.multiple * math.ceil(self.bucket / self.multiple)

    def __call__(self, rgb: Image.Image, resolution: int, seed: int) -> Image.Image:
        """The photo as a batch of this resolution has it; the same seed gives the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            cropped = self._native(rgb, resolution) if self.aspect == "native" else self._square(rgb, resolution)
            return self._recoloured(cropped)

    def _square(self, rgb: Image.Image, side: int) -> Image.Image:
        return T.RandomResizedCrop(side, (self.crop, 1.0), antialias=True)(rgb)

    def _native(self, rgb: Image.Image, resolution: int) -> Image.Image:
        width, height = images.fit(rgb.size, resolution, self.sides)
        if self.crop == 1:
            return images.resized(rgb, (width, height))
        own = rgb.width / rgb.height
        return T.RandomResizedCrop((height, width), (self.crop, 1.0), (own, own), antialias=True)(rgb)

    def _recoloured(self, rgb: Image.Image) -> Image.Image:
        rgb = T.RandomHorizontalFlip()(rgb) if self.flip else rgb
        return T.ColorJitter(self.jitter, self.jitter, self.jitter)(rgb) if self.jitter else rgb
