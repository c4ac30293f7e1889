"""A file of each format, under its name only once it gave what the model gives."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file, save

from retrieval import embedder, whitening
from retrieval.export import checks, files, graph, measured
from retrieval.export.asked import Asked
from retrieval.export.backbone import save_backbone
from retrieval.export.checks import FailedCheck, Pixels
from retrieval.export.eager import Eager
from retrieval.export.graph import WHITENING, Exported
from retrieval.export.measured import Describe
from retrieval.export.quantised import int8
from retrieval.export.wanted import AXES
from retrieval.portable import Portable
from retrieval.portable import whitening as beside
from retrieval.spec import Spec

SEEN = 16  # photos that int8 is checked on
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}


@dataclass(frozen=True)
class Made:
    """A file below the export's folder. cosine: the lowest of its rows to the model's; describe: runs it; both None
    where it gives no descriptors. why_fixed: why it takes one size alone, None where any."""

    format: str
    dtype: str
    file: str
    spec: Spec
    cosine: float | None
    dynamic: tuple[str, ...]
    why_fixed: str | None
    describe: Describe | None


class Making:
    """Makes the files of what is asked; a graph is made once for the formats that hold it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.of_files = spec_of_graph(asked)
        self.spec = replace(self.of_files, graph_dim=self.of_files.dim)
        self.model, self.inside = Eager(asked.model, asked.wanted), Eager(asked.model, asked.wanted, graph=True)
        self.graph = cache(self._graph)
        if asked.wanted.whitening is not None and "whitening" not in asked.wanted.inside:
            whitening.save(asked.wanted.whitening, asked.folder / WHITENING)

    def all(self) -> tuple[list[Made], list[str]]:
        """The files that were asked for, and what was wrong with those that failed their checks, in words."""
        made, failed = [], []
        for form, dtype in self.asked.files:
            try:
                made.append(self.make(form, dtype))
            except FailedCheck as error:
                failed.append(f"{form} in {dtype}: {error}")
        return made, failed

    def make(self, form: str, dtype: str) -> Made:
        """Raises FailedCheck where the file does not give what the model gives; it is not there then."""
        if form == "safetensors":
            return self.safetensors(dtype)
        if form == "backbone":
            return self.backbone()
        return self.int8() if dtype == "int8" else self.of_graph(form, dtype)

    def safetensors(self, dtype: str) -> Made:
        """A folder that `embedder.load` and `from_pretrained` read; that of another dtype lies below."""
        below = "" if dtype == "float32" else f"{dtype}/"
        (self.asked.folder / below).mkdir(exist_ok=True)
        with TemporaryDirectory(dir=self.asked.folder, prefix=".") as name:
            part = Path(name)
            self.asked.model.save_pretrained(part)
            cast(part / "model.safetensors", getattr(torch, dtype))
            loaded = Eager(embedder.load(part), self.asked.wanted)
            lowest = agreement(loaded, self.model, replace(self.spec, dtype=dtype))
            for file in part.iterdir():
                file.replace(self.asked.folder / below / file.name)
        return Made("safetensors", dtype, f"{below}model.safetensors", self.spec, lowest, tuple(AXES), None, loaded)

    def backbone(self) -> Made:
        """The backbone's weights alone, under timm's own names."""
        file = "backbone.safetensors"
        save_backbone(self.asked.model, self.asked.folder / file)
        return Made("backbone", "float32", file, self.spec, None, tuple(AXES), None, None)

    def of_graph(self, form: str, dtype: str) -> Made:
        """A graph as ONNX or as a program of torch.export."""
        exported = self.graph(dtype if form == "torch_export" else files.computed(dtype))
        spec = self._spec(exported, dtype)
        if form == "torch_export":
            return self._made(form, exported, spec, lambda path: files.save_torch_export(exported, spec, path))
        return self._made(form, exported, spec, lambda path: files.save_onnx(exported, spec, self.asked.wanted, path))

    def int8(self) -> Made:
        """The float32 graph, quantised by ONNX Runtime after a look at photos."""
        exported = self.graph("float32")
        spec = self._spec(exported, "float32")
        with TemporaryDirectory(dir=self.asked.folder, prefix=".") as name:
            source = Path(name) / "model.onnx"
            files.save_onnx(exported, spec, self.asked.wanted, source)
            own = replace(spec, dtype="int8")
            return self._made("onnx", exported, own, lambda path: int8(source, path, self._photos(spec), spec))

    def _graph(self, computed: str) -> Exported:
        model, wanted = self.asked.model, self.asked.wanted
        return graph.exported(graph.taken(model, wanted, computed), wanted, model)

    def _spec(self, exported: Exported, dtype: str) -> Spec:
        asked = self.asked
        return graph.spec_of(asked.model, asked.wanted, exported, asked.resolution, asked.name, dtype)

    def _made(self, form: str, exported: Exported, spec: Spec, write: Callable[[Path], object]) -> Made:
        dtype = "" if spec.dtype == "float32" else f".{spec.dtype}"
        final = self.asked.folder / f"model{dtype}{SUFFIXES[form]}"
        photos = [pixels[0] for pixels in itertools.islice(self._photos(spec), SEEN)] if spec.dtype == "int8" else ()
        given = checks.inputs(spec, photos)
        checked = checks.checked_into(final, write, lambda path: checks.check(path, spec, self.inside, given))
        describe = Portable(final, torch.get_num_threads()) if form == "onnx" else Program(final, spec)
        return Made(form, spec.dtype, final.name, spec, checked.cosine, exported.dynamic, exported.why_fixed, describe)

    def _photos(self, spec: Spec) -> Iterator[Pixels]:
        """Photos to calibrate on, one at a time, or as many as the graph takes."""
        photos = self.asked.calibration
        for photo, size in zip(photos, measured.sizes_of(spec, photos), strict=True):
            yield np.repeat(measured.decoded(photo, size)[None], spec.batch or 1, axis=0)


class Program(Portable):
    """A file that torch.export wrote here, at work as an ONNX one is."""

    def __init__(self, path: Path, spec: Spec) -> None:
        self.path, self.spec, self.dim, self.batch = path, spec, spec.dim, spec.batch
        self.multiple, self.scales = spec.multiple, spec.scales
        self.module = torch.export.load(path).module()
        outside = spec.whitening is not None and not spec.whitened
        self.whitening = beside(path.with_name(str(spec.whitening)), (spec.dim, spec.graph_dim)) if outside else None

    @torch.no_grad()
    def _run(self, pixels: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(pixels)).numpy()


def cast(path: Path, dtype: torch.dtype) -> None:
    """The weights of a file in another dtype: matrices and filters; what is one number a channel stays as it is, as
    a variance may be more than float16 holds."""
    state = {name: tensor.to(dtype) if tensor.ndim > 1 else tensor for name, tensor in load_file(path).items()}
    if dtype != torch.float32:
        path.write_bytes(save(state))


def agreement(file: Describe, model: Describe, spec: Spec) -> float:
    """The lowest cosine of a file's rows to the model's; FailedCheck below what its dtype must reach."""
    lowest = 1.0
    for pixels in checks.inputs(spec):
        fault, cosine = checks.compared(file(pixels), model(pixels), spec)
        if fault:
            raise FailedCheck(f"model.safetensors on photos of {' x '.join(map(str, pixels.shape))}: {fault}")
        lowest = min(lowest, cosine)
    return lowest


def spec_of_graph(asked: Asked) -> Spec:
    """What must be known of a graph that takes what the model takes."""
    axes = tuple(AXES) if asked.size is None else ("batch",)
    return graph.spec_of(asked.model, asked.wanted, Exported(None, axes, None), asked.resolution, asked.name)  # pyright: ignore[reportArgumentType]
