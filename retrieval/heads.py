"""What may follow the pooling: a learned projection, or a whitening."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from safetensors import safe_open
from torch import Tensor, nn

from retrieval import strangers
from retrieval.errors import InputError

STARTS = ("learned", "pca")  # what a whitening may be fitted by, see `retrieval.whitening`


class Projection(nn.Linear):
    """A linear layer (B, dim) -> (B, out_dim)."""

    def __init__(self, dim: int, out_dim: int = 512, bias: bool = True) -> None:
        super().__init__(int(dim), int(out_dim), bias=bias)


class Whitening(nn.Linear):
    """P (x - m), L2-normalised, as a layer that can be trained further: weight P (out_dim, dim), bias -P m.

    weights: a .safetensors of `retrieval.whitening.save`, of which the first `out_dim` dimensions are kept (None: all);
    without it they are random until `retrieval.whitening.initialise` fits them as `start` (and `shrinkage`, of pca)
    says. `fitted` tells whether they are of a file, of a fit or of a training. `label` says how they were fitted and
    on what, "" where that is not known.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        weights: str | None = None,
        start: str = "learned",
        shrinkage: float = 1.0,
    ) -> None:
        if start not in STARTS or not 0 <= shrinkage <= 1:
            raise InputError(
                f"head.start must be {' or '.join(STARTS)} and head.shrinkage between 0 and 1, got {start!r} and "
                f"{shrinkage}"
            )
        stored = None if weights is None else read(weights)
        most = int(dim) if stored is None else stored.out_features
        if stored is not None and stored.in_features != int(dim):
            raise InputError(f"{weights} whitens {stored.in_features} dimensions, the pooling gives {dim}")
        super().__init__(int(dim), kept(out_dim, most))
        self.start, self.shrinkage, self.fitted = start, float(shrinkage), False
        self.register_load_state_dict_post_hook(lambda layer, _: setattr(layer, "fitted", True))
        self.label = "" if stored is None else stored.label
        if stored is not None:
            self.copy_(stored.weight.detach(), stored.bias.detach())

    @classmethod
    def of(cls, weight: ArrayLike, bias: ArrayLike, label: str = "") -> Self:
        """The layer of P (out_dim, dim) and -P m (out_dim,); kept in float32."""
        rows, offsets = torch.tensor(np.asarray(weight)), torch.tensor(np.asarray(bias))
        layer = cls(rows.shape[1], rows.shape[0])
        layer.copy_(rows, offsets)
        layer.label = label
        return layer

    def first(self, dim: int | None) -> "Whitening":
        """Its first dimensions alone; None: all of them."""
        count = kept(dim, self.out_features)
        return Whitening.of(self.weight.detach()[:count].cpu(), self.bias.detach()[:count].cpu(), self.label)

    @torch.no_grad()
    def copy_(self, weight: Tensor, bias: Tensor) -> None:
        self.weight.copy_(weight[: self.out_features])
        self.bias.copy_(bias[: self.out_features])
        self.fitted = True

    def forward(self, input: Any) -> Any:
        """Rows (N, dim), array or tensor -> unit rows (N, out_dim) of the same kind, computed in at least float32."""
        if isinstance(input, np.ndarray):
            with torch.no_grad():
                return self(torch.tensor(np.ascontiguousarray(input), device=self.weight.device)).cpu().numpy()
        wide = torch.promote_types(input.dtype, self.weight.dtype)
        return F.normalize(F.linear(input.to(wide), self.weight.to(wide), self.bias.to(wide)), dim=-1)


def kept(dim: int | None, most: int) -> int:
    """How many dimensions a whitening keeps: all by default, 1 to `most`."""
    if dim is not None and not (isinstance(dim, int) and 1 <= dim <= most):
        raise InputError(f"a whitening keeps 1 to {most} dimensions here, got {dim}")
    return most if dim is None else dim


def read(path: str | Path) -> Whitening:
    """The whitening in a .safetensors that `retrieval.whitening.save` wrote."""
    if not Path(path).is_file():
        raise InputError(f"no whitening at {path}")
    try:
        refuse_other_tensors(path)
    except InputError as error:
        raise InputError(f"{path} holds no whitening, a .safetensors of weight and bias: {error}") from error
    with safe_open(path, "pt") as file:
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        return Whitening.of(weight, bias, (file.metadata() or {}).get("label", ""))


def refuse_other_tensors(path: str | Path) -> None:
    """Refuse a file whose header describes no weight (out, d) and bias (out,) of floats."""
    stored = strangers.header(path)
    if not {"weight", "bias"} <= stored.keys():
        raise InputError(f"it has {', '.join(sorted(stored)[:5]) or 'nothing'}")
    weight, bias = stored["weight"].shape, stored["bias"].shape
    if len(weight) != 2 or bias != weight[:1] or not min(weight):
        raise InputError(f"weight must be (out, d) and bias (out,), it has {weight} and {bias}")
    strangers.refuse_whole(stored, ("weight", "bias"), path)
