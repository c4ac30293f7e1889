"""Photos of one's own, listed in a CSV file with columns `path` and `landmark`."""

from collections import Counter
from pathlib import Path

from retrieval.data import columns, files
from retrieval.data.folder import LandmarkPhotos
from retrieval.data.images import Photo
from retrieval.errors import InputError


def read(file: str | Path, root: str | Path | None = None) -> LandmarkPhotos:
    """The photos in the file's order; all must be there, none is opened.

    root: what the paths are below; None is the file's own folder.
    """
    table = columns.read(file, ("path", "landmark"))
    folder = Path(file).parent if root is None else Path(root)
    paths = [files.named(folder, name) for name in table["path"]]
    if "" in table["landmark"]:
        bare = table["path"][table["landmark"].index("")]
        raise InputError(f"every photo of {file} must have a landmark, {bare} has none")
    if len(set(paths)) < len(paths):
        twice = table["path"][paths.index(Counter(paths).most_common(1)[0][0])]
        raise InputError(f"a photo may stand in {file} once, {twice} stands there twice")
    photos = [Photo(path) for path in paths]
    files.present(photos)
    return LandmarkPhotos(photos, table["landmark"])
