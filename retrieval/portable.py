"""An ONNX model of `python -m retrieval.export` at work, by ONNX Runtime: without torch.

B photos, S scales, d the length of a row. What the graph does not do is done here in NumPy, as `retrieval.spec` says.
The file may come from anyone: it is parsed by ONNX Runtime alone, may name no other file, and must be what its spec
says.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from retrieval.data import images
from retrieval.errors import InputError
from retrieval.spec import KEY, Spec, factors

Rows = NDArray[np.float32]  # (B, d)
Pixels = NDArray[Any]  # (B, 3, H, W), uint8 as decoded, or float32 normalised
DEVICES = ("auto", "cpu", "cuda")
LENGTH = 1e-2  # how far from 1 a row's may be: more is no rounding


class Portable:
    """Photos (B, 3, H, W), uint8 RGB -> unit rows (B, dim), float32.

    threads: that compute one photo, None: one a core. scales: others than the spec's, which only a graph without scales
    inside can be given. device: auto, cpu or cuda. Attributes as of `retrieval.embed.Model`, and `spec`. Raises
    InputError for a file that is not such a model, and for photos that it cannot take.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        scales: Sequence[float] | None = None,
        device: str = "auto",
    ) -> None:
        self.path = Path(path)
        try:
            model = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"no model can be read at {self.path}: {error.strerror}") from error
        self.session = opened(model, self.path, threads, providers(device))
        self.spec = spec = spec_of(self.session, self.path)
        refuse_other(self.session, spec, self.path)
        digest = hashlib.sha256(model)
        self.whitening: tuple[Rows, Rows] | None = None
        if spec.whitening is not None and not spec.whitened:
            beside = self.path.with_name(spec.whitening)
            self.whitening = whitening(beside, (spec.dim, spec.graph_dim))
            digest.update(beside.read_bytes())
        self.fingerprint = digest.hexdigest()
        self.source, self.name, self.dim = str(path), spec.name, spec.dim
        self.resolution, self.multiple, self.size, self.batch = spec.resolution, spec.multiple, spec.size, spec.batch
        self.scales = spec.scales if scales is None else other_scales(spec, scales, self.path)

    def __call__(self, pixels: NDArray[np.uint8]) -> Rows:
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.uint8 or not len(pixels):
            raise InputError(f"{self.path} takes uint8 (B, 3, H, W), got {pixels.dtype} {pixels.shape}")
        given = pixels if self.spec.normalised else normalised(pixels, self.spec.mean, self.spec.std)
        if self.spec.scaled:
            rows = self._graph(given)
        else:
            at_scales = [self._graph(resized(given, scale, self.multiple)) for scale in self.scales]
            rows = aggregated(np.stack(at_scales), self.spec.aggregate, self.spec.exponent)
        return rows if self.whitening is None else unit(rows @ self.whitening[0].T + self.whitening[1])

    def _graph(self, pixels: Pixels) -> Rows:
        """(B, graph_dim) of the graph, which may take one number of photos alone: the last ones are repeated."""
        size = self.batch or len(pixels)
        rows = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            rows.append(self._run(np.ascontiguousarray(full))[: len(part)])
        return np.concatenate(rows)

    def _run(self, pixels: Pixels) -> Rows:
        height, width = pixels.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise InputError(
                f"{self.path} takes photos whose sides are multiples of {self.multiple}, got {width} x {height}"
            )
        try:
            rows: Any = self.session.run([self.spec.output], {self.spec.input: pixels})[0]
        except Exception as error:  # ONNX Runtime has an exception for each of its codes, without a common one
            raise InputError(f"{self.path} cannot take photos {pixels.shape}: {reason(error)}") from error
        wanted = (len(pixels), self.spec.graph_dim)
        if not isinstance(rows, np.ndarray) or rows.shape != wanted:
            raise InputError(f"{self.path} gives {np.shape(rows)} for {len(pixels)} photos, its spec says {wanted}")
        lengths = np.linalg.norm(rows, axis=1)
        if (np.abs(lengths[lengths > 0] - 1) > LENGTH).any():  # one that is not finite is the caller's to name
            raise InputError(f"{self.path} gives rows of length {lengths.max():.4g}, its spec says 1")
        return rows


def providers(device: str) -> list[str]:
    """Where ONNX Runtime is to compute: it goes on to the next one where one does not work."""
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)} for an ONNX model, got '{device}'")
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not gpu:
        raise InputError("device 'cuda' was asked for, this ONNX Runtime has none: install onnxruntime-gpu, or cpu")
    return [*(["CUDAExecutionProvider"] if gpu and device != "cpu" else []), "CPUExecutionProvider"]


def opened(model: bytes, path: Path, threads: int | None, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    """The session of a file's bytes, at the bottom of an empty folder: weights in another file are never read, which
    ONNX Runtime would look for in the working directory. Operators of anyone's own library are unknown to it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with tempfile.TemporaryDirectory() as empty:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            return onnxruntime.InferenceSession(model, options, providers=list(providers))
        except Exception as error:  # see Portable._run
            raise InputError(f"{path} is not read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and folders."""
    text = str(error)
    if "xternal data" in text:
        return "its weights lie in another file, and a model must be one file (external_data=False)"
    if "INVALID_PROTOBUF" in text or "No graph was found" in text:
        return "it is no ONNX file"
    return (text.rsplit(" : ", 1)[-1].strip().splitlines() or [type(error).__name__])[0][:300]


def spec_of(session: onnxruntime.InferenceSession, path: Path) -> Spec:
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise InputError(f"{path} has no '{KEY}' in its metadata: expected is a file of python -m retrieval.export")
    return Spec.read(text, f"the '{KEY}' of {path}")


def refuse_other(session: onnxruntime.InferenceSession, spec: Spec, path: Path) -> None:
    """Refuse a graph whose input or output is not that of the spec."""
    height, width = spec.size or (None, None)
    taken = "uint8" if spec.normalised else "float"
    for what, held, name, kind, shape in (
        ("input", session.get_inputs(), spec.input, taken, (spec.batch, 3, height, width)),
        ("output", session.get_outputs(), spec.output, "float", (spec.batch, spec.graph_dim)),
    ):
        found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in held)
        fits = len(held) == 1 and held[0].name == name and held[0].type == f"tensor({kind})"
        if not fits or len(held[0].shape) != len(shape) or not all(map(agrees, held[0].shape, shape)):
            raise InputError(
                f"{path} has the {what} {found or 'of none'}, its spec says {name} tensor({kind}) "
                f"{['any' if side is None else side for side in shape]}"
            )


def agrees(side: Any, wanted: int | None) -> bool:
    """Whether an axis of this length, a number or the name of any, is that of the spec."""
    return not isinstance(side, int) or side == wanted


def other_scales(spec: Spec, scales: Sequence[float], path: Path) -> tuple[float, ...]:
    if tuple(scales) == spec.scales:
        return spec.scales
    if spec.scaled:
        raise InputError(
            f"{path} describes at scales {list(spec.scales)} inside its graph, so that scales cannot be given; "
            "accepted: none, or a model exported with its scales outside"
        )
    return factors(scales)


def whitening(path: Path, shape: tuple[int, int]) -> tuple[Rows, Rows]:
    """P (dim, graph_dim) and b (dim,) of a .safetensors; its header is looked at before anything is allocated."""
    wanted = {"weight": list(shape), "bias": [shape[0]]}
    try:
        with safe_open(path, "numpy") as file:
            held = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            if held != wanted:
                raise InputError(f"{path} holds {held}, the model's whitening is {wanted}")
            P, b = (file.get_tensor(name).astype(np.float32) for name in wanted)
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path}, the model's whitening, cannot be read: {error}") from error
    if not np.isfinite(P).all() or not np.isfinite(b).all():
        raise InputError(f"{path}, the model's whitening, must be of finite numbers")
    return P, b


def normalised(pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """(x / 255 - mean) / std, float32."""
    center, spread = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    return (pixels.astype(np.float32) / np.float32(255) - center) / spread


def resized(pixels: Pixels, scale: float, multiple: int) -> Pixels:
    """`retrieval.scales.resized`: bilinear as in F.interpolate, align_corners=False, without antialiasing."""
    if scale == 1:
        return pixels
    sides = pixels.shape[-2:]
    if multiple == 1 and min(sides) * scale >= 1:
        # PyTorch's scale_factor: the step is that asked for, not that of the sides rounded
        new = [(math.floor(side * scale), 1 / scale) for side in sides]
    else:
        rounded = [images.nearest(round(side * scale), multiple) for side in sides]
        new = [(after, side / after) for side, after in zip(sides, rounded, strict=True)]
    return interpolated(interpolated(pixels, *new[0], axis=2), *new[1], axis=3)


def interpolated(pixels: Pixels, count: int, step: float, axis: int) -> Pixels:
    """`count` values along an axis, `step` old ones apart, each between its two neighbours."""
    last = pixels.shape[axis] - 1
    at = np.maximum(step * (np.arange(count) + 0.5) - 0.5, 0)
    left = np.minimum(at.astype(np.int64), last)
    share = np.clip(at - left, 0, 1).astype(np.float32).reshape(-1, *[1] * (3 - axis))
    before, after = (np.take(pixels, places, axis) for places in (left, np.minimum(left + 1, last)))
    return before * (1 - share) + after * share


def unit(rows: Rows) -> Rows:
    """Rows of length 1, as F.normalize makes them."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.float32(1e-12))


def aggregated(rows: Rows, aggregate: str, exponent: float) -> Rows:
    """(B, d) of unit rows (S, B, d), as `retrieval.scales` makes them; one scale's are as they are."""
    if len(rows) == 1:
        return rows[0]
    if aggregate == "paper" and exponent != 1:
        m = np.float32(exponent)
        return unit((np.maximum(rows, 0) ** m).mean(0) ** (1 / m))
    join: Callable[..., Rows] = np.max if aggregate == "max" else np.mean
    return unit(join(rows, axis=0))
