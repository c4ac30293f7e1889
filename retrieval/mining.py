"""Hard negatives for the next epoch, by the network as it is.

For Q queries, their N negatives are those of M pool photos that are most similar to each, by inner product of
descriptors of d dimensions; never of the query's cluster, which is its landmark, and at most one of any other, so that
they are not N near copies of one photo (Radenovic et al., TPAMI 2019; `create_epoch_tuples` in
filipradenovic/cnnimageretrieval-pytorch). Queries and pool are drawn anew for every epoch, see `TupleBatches`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.data.batching import TupleBatches
from retrieval.data.images import Photo
from retrieval.descriptors import Descriptors, Indices, Rows
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.search import Exact
from retrieval.together import describe_together, share, united


@dataclass(frozen=True)
class Mined:
    """The tuples of an epoch and how hard they are.

    tuples: (Q, 2+N) indices of photos: query, positive, the hardest negative, the next, ...
    statistics, by the names under which they are logged:
    - mining/positive, mining/hardest, mining/negative: mean similarity of a query to its positive, its hardest
      negative, all its negatives.
    - mining/harder_than_positive: share of queries to which the hardest negative is more similar than the positive.
    - mining/clusters: how many clusters the negatives are of, over all queries.
    - mining/changed: share of negatives that are none of those that the query had when it was mined last; absent where
      no query was mined before.
    - mining/seconds: of this process, by the clock.
    """

    tuples: Indices
    statistics: dict[str, float]


def mine(
    embedder: Embedder,
    photos: Sequence[Photo],
    sampler: TupleBatches,
    epoch: int,
    resolution: int,
    extract: Extract,
    before: dict[int, list[int]],
) -> Mined:
    """The tuples that the sampler's epoch needs; the same on every process, each of which does a share of the work.

    photos: all that are trained on, which the sampler's indices are of. before: the last negatives of every query that
    was mined so far; those of this epoch are put in. InputError where the pool has too few clusters, and what
    `describe_together` raises.
    """
    start = time.perf_counter()
    queries, positives, pool = sampler.chosen(epoch)
    clusters = sampler.labels[queries], sampler.labels[pool]
    refuse_few(*clusters, sampler.negatives)
    device = str(next(embedder.parameters()).device)
    distinct, places = np.unique(np.concatenate([queries, positives, pool]), return_inverse=True)
    rows = describe_together(embedder, [photos[i] for i in distinct], resolution, extract, device, once=True)
    asked, near, among = (rows[part] for part in np.split(places, [len(queries), 2 * len(queries)]))
    found = negatives_together(asked, among, *clusters, sampler.negatives, device)
    negatives = pool[found]
    statistics = {
        **hardness(asked, near, among, found),
        "mining/clusters": float(len(np.unique(sampler.labels[negatives]))),
        **changed(queries, negatives, before),
        "mining/seconds": time.perf_counter() - start,
    }
    before.update(zip(queries.tolist(), negatives.tolist(), strict=True))
    return Mined(np.column_stack([queries, positives, negatives]), statistics)


def negatives_together(
    queries: Rows, pool: Rows, query_clusters: Indices, pool_clusters: Indices, count: int, device: str
) -> Indices:
    """`hard_negatives`, looked for by each process for a share of the queries: so all have the same ones, even where
    they round differently."""
    own = list(share(range(len(queries))))
    found = np.zeros((len(queries), count), dtype=np.int64)
    found[own] = hard_negatives(queries[own], pool, query_clusters[own], pool_clusters, count)
    return united(found, device)


def hard_negatives(queries: Rows, pool: Rows, query_clusters: Indices, pool_clusters: Indices, count: int) -> Indices:
    """(Q, count) rows of the pool, the most similar first, of equals the lower row; each of a cluster of its own, none
    of the query's.

    queries (Q, d), pool (M, d), finite; query_clusters (Q,), pool_clusters (M,). InputError where the pool has too few
    clusters for a query.
    """
    refuse_few(query_clusters, pool_clusters, count)
    found = np.empty((len(queries), count), dtype=np.int64)
    scores = (row for block in Exact("cpu").scores(queries, Descriptors([pool])) for row in block)
    for place, of_query, cluster in zip(found, scores, query_clusters, strict=True):
        place[:] = hardest(of_query, pool_clusters, cluster, count)
    return found


def hardest(scores: Rows, clusters: Indices, cluster: int, count: int) -> Indices:
    """(count,): the place of the highest score outside `cluster`, then outside that one's cluster too, and so on.

    scores (M,) are written over. To look through all of them `count` times is faster than to sort them once.
    """
    found = np.empty(count, dtype=np.int64)
    for i in range(count):
        scores[clusters == cluster] = -np.inf
        found[i] = scores.argmax()
        cluster = int(clusters[found[i]])
    return found


def refuse_few(query_clusters: Indices, pool_clusters: Indices, count: int) -> None:
    """InputError where the pool has fewer than `count` clusters beside that of a query."""
    held = np.unique(pool_clusters)
    others = len(held) - np.isin(query_clusters, held)
    if (few := np.flatnonzero(others < count)).size:
        query = few[0]
        raise InputError(
            f"{count} negatives of a query are of as many clusters, and for a query of cluster {query_clusters[query]} "
            f"the pool of {len(pool_clusters)} photos has {others[query]} others ({len(few)} of {len(others)} queries "
            "lack some): give a larger sampler.pool, or fewer sampler.negatives"
        )


def hardness(queries: Rows, positives: Rows, pool: Rows, found: Indices) -> dict[str, float]:
    """What the similarities of queries (Q, d) to positives (Q, d) and to rows (Q, N) of the pool say; see `Mined`."""
    to_positive = similarity(queries, positives)
    to_negatives = np.stack([similarity(queries, pool[rows]) for rows in found.T], axis=1)
    return {
        "mining/positive": float(to_positive.mean()),
        "mining/hardest": float(to_negatives[:, 0].mean()),
        "mining/negative": float(to_negatives.mean()),
        "mining/harder_than_positive": float((to_negatives[:, 0] > to_positive).mean()),
    }


def similarity(a: Rows, b: Rows) -> Rows:
    """(Q,) inner products of the rows of a and b."""
    return np.einsum("qd,qd->q", a, b)


def changed(queries: Indices, negatives: Indices, before: dict[int, list[int]]) -> dict[str, float]:
    """Share of the negatives (Q, N) that are none of those before; nothing where no query (Q,) was mined before."""
    pairs = zip(queries.tolist(), negatives, strict=True)
    shares = [np.isin(now, before[query], invert=True).mean() for query, now in pairs if query in before]
    return {"mining/changed": float(np.mean(shares))} if shares else {}
