"""Benchmarks in the form of Revisited Oxford and Paris: queries with boxes; easy, hard and junk images.

    <root>/roxford5k/gnd_roxford5k.pkl, jpg/*.jpg     the same for rparis6k
    <root>/revisitop1m/revisitop1m.txt, jpg/          the distractors

Queries and gallery as in filipradenovic/revisitop: photos are not turned by EXIF, unless `upright` is true, and boxes
are cut out first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval import metrics
from retrieval.benchmarks.ranked import Ranked
from retrieval.data import files, landmarks, truth
from retrieval.data.download import advice, prepare
from retrieval.data.images import Photo
from retrieval.errors import InputError, flag, near
from retrieval.terminal import printable

LEVELS = ("easy", "hard", "junk")
DISTRACTORS = 1_001_001  # in revisitop1m
VGG = "https://www.robots.ox.ac.uk/~vgg/data"
PHOTOS = {
    "roxford5k": f"{VGG}/oxbuildings/ (oxbuild_images-v1.tgz)",
    "rparis6k": f"{VGG}/parisbuildings/ (paris_1-v1.tgz, paris_2-v1.tgz)",
}


class Revisited(Ranked):
    """A ground truth in the revisited form and the photos that it names.

    truth: a pickle or JSON file, or what it holds: `imlist` and `qimlist` name photos below `images`, `.jpg` unless
    they say otherwise; `gnd` has per query `bbx` (left, top, right, bottom) and `easy`, `hard`, `junk`, indices into
    `imlist`. crop: describe a query's box alone, as the protocol does. distractors: a folder of photos that are added
    to the gallery, see `distracting`. `landmarks` holds, per query, the first query of its landmark.
    """

    def __init__(
        self,
        images: str | Path,
        truth: str | Path | Mapping[str, Any],
        crop: bool = True,
        distractors: str | None = None,
        upright: bool = False,
    ) -> None:
        held = checked(truth if isinstance(truth, Mapping) else read(truth))
        gallery = [Photo(files.named(images, name), upright=flag("upright", upright)) for name in held["imlist"]]
        boxes = [tuple(map(float, entry["bbx"])) if crop else None for entry in held["gnd"]]
        queries = [
            Photo(files.named(images, name), box, upright)  # pyright: ignore[reportArgumentType]
            for name, box in zip(held["qimlist"], boxes, strict=True)
        ]
        files.present([*gallery, *queries])
        added = distracting(distractors, upright) if distractors else []
        super().__init__(
            queries=queries,
            gallery=gallery + added,
            landmarks=[held["qimlist"][q] for q in first_of_landmark(held["gnd"])],
            levels=metrics.levels(held["gnd"]),
            measures=metrics.trapezoid_and_precision(),
            convention={"crop": flag("crop", crop), "upright": upright, "distractors": len(added)},
            shown="medium",
        )


class Landmarks(Revisited):
    """The test part of the embedded landmarks, drawn into `root` if it is not there yet."""

    def __init__(self, root: str, seed: int = 0, crop: bool = True, upright: bool = False) -> None:
        where = landmarks.write(Path(root), seed)
        super().__init__(where / "test", where / "gnd.json", crop, upright=upright)


class Published(Revisited):
    """Revisited Oxford or Paris (Radenovic et al., CVPR 2018). name: roxford5k or rparis6k."""

    def __init__(
        self,
        root: str,
        name: str,
        crop: bool = True,
        distractors: str | None = None,
        download: bool = False,
        upright: bool = False,
    ) -> None:
        if name not in PHOTOS:
            raise InputError(f"name must be a published set's, got {name!r}: {near(name, PHOTOS)}")
        folder, ground_truth = Path(root) / name, f"gnd_{name}.pkl"
        if download:
            prepare(name, Path(root))
        if download and distractors and Path(distractors).name == "revisitop1m":
            prepare("revisitop1m", Path(distractors).parent)
        files.expected(
            (folder / ground_truth, folder / "jpg"),
            f"The photos, from {PHOTOS[name]}, go into {folder / 'jpg'}, all in that one folder; {ground_truth} goes "
            f"into {folder}, from http://cmp.felk.cvut.cz/revisitop/data/datasets/{name}/. "
            + advice("benchmark", "both", root),
        )
        super().__init__(folder / "jpg", folder / ground_truth, crop, distractors, upright)


def distracting(folder: str | Path, upright: bool = False) -> list[Photo]:
    """The photos of a folder of distractors; says so where they are not the 1,001,001 of revisitop1m.

    `<folder>/<folder's name>.txt` lists them, below `<folder>/jpg`; without that file they are all photos below the
    folder, sorted by path.
    """
    folder = Path(folder)
    files.expected(
        (folder,),
        "The distractors' 100 archives go into its jpg/, unpacked, and revisitop1m.txt beside that; they come from "
        "http://ptak.felk.cvut.cz/revisitop/revisitop1m/. "
        + advice("benchmark", "them into a folder named revisitop1m", folder.parent),
    )
    listed = folder / f"{folder.name}.txt"
    if listed.is_file():
        paths = [files.named(folder / "jpg", name) for name in listed.read_text().split()]
    else:
        paths = files.below(folder)
    photos = [Photo(path, upright=upright) for path in paths]
    if not photos:
        raise InputError(f"{folder} has no distractors: neither {listed.name} nor photos")
    files.present(photos)
    if len(photos) != DISTRACTORS:
        tqdm.write(printable(f"{folder}: {len(photos):,} distractors, revisitop1m has {DISTRACTORS:,}"))
    return photos


def first_of_landmark(gnd: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each query, the first query that shows the same landmark.

    The queries' names do not tell (`oxford_002985` shows All Souls, `bodleian_000132` the Radcliffe Camera). Queries
    of one landmark have labels for the same images: here at least half of those that either has, directly or through
    others. This finds the 11 landmarks of both published sets; any share from a tenth to a half does.
    """
    first, labelled = list(range(len(gnd))), [{int(i) for level in LEVELS for i in entry[level]} for entry in gnd]
    holders: dict[int, list[int]] = {}
    for q, images in enumerate(labelled):
        shared = Counter(earlier for image in images for earlier in holders.get(image, ()))
        for earlier, count in shared.items():
            if 2 * count >= len(images | labelled[earlier]):
                low, high = sorted((first[earlier], first[q]))
                first = [low if one == high else one for one in first]
        for image in images:
            holders.setdefault(image, []).append(q)
    return first


def read(path: str | Path) -> Mapping[str, Any]:
    """The ground truth of a file."""
    held = truth.read(path)
    if not isinstance(held, dict):
        raise InputError(
            f"{path} must hold a dictionary with imlist, qimlist and gnd, it holds a {type(held).__name__}"
        )
    return held


def checked(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ground truth whose parts fit each other; another is refused."""
    for key in ("imlist", "qimlist", "gnd"):
        if key not in held:
            raise InputError(f"a ground truth needs imlist, qimlist and gnd, it has {', '.join(map(str, held))}")
    if len(held["qimlist"]) != len(held["gnd"]):
        raise InputError(f"gnd has {len(held['gnd'])} entries for {len(held['qimlist'])} queries in qimlist")
    if odd := [name for name in (*held["imlist"], *held["qimlist"]) if not isinstance(name, str)]:
        raise InputError(f"imlist and qimlist must hold names of photos, got {odd[0]!r}")
    for query, entry in zip(held["qimlist"], held["gnd"], strict=True):
        _check_entry(query, entry, len(held["imlist"]))
    return held


def _check_entry(query: str, entry: Mapping[str, Any], images: int) -> None:
    missing = [key for key in ("bbx", *LEVELS) if key not in entry]
    if missing:
        original = "; that is the original protocol: benchmark=oxford5k or paris6k" if "ok" in entry else ""
        raise InputError(f"query {query} must have bbx, easy, hard and junk, it has {', '.join(entry)}{original}")
    for key in ("bbx", *LEVELS):
        numbers = not isinstance(entry[key], str | Mapping) and isinstance(entry[key], Iterable)
        if not numbers or not all(isinstance(value, Real) for value in entry[key]):
            raise InputError(f"{key} of query {query} must be a list of numbers, got {entry[key]!r}")
    listed = [i for level in LEVELS for i in entry[level]]
    if fractions := [i for i in listed if int(i) != i]:
        raise InputError(f"the labels of query {query} must be whole numbers, got {fractions[0]}")
    outside = [i for i in listed if not 0 <= i < images]
    if outside or len(set(listed)) < len(listed):
        fault = f"{outside[0]} is outside imlist" if outside else "an image has two labels"
        raise InputError(f"the labels of query {query} must be indices into imlist, each once: {fault}")
    box = [float(edge) for edge in entry["bbx"]]
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"the box of query {query} must be left, top, right, bottom, got {box}")
