"""A model goes to the Hugging Face layout and comes back the same, from a folder, the Hub and torch.hub."""

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_embedder import described
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from retrieval import embedder, hub
from retrieval.config import load_yaml
from retrieval.embedder import Embedder
from retrieval.errors import InputError

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ["README.md", "config.json", "config.yaml", "model.safetensors"]


def made(backbone: str = "test_resnet", pooling: str = "gem", head: str = "whitening") -> Embedder:
    """A model whose weights, p and mean are none that it would start with."""
    cfg = described(pooling, backbone, head)
    cfg.backbone.mean = [0.1, 0.2, 0.3]
    model = embedder.from_config(cfg).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.rand_like(parameter)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Path]:
    model, folder = made(), tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("head", ["none", "linear", "whitening"])
def test_what_is_saved_comes_back_the_same(tmp_path: Path, backbone: str, head: str) -> None:
    model, images = made(backbone, head=head), torch.rand(1, 3, 64, 96)
    model.save_pretrained(tmp_path)
    expected = model(images)
    for again in (Embedder.from_pretrained(tmp_path), Embedder.from_pretrained(str(tmp_path)), embedder.load(tmp_path)):
        assert torch.equal(again(images), expected)
        assert again.backbone.mean == model.backbone.mean == (0.1, 0.2, 0.3)
        assert not again.training


def test_a_model_is_four_files(saved: tuple[Embedder, Path]) -> None:
    assert sorted(path.name for path in saved[1].iterdir()) == FILES


def test_json_and_yaml_say_the_same(saved: tuple[Embedder, Path]) -> None:
    cfg = load_yaml(saved[1] / "config.yaml")
    assert json.loads((saved[1] / "config.json").read_text()) == OmegaConf.to_container(cfg)
    assert load_yaml(saved[1] / "config.json") == cfg


def test_a_folder_with_json_alone_loads(saved: tuple[Embedder, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(saved[1] / name)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(embedder.load(tmp_path)(images), saved[0](images))


def test_what_was_loaded_is_saved_byte_for_byte(saved: tuple[Embedder, Path], tmp_path: Path) -> None:
    embedder.load(saved[1]).save_pretrained(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (saved[1] / name).read_bytes()


def test_each_of_several_models_on_one_backbone_has_its_own_config() -> None:
    gem, linear = described(), described(pooling="max")
    models = embedder.sharing(gem, [gem.pooling, linear.pooling])
    assert [model.cfg and model.cfg.pooling._target_ for model in models] == [
        "retrieval.poolings.GeM",
        "retrieval.poolings.GlobalMax",
    ]


def test_a_model_built_by_hand_is_not_saved_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("of another")
    model = made()
    by_hand = Embedder(model.backbone, model.pooling, model.head)
    with pytest.raises(InputError, match=r"built by hand; accepted: a model of embedder\.from_config"):
        by_hand.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "of another"


def test_the_card_says_what_it_is(saved: tuple[Embedder, Path]) -> None:
    card = (saved[1] / "README.md").read_text()
    assert saved[0].p is not None
    for fact in ("timm's `test_resnet`", f"GeM, p = {saved[0].p.item():.3g}", "Whitening", str(saved[0].dim)):
        assert fact in card
    assert "trained on: not said" in card


def test_the_cards_three_lines_run(saved: tuple[Embedder, Path], photos: Path) -> None:
    text = (saved[1] / "README.md").read_text().replace("org/name", str(saved[1]))
    text = text.replace("photo.jpg", str(photos / "arch/0.jpg"))
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], found)
    assert found["vector"].shape == (1, saved[0].dim)


def test_a_card_that_is_there_is_kept_and_another_may_be_given(saved: tuple[Embedder, Path], tmp_path: Path) -> None:
    text = "---\ntags:\n- given\n---\n# Given\n"
    saved[0].save_pretrained(tmp_path, model_card_kwargs={"text": text})
    assert (tmp_path / "README.md").read_text() == text
    saved[0].save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_a_copy_is_whole_and_weights_keep_their_names(saved: tuple[Embedder, Path]) -> None:
    model, images = copy.deepcopy(saved[0]), torch.rand(1, 3, 64, 64)
    assert torch.equal(model(images), saved[0](images))
    assert model.cfg == saved[0].cfg and model.cfg is not saved[0].cfg
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "pooling", "head"}


def test_a_model_in_shares_is_still_a_model() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = made(head="none").to(memory_format=torch.contiguous_format)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        assert isinstance(model, Embedder) and model.cfg is not None
    finally:
        torch.distributed.destroy_process_group()


def test_torch_hub_loads_it(saved: tuple[Embedder, Path]) -> None:
    model: Any = torch.hub.load(str(ROOT), "embedder", str(saved[1]), source="local")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(images), saved[0](images))


@pytest.mark.parametrize("path", ["runs/of/mine", "./mine", "/nowhere/mine", "mine", "../mine", "a b/c", "org/", "~/x"])
def test_what_is_no_id_is_not_asked_of_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", None)
    with pytest.raises(InputError, match=f"no folder at {re.escape(path)}; accepted: .*org/name@revision"):
        embedder.load(path)


def test_a_path_below_a_folder_that_is_here_is_local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", None)
    for load in (embedder.load, Embedder.from_pretrained):
        with pytest.raises(InputError, match="no folder at runs/mine, and no id of the Hub: runs is here"):
            load("runs/mine")
    with pytest.raises(InputError, match="no folder at org/name"):
        embedder.load(Path("org/name"))


class Hub(ThreadingHTTPServer):
    """What the Hub answers for files of `org/NAME`, folders below root; keeps what was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root = root
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        _, _, name, _, revision, file = [*self.path.split("/"), *[""] * 6][:6]
        folder, error = self.server.root / name, ""
        if name == "gated":
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        if not (name and folder.is_dir()):
            error = "RepoNotFound"
        elif revision not in ("main", "v1", COMMIT):
            error = "RevisionNotFound"
        elif not (folder / file).is_file():
            error = "EntryNotFound"
        if error:
            return self.answer(404, {"X-Error-Code": error, "X-Repo-Commit": COMMIT})
        content = (folder / file).read_bytes()
        return self.answer(200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content)

    do_HEAD = do_GET

    def answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Said(NamedTuple):
    """Rows or refusals by what was loaded, with the Hub there and then without; what the Hub was asked for."""

    there: dict[str, Any]
    gone: dict[str, Any]
    asked: list[str]
    expected: np.ndarray


ASK = """
import json, sys, torch
from retrieval import embedder
from retrieval.errors import InputError

torch.set_num_threads(1)  # sums in the order of the tests' own process

def said(load, *words, **how):
    try:
        return load(*words, **how)(torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)).tolist()
    except InputError as error:
        return str(error)

found = {word: said(embedder.load, word) for word in sys.argv[1:]}
found["pretrained"] = said(embedder.Embedder.from_pretrained, "org/whole")
found["pretrained v1"] = said(embedder.Embedder.from_pretrained, "org/whole", revision="v1")
found["two revisions"] = said(embedder.Embedder.from_pretrained, "org/whole@main", revision="v1")
print(json.dumps(found))
"""
WORDS = [
    *("org/whole", "org/whole@v1", "org/whole@v2", "org/json", "org/weightless", "org/empty"),
    *("org/absent", "org/gated", "org/bad--name"),
]


def ask(endpoint: str, home: Path, offline: bool) -> dict[str, Any]:
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    variables = {**os.environ, **hub, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *WORDS], env=variables, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def said(saved: tuple[Embedder, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    held = {"whole": FILES, "json": ["config.json", "model.safetensors"], "weightless": ["config.yaml"], "empty": []}
    for name, files in held.items():
        (root / name).mkdir()
        for file in files:
            (root / name / file).write_bytes((saved[1] / file).read_bytes())
    with Hub(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        there = ask(endpoint, home, offline=False)
        server.shutdown()
    images = torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)
    yield Said(there, ask(endpoint, home, offline=True), server.asked, saved[0](images).detach().numpy())


@pytest.mark.parametrize("word", ["org/whole", "org/whole@v1", "org/json", "pretrained", "pretrained v1"])
def test_the_hub_gives_the_same_model(said: Said, word: str) -> None:
    assert np.array_equal(np.float32(said.there[word]), said.expected)


def test_two_files_are_fetched_of_one_commit_and_no_more(said: Said) -> None:
    asked = {path for path in said.asked if "org/whole" in path and "v" not in path.split("/")[4]}
    assert asked == {"/org/whole/resolve/main/config.yaml", f"/org/whole/resolve/{COMMIT}/model.safetensors"}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("org/absent", "there is no such model, or it is private"),
        ("org/gated", "it is gated"),
        ("org/whole@v2", "it has no such revision"),
        ("org/weightless", "it holds no model.safetensors"),
        ("org/empty", "it holds no config.yaml or config.json"),
        ("org/bad--name", "Cannot have -- or .. in repo_id"),
    ],
)
def test_what_the_hub_refuses_is_said(said: Said, word: str, reason: str) -> None:
    assert re.match(rf"{word} is not fetched from http://127\.0\.0\.1:\d+: {reason}", said.there[word])
    assert "accepted: a folder with" in said.there[word]


def test_one_revision_is_named_at_a_time(said: Said) -> None:
    assert "org/whole@main names a revision, and revision=v1 another: give one" in said.there["two revisions"]


def test_a_model_that_was_fetched_loads_without_the_hub(said: Said) -> None:
    for word in ("org/whole", "org/whole@v1", "org/json", "pretrained"):
        assert np.array_equal(np.float32(said.gone[word]), said.expected)


def test_a_model_that_was_not_fetched_says_that_the_hub_is_out_of_reach(said: Said) -> None:
    reason = r"it is not kept here, and the Hub is out of reach \(.*offline mode"
    assert re.match(rf"org/absent is not fetched from .*: {reason}", said.gone["org/absent"])
