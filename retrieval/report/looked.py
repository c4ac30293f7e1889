"""Where each model looked: shares of a similarity, as colour over the photos that have it."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.data.images import Photo, UnreadablePhoto, decode
from retrieval.report import photos
from retrieval.report.photos import MARKS, SIDES

HEADING = "Where each model looked"
QUERIES, LIMIT = 4, 4_000_000  # shown, and characters
MAP = matplotlib.colormaps["bwr"]  # blue, white, red
STRONGEST = 0.75  # of the colour over the photo
WORDS = (
    "<p>The similarity of a query and a photo is a sum over positions of the map: gradient times input, with lengths "
    "held constant, at one scale. <b>Red</b> positions add to it, <b>blue</b> ones take from it, grey ones do neither. "
    "What biases and class tokens add belongs to no position. All pictures of a query share one scale: the strongest "
    "position of them all has the full colour, one with a quarter of its share half of that (the square root). Below "
    "each stands how many times the even share, that of one position if all counted alike, its strongest one has.</p>"
)
Entry = Mapping[str, Any]


def looked(queries: Sequence[Sequence[Entry]]) -> tuple[str, str]:
    """Heading and HTML. queries: the entries of each, one a line of the tables, as `pictures.rankings` gives them.

    For a few queries, spread evenly, the photo that most lines looked at; the HTML is "" where no run kept shares.
    """
    with_shares = [of_query for entries in queries if (of_query := [entry for entry in entries if _items(entry)])]
    spread = np.unique(np.linspace(0, max(0, len(with_shares) - 1), QUERIES).round().astype(int))
    articles = photos.within((_article(with_shares[i]) for i in spread), LIMIT) if with_shares else []
    left_out = f"<p>{len(spread) - len(articles)} of {len(spread)} queries left out to keep the page small.</p>"
    return HEADING, WORDS + "".join(articles) + left_out * (len(articles) < len(spread)) if articles else ""


def _items(entry: Entry) -> list[dict[str, Any]]:
    return [item for item in entry["top"] if "looked" in item]


def _article(entries: Sequence[Entry]) -> str:
    counts = Counter(item["path"] for entry in entries for item in _items(entry))
    result = max(counts, key=lambda path: counts[path])  # of equals the one that stands first
    items = [next((item for item in _items(one) if item["path"] == result), _items(one)[0]) for one in entries]
    largest = max(np.abs(evenly(item["looked"], side)).max() for item in items for side in ("query", "photo")) or 1.0
    rows = "".join(_row(entry, item, result, largest) for entry, item in zip(entries, items, strict=True))
    query, first = Path(entries[0]["query"]["path"]).name, entries[0]
    return (
        f"<article><h3>{html.escape(query)}</h3><p>Query of {html.escape(first['benchmark'])}, at "
        f"{first['resolution']} px, beside {html.escape(Path(result).name)}</p>"
        f'<div class="looked">{rows}</div></article>'
    )


def evenly(found: Mapping[str, Any], side: str) -> NDArray[np.float64]:
    """Shares (H, W) as multiples of similarity / (H W), so that maps of any size compare."""
    shares = np.array(found[side], dtype=np.float64)
    return shares * shares.size / max(abs(found["similarity"]), 1e-3)


def _row(entry: Entry, item: Mapping[str, Any], result: str, largest: float) -> str:
    """Query and result under the shares of one model; `item` is its own first one where it has not looked at that."""
    found, query, upright = item["looked"], entry["query"], (entry.get("convention") or {}).get("upright", True)
    other = "" if item["path"] == result else f"; beside its own first, {html.escape(Path(item['path']).name)}"
    words = f"<b>{html.escape(entry['label'])}</b> similarity {found['similarity']:.2f}{nowhere(found)}{other}"
    asked = _figure(opened(query["path"], query.get("box"), upright), query["path"], evenly(found, "query"), largest)
    shown = _figure(opened(item["path"], None, upright), item["path"], evenly(found, "photo"), largest, item["mark"])
    return f'<div class="ranked"><p>{words}</p><div class="strip">{asked}{shown}</div></div>'


def nowhere(found: Mapping[str, Any]) -> str:
    """How much of the similarity belongs to no position, in words; "" where that is nothing."""
    rest = {side: found["similarity"] - float(np.sum(found[side])) for side in ("query", "photo")}
    said = [f"{value:.2f} of the {side}" for side, value in rest.items() if abs(value) >= 0.005]
    return f" ({' and '.join(said)} in no position)" if said else ""


def _figure(photo: Image.Image | None, path: str, shares: NDArray, largest: float, mark: str = "") -> str:
    picture = photos.embedded(tinted(photo, shares / largest), Path(path).name) if photo else photos.missing(path)
    word = f"{MARKS[mark][0]} {mark}" if mark else "query"
    caption = f'<figcaption class="mark {mark}">{word}, up to {np.abs(shares).max():.1f} times</figcaption>'
    return f'<figure class="{mark}">{picture}{caption}</figure>'


def opened(path: str, box: Sequence[float] | None, upright: bool) -> Image.Image | None:
    """What was described of a photo, cropped and turned as it was, at most SIDES; None where it cannot be read."""
    try:
        part = decode(Photo(path, tuple(box) if box else None, upright), target=SIDES)  # pyright: ignore[reportArgumentType]
    except UnreadablePhoto:
        return None
    part.thumbnail(SIDES)
    return part


def tinted(photo: Image.Image, shares: NDArray) -> Image.Image:
    """The photo in grey and over it shares (H, W) from -1, full blue, to 1, full red; by their square root, or an even
    share would be invisible beside a sharp peak."""
    wide = np.asarray(Image.fromarray(shares.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR))
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    colour, strength = 255 * MAP(0.5 + 0.5 * np.sign(wide))[..., :3], STRONGEST * np.sqrt(np.abs(wide))[..., None]
    return Image.fromarray(((1 - strength) * grey + strength * colour).astype(np.uint8))
