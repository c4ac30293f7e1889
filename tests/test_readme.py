"""What README.md shows runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from omegaconf import OmegaConf

from retrieval import embedder
from retrieval.config import CONFIGS, load_yaml

README = (CONFIGS.parent / "README.md").read_text()


def test_the_three_lines_find_photos_by_a_photo(photos: Path, tmp_path: Path) -> None:
    (lines,) = re.findall(r"<!-- three lines -->\n```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 3
    groups = {"backbone": "timm", "pooling": "gem", "head": "none"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name = "test_resnet"
    embedder.save(embedder.from_config(cfg), cfg, tmp_path / "model")
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "query.jpg").symlink_to(photos / "arch" / "1.jpg")
    shown = lines.replace("index.search", "found = index.search") + "\nprint(found[0][1])"
    env = {**os.environ, "PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parts[-2:] == ("arch", "1.jpg")
