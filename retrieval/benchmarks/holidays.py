"""INRIA Holidays (Jegou et al., ECCV 2008): 500 groups of photos, the first of each asks for the others.

    <root>/holidays/1xxxyy.jpg    group xxx, photo yy; yy = 00 is the query

As the authors' evaluation: the query is taken out of its own ranking, AP is the trapezoid.
"""

import re
from pathlib import Path

import numpy as np

from retrieval import metrics
from retrieval.benchmarks.ranked import Ranked
from retrieval.data import files
from retrieval.data.download import elsewhere, prepare
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag

PAGE = "https://lear.inrialpes.fr/people/jegou/data.php"


class Holidays(Ranked):
    """The 1,491 photos. upright: turned as their EXIF data says. size: photos that must be there, None for any."""

    def __init__(self, root: str, upright: bool = True, size: int | None = None, download: bool = False) -> None:
        folder = Path(root) / "holidays"
        if download:
            prepare("holidays", Path(root))
        files.expected(
            (folder,),
            f"jpg1.tar.gz and jpg2.tar.gz, from {PAGE}, must be fetched by hand: their photos go into that folder, "
            f"or the archives themselves, which benchmark.download=true unpacks. {elsewhere(root)}",
        )
        paths = files.by_name(folder)
        odd = [path for name, path in paths.items() if not re.fullmatch(r"\d{6}", name)]
        if odd:
            raise InputError(f"photos of Holidays are named 1xxxyy.jpg, {folder} holds {odd[0]}")
        if size not in (None, len(paths)):
            held = f"{folder} holds {len(paths):,}"
            raise InputError(f"Holidays has {size:,} photos, {held}; benchmark.holidays.size=null takes any number")
        names = list(paths)
        photos = [Photo(path, upright=flag("upright", upright)) for path in paths.values()]
        groups = np.array([name[:4] for name in names])
        asking = [i for i, name in enumerate(names) if name.endswith("00")]
        if alone := set(groups) - {names[i][:4] for i in asking}:
            raise InputError(f"every group of Holidays has a query, {min(alone)}00.jpg is not in {folder}")
        itself = [np.array([i]) for i in asking]
        super().__init__(
            queries=[photos[i] for i in asking],
            gallery=photos,
            landmarks=[names[i][:4] for i in asking],
            levels={"": ([np.setdiff1d(np.flatnonzero(groups == groups[i]), [i]) for i in asking], itself)},
            measures=metrics.labelled(),
            convention={"upright": upright},
        )
