"""Cross-batch memory: descriptors of earlier batches, to pair those of this one with."""

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """The last `size` descriptors (size, dim) and labels (size,), newest first (Wang et al., CVPR 2020, XBM).

    All of it is in buffers, so that a checkpoint goes on with what the batches before it left.
    """

    descriptors: Tensor
    labels: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("descriptors", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def held(self) -> tuple[Tensor, Tensor]:
        """Descriptors (n, dim) and labels (n,) put in so far, n at most `size`."""
        filled = int(self.filled)
        return self.descriptors[:filled], self.labels[:filled]

    def add(self, descriptors: Tensor, labels: Tensor) -> None:
        """Put a batch in, without its gradient, in place of the oldest."""
        # New tensors, not the old ones overwritten: the backward pass still needs what was held.
        self.descriptors = pushed(self.descriptors, descriptors.detach())
        self.labels = pushed(self.labels, labels)
        self.filled = (self.filled + len(labels)).clamp(max=len(self.labels))


def pushed(queue: Tensor, rows: Tensor) -> Tensor:
    """The rows and then the queue, of which as many fall out at its end."""
    return torch.cat([rows[: len(queue)].to(queue), queue[: max(0, len(queue) - len(rows))]])
