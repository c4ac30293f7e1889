"""One pass over the photos for all that can share it: the models of a job, and those of its sweep's other jobs."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrieval import companions, extraction, reuse, store
from retrieval.candidates import Candidate
from retrieval.data.images import Photo
from retrieval.data.snapshot import Snapshot
from retrieval.descriptors import Descriptors, joined
from retrieval.embedder import Embedder
from retrieval.errors import InputError
from retrieval.extraction import Extract
from retrieval.results import append
from retrieval.reuse import PhotoStore
from retrieval.store import VERSIONS, Batches, Counted, Describe
from retrieval.subjects import Subject, label

Kept = tuple[PhotoStore, Embedder]


class Pass:
    """Describes photos by each of the models, which share one backbone.

    Descriptors lie in `extract.store`, else in a folder of `kept` that is named after what made them, else in memory.
    Where they are kept and nothing is trained, a pass that this job must make describes the photos for the other jobs
    of its sweep too, which find them there; `saved.json` in `output_dir` says what that saves them. `poolings`: how
    many models the last pass served; `passed`: photos that it described, where the others' descriptors were there.
    files: what is known of the photos' files.
    """

    def __init__(
        self,
        models: Sequence[Embedder],
        subjects: Sequence[Subject],
        extract: Extract,
        kept: Path | None,
        output_dir: Path,
        files: Snapshot | None = None,
    ) -> None:
        self.files = files or Snapshot()
        self.own = list(zip(models, subjects, strict=True))
        self.extract, self.output_dir = extract, output_dir
        self.folder = Path(extract.store) if extract.store else kept
        self.poolings, self.passed = len(self.own), 0

    def described(self, parts: Mapping[str, Sequence[Photo]], resolution: int) -> list[Descriptors]:
        """Descriptors of the photos of all parts, one part after the other, by each model."""
        self.poolings, self.passed = len(self.own), 0
        if self.folder is None:
            self.passed = sum(map(len, parts.values()))
            models = [model for model, _ in self.own]
            each = [
                extraction.describe_each(models, photos, resolution, self.extract, True, self.files)
                for photos in parts.values()
            ]
            return [Descriptors(list(of_model)) for of_model in zip(*each, strict=True)]
        filled = [self._filled(name, photos, resolution, self.folder) for name, photos in parts.items()]
        return [joined(of_model) for of_model in zip(*filled, strict=True)]

    @functools.cached_property
    def others(self) -> list[Candidate]:
        """Models of the sweep's other jobs; none where a training has changed the backbone."""
        untrained = all(about.untrained for _, about in self.own)
        return companions.of(self.output_dir, self.own[0][0].backbone, self.extract) if untrained else []

    def _filled(self, name: str, photos: Sequence[Photo], resolution: int, folder: Path) -> list[Descriptors]:
        keeping = functools.partial(self._store, name, photos, resolution, folder)
        own = [(keeping(model, about), model) for model, about in self.own]
        beside = [] if all(kept.whole() for kept, _ in own) else self._beside(own, keeping)
        try:
            return self._fill([*own, *beside], name, photos, resolution)[: len(own)]
        except (InputError, RuntimeError):
            if not beside:
                raise
            return self._fill(own, name, photos, resolution)  # a model of another job may fail: that job will say why

    def _store(
        self, name: str, photos: Sequence[Photo], resolution: int, folder: Path, model: Embedder, about: Subject
    ) -> PhotoStore:
        made_of = store.made_of(model, self.extract, resolution)
        made_of |= {"settings": about.settings, "versions": VERSIONS}
        own = re.sub(r"[^\w.-]+", "_", f"{name}_{label(about.pooling, about.options)}_{resolution}")
        named = own if self.extract.store else store.digest(made_of)
        return PhotoStore(folder / named, made_of, photos, self.files, model.dim, self.extract.store_dtype)

    def _beside(self, own: Sequence[Kept], keeping: Callable[[Embedder, Subject], PhotoStore]) -> list[Kept]:
        """Stores of the sweep's other jobs that lack something, each once, with their models."""
        found = {kept.folder: (kept, model) for kept, model in own}
        for other in self.others:
            with suppress(InputError):  # of a store that holds other descriptors
                kept = keeping(other.model, other.subject)
                if not kept.whole():
                    found.setdefault(kept.folder, (kept, other.model))
        return list(found.values())[len(own) :]

    def _fill(self, kept: Sequence[Kept], name: str, photos: Sequence[Photo], resolution: int) -> list[Descriptors]:
        counted: list[Counted] = []

        def plan(some: Sequence[Photo]) -> Batches:
            return extraction.plan(kept[0][1], some, resolution, self.extract, None, self.files)

        def describing(places: Sequence[int], some: Sequence[Photo]) -> Describe:
            models = [kept[place][1] for place in places]
            counted.append(
                Counted(lambda b: extraction.vectors(models, some, b, resolution, self.extract, False, self.files))
            )
            return counted[-1]

        filled = reuse.complete([one for one, _ in kept], plan, describing, f"describing at {resolution}")
        described = sum(one.photos for one in counted)
        self.passed += described
        if described and len(kept) > len(self.own):
            self.poolings = len(kept)
            seconds = sum(one.seconds for one in counted)
            append(self.output_dir / "saved.json", [self._saved(described, seconds, name, len(photos), resolution)])
        return filled

    def _saved(self, described: int, seconds: float, name: str, photos: int, resolution: int) -> dict[str, Any]:
        """What the other jobs need not do: a share of a pass where another job describes the rest."""
        others = self.poolings - len(self.own)
        about = {"what": "descriptors", "part": name, "photos": photos, "resolution": resolution}
        saved = {"passes": others * described / photos, "seconds": others * seconds}
        return {**about, "poolings": self.poolings, **saved}
