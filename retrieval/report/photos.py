"""Photos inside a page: small, as data URIs, each result marked by a sign, a word and a colour."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from retrieval.data.images import Photo, UnreadablePhoto, decode

GREY = "#767676"
MARKS = {"right": ("✓", "#2c9a5b"), "wrong": ("✗", "#d64545"), "junk": ("○", GREY)}
SIDES = (214, 120)  # of a thumbnail, at the most
QUALITY = 75
LEGEND = (
    '<p class="marks">'
    + "".join(f'<span class="mark {name}">{sign} {name}</span> ' for name, (sign, _) in MARKS.items())
    + "(junk is ignored by the protocol)</p>"
)


@lru_cache(maxsize=2048)  # one photo stands in the rankings of many models
def photo(path: str, box: tuple[float, ...] | None, alt: str) -> str:
    """A thumbnail, with its box; a few words where the photo is gone."""
    small = thumbnail(path, box)
    return missing(path) if small is None else embedded(small, alt)


def missing(path: str) -> str:
    return f'<div class="missing" title="{html.escape(path)}">photo missing: {html.escape(Path(path).name)}</div>'


def embedded(image: Image.Image, alt: str) -> str:
    """As WebP, which every browser of today shows, in three quarters of a JPEG's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return f'<img src="{uri("webp", buffer.getvalue())}" alt="{html.escape(alt)}" title="{html.escape(alt)}">'


def uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def strip(words: str, top: Iterable[Mapping[str, Any]]) -> str:
    """Words (HTML) above the photos found first, each with its `path`, `score` and `mark`."""
    figures = "".join(
        f'<figure class="{item["mark"]}">{photo(item["path"], None, Path(item["path"]).name)}'
        f'<figcaption class="mark {item["mark"]}"><span role="img" aria-label="{item["mark"]}">'
        f"{MARKS[item['mark']][0]}</span> {item['score']:.3f}</figcaption></figure>"
        for item in top
    )
    return f'<div class="ranked"><p>{words}</p><div class="strip">{figures}</div></div>'


def within(articles: Iterable[str], limit: int) -> list[str]:
    """The articles that fit into so many characters, from the first on."""
    kept, size = [], 0
    for article in articles:
        size += len(article)
        if size > limit:
            break
        kept.append(article)
    return kept


@lru_cache(maxsize=512)
def thumbnail(path: str, box: tuple[float, ...] | None = None) -> Image.Image | None:
    """The photo upright, at most 214 x 120 pixels, its box (x1, y1, x2, y2 in photo pixels) drawn.

    None where the photo is gone or cannot be read.
    """
    try:
        upright = decode(Photo(path), target=SIDES)
    except UnreadablePhoto:
        return None
    scale = min(SIDES[0] / upright.width, SIDES[1] / upright.height, 1.0)
    small = upright.resize((max(1, round(upright.width * scale)), max(1, round(upright.height * scale))))
    if box:
        corners = [min(max(value * scale, 0), side - 1) for value, side in zip(box, small.size * 2, strict=True)]
        ImageDraw.Draw(small).rectangle(corners, outline="#ffb000", width=3)
    return small
