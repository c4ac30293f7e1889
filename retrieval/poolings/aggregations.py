"""Aggregations of place recognition: NetVLAD, SALAD, ConvAP for any H x W, MixVPR for one size of map.

B batch, N = H x W positions, D channels, K clusters. x (B, N, D), mask (B, N) bool, True on real positions.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import functional as F

ALPHA = 40.0  # hardness of NetVLAD where no data tells; for MobileNetV2 on photos of landmarks the data said 41
HIDDEN = 512  # width of SALAD's perceptrons
PUBLISHED_MAP = (20, 20)  # MixVPR: 320 x 320 pixels at stride 16


def positions(features: Features) -> tuple[Tensor, Tensor]:
    """The map as (B, N, D) in at least float32, 0 in the padding whatever stands there, and its mask (B, N)."""
    x = F.at_least_float32(features.patches).flatten(2).mT
    if features.mask is None:
        return x, x.new_ones(x.shape[:2], dtype=torch.bool)
    mask = features.mask.flatten(1)
    return torch.where(mask[..., None], x, 0), mask


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last dimension; a vector of zeros stays one, and its gradient is 0 where |x| has none."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, torch.inf)


def vlad(x: Tensor, centroids: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """(B, K, D): sum over positions of a_k (x - c_k), a = softmax over k of w_k . x + b_k (Arandjelovic et al., CVPR
    2016, eq. 4). centroids and weight (K, D), bias (K,)."""
    share = torch.where(mask[..., None], (x @ weight.mT + bias).softmax(-1), 0)
    return share.mT @ x - share.sum(1)[..., None] * centroids


def hardness(descriptors: Tensor, centroids: Tensor) -> float:
    """NetVLAD's alpha = ln 100 / mean(d2^2 - d1^2), d1 and d2 the distances (N,) to the nearest two centroids: the
    nearest weighs on average 100 times the second (the authors' code, Relja/netvlad, addLayers.m)."""
    nearest = torch.cdist(descriptors, centroids).topk(2, largest=False).values.square()
    gap = float((nearest[:, 1] - nearest[:, 0]).mean())
    if not gap > 0:
        raise InputError(
            f"netvlad needs local features that differ: all {len(descriptors)} are as far from their second centroid "
            "as from their nearest"
        )
    return math.log(100) / gap


class NetVLAD(nn.Module):
    """Residuals to `clusters` centroids, softly assigned: out_dim = K * D (Arandjelovic et al., CVPR 2016).

    Each position is L2-normalised first; each cluster's sum is (intra-normalisation), and so is the whole. Weights
    and biases of the assignment start as 2 alpha c and -alpha |c|^2 and learn apart from the centroids. These start
    at random; `initialise` hands in those of k-means, `centroids` names a .npy (K, D) of them, and `fitted` tells.
    """

    fitted: Tensor

    def __init__(self, dim: int, clusters: int = 64, centroids: str | None = None) -> None:
        super().__init__()
        if clusters < 2:
            raise InputError(f"netvlad needs at least 2 clusters, got clusters = {clusters}")
        self.dim, self.clusters, self.out_dim = dim, int(clusters), int(clusters) * dim
        self.centroids = nn.Parameter(torch.empty(self.clusters, dim))
        self.weight, self.bias = nn.Parameter(torch.empty(self.clusters, dim)), nn.Parameter(torch.empty(self.clusters))
        self.register_buffer("fitted", torch.tensor(False))
        if centroids:
            self.initialise(read_centroids(centroids))
        else:
            self._start(unit(torch.randn(self.clusters, dim)), ALPHA)

    @torch.no_grad()
    def initialise(self, centroids: Tensor, descriptors: Tensor | None = None) -> None:
        """Take centroids (K, D); alpha is that of the descriptors (N, D), L2-normalised, else ALPHA."""
        if centroids.shape != self.centroids.shape or not centroids.isfinite().all():
            raise InputError(
                f"netvlad needs finite centroids of shape (clusters, channels) = {tuple(self.centroids.shape)}, "
                f"got {tuple(centroids.shape)}"
            )
        self._start(centroids, ALPHA if descriptors is None else hardness(descriptors, centroids))
        self.fitted.fill_(True)

    @torch.no_grad()
    def _start(self, centroids: Tensor, alpha: float) -> None:
        self.centroids.copy_(centroids)
        self.weight.copy_(2 * alpha * centroids)
        self.bias.copy_(-alpha * centroids.square().sum(1))

    def forward(self, features: Features) -> Tensor:
        x, mask = positions(features)
        with torch.autocast(x.device.type, enabled=False):
            residuals = vlad(unit(x), self.centroids, self.weight, self.bias, mask)
            return normalize(normalize(residuals, dim=-1).flatten(1), dim=-1)


def read_centroids(path: str) -> Tensor:
    """The array of floats in a .npy file, float32; nothing in it is executed, and its header is held against the size
    of the file before anything is allocated."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.dtype.kind != "f":
            raise ValueError(f"its numbers are {stored.dtype}")
        return torch.from_numpy(stored.astype(np.float32))
    except (OSError, ValueError, EOFError, AttributeError, ArithmeticError, SyntaxError) as error:
        where = "no .npy of plain floats" if Path(path).is_file() else "no file"
        raise InputError(f"pooling.centroids: {where} at {path}: {error}") from error


def masses(counts: Tensor, clusters: int) -> Tensor:
    """log of what each cluster and the dustbin take of n positions, (B,) -> (B, K + 1).

    1 and n - K (Izquierdo and Civera, CVPR 2024, section 3.2); that has no meaning where n < K: there the clusters
    take n / K each and the dustbin nothing, to which the published masses come at n = K.
    """
    each, rest = (counts / clusters).clamp(max=1)[:, None], (counts - clusters).clamp(min=0)[:, None]
    return torch.cat([each.expand(-1, clusters), rest], dim=1).log()


def sinkhorn(scores: Tensor, rows: Tensor, mask: Tensor, iterations: int = 3) -> Tensor:
    """log of the plan that moves mass 1 from each real position to rows of log mass `rows` (B, R); scores (B, R, N).

    Rows and columns are scaled in turn, columns last: these sum to 1, rows nearly to their mass (Cuturi, NeurIPS
    2013). A masked position carries exactly no mass.
    """
    columns = torch.where(mask, 0, -torch.inf).to(scores.dtype)
    u, v = torch.zeros_like(rows), columns
    for _ in range(iterations):
        u = rows - (scores + v[:, None]).logsumexp(2)
        v = columns - (scores + u[..., None]).logsumexp(1)
    return scores + u[..., None] + v[:, None]


def perceptron(dim: int, out_dim: int, dropout: float = 0.0) -> nn.Sequential:
    """SALAD's two linear layers."""
    return nn.Sequential(nn.Linear(dim, HIDDEN), nn.Dropout(dropout), nn.ReLU(), nn.Linear(HIDDEN, out_dim))


class SALAD(nn.Module):
    """Positions assigned to clusters, or a dustbin, by optimal transport, beside a global token: out_dim = `clusters`
    * `cluster_dim` + `token_dim` (Izquierdo and Civera, CVPR 2024).

    Each cluster, the token and the whole are L2-normalised. The global token is made of the class token, on a
    backbone that has none of the average of the patches. With fewer positions than clusters: see `masses`.
    """

    def __init__(
        self, dim: int, clusters: int = 64, cluster_dim: int = 128, token_dim: int = 256, dropout: float = 0.3
    ) -> None:
        super().__init__()
        if min(clusters, cluster_dim, token_dim) < 1 or not 0 <= dropout < 1:
            raise InputError(
                "salad needs clusters, cluster_dim and token_dim of at least 1 and dropout in [0, 1), "
                f"got {clusters}, {cluster_dim}, {token_dim} and {dropout}"
            )
        self.dim, self.clusters, self.out_dim = dim, int(clusters), int(clusters * cluster_dim + token_dim)
        self.token = perceptron(dim, token_dim)
        self.local = perceptron(dim, cluster_dim, float(dropout))
        self.score = perceptron(dim, clusters, float(dropout))
        self.dustbin = nn.Parameter(torch.tensor(1.0))

    def forward(self, features: Features) -> Tensor:
        (x, mask), has_token = positions(features), features.prefix.shape[1] > 0
        token = F.at_least_float32(features.prefix[:, 0]) if has_token else F.average(features.patches, features.mask)
        with torch.autocast(x.device.type, enabled=False):
            clusters = self.plan(x, mask) @ self.local(x)
            parts = normalize(self.token(token), dim=-1), normalize(clusters, dim=-1).flatten(1)
            return normalize(torch.cat(parts, dim=1), dim=-1)

    def plan(self, x: Tensor, mask: Tensor) -> Tensor:
        """Share of each position in each cluster, (B, K, N): what the dustbin leaves."""
        scores = self.score(x).mT
        scores = torch.cat([scores, self.dustbin.expand(x.shape[0], 1, x.shape[1])], dim=1)
        return sinkhorn(scores, masses(mask.sum(1).to(x.dtype), self.clusters), mask)[:, :-1].exp()


class ConvAP(nn.Module):
    """A 1 x 1 convolution to `channels`, averaged in `size` x `size` cells: out_dim = channels * size^2 (Ali-bey et
    al., Neurocomputing 2022, GSV-Cities). The L2 norm is left to the Embedder.

    Averages are taken first, as a convolution of one position can follow them: it then meets a few cells in place
    of H x W positions, with the same result.
    """

    def __init__(self, dim: int, channels: int = 512, size: int = 2) -> None:
        super().__init__()
        if channels < 1 or size < 1:
            raise InputError(f"convap needs channels >= 1 and size >= 1, got channels = {channels}, size = {size}")
        self.dim, self.size, self.out_dim = dim, int(size), int(channels * size * size)
        self.project = nn.Linear(dim, channels)

    def forward(self, features: Features) -> Tensor:
        cells = F.adaptive_average(features.patches, self.size, features.mask).flatten(2)
        with torch.autocast(cells.device.type, enabled=False):
            return self.project(cells.mT).mT.flatten(1)


class Mixer(nn.Module):
    """x + a perceptron over all positions of a channel; x (B, D, N)."""

    def __init__(self, count: int, ratio: float) -> None:
        super().__init__()
        hidden = int(count * ratio)
        self.mix = nn.Sequential(nn.LayerNorm(count), nn.Linear(count, hidden), nn.ReLU(), nn.Linear(hidden, count))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


class MixVPR(nn.Module):
    """`depth` perceptrons mix the positions of a map, which is then projected to `channels` x `rows`: out_dim =
    channels * rows (Ali-bey et al., WACV 2023). The L2 norm is left to the Embedder.

    Its weights belong to the places of a map of `height` x `width`, `map_size`, so that no other size and no padding
    can be taken. None is the published 20 x 20, unless the program says what map the backbone gives.
    """

    def __init__(
        self,
        dim: int,
        height: int | None = None,
        width: int | None = None,
        channels: int = 1024,
        depth: int = 4,
        ratio: float = 1.0,
        rows: int = 4,
    ) -> None:
        super().__init__()
        self.map_size = (int(height or PUBLISHED_MAP[0]), int(width or PUBLISHED_MAP[1]))
        count = self.map_size[0] * self.map_size[1]
        if min(*self.map_size, channels, rows) < 1 or depth < 0 or int(count * ratio) < 1:
            raise InputError(
                "mixvpr needs height, width, channels and rows of at least 1, depth >= 0 and ratio * height * width "
                f">= 1, got {self.map_size}, {channels}, {rows}, {depth} and {ratio}"
            )
        self.dim, self.out_dim = dim, int(channels * rows)
        self.mixers = nn.Sequential(*(Mixer(count, float(ratio)) for _ in range(depth)))
        self.project_channels = nn.Linear(dim, channels)
        self.project_rows = nn.Linear(count, rows, bias=False)

    def forward(self, features: Features) -> Tensor:
        refuse_other_maps(self.map_size, features)
        x = F.at_least_float32(features.patches).flatten(2)
        with torch.autocast(x.device.type, enabled=False):
            mixed = self.project_channels(self.mixers(x).mT).mT
            return self.project_rows(mixed).flatten(1)


def refuse_other_maps(size: Sequence[int], features: Features) -> None:
    """Refuse a map of another size than MixVPR's own, and a mask."""
    height, width = features.patches.shape[-2:]
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        raise InputError(
            "mixvpr's weights belong to the places of a map: it exports at one fixed size of image, with the batch "
            "alone dynamic"
        )
    if (height, width) != tuple(size):
        raise InputError(
            f"mixvpr was made for maps of {size[0]} x {size[1]} positions and takes no other, got {height} x {width}: "
            f"give it photos of the one size that fits, or make it with height = {height}, width = {width}"
        )
    if features.mask is not None:
        raise InputError("mixvpr mixes every position of a map, padding too, so it takes no mask: pool photos unpadded")
