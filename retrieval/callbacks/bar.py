"""The progress bar of a training on a terminal."""

from typing import Any

from lightning.pytorch.callbacks import RichProgressBar


class Bar(RichProgressBar):
    """Lightning's progress bar without the version of a logger's run (`v_num`)."""

    def get_metrics(self, *given: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(*given).items() if name != "v_num"}
