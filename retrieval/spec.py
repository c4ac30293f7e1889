"""What must be known of a network to use it away from here; it travels inside the file, as JSON text under `KEY`."""

import json
from dataclasses import asdict, dataclass

KEY = "retrieval"  # of an ONNX file's metadata, and of a torch.export archive's extra files (KEY.json)
AGGREGATES = ("paper", "cvnet", "mean", "max")
MOST = 65_536  # dimensions, pixels: more is no network but a mistake, or an attack


@dataclass(frozen=True)
class Spec:
    """A network that takes pixels (B, 3, H, W), named `input`, and gives unit rows (B, graph_dim), named `output`.

    What the graph does not do itself is done by who runs it, in this order, and this says how:
    - normalised: the graph takes uint8 RGB as decoded; else float32 (x / 255 - mean) / std.
    - sizes: each side a multiple of `multiple`; squeezed to `size` (H, W) where it takes one alone; the longer side is
      at most `resolution`, where nothing else is asked for.
    - scales, scaled: the graph describes at all scales; else it is run at each, the normalised pixels resized
      bilinearly (`retrieval.scales.resized`), and `aggregate` with `exponent` (its m) makes one row of these
      (`retrieval.scales`).
    - whitening, whitened: the graph whitens; else the .safetensors of that name, beside the file, is applied, then L2.
      whitening None: there is none.
    `name`: what it is, for people. `dim`: of the descriptor in the end. `batch`: how many photos it takes, where it
    takes one number alone. `dtype`: of its weights.
    """

    name: str
    dim: int
    graph_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    multiple: int = 1
    size: tuple[int, int] | None = None
    batch: int | None = None
    normalised: bool = True
    scales: tuple[float, ...] = (1.0,)
    scaled: bool = True
    aggregate: str = "paper"
    exponent: float = 1.0
    whitening: str | None = None
    whitened: bool = True
    input: str = "images"
    output: str = "descriptors"
    dtype: str = "float32"

    def json(self) -> str:
        return json.dumps(asdict(self))
