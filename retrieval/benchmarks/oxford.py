"""The original Oxford5k and Paris6k (Philbin et al., CVPR 2007 and 2008): 55 queries each, text files per query.

    <root>/oxford5k/jpg/         the photos, in folders or not
    <root>/oxford5k/gt/          <landmark>_<i>_query.txt, _good.txt, _ok.txt, _junk.txt

As the authors' compute_ap: good and ok photos are relevant, junk is taken out of the ranking, all others are wrong;
the query's own photo stays in the gallery and is mostly among the good. AP is the trapezoid. Photos are not turned
by EXIF, unless `upright` is true.
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from retrieval import metrics
from retrieval.benchmarks.ranked import Ranked
from retrieval.data import files
from retrieval.data.download import advice, prepare
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag
from retrieval.metrics import Indices

VGG = "https://www.robots.ox.ac.uk/~vgg/data"
# https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/corrupt.txt
CORRUPT = frozenset({
    "paris_louvre_000136", "paris_louvre_000146", "paris_moulinrouge_000422", "paris_museedorsay_001059",
    "paris_notredame_000188", "paris_pantheon_000284", "paris_pantheon_000960", "paris_pantheon_000974",
    "paris_pompidou_000195", "paris_pompidou_000196", "paris_pompidou_000201", "paris_pompidou_000467",
    "paris_pompidou_000640", "paris_sacrecoeur_000299", "paris_sacrecoeur_000330", "paris_sacrecoeur_000353",
    "paris_triomphe_000662", "paris_triomphe_000833", "paris_triomphe_000863", "paris_triomphe_000867",
})  # fmt: skip


class Buildings(Ranked):
    """A set of this form. crop: describe a query's box alone. size: photos that must be there, None for any number."""

    name: str
    prefix = ""  # of the names in query files
    photos_from: str
    truth_from: str
    corrupt: frozenset[str] = frozenset()

    def __init__(
        self, root: str, crop: bool = True, size: int | None = None, download: bool = False, upright: bool = False
    ) -> None:
        folder = Path(root) / self.name
        if download:
            prepare(self.name, Path(root))
        files.expected(
            (folder / "jpg", folder / "gt"),
            f"The photos, from {self.photos_from}, go into {folder / 'jpg'}; the text files of {self.truth_from} go "
            f"into {folder / 'gt'}. {advice('benchmark', 'both', root)}",
        )
        paths = self.photos(folder / "jpg", size)
        place = {name: i for i, name in enumerate(paths)}
        stems = sorted(path.name.removesuffix("_query.txt") for path in (folder / "gt").glob("*_query.txt"))
        found = [self.images(folder / "gt", stem, ("good", "ok"), place) for stem in stems]
        junk = [self.images(folder / "gt", stem, ("junk",), place) for stem in stems]
        for stem, relevant, ignored in zip(stems, found, junk, strict=True):
            if both := set(relevant) & set(ignored):
                raise InputError(f"{[*paths][both.pop()]} is junk for {stem}, and good or ok")
        super().__init__(
            queries=[self.query(folder / "gt" / f"{stem}_query.txt", paths, crop, upright) for stem in stems],
            gallery=[Photo(path, upright=flag("upright", upright)) for path in paths.values()],
            landmarks=[stem.rpartition("_")[0] for stem in stems],
            levels={"": (found, junk)},
            measures=metrics.labelled(),
            convention={"crop": flag("crop", crop), "upright": upright, "corrupt_left_out": len(self.corrupt)},
        )

    def photos(self, folder: Path, size: int | None) -> dict[str, str]:
        """Paths of the photos by name, without those that are corrupt."""
        paths = {name: path for name, path in files.by_name(folder).items() if name not in self.corrupt}
        if size not in (None, len(paths)):
            held = f"{folder} holds {len(paths):,}"
            raise InputError(
                f"{self.name} has {size:,} photos, {held}; benchmark.{self.name}.size=null takes any number"
            )
        if self.corrupt:
            tqdm.write(f"{self.name}: {len(self.corrupt)} photos that are corrupt at their source are left out")
        return paths

    def query(self, file: Path, paths: dict[str, str], crop: bool, upright: bool) -> Photo:
        """The photo and box of a query's file: `oxc1_all_souls_000013 136.5 34.1 648.5 955.7`."""
        try:
            name, *box = file.read_text().split()
            left, top, right, bottom = map(float, box)
        except ValueError:
            raise InputError(f"{file} must hold a name and a box of four numbers, got {file.read_text()!r}") from None
        name = name.removeprefix(self.prefix)
        if name not in paths:
            raise InputError(f"{file} asks for {name}, which is no photo of {self.name} that is there")
        return Photo(paths[name], (left, top, right, bottom) if crop else None, upright)

    def images(self, folder: Path, stem: str, kinds: tuple[str, ...], gallery: dict[str, int]) -> Indices:
        """Gallery indices of the photos that a query's lists name, each once; corrupt ones are left out."""
        names: dict[str, None] = {}
        for kind in kinds:
            file = folder / f"{stem}_{kind}.txt"
            files.expected((file,), f"Every query has _query.txt, _good.txt, _ok.txt and _junk.txt, {stem} must too")
            names |= dict.fromkeys(file.read_text().split())
        missing = [name for name in names if name not in gallery and name not in self.corrupt]
        if missing:
            raise InputError(f"the lists of {stem} name {len(missing)} photos that are not there, first {missing[0]}")
        return np.array([gallery[name] for name in names if name in gallery], dtype=np.int64)


class Oxford5k(Buildings):
    """Oxford buildings: 5,063 photos, 11 landmarks."""

    name, prefix = "oxford5k", "oxc1_"
    photos_from = f"{VGG}/oxbuildings/ (oxbuild_images-v1.tgz)"
    truth_from = "gt_files_170407.tgz of that page"


class Paris6k(Buildings):
    """Paris buildings: 6,412 photos, of which 20 are corrupt at their source and left out; 11 landmarks."""

    name, corrupt = "paris6k", CORRUPT
    photos_from = f"{VGG}/parisbuildings/ (paris_1-v1.tgz, paris_2-v1.tgz)"
    truth_from = "paris_120310.tgz of that page"
