"""A model's folder from anyone: what asks for more than a network, or than its file holds, is refused first."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from retrieval import backbones, embedder, heads, strangers
from retrieval.config import CONFIGS, load_yaml
from retrieval.errors import InputError


def config(backbone: str = "test_resnet", pooling: str = "gem", head: str = "none") -> dict[str, Any]:
    groups = {"backbone": "timm", "pooling": pooling, "head": head}
    cfg: Any = {group: OmegaConf.to_container(load_yaml(CONFIGS / group / f"{n}.yaml")) for group, n in groups.items()}
    cfg["backbone"]["name"] = backbone
    return cfg


def saved(folder: Path, cfg: dict[str, Any]) -> Path:
    made: Any = OmegaConf.create(cfg)
    embedder.save(embedder.from_config(made), made, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", config())


Change = Callable[[dict[str, Any]], object]


def changed(folder: Path, change: Change) -> Path:
    """The folder, its config changed by whoever made it."""
    cfg: Any = OmegaConf.to_container(load_yaml(folder / "config.yaml"))
    change(cfg)
    (folder / "config.yaml").write_text(json.dumps(cfg))  # YAML reads it
    return folder


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backbone: !!python/object/apply:os.system ['true']\n", "may have no tags"),
        (BOMB, "no anchors and aliases"),
        ("backbone: {name: '${oc.env:HOME}'}\n", "no interpolations"),
        ("[" * 100 + "]" * 100, "levels deep"),
        ("many: [" + "0, " * 20_000 + "0]\n", "keys and values at most"),
        ("- a list\n", "must hold a mapping"),
        ("x" * 2_000_000, "over 1,000,000 bytes"),
        ("backbone: {\n", "must be YAML"),
        ("\x00\x01", "must be YAML"),
    ],
    ids=["a tag", "a bomb", "an interpolation", "deep", "many", "a list", "long", "cut off", "bytes"],
)
def test_a_config_that_is_more_than_plain_values_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        embedder.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cfg: cfg["pooling"].update(_target_="os.system"), "_target_ must"),
        (lambda cfg: cfg["pooling"].update(_target_="retrieval.poolings.functional.F.softmax"), "_target_ must"),
        (lambda cfg: cfg.update(pooling={"_target_": "retrieval.poolings.spatial.nn.Identity"}), "describes no model"),
        (lambda cfg: cfg["head"].update(_target_="torch.nn.Linear"), "_target_ must"),
        (lambda cfg: cfg["pooling"].update(_args_=["x"]), "may not have the key '_args_'"),
        (lambda cfg: cfg["pooling"].update(_partial_=True), "may not have the key '_partial_'"),
        (lambda cfg: cfg["backbone"].update(name="hf_hub:someone/model"), "a name of timm's own"),
        (lambda cfg: cfg["backbone"].update(name="local-dir:/etc"), "a name of timm's own"),
        (lambda cfg: cfg["backbone"].update(kwargs={"checkpoint_path": "/etc/passwd"}), "checkpoint_path may not"),
        (lambda cfg: cfg["backbone"].update(kwargs={"pretrained_cfg": {"url": "http://x"}}), "pretrained_cfg may not"),
        (lambda cfg: cfg["backbone"].update(kwargs={"cache_dir": "/"}), "cache_dir may not"),
        (lambda cfg: cfg["backbone"].update(kwargs=[1]), "kwargs must be a mapping"),
        (lambda cfg: cfg["backbone"].update(mean=[0, 0]), "mean must be three numbers"),
        (lambda cfg: cfg["backbone"].update(std=[0, 1, 1]), "std must be three numbers above 0"),
        (lambda cfg: cfg["backbone"].update(mean=[float("nan")] * 3), "mean must be three numbers"),
        (lambda cfg: cfg["pooling"].update(p=1e300), "finite number of at most"),
        (lambda cfg: cfg.update(head={"_target_": "retrieval.heads.Projection", "out_dim": 10**9}), "at most 65,536"),
    ],
)
def test_a_config_that_asks_for_more_than_a_network_is_refused(folder: Path, change: Change, said: str) -> None:
    with pytest.raises(InputError, match=said):
        embedder.load(changed(folder, change))


def test_weights_are_compared_with_the_config_before_they_are_made(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", config(head="linear"))
    with pytest.raises(InputError, match=r"other shapes: .*head\.weight is \(512, \d+\), not \(60000"):
        embedder.load(changed(folder, lambda cfg: cfg["head"].update(out_dim=60_000)))


def test_a_network_of_endless_depth_is_refused_while_it_is_counted(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", config("test_vit"))
    with pytest.raises(InputError, match="the config asks for more"):
        embedder.load(changed(folder, lambda cfg: cfg["backbone"].update(kwargs={"depth": 60_000})))


def header(entries: Any, tail: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + tail


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no .safetensors"),
        (struct.pack("<Q", 2**62) + b"{}", "its header must be"),
        (header({"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, b"0000"), "no .safetensors"),
        (header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"0000"), "no .safetensors"),
        (pickle.dumps({"w": np.zeros(3)}), "no .safetensors"),
    ],
    ids=["empty", "an endless header", "a shape without bytes", "offsets beyond the end", "a pickle"],
)
def test_a_file_of_weights_that_lies_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=said):
        embedder.load(folder)


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match="no .safetensors"):
        embedder.load(folder)


def test_a_name_that_comes_twice_is_refused(folder: Path) -> None:
    one = '"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    text = f"{{{one}, {one}}}".encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"0000")
    with pytest.raises(InputError, match="comes twice"):
        embedder.load(folder)


def rewritten(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    state = load_file(folder / "model.safetensors")
    save_file({name: change(tensor) for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def test_whole_numbers_in_place_of_weights_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="other numbers"):
        embedder.load(rewritten(folder, lambda tensor: tensor.to(torch.int64)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_the_length_are_loaded_as_float32(folder: Path, dtype: torch.dtype) -> None:
    state = embedder.load(rewritten(folder, lambda x: x.to(dtype) if x.is_floating_point() else x)).state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}


def test_a_pickle_beside_the_weights_is_never_read(folder: Path) -> None:
    before = embedder.load(folder).state_dict()
    for name in ("model.pth", "pytorch_model.bin", "model.ckpt"):
        (folder / name).write_bytes(b"not read")
    assert all(torch.equal(before[name], tensor) for name, tensor in embedder.load(folder).state_dict().items())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "vgg11"])
def test_what_is_loaded_gives_what_was_saved(tmp_path: Path, backbone: str) -> None:
    cfg: Any = OmegaConf.create(config(backbone))
    model, photos = embedder.from_config(cfg).eval(), torch.rand(1, 3, 64, 96)
    embedder.save(model, cfg, tmp_path)
    assert torch.equal(embedder.load(tmp_path)(photos), model(photos))


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    embedder.load(folder)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.zeros(4, 8)}, "it has weight"),
        ({"weight": torch.zeros(4, 8), "bias": torch.zeros(5)}, r"bias \(out,\)"),
        ({"weight": torch.zeros(4, 8, dtype=torch.int64), "bias": torch.zeros(4)}, "must hold weight as"),
    ],
    ids=["no bias", "another length", "whole numbers"],
)
def test_a_whitening_that_is_none_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    save_file(tensors, tmp_path / "white.safetensors")
    with pytest.raises(InputError, match=said):
        heads.read(tmp_path / "white.safetensors")


def test_what_runs_save_is_what_strangers_may_send(folder: Path) -> None:
    assert strangers.config(folder / "config.yaml") == load_yaml(folder / "config.yaml")


def test_a_network_that_looks_up_positions_loads_with_the_sizes_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # on the meta device MViTv2 passes at sizes at which its tables end
    saved(tmp_path, config("mvitv2_tiny", "gap"))
    monkeypatch.setattr(backbones, "MEASURED", {})  # as in a process that has made none
    loaded = embedder.load(tmp_path).backbone
    assert (loaded.multiple, loaded.fixed_size) == (1, (224, 224))
