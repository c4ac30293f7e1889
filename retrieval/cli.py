"""`retrieval VERB ...`: every command of the package; what a verb needs is imported when it runs."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from retrieval.errors import InputError
from retrieval.terminal import printable, say

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = {
    "train": "train a model, or a sweep of them with -m",
    "eval": "evaluate a run, or any backbone and pooling off the shelf",
    "sweep": "show how a sweep stands",
    "export": "write a run's model as safetensors, ONNX, torch.export",
    "report": "make tables, charts and a page from runs",
    "embed": "describe photos by a model",
    "index": "build an index of photos, add to it, search it",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb that the words begin with; exit status 2, and one line, for what cannot be asked."""
    verb, *rest = (sys.argv[1:] if words is None else words) or [""]
    if verb in ("-h", "--help"):
        print(usage())
        return 0
    try:
        return run(verb, rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def usage() -> str:
    lines = [f"  {verb:8}{does}" for verb, does in VERBS.items()]
    return "\n".join(["usage: retrieval VERB ...", "", *lines, "", "retrieval VERB --help says what a verb takes"])


def run(verb: str, words: list[str]) -> int:
    """Raises InputError for another verb, and where a library that the verb needs is not installed."""
    if verb not in VERBS:
        raise InputError(f"the first word must be one of {', '.join(VERBS)}; got {verb!r}")
    if verb in ("train", "eval", "export"):  # Hydra reads sys.argv
        sys.argv[1:] = words
        return _composed(verb)
    return import_module(f"retrieval.{verb}.__main__").main(words)


def _composed(verb: str) -> int:
    if verb == "export":
        import_module("retrieval.export.__main__").main()
    else:
        from retrieval import config

        config.main(verb)({"train": train, "eval": evaluate}[verb])()
    return 0


def train(cfg: "DictConfig") -> float | None:
    """Train one model, or say with `dry_run` what that would cost; returns what a search over settings maximizes."""
    from retrieval import config, first_lines

    config.begin(first_lines.of_training(cfg), cfg)
    from retrieval import launch, processes, results, training

    if cfg.dry_run:
        from retrieval.sweep import cost

        say(cost.table([cfg], [{}], "train"))
        return None
    rows = launch.launched(training.fit, cfg)
    if processes.first():
        say(f"{results.printed(rows)}\n{printable(f'written to {cfg.output_dir}')}")
    return results.objective(rows)


def evaluate(cfg: "DictConfig") -> float | None:
    """Evaluate a run, or any backbone and pooling off the shelf; returns as `train` does."""
    from retrieval import config, first_lines

    config.begin(first_lines.of_evaluation(cfg), cfg)
    from retrieval import evaluation, results

    if cfg.dry_run:
        from retrieval.sweep import cost

        say(cost.table([cfg], [{}], "eval"))
        return None
    rows = evaluation.from_config(cfg, config.overridden())
    if rows:  # of several processes the first one judges
        say(f"{results.printed(rows)}\n{printable(f'written to {cfg.run or cfg.output_dir}')}")
    return results.objective(rows)
