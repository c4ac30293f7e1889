"""What a backbone hands to a pooling.

B batch, D channels, H x W positions of the map, P prefix tokens (CLS).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A map of patches and the tokens before it; a CNN's map is a set of tokens, a ViT's patches are a map.

    patches: (B, D, H, W). prefix: (B, P, D), the CLS token (P = 1) or nothing (P = 0, the default).
    mask: (B, H, W), True on real positions and False on padding, or None where all are real.
    """

    patches: Tensor
    prefix: Tensor
    mask: Tensor | None

    def __init__(self, patches: Tensor, prefix: Tensor | None = None, mask: Tensor | None = None) -> None:
        if patches.ndim != 4:
            raise ValueError(f"patches must be (B, D, H, W), got shape {tuple(patches.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != patches.shape[:1] + patches.shape[2:]):
            raise ValueError(
                f"mask must be bool and (B, H, W) = {(patches.shape[0], *patches.shape[2:])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        empty = patches.new_zeros(patches.shape[0], 0, patches.shape[1])
        object.__setattr__(self, "patches", patches)
        object.__setattr__(self, "prefix", empty if prefix is None else prefix)
        object.__setattr__(self, "mask", mask)

    def split(self, size: int) -> list["Features"]:
        """Of so many images at a time."""
        masks = [None] * len(self.patches) if self.mask is None else self.mask.split(size)
        parts = zip(self.patches.split(size), self.prefix.split(size), masks, strict=False)
        return [Features(*part) for part in parts]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Features":
        """The same on a device, as tensors go there."""
        patches, prefix = (one.to(device, non_blocking=non_blocking) for one in (self.patches, self.prefix))
        return Features(patches, prefix, None if self.mask is None else self.mask.to(device, non_blocking=non_blocking))

    @property
    def tokens(self) -> Tensor:
        """(B, P + H*W, D): the prefix, then the map row by row."""
        with torch.autocast(self.patches.device.type, enabled=False):  # on a CPU it cannot join float16 tensors
            return torch.cat([self.prefix, self.patches.flatten(2).transpose(1, 2)], dim=1)

    @property
    def token_mask(self) -> Tensor | None:
        """(B, P + H*W), True on real tokens; the prefix is always real. None where all are."""
        if self.mask is None:
            return None
        prefix = self.mask.new_ones(self.prefix.shape[:2])
        return torch.cat([prefix, self.mask.flatten(1)], dim=1)
