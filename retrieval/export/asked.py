"""What is asked of an export, refused at the start where it cannot be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from retrieval import embedder, heads
from retrieval.benchmarks import Benchmark
from retrieval.config import build, chosen
from retrieval.data import images
from retrieval.data.files import below
from retrieval.data.images import Photo
from retrieval.embed.network import RESOLUTION, fingerprint_of, size_of
from retrieval.embedder import Embedder
from retrieval.errors import InputError, near
from retrieval.export.backbone import refuse_pruned
from retrieval.export.wanted import AXES, INSIDE, Wanted, refuse
from retrieval.subjects import digest, label, options

FORMATS = ("safetensors", "onnx", "torch_export", "backbone")
DTYPES = ("float32", "float16", "bfloat16", "int8")
CARRIED = ("names", "seed", "backbone", "pooling", "head", "trained_on", "trained_with", "selected_by")


@dataclass(frozen=True)
class Asked:
    """A model, what is made of it, and where it goes.

    size: that the model takes alone, None: any. files: (format, dtype) of each.
    calibration: photos for int8, none where it is not asked for.
    """

    run: str
    folder: Path
    model: Embedder
    cfg: DictConfig
    wanted: Wanted
    resolution: int
    size: tuple[int, int] | None
    files: Sequence[tuple[str, str]]
    calibration: Sequence[Photo]
    benchmarks: Mapping[str, Benchmark]
    licence: str | None

    @classmethod
    def of(cls, cfg: DictConfig) -> "Asked":
        """What `configs/export.yaml` and the command line say; the model is read, nothing is computed."""
        images.limit_pixels(cfg.images.max_pixels)
        files = files_of(listed(cfg, "format", FORMATS), listed(cfg, "dtype", DTYPES))
        if not cfg.run:
            raise InputError("say what is exported: run=DIR, a run's folder, or run=org/name of the Hugging Face hub")
        model = embedder.load(cfg.run)
        if cfg.output_dir is None and not Path(cfg.run).is_dir():
            raise InputError(f"run={cfg.run} is no folder here: say where its files are to go, output_dir=DIR")
        of_run, resolution = model.cfg or OmegaConf.create({}), resolution_of(cfg.resolution, model)
        alone = size_of(model, [resolution])
        wanted = Wanted(
            scales=tuple(map(float, cfg.scales)),
            aggregate=cfg.aggregate,
            inside=listed(cfg, "inside", INSIDE),
            whitening=None if cfg.whitening_file is None else heads.read(cfg.whitening_file),
            dynamic=listed(cfg, "dynamic", tuple(AXES)),
            size=sides(cfg.size) or alone or embedder.squared(model.backbone, resolution),
            opset=cfg.opset,
            input=cfg.input,
            output=cfg.output,
        )
        refuse(model, wanted, "float32")
        if ("backbone", "float32") in files:
            refuse_pruned(model.backbone)
        model.cfg = carried(of_run, resolution)
        return cls(
            run=str(cfg.run),
            folder=Path(cfg.output_dir or Path(cfg.run) / "export"),
            model=model,
            cfg=of_run,
            wanted=wanted,
            resolution=resolution,
            size=alone,
            files=files,
            calibration=calibration(cfg, of_run) if ("onnx", "int8") in files else (),
            benchmarks={name: build(one) for name, one in chosen(cfg.benchmark).items()},
            licence=cfg.licence,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the model, and of how its graph describes."""
        how = [self.resolution, list(self.wanted.scales), self.wanted.aggregate, str(self.wanted.whitening)]
        return digest([fingerprint_of(self.model), how])

    @property
    def name(self) -> str:
        """What the model is called: `mobilenetv2_tf, gem`."""
        names = self.cfg.get("names") or {}
        backbone = names.get("backbone") or self.model.backbone.name
        if "pooling" not in names:
            return f"{backbone}, {type(self.model.pooling).__name__}"
        head = names.get("head") or "none"
        named = label(names["pooling"], options("pooling", names["pooling"], self.cfg.pooling))
        return ", ".join([backbone, named, *([head] if head != "none" else [])])


def listed(cfg: DictConfig, key: str, accepted: Sequence[str]) -> list[str]:
    """The words of a list, each once, all accepted ones; one word is a list of one."""
    given = cfg[key]
    words = list(dict.fromkeys(given if isinstance(given, (list, ListConfig)) else [given]))
    for word in words:
        if word not in accepted:
            raise InputError(f"{key} must be of {', '.join(accepted)}, got {word!r}: {near(str(word), accepted)}")
    return words


def files_of(formats: Sequence[str], dtypes: Sequence[str]) -> list[tuple[str, str]]:
    """Each format in each dtype that it has: int8 is of ONNX alone, and a backbone's weights are float32."""
    if not formats or not dtypes:
        raise InputError(f"format and dtype must name one each at least, got {formats} and {dtypes}")
    if "int8" in dtypes and "onnx" not in formats:
        raise InputError(f"dtype=int8 is quantised by ONNX Runtime: format must hold onnx, got {', '.join(formats)}")
    kept = {"backbone": ("float32",), "onnx": DTYPES}
    files = [(one, dtype) for dtype in dtypes for one in formats if dtype in kept.get(one, DTYPES[:3])]
    for one in formats:
        if one not in [form for form, _ in files]:
            raise InputError(
                f"format={one} has no {' or '.join(dtypes)}: dtype must hold {' or '.join(kept.get(one, DTYPES[:3]))}"
            )
    return files


def resolution_of(given: Any, model: Embedder) -> int:
    """The longer side that the model is meant for: the one given, or the largest at which its run was judged."""
    if given is not None and (not isinstance(given, int) or given < 1):
        raise InputError(f"resolution must be a whole number of pixels, got {given!r}")
    return given or max(OmegaConf.select(model.cfg or OmegaConf.create({}), "extract.resolutions") or [RESOLUTION])


def sides(given: Any) -> tuple[int, int] | None:
    """Height and width at which the graph is made, and which it keeps where these are not dynamic; None: not given."""
    if given is None:
        return None
    if not isinstance(given, ListConfig) or len(given) != 2 or not all(isinstance(side, int) for side in given):
        raise InputError(f"size must be [height, width] in pixels, got {given}")
    return given[0], given[1]


def carried(cfg: DictConfig, resolution: int) -> DictConfig:
    """What of a run's config goes with the model: what it is and what it learned from, without the paths of where that
    was."""
    kept = OmegaConf.masked_copy(embedder.without_weights(cfg), [key for key in CARRIED if key in cfg])
    return OmegaConf.merge(kept, {"extract": {"resolutions": [resolution]}})  # pyright: ignore[reportReturnType]


def calibration(cfg: DictConfig, of_run: DictConfig) -> list[Photo]:
    """Photos spread evenly over the folder named, or over the run's training photos."""
    root, count = cfg.calibration.photos or of_run.get("data", {}).get("root"), cfg.calibration.count
    if not isinstance(count, int) or count < 1:
        raise InputError(f"calibration.count must be a whole number from 1, got {count!r}")
    if root is None or not Path(root).is_dir():
        raise InputError(f"int8 is calibrated on photos: give calibration.photos=DIR, no folder is at {root}")
    found = below(root)
    if not found:
        raise InputError(f"int8 is calibrated on photos, and {root} holds none ({', '.join(images.SUFFIXES)})")
    step = max(1, len(found) // count)
    return [Photo(path) for path in found[::step][:count]]
