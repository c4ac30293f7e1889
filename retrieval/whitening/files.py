"""Whitenings on disk."""

from collections.abc import Mapping
from pathlib import Path

from retrieval import heads
from retrieval.heads import Whitening


def save(whitening: Whitening, path: str | Path) -> None:
    """Write weight and bias as .safetensors, with `label` in its metadata: what `load` and head=whitening read."""
    from safetensors.torch import save_file  # it imports torch, and would not say which extra brings that

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in whitening.state_dict().items()}
    save_file(tensors, path, metadata={"label": whitening.label})


def load(path: str | Path) -> Whitening:
    """The whitening that `save` wrote."""
    return heads.read(path)


def save_all(whitenings: Mapping[str, Whitening], folder: Path) -> None:
    """Write what came with a network beside its weights, where `of_run` finds it."""
    for name, whitening in whitenings.items():
        save(whitening, folder / f"whitening_{name}.safetensors")


def of_run(folder: str | Path) -> dict[str, Whitening]:
    """The whitenings that came with a published network whose run lies in `folder`: `ss`, `ms`, or none."""
    files = {name: Path(folder) / f"whitening_{name}.safetensors" for name in ("ss", "ms")}
    return {name: load(file) for name, file in files.items() if file.is_file()}
