"""What describes photos: an ONNX file by ONNX Runtime, or a model's folder by PyTorch, which is imported only then."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InputError
from retrieval.portable import Portable


class Model(Protocol):
    """Photos (B, 3, H, W), uint8 RGB -> unit rows (B, dim), float32.

    source: where it was loaded from. fingerprint: of all that decides its rows but resolution and scales. resolution:
    longer side of a photo where nothing else is asked for. multiple: of the sides. size: (H, W) that it takes alone,
    batch: how many photos it takes at once; None: any. scales: at which it describes a photo. Raises InputError for
    photos that it cannot take.
    """

    source: str
    name: str
    dim: int
    fingerprint: str
    resolution: int
    multiple: int
    size: tuple[int, int] | None
    batch: int | None
    scales: tuple[float, ...]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def load(model: str | Path, scales: Sequence[float] | None = None, device: str = "auto") -> Model:
    """The model of an .onnx file, of a folder or of an id on the hub.

    A folder with model.onnx and no model.safetensors counts as that file. scales: None: the model's own (of a folder:
    1). device: auto, cpu or cuda. Raises InputError.
    """
    path = Path(model)
    if path.is_dir() and (path / "model.onnx").is_file() and not (path / "model.safetensors").is_file():
        path = path / "model.onnx"
    if path.suffix == ".onnx":
        return Portable(path, scales=scales, device=device)
    if path.is_file():
        raise InputError(f"{path} is no model to embed with: accepted are an .onnx file and a model's folder")
    try:
        from retrieval.embed.network import Network
    except ImportError as error:
        raise InputError(
            f"{model} needs PyTorch, which cannot be imported ({error}); an .onnx file needs none"
        ) from error
    return Network.load(str(model), scales or (1.0,), device)
