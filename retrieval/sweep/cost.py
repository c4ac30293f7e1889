"""What jobs cost."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig


def table(configs: Sequence[DictConfig], differs: Sequence[Mapping[str, str]], script: str) -> str:
    return str(differs)
