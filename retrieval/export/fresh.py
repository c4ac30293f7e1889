"""A program of its own, which must run where this package is not: a file's rows for photos.

python -I fresh.py FILE PHOTOS ROWS INPUT OUTPUT: PHOTOS and ROWS are .npz files of one array for each batch; ROWS also
gets `told`, the JSON text that FILE holds of itself.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray], NDArray]
KEY = "retrieval"  # as in retrieval.spec


def onnx(file: str, name: str, output: str) -> tuple[Run, str]:
    """What runs it, and what it says of itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    return lambda pixels: np.asarray(session.run([output], {name: pixels})[0]), told


def torch_export(file: str) -> tuple[Run, str]:
    """As above; its input and output have no names."""
    import torch

    extra: dict = {f"{KEY}.json": ""}
    module = torch.export.load(file, extra_files=extra).module()
    told = extra[f"{KEY}.json"]
    return lambda pixels: module(torch.from_numpy(pixels)).detach().numpy(), told or ""


def main() -> None:
    file, photos, rows, name, output = sys.argv[1:]
    for library in ("retrieval", "torch") if Path(file).suffix == ".onnx" else ("retrieval",):
        sys.modules[library] = None  # pyright: ignore[reportArgumentType]  # from here on importing it fails
    run, told = onnx(file, name, output) if Path(file).suffix == ".onnx" else torch_export(file)
    made = {"told": np.array(told)}
    with np.load(photos) as batches:
        for key in batches.files:
            pixels = batches[key]
            print("photos of", " x ".join(map(str, pixels.shape)), file=sys.stderr)  # the last one is what failed
            made[key] = run(pixels)
    np.savez(rows, **made)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
