"""retrieval-SfM-120k (Radenovic et al., TPAMI 2019): photos of 3D models, and pairs of photos that see the same part.

    <root>/sfm120k/retrieval-SfM-120k.pkl    `train` (91,642 photos) and `val` (6,403), each with
                                             cids, cluster, bbxs per photo; qidxs, pidxs per pair
    <root>/sfm120k/ims/ef/cd/ab/0000abcdef

As in filipradenovic/cnnimageretrieval-pytorch, photos are not turned by EXIF, and two photos of one cluster (one 3D
model) may show different sides of it: only the pairs are known to match (its issue 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data import files, truth
from retrieval.data.batching import Indices
from retrieval.data.download import advice, prepare
from retrieval.data.folder import LandmarkPhotos
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag

Pairs = tuple[Indices, Indices]  # queries and positives, (Q,) each
Box = tuple[float, float, float, float]

TRUTH = "retrieval-SfM-120k.pkl"
WHERE = (
    "{truth} goes into {folder}, from http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/dbs/; ims.tar.gz, from "
    "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/ims/, is unpacked in {folder}/ims. {advice}"
)


def read(root: str, boxes: bool = False, download: bool = False) -> tuple[LandmarkPhotos, Pairs, LandmarkPhotos]:
    """The training photos with their clusters, the pairs as indices into them, and the photos of the validation part.

    boxes: each photo is cut to its box of `bbxs`. The authors say nothing of these boxes and do not use them: they are
    taken for left, top, right, bottom in pixels, as their other boxes are; None is the whole photo.
    """
    folder = Path(root) / "sfm120k"
    if flag("data.download", download):
        prepare("sfm120k", Path(root))
    where = WHERE.format(folder=folder, truth=TRUTH, advice=advice("data", "both", root))
    files.expected((folder / TRUTH, folder / "ims"), where)
    stored = truth.read(folder / TRUTH)
    train, pairs = part(folder, stored, "train", flag("data.boxes", boxes))
    held_out, _ = part(folder, stored, "val", boxes)
    files.present([*train.photos, *held_out.photos], where)
    return train, pairs, held_out


def part(folder: Path, stored: Any, name: str, boxes: bool) -> tuple[LandmarkPhotos, Pairs]:
    """Photos and pairs of `train` or `val`; InputError where what is stored does not fit together."""
    file, keys = f"{folder / TRUTH}: '{name}'", ("cids", "cluster", "qidxs", "pidxs", *(("bbxs",) if boxes else ()))
    held = stored.get(name) if isinstance(stored, Mapping) else None
    if not isinstance(held, Mapping) or (missing := [key for key in keys if key not in held]):
        lacks = f"it lacks {', '.join(missing)}" if isinstance(held, Mapping) else "there is no such dictionary"
        raise InputError(f"{file} must hold {', '.join(keys)}; {lacks}")
    for key in ("cluster", *(("bbxs",) if boxes else ())):
        if len(held[key]) != len(held["cids"]):
            raise InputError(f"{file} has {len(held['cids'])} cids and {len(held[key])} {key}, one must be for each")
    photos = located(folder / "ims", held["cids"], file)
    if boxes:
        photos = [replace(photo, box=box(value, file)) for photo, value in zip(photos, held["bbxs"], strict=True)]
    return LandmarkPhotos(photos, [str(cluster) for cluster in held["cluster"]]), paired(held, len(photos), file)


def located(images: Path, cids: Sequence[str], file: str) -> list[Photo]:
    """The photos of these names, which are their files' and at least six characters long."""
    for cid in cids:
        if not isinstance(cid, str) or len(cid) < 6 or "/" in cid:
            raise InputError(f"{file} must name photos by six characters or more in cids, got {cid!r}")
    return [Photo(str(image_of(images, cid)), upright=False) for cid in cids]


def image_of(images: Path, cid: str) -> Path:
    """Where a photo lies: below the last two characters of its name, the two before, and the two before these."""
    return images / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid


def paired(held: Mapping[str, Any], photos: int, file: str) -> Pairs:
    """`qidxs` and `pidxs` (Q,), which must be indices of photos."""
    queries, positives = (np.asarray(held[key]) for key in ("qidxs", "pidxs"))
    for key, found in (("qidxs", queries), ("pidxs", positives)):
        whole = found.ndim == 1 and found.dtype.kind in "iuf" and bool((found % 1 == 0).all())
        if not whole or (len(found) and not 0 <= found.min() <= found.max() < photos):
            raise InputError(f"{file} must have whole numbers from 0 to {photos - 1} in {key}, indices of its photos")
    if len(queries) != len(positives):
        raise InputError(f"{file} has {len(queries)} qidxs and {len(positives)} pidxs, one must be for each")
    return queries.astype(np.int64), positives.astype(np.int64)


def box(value: Any, file: str) -> Box | None:
    """Left, top, right, bottom in pixels; None is the whole photo."""
    if value is None:
        return None
    edges = np.asarray(value, dtype=np.float64).ravel().tolist()
    if len(edges) != 4 or edges[2] - edges[0] < 1 or edges[3] - edges[1] < 1:
        raise InputError(f"{file} must have left, top, right, bottom of at least a pixel in bbxs, got {value!r}")
    return edges[0], edges[1], edges[2], edges[3]
