"""One self-contained HTML page: no request, its script and every picture inside it."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from retrieval.report import photos
from retrieval.report.table import scroll

TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
PHOTOS_LIMIT = 5_000_000  # bytes of rankings: with Plotly's 5 MB and what else has photos, a page has less than 20


def render(title: str, summary: Iterable[str], sections: Iterable[tuple[str, str]], scripts: str = "") -> str:
    """The page; each section is a heading (text) and its content (HTML), and one without content is left out.

    scripts: elements that stand before the page's own script.
    """
    kept = [(heading, content) for heading, content in sections if content]
    links = "".join(f'<a href="#section-{i}">{html.escape(heading)}</a>' for i, (heading, _) in enumerate(kept))
    body = "".join(
        f'<section id="section-{i}"><h2>{html.escape(heading)}</h2>{content}</section>'
        for i, (heading, content) in enumerate(kept)
    )
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in summary)
    parts = {"title": html.escape(title), "summary": said, "links": links, "body": body}
    return TEMPLATE.substitute(parts, scripts=f"{scripts}<script>{SCRIPT}</script>")


def chart(svg: str, said: str, live: str) -> str:
    """A chart in both its forms, and what it shows: where scripts run, `live` stands in the SVG's place on a screen."""
    # As an <img>, so that the ids inside one chart cannot meet those of another.
    still = f'<img src="{photos.uri("svg+xml", svg.encode())}" alt="{html.escape(said)}">'
    caption = f"<figcaption>{html.escape(said)}</figcaption>"
    return f'<figure class="chart">{caption}{live}<div class="still">{scroll(still, said)}</div></figure>'


def bullets(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def folded(summary: str, text: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


def rankings(queries: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Each query (its entries of `rankings.json`, one per model, each with a `label`) and the photos ranked first."""
    articles = photos.within(map(_query, queries), PHOTOS_LIMIT)
    missing = len(queries) - len(articles)
    left_out = f"<p>{missing} of {len(queries)} queries left out to keep the page small.</p>" if missing else ""
    return f"{photos.LEGEND}{''.join(articles)}{left_out}" if queries else ""


def _query(entries: Sequence[Mapping[str, Any]]) -> str:
    query, first = entries[0]["query"], entries[0]
    name = Path(query["path"]).name
    box = tuple(query["box"]) if query.get("box") else None
    strips = "".join(
        photos.strip(f"<b>{html.escape(entry['label'])}</b> AP {100 * entry['ap']:.1f}", entry["top"])
        for entry in entries
    )
    return (
        f"<article><h3>{html.escape(name)}</h3>"
        f"<p>Query of {html.escape(first['benchmark'])}, at {first['resolution']} px, seed {first['seed']}</p>"
        f'<div class="query">{photos.photo(query["path"], box, f"query {name}")}</div>'
        f"{scroll(strips, f'rankings of {name}')}</article>"
    )
