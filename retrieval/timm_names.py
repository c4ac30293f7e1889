"""Names of timm's models, read from its files: importing timm imports torch, which takes seconds."""

import importlib.util
import re
from pathlib import Path


def names() -> list[str]:
    """Sorted names of the architectures of the timm that is installed; none without timm."""
    spec = importlib.util.find_spec("timm")
    folders = [Path(folder) / "models" for folder in (spec and spec.submodule_search_locations) or ()]
    texts = [file.read_text(encoding="utf-8") for folder in folders for file in folder.glob("*.py")]
    return sorted({name for text in texts for name in re.findall(r"^@register_model\s+def (\w+)", text, re.MULTILINE)})
