"""README.md beside the files: what the model is, what it learned from, what it gives, how it is used, whose it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from retrieval.export.asked import Asked
from retrieval.report import exports
from retrieval.report.table import Cell, Table
from retrieval.results import p_of, parameters
from retrieval.spec import Spec

Row = dict[str, Any]
TEMPLATE = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))


def card(asked: Asked, spec: Spec, rows: Sequence[Row], judged: Sequence[Row]) -> str:
    """rows: the files, of export.json; spec: of their graph; judged: the rows of the run's own evaluation."""
    model, made_with = asked.model, asked.model.backbone.made_with
    one_word = asked.licence is not None and " " not in asked.licence
    tables, said = exports.tables(rows)
    return TEMPLATE.substitute(
        licence_tag=f"license: {asked.licence}\n" if one_word else "",
        name=asked.name,
        dim=spec.dim,
        what=bullets(what(asked)),
        results=results(judged),
        files="\n".join(table.markdown() for table in tables) + "\n" + bullets([*said, *remarks(rows)]),
        resolution=asked.resolution,
        model_dim=model.dim,
        input=spec.input,
        output=spec.output,
        pixels="uint8 RGB" if spec.normalised else "float32 RGB / 255, less the mean, by the standard deviation",
        graph_dim=spec.graph_dim,
        backbone=model.backbone.name,
        kwargs="".join(f", {key}={value!r}" for key, value in made_with.items()),
        licence=bullets(licence(asked)),
    )


def what(asked: Asked) -> Iterator[str]:
    """The model's parts, its input, and what it learned from."""
    model, backbone = asked.model, asked.model.backbone
    kwargs = f" with {backbone.kwargs}" if backbone.kwargs else ""
    yield f"Backbone: timm's `{backbone.name}`{kwargs}; {parameters(model) / 1e6:.2f} million weights in all."
    yield f"Pooling: {type(model.pooling).__name__}{exponent(p_of(model))}; head: {type(model.head).__name__}."
    yield f"Input: RGB / 255, less the mean {list(backbone.mean)}, by the standard deviation {list(backbone.std)}."
    yield f"Photos: the longer side at most {asked.resolution} pixels, {sides(asked)}."
    if asked.wanted.several:
        yield f"ONNX and torch.export: at scales {said(asked.wanted.scales)}, aggregated as `{asked.wanted.aggregate}`."
    if asked.wanted.whitening is not None:
        yield f"ONNX and torch.export: whitened ({asked.wanted.whitening.label or 'how it was fitted is not known'})."
    yield trained(asked.cfg)


def exponent(p: float | Mapping[str, float] | None) -> str:
    if p is None:
        return ""
    if isinstance(p, Mapping):
        return f", p per channel {p['mean']:.3f} on average, {p['min']:.3f} to {p['max']:.3f}"
    return f", p = {p:.4f}"


def sides(asked: Asked) -> str:
    """What sizes the model takes."""
    if asked.size:
        return f"squeezed to {asked.size[0]} x {asked.size[1]}, the one size that it takes"
    multiple = asked.model.backbone.multiple
    return "at their own aspect ratio" + (f", each side a multiple of {multiple}" if multiple > 1 else "")


def trained(cfg: Mapping[str, Any]) -> str:
    """What it learned from, and how, as far as its config says."""
    if not cfg.get("selected_by"):
        return "Trained on nothing here: its weights are those that the backbone was given."
    names, on = cfg.get("names") or {}, cfg.get("trained_on") or "photos that its config does not name"
    how = [f"{group} {names[group]}" for group in ("loss", "sampler", "optimizer") if group in names]
    return f"Trained on {on}; {', '.join(how)}, seed {cfg.get('seed')}; the weights are those of {cfg['selected_by']}."


def results(judged: Sequence[Row]) -> str:
    """The run's own rows as a table, trained ones where there are any; mAPs, or a benchmark's first value."""
    kept = [row for row in judged if not row["untrained"]] or judged
    lines = [
        [
            *(Cell(str(text)) for text in (row["benchmark"], name, row["resolution"], said(row["scales"]), after(row))),
            exports.percent(value, (row.get("intervals") or {}).get(name)),
        ]
        for row in kept
        for name, value in row["metrics"].items()
        if name.endswith("mAP") or name == next(iter(row["metrics"]))
    ]
    header = ["benchmark", "value", "px", "scales", "whitening, re-ranking", "% [95 %]"]
    if not lines:
        return "Its run was not judged: no value is known.\n"
    return Table("The run's own evaluation", header, lines, names=5).markdown()


def said(scales: Iterable[float]) -> str:
    return ", ".join(f"{scale:g}" for scale in scales)


def after(row: Row) -> str:
    """What followed the descriptors."""
    return ", ".join(str(row[key]) for key in ("whitening", "rerank") if row.get(key)) or "none"


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["unjudged"]:
            yield f"{row['file']}: {row['unjudged']}."
        if row["why_fixed"]:
            yield f"{row['file']} has not all axes free ({', '.join(row['dynamic']) or 'none'}): {row['why_fixed']}."


def licence(asked: Asked) -> Iterator[str]:
    """Whose terms the weights are under, as far as is known here."""
    yield f"The model: {asked.licence}." if asked.licence else "The model: none was stated when it was exported."
    backbone = asked.cfg.get("backbone") or {}
    if backbone.get("pretrained"):
        terms = asked.model.backbone.model.pretrained_cfg.get("license") or "not stated by timm"
        yield f"Its training began from timm's weights of `{backbone['name']}`, whose licence is: {terms}."
    elif backbone.get("weights"):
        yield f"Its training began from the weights in `{Path(backbone['weights']).name}`, which have their own terms."
    else:
        yield "Whether its training began from other weights is not known here."
    yield "The photos that it learned from have licences of their own, which this card does not know."


def bullets(sentences: Iterable[str]) -> str:
    return "".join(f"- {sentence}\n" for sentence in sentences)
