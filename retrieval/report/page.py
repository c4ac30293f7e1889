"""One self-contained HTML page: no script, no request, every picture inside it as a data URI."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from retrieval.report.charts import MARKS, thumbnail
from retrieval.report.table import scroll

TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
PHOTOS_LIMIT = 8_000_000  # bytes of photos, so that a page can still be mailed


def render(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """The page; each section is a heading (text) and its content (HTML), and one without content is left out."""
    kept = [(heading, content) for heading, content in sections if content]
    links = "".join(f'<a href="#section-{i}">{html.escape(heading)}</a>' for i, (heading, _) in enumerate(kept))
    body = "".join(
        f'<section id="section-{i}"><h2>{html.escape(heading)}</h2>{content}</section>'
        for i, (heading, content) in enumerate(kept)
    )
    return TEMPLATE.substitute(title=html.escape(title), links=links, body=body)


def chart(svg: str, alt: str) -> str:
    # As an <img>, so that the ids inside one chart cannot meet those of another.
    return scroll(f'<img class="chart" src="{_uri("svg+xml", svg.encode())}" alt="{html.escape(alt)}">', alt)


def bullets(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def folded(summary: str, text: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


def rankings(queries: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Each query (its entries of `rankings.json`, one per model, each with a `label`) and the photos ranked first."""
    articles: list[str] = []
    size = 0
    for entries in queries:
        article = _query(entries)
        size += len(article)
        if size > PHOTOS_LIMIT:
            break
        articles.append(article)
    if not queries:
        return ""
    legend = "".join(f'<span class="mark {name}">{sign} {name}</span> ' for name, (sign, _) in MARKS.items())
    missing = len(queries) - len(articles)
    left_out = f"<p>{missing} of {len(queries)} queries left out to keep the page small.</p>" if missing else ""
    return f'<p class="legend">{legend}(junk is ignored by the protocol)</p>{"".join(articles)}{left_out}'


def _query(entries: Sequence[Mapping[str, Any]]) -> str:
    query, first = entries[0]["query"], entries[0]
    name = Path(query["path"]).name
    box = tuple(query["box"]) if query.get("box") else None
    strips = "".join(_strip(entry) for entry in entries)
    return (
        f"<article><h3>{html.escape(name)}</h3>"
        f"<p>Query of {html.escape(first['benchmark'])}, at {first['resolution']} px, seed {first['seed']}</p>"
        f'<div class="query">{_photo(query["path"], box, f"query {name}")}</div>'
        f"{scroll(strips, f'rankings of {name}')}</article>"
    )


def _strip(entry: Mapping[str, Any]) -> str:
    figures = "".join(
        f'<figure class="{item["mark"]}">{_photo(item["path"], None, Path(item["path"]).name)}'
        f'<figcaption class="mark {item["mark"]}"><span role="img" aria-label="{item["mark"]}">'
        f"{MARKS[item['mark']][0]}</span> {item['score']:.3f}</figcaption></figure>"
        for item in entry["top"]
    )
    label = f"<b>{html.escape(entry['label'])}</b> AP {100 * entry['ap']:.1f}"
    return f'<div class="ranked"><p>{label}</p><div class="strip">{figures}</div></div>'


def _photo(path: str, box: tuple[float, ...] | None, alt: str) -> str:
    photo = thumbnail(path, box)
    if photo is None:
        return f'<div class="missing" title="{html.escape(path)}">photo missing: {html.escape(Path(path).name)}</div>'
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=78)
    return f'<img src="{_uri("jpeg", buffer.getvalue())}" alt="{html.escape(alt)}" title="{html.escape(alt)}">'


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
