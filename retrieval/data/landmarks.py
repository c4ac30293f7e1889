"""The embedded landmarks: a set of drawn photos for training and for a benchmark in the revisited Oxford's form.

Landmarks come in families of look-alikes; each is photographed from many viewpoints, in changing light, among other
buildings. Everything follows from the seed.

    root/train/<landmark>/<nnn>.jpg    photos by landmark
    root/test/<photo>.jpg              gallery and queries
    root/gnd.json                      imlist, qimlist, gnd (bbx, easy, hard, junk)
    root/set.json                      the arguments that made the set
"""

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tqdm import tqdm

from retrieval import stages
from retrieval.data.drawing.architecture import design, sibling
from retrieval.data.drawing.facade import Facade, facade, halved
from retrieval.data.drawing.photographing import Photo, photograph
from retrieval.errors import InputError

VERSION = 1  # of the drawing: another one makes other pictures from the same arguments
FAMILY = 2  # landmarks that look alike
QUERIES = 2  # per test landmark
STREET = 60  # buildings that stand around
PHOTOS_OF_A_DISTRACTOR = 3
TRAIN, TEST, DISTRACTORS, NEIGHBOURS = range(4)


def write(
    root: Path, seed: int = 0, train_landmarks: int = 48, test_landmarks: int = 24, photos: int = 20,
    distractors: int = 120,
) -> Path:  # fmt: skip
    """Draws the set into `root`, once, and returns `root`; a second call with the same arguments returns at once.

    `photos` is the number per landmark, in training and in the gallery; `distractors` the gallery's photos of no
    landmark. Raises ValueError where `root` holds anything else than the set that these arguments make.
    """
    wanted = {"version": VERSION, "seed": seed, "train_landmarks": train_landmarks, "test_landmarks": test_landmarks,
              "photos": photos, "distractors": distractors}  # fmt: skip
    root = Path(root)
    if _holds(root, wanted):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        made = Path(scratch) / root.name
        _draw(made, seed, train_landmarks, test_landmarks, photos, distractors)
        (made / "set.json").write_text(json.dumps(wanted, indent=1))
        try:
            os.rename(made, root)
        except OSError:  # somebody else was faster, or something else is in the way
            if not _holds(root, wanted):
                raise
    return root


def contact_sheet(root: Path, landmarks: int, photos: int) -> Image.Image:
    """A picture of the set: a row for each of the first training landmarks, its first photos in columns."""
    cell = 160
    sheet = Image.new("RGB", (photos * cell, landmarks * cell), "white")
    for row, folder in enumerate(sorted((root / "train").iterdir())[:landmarks]):
        for column, path in enumerate(sorted(folder.iterdir())[:photos]):
            photo = Image.open(path)
            photo.thumbnail((cell - 4, cell - 4))
            sheet.paste(photo, (column * cell + (cell - photo.width) // 2, row * cell + (cell - photo.height) // 2))
    return sheet


def label(photo: Photo) -> str:
    """Easy, hard or junk: by how much of the building shows, how large, how obliquely, and in what weather."""
    if photo.visible < 0.5 or photo.extent < 0.35:
        return "junk"
    clear = photo.visible > 0.75 and photo.extent > 0.5 and photo.azimuth < 30
    return "easy" if clear and photo.weather not in ("fog", "night", "snow") else "hard"


def _holds(root: Path, wanted: dict[str, int]) -> bool:
    """Whether `root` is the set that is wanted; False where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "set.json").is_file():
        raise InputError(f"the landmarks' folder must be new, empty or one written before: {root} holds other files")
    found = json.loads((root / "set.json").read_text())
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        named = "; ".join(f"{key} is {found.get(key)}, asked for {wanted[key]}" for key in differing)
        raise InputError(f"{root} holds landmarks made otherwise ({named}): remove it or name another folder")
    return True


def _draw(root: Path, seed: int, train_landmarks: int, test_landmarks: int, photos: int, distractors: int) -> None:
    total = train_landmarks * photos + test_landmarks * (photos + QUERIES) + distractors
    stages.stage("drawing the embedded landmarks")
    with stages.bar(total=total, desc="drawing landmarks", unit="photo", mininterval=1) as progress:
        for landmark in range(train_landmarks):
            front, rng = _landmark(seed, TRAIN, landmark)
            for index in range(photos):
                photo = _photo(front, seed, rng, ("easy", "hard"))
                _save(photo, root / f"train/{landmark:03d}/{index:03d}.jpg", progress)
        _draw_benchmark(root, seed, test_landmarks, photos, distractors, progress)


def _draw_benchmark(root: Path, seed: int, landmarks: int, photos: int, distractors: int, progress: tqdm) -> None:
    gallery, queries, ground_truth = [], [], []
    for landmark in range(landmarks):
        front, rng = _landmark(seed, TEST, landmark)
        labelled = {"easy": [], "hard": [], "junk": []}
        for index in range(photos):
            # One good photo at least, so that every query has something to find.
            photo = _photo(front, seed, rng, ("easy",) if index == 0 else ("easy", "hard", "junk"))
            labelled[label(photo)].append(len(gallery))
            gallery.append(_save(photo, root / f"test/landmark_{landmark:03d}_{index:03d}.jpg", progress))
        for index in range(QUERIES):
            photo = _photo(front, seed, rng, ("easy",))
            queries.append(_save(photo, root / f"test/query_{landmark:03d}_{index}.jpg", progress))
            ground_truth.append({"bbx": list(photo.box), **labelled})
    gallery += _draw_distractors(root, seed, distractors, progress)
    root.joinpath("gnd.json").write_text(json.dumps({"imlist": gallery, "qimlist": queries, "gnd": ground_truth}))


def _draw_distractors(root: Path, seed: int, count: int, progress: tqdm) -> list[str]:
    names = []
    for first in range(0, count, PHOTOS_OF_A_DISTRACTOR):
        front = facade(design(_generator(seed, DISTRACTORS, first)))
        for index in range(first, min(first + PHOTOS_OF_A_DISTRACTOR, count)):
            rng = _generator(seed, DISTRACTORS, index, 1)
            photo = photograph(front, _street(seed, rng), rng)
            names.append(_save(photo, root / f"test/distractor_{index:03d}.jpg", progress))
    return names


def _landmark(seed: int, part: int, index: int) -> tuple[Facade, np.random.Generator]:
    """The front of a landmark and the generator for its photos."""
    family, member = divmod(index, FAMILY)
    original = design(_generator(seed, part, family))
    # Counted from one: NumPy takes a trailing zero for nothing, and the family's own generator would come again.
    rng = _generator(seed, part, family, 1 + member)
    return facade(sibling(original, rng) if member else original), rng


def _photo(front: Facade, seed: int, rng: np.random.Generator, labels: tuple[str, ...]) -> Photo:
    """The first photo that has one of the labels."""
    while True:
        photo = photograph(front, _street(seed, rng), rng)
        if label(photo) in labels:
            return photo


def _street(seed: int, rng: np.random.Generator) -> Callable[[], Facade]:
    return lambda: _neighbour(seed, int(rng.integers(STREET)))


@lru_cache(STREET)
def _neighbour(seed: int, index: int) -> Facade:
    return halved(facade(design(_generator(seed, NEIGHBOURS, index))))


def _save(photo: Photo, path: Path, progress: tqdm) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.image.save(path, quality=85)
    progress.update()
    return path.name


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *place]))
