"""Time and memory of every pooling, and of GeM beside its textbook form: python -m benchmarks.poolings.

float32; medians, every candidate once in each round; forward + backward by the map and the pooling's own weights.
Memory is the peak above what stood before the call: resident memory on Linux's CPU, allocated memory on a GPU. It
counts the gradient of the map.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.config import CONFIGS, build, load_yaml
from retrieval.errors import InputError
from retrieval.features import Features
from retrieval.poolings import functional

LARGE = (32, 2048, 32, 32)
SHAPES = [(8, 512, 7, 7), (8, 512, 32, 32), (8, 512, 1, 1025)]
Step = Callable[[], object]


class Bench:
    """Times and weighs steps on one device."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds, self.on_gpu = device, rounds, device == "cuda"

    def times(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """Median milliseconds of each step, all of them once in every round."""
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        for _ in range(self.rounds):
            for name, step in steps.items():
                taken[name].append(self._once(step))
        return {name: statistics.median(values) for name, values in taken.items()}

    def _once(self, step: Step, calls: int = 20) -> float:
        if not self.on_gpu:
            start = time.perf_counter()
            step()
            return 1e3 * (time.perf_counter() - start)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls

    def peak(self, step: Step, *leaves: Tensor) -> float:
        """Bytes above what stood before the step, its result and the leaves' gradients included."""
        for leaf in leaves:
            leaf.grad = None
        gc.collect()
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            return torch.cuda.max_memory_allocated() - before
        give_back_at(2**16)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = resident("VmRSS")
        step()
        peak = resident("VmHWM") - before
        give_back_at(2**25)
        return peak


def give_back_at(size: int) -> None:
    """Have glibc hand freed blocks of at least `size` bytes back to the system, so that a peak can be seen."""
    libc, mmap_threshold = ctypes.CDLL(None), -3
    libc.malloc_trim(0)
    libc.mallopt(mmap_threshold, size)


def resident(which: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def textbook(x: Tensor, p: Tensor, eps: float = 1e-6) -> Tensor:
    """GeM as it is usually written."""
    return F.avg_pool2d(x.clamp(min=eps).pow(p), (x.shape[-2], x.shape[-1])).pow(1 / p)[..., 0, 0]


def both_ways(function: Callable[[], Tensor], *leaves: Tensor) -> Step:
    """Forward and backward; what gradients were there are dropped first."""

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        out = function()
        out.sum().backward()
        return out

    return step


def forward_only(function: Callable[[], Tensor]) -> Step:
    return torch.no_grad()(function)


def gem_table(bench: Bench, shape: tuple[int, int, int, int], layout: torch.memory_format) -> list[str]:
    """GeM, its textbook form, its variants, the average and the maximum, side by side."""
    x = torch.rand(shape, device=bench.device).to(memory_format=layout).requires_grad_()
    one = torch.tensor([3.0], device=bench.device, requires_grad=True)
    many = torch.full((shape[1],), 3.0, device=bench.device, requires_grad=True)
    mask = torch.ones(shape[0], *shape[2:], dtype=torch.bool, device=bench.device)
    mask[:, -shape[2] // 8 :] = False
    candidates: dict[str, tuple[Callable[[], Tensor], Tensor]] = {
        "textbook GeM": (lambda: textbook(x, one), one),
        "GeM": (lambda: functional.generalised_mean(x, one), one),
        "GeM, p per channel": (lambda: functional.generalised_mean(x, many), many),
        "GeM, masked": (lambda: functional.generalised_mean(x, one, mask=mask), one),
        "average": (lambda: functional.average(x), one),
        "maximum": (lambda: functional.maximum(x), one),
    }
    if bench.on_gpu:
        compiled = torch.compile(functional.scaled_power_mean)
        candidates["formula, torch.compile"] = (lambda: compiled(x, one, 1e-6), one)
    forward = bench.times({name: forward_only(f) for name, (f, _) in candidates.items()})
    both = bench.times({name: both_ways(f, x, p) for name, (f, p) in candidates.items()})
    weight = {name: bench.peak(both_ways(f, x, p), x, p) for name, (f, p) in candidates.items()}
    size = x.numel() * x.element_size()
    lines = [
        "| | forward ms | forward + backward ms | textbook / this | extra memory / input |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in candidates:
        ratio = both["textbook GeM"] / both[name]
        lines.append(f"| {name} | {forward[name]:.3g} | {both[name]:.3g} | {ratio:.2f} | {weight[name] / size:.2f} |")
    return lines + (bandwidth(bench, x, forward["GeM"], both["GeM"]) if bench.on_gpu else [])


def bandwidth(bench: Bench, x: Tensor, forward: float, both: float) -> list[str]:
    """GeM's share of the bandwidth of a copy: forward reads the map once, backward reads it and writes a gradient."""
    source, target = x.detach(), torch.empty_like(x)
    copy = bench.times({"copy": lambda: target.copy_(source)})["copy"]
    shares = copy / 2 / forward, copy * 3 / 2 / both
    gigabytes = 2 * x.numel() * x.element_size() / copy / 1e6
    return ["", f"A copy moves {gigabytes:.0f} GB/s; of that GeM reaches {shares[0]:.0%} forward, "
            f"{shares[1]:.0%} forward and backward."]  # fmt: skip


def every_table(bench: Bench) -> list[str]:
    """Each pooling's YAML at each shape: forward, forward + backward, extra memory."""
    titles = [f"{b} x {d} x {h} x {w}" for b, d, h, w in SHAPES]
    lines = ["| pooling | weights | " + " | ".join(titles) + " |", "| --- | ---: |" + " ---: |" * len(SHAPES)]
    for yaml in sorted((CONFIGS / "pooling").glob("*.yaml")):
        cells = [cell(bench, yaml, shape) for shape in SHAPES]
        weights = sum(parameter.numel() for parameter in made(yaml, SHAPES[0]).parameters())
        lines.append(f"| {yaml.stem} | {weights:,} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def made(yaml: Path, shape: tuple[int, int, int, int]) -> nn.Module:
    cfg = load_yaml(yaml)
    if "height" in cfg and "width" in cfg:
        cfg.height, cfg.width = shape[2:]
    return build(cfg, dim=shape[1])


def cell(bench: Bench, yaml: Path, shape: tuple[int, int, int, int]) -> str:
    """`forward / forward + backward ms, memory in inputs`, or what refuses this shape."""
    x = torch.rand(shape, device=bench.device, requires_grad=True)
    prefix = torch.rand(shape[0], 1, shape[1], device=bench.device)
    try:
        pooling = made(yaml, shape).to(bench.device)
    except InputError as error:
        return f"refused: {error}"

    def function() -> Tensor:
        return pooling(Features(x, prefix))

    leaves = (x, *pooling.parameters())
    steps = {"forward": forward_only(function)}
    if yaml.stem != "cls":  # it reads nothing of the map
        steps["both"] = both_ways(function, *leaves)
    taken = bench.times(steps)
    weight = bench.peak(steps.get("both", steps["forward"]), *leaves) / (x.numel() * x.element_size())
    return f"{taken['forward']:.2f} / {taken.get('both', taken['forward']):.2f}, {weight:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and this machine has none; accepted: cpu")
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    bench = Bench(args.device, args.rounds)
    where = torch.cuda.get_device_name() if bench.on_gpu else f"CPU, {args.threads} threads"
    lines = [f"# Poolings on {where}", "", f"torch {torch.__version__}, float32, medians of {args.rounds} rounds, by "
             f"`python -m benchmarks.poolings --device {args.device}`."]  # fmt: skip
    for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        title = f"## GeM on {' x '.join(map(str, LARGE))}, {name}"
        lines += ["", title, "", *gem_table(bench, LARGE, layout)]
        print("\n".join(lines), flush=True)
    lines += ["", "## Every pooling", "", "Forward / forward + backward in ms, peak memory above the input in inputs "
              "(the gradient of the map is one).", "", *every_table(bench)]  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"poolings_{args.device}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
