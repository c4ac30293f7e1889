"""Equal descriptors have equal scores.

A matrix product computes the columns at the edge of a block in another order of additions, so the scores of equal
descriptors may differ in the last digit: photos that a model cannot tell apart would be ranked by where they lie.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors import BLOCK, Descriptors, Indices, Rows, opened

COMPARED = 8  # numbers of a row, spread over it, that are compared before whole rows are


@dataclass(frozen=True)
class Alike:
    """Groups of equal rows of a gallery: `rows` (M,), one group after the other, and where each group starts (G,)."""

    rows: Indices
    starts: Indices

    @classmethod
    def of(cls, gallery: Descriptors) -> "Alike":
        """Rows are compared as they were described, before a whitening, whose digits depend on the block too."""
        plain = Descriptors(gallery.shards, gallery.places)
        repeated = _candidates(plain)
        names = [
            blake2b(row.tobytes(), digest_size=16).digest()
            for start in range(0, len(repeated), BLOCK)
            for row in plain.take(repeated[start : start + BLOCK])
        ]
        _, group, sizes = np.unique(np.array(names, dtype="V16"), return_inverse=True, return_counts=True)
        order = np.argsort(group, kind="stable")
        order = order[sizes[group[order]] > 1]
        return cls(repeated[order], np.flatnonzero(np.diff(group[order], prepend=-1)))

    def given_equal(self, scores: Rows) -> Rows:
        """The scores (c, N), changed in place: the highest of its group for each row of it that was retrieved."""
        if len(self.rows):
            part = scores[:, self.rows]
            highest = np.maximum.reduceat(part, self.starts, axis=1)
            sizes = np.diff(self.starts, append=len(self.rows))
            scores[:, self.rows] = np.where(part > -np.inf, np.repeat(highest, sizes, axis=1), part)
        return scores


def _candidates(plain: Descriptors) -> Indices:
    """Rows that have a few numbers in common with another row."""
    columns = np.linspace(0, plain.dim - 1, min(plain.dim, COMPARED)).astype(int)
    if not len(plain.places):
        return plain.places
    keys = np.concatenate([_keys(opened(shard)[:, columns]) for shard in plain.shards])[plain.places]
    order = np.argsort(keys, kind="stable")
    same = np.diff(keys[order]) == 0
    return np.sort(order[np.append(same, False) | np.insert(same, 0, False)])


def _keys(rows: NDArray) -> NDArray[np.uint64]:
    numbers = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=rows.shape[1], dtype=np.uint64) | np.uint64(1)
    return (numbers * factors).sum(axis=1)  # modulo 2^64
