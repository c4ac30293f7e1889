"""Photos inside a page: small, as data URIs, each result marked by a sign, a word and a colour."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from retrieval.report.charts import MARKS, thumbnail

QUALITY = 75
LEGEND = (
    '<p class="legend">'
    + "".join(f'<span class="mark {name}">{sign} {name}</span> ' for name, (sign, _) in MARKS.items())
    + "(junk is ignored by the protocol)</p>"
)


def photo(path: str, box: tuple[float, ...] | None, alt: str) -> str:
    """A thumbnail, with its box; a few words where the photo is gone."""
    small = thumbnail(path, box)
    return missing(path) if small is None else embedded(small, alt)


def missing(path: str) -> str:
    return f'<div class="missing" title="{html.escape(path)}">photo missing: {html.escape(Path(path).name)}</div>'


def embedded(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}" title="{html.escape(alt)}">'


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
