"""Google Landmarks v2 (Weyand et al., CVPR 2020): its photos, and which landmark each one shows.

<root>/gldv2/train_clean.csv, train.csv    1,580,470 photos of 81,313 landmarks; 4,132,914 of 203,094
<root>/gldv2/train/a/b/c/abcdef.jpg
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from retrieval.data import columns, files
from retrieval.data.download import advice, prepare
from retrieval.data.folder import LandmarkPhotos
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag
from retrieval.terminal import printable

WHERE = (
    "The tables and photos come from https://s3.amazonaws.com/google-landmark, see "
    "https://github.com/cvdfoundation/google-landmark: tables go into {folder}, the photos of each part into "
    "{folder}/index, test and train, unpacked. {advice}"
)


def read(root: str, train: str = "train_clean.csv", least: int = 2, download: bool = False) -> LandmarkPhotos:
    """The training photos of a table, train_clean.csv or train.csv.

    Landmarks with fewer than `least` photos are left out, and how many is printed. No photo is opened: that they are
    there is told by listing the 4,096 folders. train_clean.csv takes about 20 s and 0.6 GB.
    """
    folder = Path(root) / "gldv2"
    if flag("data.download", download):
        prepare("gldv2_train", Path(root))
    where = WHERE.format(folder=folder, advice=advice("data", "them (500 GB)", root))
    files.expected((folder / train, folder / "train"), where)
    names, labels = frequent(*training(folder / train), least, str(folder / train))
    found = LandmarkPhotos(photos(folder / "train", names), labels)
    files.present(found.photos, where)
    return found


def training(file: Path) -> tuple[list[str], list[str]]:
    """Photos and their landmarks, from `id,landmark_id` (train.csv) or `landmark_id,images` (train_clean.csv)."""
    if "images" in columns.header(file):
        table = columns.read(file, ("landmark_id", "images"))
        lists = list(zip(table["landmark_id"], map(str.split, table["images"]), strict=True))
        names, labels = [name for _, held in lists for name in held], [label for label, held in lists for _ in held]
    else:
        table = columns.read(file, ("id", "landmark_id"))
        names, labels = table["id"], table["landmark_id"]
    if len(set(names)) < len(names):
        raise InputError(f"a photo may stand in {file} once, {len(names) - len(set(names))} stand there again")
    return names, labels


def frequent(names: Sequence[str], labels: Sequence[str], least: int, file: str) -> tuple[list[str], list[str]]:
    """The photos of landmarks that have at least `least`, and their landmarks; says what is left out."""
    if least < 1:
        raise InputError(f"data.least, the photos that a landmark needs, must be at least 1, got {least}")
    counts = Counter(labels)
    kept = [(name, label) for name, label in zip(names, labels, strict=True) if counts[label] >= least]
    if not kept:
        raise InputError(f"{file} has no landmark with data.least = {least} photos or more")
    if left_out := sum(count < least for count in counts.values()):
        said = f"{left_out:,} landmarks with fewer than {least} photos are left out, {len(names) - len(kept):,} photos"
        tqdm.write(printable(f"{file}: {said}"))
    return [name for name, _ in kept], [label for _, label in kept]


def photos(folder: Path, names: Iterable[str], upright: bool = False) -> list[Photo]:
    """Photos by id: `abcdef` is a/b/c/abcdef.jpg below the folder; upright: turned as EXIF says."""
    flag("upright", upright)
    return [Photo(files.named(folder, "/".join((*name[:3], name))), upright=upright) for name in names]
