"""Photos are described by a model that was taken away: every one or with the reason why not, once, and in order."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from onnx import TensorProto, helper
from PIL import Image
from torch import nn
from torch.export import Dim

from retrieval import embedder, extraction
from retrieval.config import CONFIGS, load_yaml
from retrieval.data.contents import hash_bytes, stamp
from retrieval.embed import Described, Model, describe, folder, load, reading
from retrieval.embed.__main__ import main
from retrieval.embed.filling import fill, locked
from retrieval.embed.network import Network
from retrieval.errors import InputError
from retrieval.spec import KEY, Spec

ROOT = Path(__file__).parent.parent
BLOCKED = ("torch", "torchvision", "timm", "hydra", "omegaconf", "lightning", "onnx")


def config(backbone: str = "test_resnet", pooling: str = "gem") -> DictConfig:
    groups = {"pooling": pooling, "head": "none", "backbone": "timm"}
    cfg = OmegaConf.create({group: load_yaml(CONFIGS / group / f"{name}.yaml") for group, name in groups.items()})
    cfg.backbone.name, cfg.names, cfg.extract = backbone, groups, {"resolutions": [64, 96, 80]}
    return cfg


class FromBytes(nn.Module):
    """An embedder that takes uint8."""

    def __init__(self, embedder: embedder.Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        center, spread = (torch.tensor(getattr(self.embedder.backbone, k))[:, None, None] for k in ("mean", "std"))
        return self.embedder((images.float() / 255 - center) / spread)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, and in `away/` the same as an ONNX file."""
    torch.manual_seed(0)
    path, cfg = tmp_path_factory.mktemp("run"), config()
    model = embedder.from_config(cfg).eval()
    embedder.save(model, cfg, path)
    axes = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    program = torch.export.export(
        FromBytes(model), (torch.zeros(2, 3, 64, 96, dtype=torch.uint8),), dynamic_shapes=(axes,)
    )
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, external_data=False, input_names=["images"], output_names=["descriptors"]
    )
    assert made is not None
    proto, (mean, std) = made.model_proto, ([*map(tuple, (model.backbone.mean, model.backbone.std))])
    helper.set_model_props(proto, {KEY: Spec("test_resnet gem", model.dim, model.dim, mean, std, 96).json()})  # pyright: ignore[reportArgumentType]
    (path / "away").mkdir()
    onnx.save(proto, path / "away" / "model.onnx")
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model of next to no work: the mean of each channel as a unit row."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("LpNormalization", ["means"], ["descriptors"], axis=1, p=2),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 3, "h", "w"])
    rows = helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, ["b", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(nodes, "colours", [given], [rows], [axes])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(made, {KEY: Spec("colours", 3, 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 64).json()})
    path = tmp_path_factory.mktemp("colours") / "colours.onnx"
    onnx.save(made, path)
    return path


class Counting:
    """A model that counts the photos it describes, and does something before each batch."""

    def __init__(self, model: Model, before: Callable[[int], object] = lambda count: None) -> None:
        self.model, self.before, self.count = model, before, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.before(self.count)
        self.count += len(pixels)
        return self.model(pixels)


def below(root: Path) -> list[str]:
    return sorted(map(str, root.rglob("*.jpg")))


@pytest.mark.parametrize("resolution", [None, 57])
def test_an_onnx_file_describes_photos_as_the_models_own_extraction(
    run: Path, photos: Path, resolution: int | None
) -> None:
    found = describe(load(run / "away"), photos, resolution, batch_size=3)
    expected = extraction.describe(embedder.load(run), below(photos), resolution or 96)
    assert found.images == below(photos) and not found.unreadable
    np.testing.assert_allclose(found.rows, expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2**-0.5, 0.5)])
def test_a_models_folder_describes_photos_as_its_extraction(run: Path, photos: Path, scales: tuple[float, ...]) -> None:
    found = describe(load(run, scales), photos, batch_size=3)
    expected = extraction.describe(embedder.load(run), below(photos), 96, scales)
    np.testing.assert_allclose(found.rows, expected, atol=1e-5)


def test_a_backbone_of_patches_takes_the_sides_it_needs(tmp_path: Path, photos: Path) -> None:
    embedder.save(embedder.from_config(config("test_vit")), config("test_vit"), tmp_path)
    found = describe(load(tmp_path), photos, 50)
    np.testing.assert_allclose(found.rows, extraction.describe(embedder.load(tmp_path), below(photos), 50), atol=1e-5)


def test_a_pooling_of_one_map_takes_squares_of_its_size(tmp_path: Path, photos: Path) -> None:
    cfg = config(pooling="mixvpr")
    cfg.extract.resolutions = [224, 80]
    embedder.save(embedder.from_config(cfg, 80), cfg, tmp_path)
    model = load(tmp_path)
    assert (model.size, model.resolution) == ((80, 80), 80)
    expected = extraction.describe(embedder.load(tmp_path), below(photos), 80, aspect="square")
    np.testing.assert_allclose(describe(model, photos).rows, expected, atol=1e-5)
    with pytest.raises(InputError, match="takes photos of 80 x 80 alone"):
        describe(model, photos, 96)
    with pytest.raises(InputError, match="takes photos of 80 x 80 alone"):
        load(tmp_path, [1.0, 0.5])


def test_a_model_is_described_by_its_config(run: Path) -> None:
    model = load(run)
    assert (model.name, model.resolution, model.size, model.scales) == ("test_resnet gem", 96, None, (1.0,))
    assert model.source == str(run) and model.multiple == 1


def test_a_fingerprint_is_of_the_weights_and_what_they_are_for(run: Path) -> None:
    first, other = embedder.load(run), embedder.load(run)
    assert Network(first).fingerprint == Network(other).fingerprint == load(run).fingerprint
    assert other.cfg is not None
    other.cfg.pooling.eps = 1e-3
    assert Network(first).fingerprint != Network(other).fingerprint
    with torch.no_grad():
        next(first.parameters())[0] += 1
    assert Network(first).fingerprint != load(run).fingerprint


def test_onnx_and_the_command_need_neither_torch_nor_hydra(run: Path, photos: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); from retrieval.embed.__main__ import main; "
        f"sys.exit(main(['{run / 'away' / 'model.onnx'}', '{photos}', '-o', '{tmp_path / 'out'}']))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    found = folder.read(tmp_path / "out")
    assert found.images == below(photos) and isinstance(found.rows, np.memmap)
    np.testing.assert_allclose(found.rows, extraction.describe(embedder.load(run), below(photos), 96), atol=1e-5)


def test_without_torch_a_models_folder_is_refused_with_the_reason(run: Path, photos: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); from retrieval.embed.__main__ import main; "
        f"sys.exit(main(['{run}', '{photos}', '-o', '{tmp_path / 'out'}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "needs PyTorch" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.onnx", "no model can be read"), ("text.pt2", "is no model to embed with"), ("none", "none")],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(InputError, match=said):
        load(tmp_path / name)


def test_photos_are_found_in_folders_lists_and_stdin_each_once(photos: Path, tmp_path: Path) -> None:
    first, second, *rest = below(photos)
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"{second}\r\n\n{first}\n"))
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("b.jpg", "deeper/a.PNG", ".hidden.jpg", "notes.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / "deep" / name, "PNG")
    named = reading.named([f"@{tmp_path / 'list.txt'}", "-", str(tmp_path / "deep")], io.BytesIO(first.encode()))
    deep = [str(tmp_path / "deep" / "b.jpg"), str(tmp_path / "deep" / "deeper" / "a.PNG")]
    assert reading.found([*named, photos]) == [second, first, *deep, *rest]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_list_may_have_a_byte_order_mark_and_spaces_around_paths(ends: bytes, tmp_path: Path) -> None:
    lines = [b"a.jpg", b"  b c.jpg\t", b"", b" \t", "ü.jpg".encode()]
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf" + ends.join(lines))
    assert reading.named([f"@{tmp_path / 'list'}"], io.BytesIO()) == ["a.jpg", "b c.jpg", "ü.jpg"]


def test_a_list_names_a_file_by_the_spaces_that_it_has(tmp_path: Path) -> None:
    (tmp_path / " a.jpg").touch()
    line = f"{tmp_path}/ a.jpg"
    (tmp_path / "b.jpg ").touch()
    assert reading.named(["-"], io.BytesIO(f"{line}\n{tmp_path}/b.jpg \n{line} \n".encode())) == [
        line,
        f"{tmp_path}/b.jpg ",
        line,
    ]


def test_paths_of_any_bytes_are_described(colours: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff.jpg")
    Image.new("RGB", (8, 8), "red").save(tmp_path / odd)
    (tmp_path / "list").write_bytes(os.fsencode(tmp_path / odd))
    assert main([str(colours), f"@{tmp_path / 'list'}", "-o", str(tmp_path / "out")]) == 0
    assert folder.read(tmp_path / "out").images == [str(tmp_path / odd)]


def broken(root: Path) -> dict[str, str]:
    """Photos that cannot be described, and a word of why."""
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole, "JPEG")
    (root / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("I am no photo")
    (root / "pickle.png").write_bytes(pickle.dumps([1, 2, 3]))
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "deep.png")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    os.mkfifo(root / "pipe.jpg")
    return {
        "cut.jpg": "truncated", "deep.png": "8-bit", "empty.jpg": "no image of", "gone.jpg": "No such file",
        "pickle.png": "no image of", "pipe.jpg": "is a named pipe", "text.jpg": "no image of",
    }  # fmt: skip


def test_photos_that_cannot_be_described_are_listed_and_not_fatal(
    colours: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "photos").mkdir()
    faults = broken(tmp_path / "photos")
    names = [*sorted(faults), "missing.jpg"]
    faults["missing.jpg"] = "No such file"
    given = [str(tmp_path / "photos"), str(tmp_path / "photos" / "missing.jpg"), str(photos)]
    assert main([str(colours), *given, "-o", str(tmp_path / "out")]) == 0
    written, said = json.loads((tmp_path / "out" / "unreadable.json").read_text()), capsys.readouterr().err
    assert [Path(one["path"]).name for one in written] == names
    for one in written:
        assert faults[Path(one["path"]).name] in one["reason"] and one["path"] in said
    found = folder.read(tmp_path / "out")
    assert found.images == below(photos) and found.unreadable == written
    assert np.array_equal(found.rows, describe(load(colours), photos).rows)


def test_linked_folders_are_described_and_what_is_left_out_is_counted(
    colours: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(photos / "arch")
    for name in ("notes.txt", ".hidden.jpg"):
        (tmp_path / "in" / name).touch()
    assert main([str(colours), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path / 'in'}: 2 files or folders left out: 1 .txt, 1 hidden\n" in said.err and "left" not in said.out
    assert folder.read(tmp_path / "out").images == [str(tmp_path / "in" / "linked" / f"{i}.jpg") for i in range(5)]


def test_a_photo_of_one_pixel_a_side_is_described_at_every_scale(run: Path, photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 1)).save(tmp_path / "thin.jpg")
    paths = [str(tmp_path / "thin.jpg"), *below(photos)[:2]]
    found = describe(load(run, [1.0, 0.5]), paths)
    assert found.images == paths and not found.unreadable
    np.testing.assert_allclose(found.rows, extraction.describe(embedder.load(run), paths, 96, [1.0, 0.5]), atol=1e-5)


def test_a_descriptor_that_is_not_finite_is_none(colours: Path, photos: Path) -> None:
    class Broken(Counting):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            rows = super().__call__(pixels)
            rows[0, 1] = np.nan if self.count == len(pixels) else rows[0, 1]
            return rows

    found = describe(Broken(load(colours)), photos, batch_size=4)
    assert len(found.images) == 19 and "not finite" in found.unreadable[0]["reason"]
    assert np.isfinite(found.rows).all()


def test_no_photo_that_can_be_described_is_status_1(colours: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.jpg").write_text("I am no photo")
    assert main([str(colours), str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "error: none of 1 photos can be described" in capsys.readouterr().err
    with pytest.raises(InputError, match="none of 1 photos"):
        describe(load(colours), tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "text.jpg")
    assert main([str(colours), str(tmp_path), "-o", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["EMPTY"], "no photos to describe"),
        (["@EMPTY/list"], "no list of photos can be read"),
        (["PHOTOS", "--resolution", "0"], "the resolution must be"),
        (["PHOTOS", "--scales", "1", "0.5"], "inside its graph"),
        (["PHOTOS", "--batch-size", "0"], "must be at least 1"),
        (["PHOTOS", "--workers", "0"], "must be at least 1"),
        (["PHOTOS", "--device", "tpu"], "got 'tpu'"),
        (["PHOTOS", "-o", "PHOTOS"], "holds other files"),
        (["PHOTOS", "-o", "/proc/nowhere"], "no folder that can be written to"),
    ],
)
def test_what_cannot_be_asked_is_status_2(
    colours: Path, photos: Path, tmp_path: Path, capsys: Any, more: list[str], said: str
) -> None:
    words = [word.replace("EMPTY", str(tmp_path)).replace("PHOTOS", str(photos)) for word in more]
    out = [] if "-o" in more else ["-o", str(tmp_path / "out")]
    assert main([str(colours), *words, *out]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out" / "manifest.json").exists()
    (photos / ".lock").unlink(missing_ok=True)


def test_a_killed_process_is_gone_on_with(colours: Path, photos: Path, tmp_path: Path) -> None:
    code = (
        "import os; from retrieval.embed.filling import fill; from retrieval.portable import Portable\n"
        "class Killed(Portable):\n"
        "    left = 6\n"
        "    def __call__(self, pixels):\n"
        "        self.left -= 1\n"
        "        return super().__call__(pixels) if self.left else os.kill(os.getpid(), 9)\n"
        f"fill('{tmp_path / 'out'}', Killed('{colours}'), ['{photos}'], batch_size=2, size=4)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="not all described"):
        folder.read(tmp_path / "out")
    model = Counting(load(colours))
    found = fill(tmp_path / "out", model, [str(photos)], batch_size=5, size=9)
    assert 20 - 10 <= model.count <= 20 - 8  # two shards of at least 4 photos were whole, in five batches
    assert np.array_equal(found.rows, describe(model.model, photos).rows) and found.images == below(photos)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "contents.json", "descriptors.npy", "images.json", "manifest.json", "unreadable.json",
    ]  # fmt: skip


@pytest.mark.parametrize("moved", range(5))
def test_a_process_killed_while_it_puts_its_files_in_place_is_gone_on_with(
    colours: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    move, done = Path.replace, []

    def killed(path: Path, target: Path) -> Path:
        if target.parent == tmp_path / "out":
            done.append(target)
            if len(done) > moved:
                raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        fill(tmp_path / "out", load(colours), [str(photos)])
    model = Counting(load(colours))
    assert np.array_equal(fill(tmp_path / "out", model, [str(photos)]).rows, describe(load(colours), photos).rows)
    assert model.count == 0


def test_a_finished_folder_is_left_as_it_is(colours: Path, photos: Path, tmp_path: Path) -> None:
    first = fill(tmp_path, load(colours), [str(photos)])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"}
    model = Counting(load(colours))
    assert fill(tmp_path, model, [str(photos)]).manifest == first.manifest and model.count == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("other", ["model", "resolution", "photos", "scales"])
def test_a_folder_of_other_descriptors_is_refused(
    run: Path, colours: Path, tmp_path: Path, finished: bool, other: str
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (90 * i, 80, 70)).save(tmp_path / "photos" / f"{i}.jpg")

    def stop(count: int) -> None:
        if not finished:
            raise KeyboardInterrupt

    given = [str(tmp_path / "photos")]
    first = load(run if other == "scales" else colours)
    try:
        fill(tmp_path / "out", Counting(first, stop), given)
    except KeyboardInterrupt:
        assert not finished
    if other == "photos":
        given = [f"{given[0]}/0.jpg"]
    said = {"model": "fingerprint is", "photos": "its photos are others"}.get(other, f"{other} is")
    second = load(run, [1.0, 0.5] if other == "scales" else None) if other in ("model", "scales") else first
    resolution = 96 if other == "model" else 50 if other == "resolution" else None
    with pytest.raises(InputError, match=f"holds other descriptors: .*{said}"):
        fill(tmp_path / "out", second, given, resolution)


# Photos that change


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Three photos of one colour each, as files of one size and time of change."""
    root = tmp_path / "plain"
    root.mkdir()
    for i in range(3):
        paint(root / f"{i}.bmp", (90 * i, 80, 70))
    return root


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> None:
    Image.new("RGB", size, colour).save(path)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def stop_at(limit: int) -> Callable[[int], None]:
    def stop(count: int) -> None:
        if count >= limit:
            raise KeyboardInterrupt

    return stop


def in_place(path: Path, colour: tuple[int, int, int]) -> None:
    paint(path, colour)


def by_rename(path: Path, colour: tuple[int, int, int]) -> None:
    paint(path.with_name("new.bmp"), colour)
    path.with_name("new.bmp").rename(path)


@pytest.mark.parametrize("replace", [in_place, by_rename])
def test_a_photo_replaced_under_its_name_size_and_mtime_is_described_again(
    colours: Path, plain: Path, tmp_path: Path, replace: Callable, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path / "out", load(colours), [str(plain)])
    before = (plain / "1.bmp").stat()
    replace(plain / "1.bmp", (1, 2, 200))
    after = (plain / "1.bmp").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    model = Counting(load(colours))
    found = fill(tmp_path / "out", model, [str(plain)])
    assert model.count == 1 and np.array_equal(found.rows, describe(load(colours), plain).rows)
    assert "1 of 3 photos have changed since they were described" in capsys.readouterr().out


def test_a_copy_with_other_stamps_is_not_described_again(colours: Path, plain: Path, tmp_path: Path) -> None:
    first = fill(tmp_path / "out", load(colours), [str(plain)])
    os.utime(plain / "0.bmp", (1, 1))
    by_rename(plain / "1.bmp", (90, 80, 70))
    model = Counting(load(colours))
    found = fill(tmp_path / "out", model, [str(plain)])
    assert model.count == 0 and np.array_equal(found.rows, first.rows)
    assert all(found.contents[path].stamp == stamp(path) for path in found.images)


def test_the_hash_that_is_kept_is_of_the_bytes_of_the_file(colours: Path, photos: Path, tmp_path: Path) -> None:
    found = fill(tmp_path, load(colours), [str(photos)])
    assert {path: one.hash for path, one in found.contents.items()} == {
        path: hash_bytes(Path(path).read_bytes()) for path in below(photos)
    }


def test_a_file_that_is_no_photo_is_named_and_its_hash_known(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("I am no photo")
    read = reading.read(str(tmp_path / "text.jpg"), (8, 8))
    assert read.pixels is None and read.fault == "it is no image of a known kind"
    assert read.content and read.content.hash == hash_bytes(b"I am no photo")


def test_a_photo_that_changed_after_a_kill_is_described_as_it_is_now(
    colours: Path, plain: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", Counting(load(colours), stop_at(2)), [str(plain)], batch_size=1, size=1)
    paint(plain / "0.bmp", (3, 3, 200), (64, 20))
    paint(plain / "2.bmp", (3, 200, 3), (20, 64))
    model = Counting(load(colours))
    found = fill(tmp_path / "out", model, [str(plain)])
    assert model.count == 2 and np.array_equal(found.rows, describe(load(colours), plain).rows)


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_killed_renewal_leaves_the_rows_that_were_there_and_is_gone_on_with(
    colours: Path, plain: Path, tmp_path: Path, stopped: int
) -> None:
    first = fill(tmp_path / "out", load(colours), [str(plain)])
    paint(plain / "0.bmp", (3, 3, 200))
    paint(plain / "1.bmp", (3, 200, 3))
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", Counting(load(colours), stop_at(stopped)), [str(plain)], batch_size=1, size=1)
    assert np.array_equal(folder.read(tmp_path / "out").rows, first.rows)
    model = Counting(load(colours))
    found = fill(tmp_path / "out", model, [str(plain)])
    assert model.count == 2 - stopped and np.array_equal(found.rows, describe(load(colours), plain).rows)


@pytest.mark.parametrize("moved", range(5))
def test_a_renewal_killed_while_it_puts_its_files_in_place_is_gone_on_with(
    colours: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    fill(tmp_path / "out", load(colours), [str(plain)])
    (plain / "0.bmp").write_text("I am no photo")
    move, done = Path.replace, []

    def killed(path: Path, target: Path) -> Path:
        if target.parent == tmp_path / "out":
            done.append(target)
            if len(done) > moved:
                raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        fill(tmp_path / "out", load(colours), [str(plain)])
    with pytest.raises(InputError, match="not all described"):
        folder.read(tmp_path / "out")
    found = fill(tmp_path / "out", load(colours), [str(plain)])
    assert [Path(path).name for path in found.images] == ["1.bmp", "2.bmp"] and len(found.unreadable) == 1


def test_photos_that_became_unreadable_or_readable_are_tried_again(colours: Path, plain: Path, tmp_path: Path) -> None:
    whole = (plain / "1.bmp").read_bytes()
    given = [str(plain / name) for name in ("0.bmp", "1.bmp", "2.bmp", "3.bmp")]
    assert len(fill(tmp_path / "out", load(colours), given).unreadable) == 1
    (plain / "1.bmp").write_bytes(whole[:99])
    paint(plain / "3.bmp", (9, 9, 9))
    found = fill(tmp_path / "out", load(colours), given)
    assert [one["path"] for one in found.unreadable] == [given[1]] and found.images == [given[0], *given[2:]]
    model = Counting(load(colours))
    assert fill(tmp_path / "out", model, given).unreadable == found.unreadable and model.count == 0
    (plain / "1.bmp").write_bytes(whole)
    found = fill(tmp_path / "out", load(colours), given)
    assert found.images == given and np.array_equal(found.rows, describe(load(colours), given).rows)


def test_a_folder_of_an_older_version_is_read_and_not_gone_on_with(colours: Path, plain: Path, tmp_path: Path) -> None:
    written = fill(tmp_path / "out", load(colours), [str(plain)])
    (tmp_path / "out" / "contents.json").unlink()
    manifest = {key: value for key, value in written.manifest.items() if key != "paths"}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, "photos": "f" * 64}))
    assert np.array_equal((found := folder.read(tmp_path / "out")).rows, written.rows) and not found.contents
    with pytest.raises(InputError, match="an older version wrote it, without hashes of its photos; accepted: another"):
        fill(tmp_path / "out", load(colours), [str(plain)])


def test_two_processes_do_not_fill_one_folder(colours: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    code = (
        f"import sys; from retrieval.embed.filling import locked\n"
        f"with locked(__import__('pathlib').Path('{tmp_path}')): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        assert main([str(colours), str(photos), "-o", str(tmp_path)]) == 2
        assert "is being filled by another process" in capsys.readouterr().err
        other.kill()
    with locked(tmp_path):
        pass


def test_photos_are_decoded_ahead_of_the_network_but_not_far(photos: Path) -> None:
    paths, asked = below(photos) * 10, []

    def batches() -> Iterator[list[int]]:
        for i in range(0, len(paths), 2):
            asked.append(i)
            yield [i, i + 1]

    parts = reading.decoded(paths, [(8, 8)] * len(paths), batches(), workers=3)
    for done in range(1, 6):
        next(parts)
        assert done + 3 <= len(asked) <= done + 4
    parts.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() < 20


@pytest.fixture(scope="module")
def finished(colours: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished")
    fill(path, load(colours), [str(photos)])
    return path


def test_what_is_kept_is_what_was_described(colours: Path, photos: Path, finished: Path) -> None:
    kept, here = folder.read(finished), describe(load(colours), photos)
    assert np.array_equal(kept.rows, here.rows) and kept.images == here.images
    assert {key: kept.manifest[key] for key in here.manifest} == here.manifest


class Call:
    def __reduce__(self) -> Any:
        return print, ("a stranger's code runs",)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no manifest": ("manifest.json", bytes, "cannot be read"),
    "a list": ("manifest.json", lambda: b"[]", "must be an object"),
    "deep": ("manifest.json", lambda: b"[" * 100_000, "cannot be read"),
    "no model": ("manifest.json", lambda: b'{"model": 1}', "model must be a text"),
    "images not a list": ("images.json", lambda: b'{"a": 1}', "must be a list of paths"),
    "images not paths": ("images.json", lambda: json.dumps([1] * 20).encode(), "must be a list of paths"),
    "too few images": ("images.json", lambda: b'["a.jpg"]', "a row for each image"),
    "unreadable": ("unreadable.json", lambda: b'[{"path": 1}]', "paths and reasons"),
    "contents not an object": ("contents.json", lambda: b"[1]", "must hold a SHA-256, size"),
    "contents not hashes": ("contents.json", lambda: b'{"a.jpg": ["f", 1, 1, 1, 1]}', "must hold a SHA-256, size"),
    "contents not stamps": ("contents.json", lambda: b'{"a.jpg": [1.5, 2]}', "must hold a SHA-256, size"),
    "rows are bytes": ("descriptors.npy", lambda: b"no rows" * 9, "is no array of descriptors"),
    "rows are a pickle": ("descriptors.npy", lambda: pickle.dumps(Call()), "is no array of descriptors"),
    "rows are objects": ("descriptors.npy", lambda: npy(np.array([[Call()] * 3] * 20)), "is no array of descriptors"),
    "rows cut off": ("descriptors.npy", lambda: npy(np.ones((20, 3), np.float32))[:-40], "is no array of descriptors"),
    "rows of float64": ("descriptors.npy", lambda: npy(np.ones((20, 3))), "it holds float64"),
    "rows too long": ("descriptors.npy", lambda: npy(np.ones((20, 3), np.float32)), "rows of length 1"),
    "rows not finite": ("descriptors.npy", lambda: npy(np.full((20, 3), np.nan, np.float32)), "rows of length 1"),
    "several arrays": ("descriptors.npy", lambda: npz(), "must hold float32"),
}


def npy(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, rows=np.ones((20, 3), np.float32))
    return file.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_strangers_folder_is_read_with_care(finished: Path, tmp_path: Path, kind: str, capsys: Any) -> None:
    for path in finished.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name, content, said = HOSTILE[kind]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(InputError, match=said):
        folder.read(tmp_path)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [("fingerprint", None), ("name", 3), ("dim", 0), ("dim", 2.0), ("resolution", 10**9), ("scales", 1), ("scales", []),
     ("scales", [0]), ("scales", [1e400]), ("scales", ["1"]), ("scales", [True])],
)  # fmt: skip
def test_a_strangers_manifest_is_read_with_care(finished: Path, tmp_path: Path, key: str, value: Any) -> None:
    manifest = {**json.loads((finished / "manifest.json").read_text()), key: value}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"manifest.json: {key} must be"):
        folder.read(tmp_path)


def test_a_folder_of_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no manifest.json"):
        folder.read(tmp_path)


def test_three_lines_describe_photos(colours: Path, photos: Path) -> None:
    model = load(colours)
    found = describe(model, [photos / "arch", photos / "dome" / "0.jpg"])
    assert isinstance(found, Described) and found.rows.shape == (6, 3)
