"""Fetching and unpacking, against a real server on this machine that does what servers do on bad days."""

import hashlib
import io
import itertools
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.data.archives import BrokenArchive, UnsafeArchive
from retrieval.data.download import SOURCES, DownloadError, fetch, prepare, unpack
from retrieval.errors import InputError

CONTENT = bytes(range(256)) * 1000
PACKAGE = Path(__file__).parent.parent


class Site(ThreadingHTTPServer):
    """Files by path, and for each path what goes wrong at the next requests, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = {}
        self.heads: list[str] = []
        self.announced: dict[str, int] = {}
        self.ranges, self.validators, self.if_range = True, True, True
        self.silent_parts = False
        self.types: dict[str, str] = {}
        self.over = threading.Event()
        self.base = f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, path, wanted = self.server, self.path, self.headers["Range"]
        site.asked.append((path, wanted))
        fault = site.faults[path].pop(0) if site.faults.get(path) else {}
        if (status := fault.get("status", 200 if path in site.files else 404)) != 200:
            return self.send_error(status)
        body = site.files[path]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        condition = self.headers["If-Range"]
        unchanged = not site.if_range or condition in (None, etag)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and site.ranges and unchanged else None
        if start is not None and start >= len(body):
            return self.send_error(416)
        rest = body[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if site.validators and (start is None or not site.silent_parts):
            self.send_header("ETag", etag)
        self.send_header("Content-Type", site.types.get(path, "application/octet-stream"))
        self.send_header("Content-Length", str(fault.get("announced", len(rest))))
        self.end_headers()
        rest = rest[: fault.get("after", len(rest))]
        site.sent[path] = site.sent.get(path, 0) + len(rest)
        self.wfile.write(rest)
        if "stalled" in fault:
            self.wfile.flush()
            site.over.wait(20)
        self.close_connection = True
        return None

    def do_HEAD(self) -> None:
        site = self.server
        site.heads.append(self.path)
        self.send_response(200 if self.path in site.files else 404)
        self.send_header("Content-Length", str(site.announced.get(self.path, len(site.files.get(self.path, b"")))))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as site:
        yield site


class serving:
    def __enter__(self) -> Site:
        self.site = Site()
        threading.Thread(target=self.site.serve_forever, args=(0.01,), daemon=True).start()
        self.site.files["/file"] = CONTENT
        return self.site

    def __exit__(self, *_: object) -> None:
        self.site.over.set()
        self.site.shutdown()
        self.site.server_close()


def fetched(site: Site, target: Path, **how: Any) -> bytes:
    return fetch(f"{site.base}/file", target, **{"pause": 0, "timeout": 5, **how}).read_bytes()


def visible(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(p.relative_to(folder)) for p in files if not any(w.startswith(".") for w in p.parts))


# --- one file ---


def test_a_file_arrives_whole_and_leaves_no_part(site: Site, tmp_path: Path) -> None:
    assert fetched(site, tmp_path / "new" / "file.tgz") == CONTENT
    assert visible(tmp_path) == ["new/file.tgz"]


def test_a_file_that_is_there_is_not_asked_for(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    fetched(site, tmp_path / "file", size=len(CONTENT))
    assert site.asked == []


def test_a_file_that_is_there_with_another_checksum_is_refused_and_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="must have the md5"):
        fetched(site, tmp_path / "file", checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_after_a_cut_only_the_rest_is_sent(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [{"after": 100_000}]
    assert fetched(site, tmp_path / "file") == CONTENT
    assert site.asked == [("/file", None), ("/file", "bytes=100000-")]
    assert site.sent["/file"] == len(CONTENT)


def test_another_call_goes_on_where_the_first_gave_up(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [{"after": 100_000}]
    with pytest.raises(DownloadError, match="100000 of 256000 bytes"):
        fetched(site, tmp_path / "file", attempts=1)
    assert not (tmp_path / "file").exists()
    assert fetched(site, tmp_path / "file") == CONTENT
    assert site.sent["/file"] == len(CONTENT)


@settings(max_examples=20)
@given(content=st.binary(min_size=1, max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=4))
def test_wherever_it_is_cut_no_byte_is_lost_or_sent_twice(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    with serving() as site:
        site.files["/file"], site.faults["/file"] = content, [{"after": cut} for cut in cuts]
        assert fetched(site, tmp_path_factory.mktemp("cuts") / "file") == content
        assert site.sent["/file"] == len(content)


def test_a_server_that_cannot_go_on_sends_the_whole_file_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.faults["/file"] = False, [{"after": 100_000}]
    assert fetched(site, tmp_path / "file") == CONTENT
    assert site.sent["/file"] == 100_000 + len(CONTENT)


@pytest.mark.parametrize("if_range", [True, False], ids=["server heeds If-Range", "server overlooks If-Range"])
def test_a_file_that_changed_is_not_glued_to_its_older_part(site: Site, tmp_path: Path, if_range: bool) -> None:
    site.if_range, site.silent_parts, site.faults["/file"] = if_range, if_range, [{"after": 100_000}]
    with pytest.raises(DownloadError):
        fetched(site, tmp_path / "file", attempts=1)
    site.files["/file"] = CONTENT[::-1]
    assert fetched(site, tmp_path / "file") == CONTENT[::-1]


@pytest.mark.parametrize("length", [300_000, 150_000, 50_000])
def test_without_validators_the_size_tells_that_a_file_changed(site: Site, tmp_path: Path, length: int) -> None:
    site.validators, site.faults["/file"] = False, [{"after": 100_000}]
    with pytest.raises(DownloadError):
        fetched(site, tmp_path / "file", attempts=1)
    site.files["/file"] = b"\1" * length
    assert fetched(site, tmp_path / "file") == b"\1" * length


def test_the_part_of_another_address_is_not_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.validators, site.faults["/file"] = False, [{"after": 100_000}]
    site.files["/other"] = b"\1" * len(CONTENT)
    with pytest.raises(DownloadError):
        fetched(site, tmp_path / "file", attempts=1)
    assert fetch(f"{site.base}/other", tmp_path / "file").read_bytes() == b"\1" * len(CONTENT)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_right_checksum_is_accepted(site: Site, tmp_path: Path, algorithm: str) -> None:
    checksum = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    assert fetched(site, tmp_path / "file", checksum=checksum) == CONTENT


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_wrong_bytes_are_removed_and_both_checksums_named(site: Site, tmp_path: Path, algorithm: str) -> None:
    expected, got = (hashlib.new(algorithm, content).hexdigest() for content in (b"right", CONTENT))
    with pytest.raises(DownloadError, match=f"{expected}.*{got}"):
        fetched(site, tmp_path / "file", checksum=f"{algorithm}:{expected}")
    assert not {path.name for path in tmp_path.iterdir()} & {"file", "file.part"}


def test_a_stalled_server_is_given_up_and_asked_again(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [{"after": 100_000, "stalled": True}]
    assert fetched(site, tmp_path / "file", timeout=0.2) == CONTENT
    assert site.sent["/file"] == len(CONTENT)


def test_what_is_not_found_is_asked_for_once_and_told_with_its_address(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"{site.base}/none answered 404.*by hand to {tmp_path / 'file'}"):
        fetch(f"{site.base}/none", tmp_path / "file", pause=0)
    assert site.paths() == ["/none"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(site: Site, tmp_path: Path, status: int) -> None:
    site.faults["/file"] = [{"status": status}]
    assert fetched(site, tmp_path / "file") == CONTENT


def test_attempts_are_bounded_and_each_is_told(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    site.faults["/file"] = [{"status": 503}] * 9
    with pytest.raises(DownloadError, match="in 3 attempts"):
        fetched(site, tmp_path / "file", attempts=3)
    assert len(site.asked) == 3
    assert re.findall(r"attempt \d of \d", capsys.readouterr().out) == [f"attempt {i} of 3" for i in (1, 2, 3)]


def test_no_server_at_all_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=f"{url}.*no answer"):
            fetch(url, tmp_path / "file", attempts=2, pause=0)


def test_fewer_bytes_than_announced_are_never_taken_for_the_file(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.faults["/file"] = [{"announced": len(CONTENT) + 1}] * 9
    with pytest.raises(DownloadError, match="256000 of 256001 bytes"):
        fetched(site, tmp_path / "file", attempts=3)
    assert not (tmp_path / "file").exists()


def test_a_file_announced_shorter_than_it_is_does_not_pass_for_it(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [{"announced": 1000}]
    with pytest.raises(DownloadError, match="must have the sha256"):
        fetched(site, tmp_path / "file", checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    assert fetched(site, tmp_path / "file") == CONTENT


def test_a_size_other_than_the_published_one_is_refused_before_it_comes(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="must have 7 bytes, the server announces 256000"):
        fetched(site, tmp_path / "file", size=7)
    assert not (tmp_path / "file.part").exists()


def test_more_than_the_disk_can_take_is_refused_before_it_comes(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [{"announced": 10**18}]
    with pytest.raises(InputError, match="1000000000.00 GB .* the disk has"):
        fetched(site, tmp_path / "file")


def test_a_web_page_is_not_taken_for_a_file(site: Site, tmp_path: Path) -> None:
    site.types["/file"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page"):
        fetched(site, tmp_path / "file")


@pytest.mark.parametrize("checksum", ["md5:abc", "sha1:" + "0" * 40, "0" * 32, "sha256:" + "g" * 64])
def test_a_malformed_checksum_is_refused_before_anything_is_asked(site: Site, tmp_path: Path, checksum: str) -> None:
    with pytest.raises(DownloadError, match="md5:<32 digits> or sha256:<64 digits>"):
        fetched(site, tmp_path / "file", checksum=checksum)
    assert site.asked == []


def test_other_addresses_than_http_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="http:// or https://"):
        fetch("file:///etc/passwd", tmp_path / "file")


def test_two_processes_fetch_one_file_once(site: Site, tmp_path: Path) -> None:
    code = "import sys; from retrieval.data.download import fetch; fetch(sys.argv[1], sys.argv[2])"
    both = [started(code, f"{site.base}/file", str(tmp_path / "file")) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert site.paths() == ["/file"]


def started(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=PACKAGE, stdout=subprocess.DEVNULL)


# --- archives ---


def tar(members: dict[str, bytes], suffix: str = ".tgz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w" if suffix == ".tar" else "w:gz") as archive:
        for name, content in members.items():
            archive.addfile(member(name, size=len(content)), io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "pack"), [("a.tgz", tar), ("a.zip", zipped)])
def test_files_are_unpacked_where_they_are_or_flat(tmp_path: Path, name: str, pack: Any) -> None:
    (tmp_path / name).write_bytes(pack({"b/2.jpg": b"two", "a/1.jpg": b"one", "a/.hidden": b""}))
    made = unpack(tmp_path / name, tmp_path / "deep")
    assert [str(path.relative_to(tmp_path / "deep")) for path in made] == ["a/.hidden", "a/1.jpg", "b/2.jpg"]
    assert unpack(tmp_path / name, tmp_path / "flat", flat=True) == [tmp_path / f"flat/{i}.jpg" for i in (1, 2)]
    assert (tmp_path / "flat/2.jpg").read_bytes() == b"two"


OUTSIDE = {
    "a path upward": [member("../outside", size=4)],
    "a path upward from a folder": [member("a/../../outside", size=4)],
    "an absolute path": [member("/{}/outside", size=4)],
    "a link out, written through": [
        member("door", type=tarfile.SYMTYPE, linkname=".."),
        member("door/outside", size=4),
    ],
    "a link in": [member("door", type=tarfile.SYMTYPE, linkname="good")],
    "a hard link out": [member("door", type=tarfile.LNKTYPE, linkname="../secret")],
    "a hard link in": [member("door", type=tarfile.LNKTYPE, linkname="good")],
    "a device": [member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [member("pipe", type=tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("hostile", OUTSIDE.values(), ids=OUTSIDE)
def test_a_hostile_tar_is_refused_and_writes_nothing(
    tmp_path: Path, hostile: list[tarfile.TarInfo], flat: bool
) -> None:
    (tmp_path / "secret").write_bytes(b"kept")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for info in [member("good", size=4), *hostile]:
            named = info.replace(name=info.name.format(str(tmp_path).strip("/")))
            archive.addfile(named, io.BytesIO(b"evil"))
    with pytest.raises(UnsafeArchive, match=str(tmp_path / "a.tar")):
        unpack(tmp_path / "a.tar", tmp_path / "in", flat)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "in", "secret"]
    assert (tmp_path / "secret").read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "C:/outside", "..\\outside"])
def test_a_hostile_zip_is_refused_and_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"good": b"good", name: b"evil"}))
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "a.zip", tmp_path / "in")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("door")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "..")
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "a.zip", tmp_path / "in")


PACKED = {f"{i}.jpg": os.urandom(3000) for i in range(6)}


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_an_archive_that_breaks_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole = tar(PACKED, suffix)
    end = whole.rstrip(b"\0") if suffix == ".tar" else whole
    (tmp_path / f"a{suffix}").write_bytes(whole[: int(len(end) * share)])
    with pytest.raises(BrokenArchive):
        unpack(tmp_path / f"a{suffix}", tmp_path / "in")
    assert visible(tmp_path / "in") == []


def test_a_tar_that_breaks_off_between_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(PACKED, ".tar")[: 3 * (512 + 3072)])
    with pytest.raises(BrokenArchive, match="breaks off or is damaged after 10752 bytes"):
        unpack(tmp_path / "a.tar", tmp_path / "in")


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(tar(PACKED, ".tar"))
    damaged[512 + 3072 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(BrokenArchive):
        unpack(tmp_path / "a.tar", tmp_path / "in")


def test_a_zip_with_a_damaged_file_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(zipped(PACKED))
    damaged[1000] ^= 1
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(BrokenArchive):
        unpack(tmp_path / "a.zip", tmp_path / "in")


def test_an_archive_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({}, ".tar"))
    with pytest.raises(BrokenArchive, match="no files"):
        unpack(tmp_path / "a.tar", tmp_path / "in")


def test_two_files_of_one_name_are_refused_where_all_go_into_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({"a/1.jpg": b"1", "b/1.jpg": b"2"}, ".tar"))
    with pytest.raises(UnsafeArchive, match=r"1.jpg comes twice"):
        unpack(tmp_path / "a.tar", tmp_path / "in", flat=True)


# --- whole sets ---


@pytest.fixture(scope="session")
def jpegs() -> Iterator[bytes]:
    """Tiny photos without end, each another one."""

    def photo(i: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (i % 256, i // 256 % 256, 0)).save(buffer, "JPEG")
        return buffer.getvalue()

    return map(photo, itertools.count())


def publish(site: Site, name: str, photos: Iterator[bytes]) -> None:
    """The files of a set at its addresses, in the form that the official ones have."""
    for i, file in enumerate(SOURCES[name].files):
        path = f"/{file.url.partition('://')[2]}"
        tag = f"{i:03d}"
        if file.to == "gt":
            content = tar({f"gt/all_souls_{tag}_good.txt": b"all_souls_000001\n"})
        elif "paris" in file.url and file.unpack:
            content = tar({f"paris/eiffel/paris_eiffel_{tag}.jpg": next(photos)})
        elif "oxbuild" in file.url:
            content = tar({f"all_souls_{tag}.jpg": next(photos)})
        elif file.url.endswith(".tar.gz"):
            content = tar({f"{tag}/{tag}.jpg": next(photos)})
        elif file.unpack:
            content = tar({f"0/1/{tag[0]}/01{tag}.jpg": next(photos)}, ".tar")
        else:
            content = f"{name} {file.name}".encode()
        site.files[path] = content
        if file.md5_at:
            text = f"{hashlib.md5(content).hexdigest()}  {file.name}\n"
            site.files[f"/{file.md5_at.partition('://')[2]}"] = text.encode()


PARTS = [f"{i:03d}" for i in range(1, 101)]
TABLES = ["index", "index_image_to_landmark", "index_label_to_category", "recognition_solution_v2.1"]
LAYOUTS = {
    "roxford5k": ["roxford5k/gnd_roxford5k.pkl", "roxford5k/jpg/all_souls_001.jpg"],
    "rparis6k": ["gnd_rparis6k.pkl", "jpg/paris_eiffel_001.jpg", "jpg/paris_eiffel_002.jpg"],
    "oxford5k": ["oxford5k/gt/all_souls_000_good.txt", "oxford5k/jpg/all_souls_001.jpg"],
    "paris6k": ["gt/all_souls_000_good.txt", "jpg/paris_eiffel_001.jpg", "jpg/paris_eiffel_002.jpg"],
    "revisitop1m": [*(f"revisitop1m/jpg/{tag}/{tag}.jpg" for tag in PARTS), "revisitop1m/revisitop1m.txt"],
    "gldv2": [
        *(f"gldv2/index/0/1/{i:03d}/01{i:03d}.jpg".replace(f"/{i:03d}/", f"/{i // 100}/") for i in range(26, 126)),
        *(f"gldv2/{table}.csv" for table in [*TABLES, "retrieval_solution_v2.1", "test"]),
        *(f"gldv2/test/0/1/0/01{i:03d}.jpg" for i in range(6, 26)),
    ],
    "sfm120k": [
        "sfm120k/ims/003/003.jpg",
        *(f"sfm120k/{n}.pkl" for n in ("retrieval-SfM-120k", "retrieval-SfM-120k-whiten", "retrieval-SfM-30k-whiten")),
    ],
    "gl18-tl-resnet101-gem-w": ["networks/gl18-tl-resnet101-gem-w-a4d43db.pth"],
}
LAYOUTS = {n: [p if p.startswith((n, "networks")) else f"{n}/{p}" for p in paths] for n, paths in LAYOUTS.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_is_laid_out_as_its_benchmark_reads_it(
    site: Site, tmp_path: Path, jpegs: Iterator[bytes], name: str
) -> None:
    publish(site, name, jpegs)
    prepare(name, tmp_path, site.base)
    assert visible(tmp_path) == sorted(LAYOUTS[name])
    assert all(Image.open(tmp_path / path).size == (8, 8) for path in visible(tmp_path) if path.endswith("jpg"))


@pytest.mark.parametrize("name", ["roxford5k", "paris6k"])
def test_a_finished_set_is_not_asked_for_again_and_its_archives_are_gone(
    site: Site, tmp_path: Path, jpegs: Iterator[bytes], name: str
) -> None:
    publish(site, name, jpegs)
    prepare(name, tmp_path, site.base)
    site.asked, site.heads = [], []
    prepare(name, tmp_path, site.base)
    assert site.asked == site.heads == []
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tgz", ".tar", ".part")]


def test_a_note_keeps_the_checksum_that_was_seen(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "roxford5k", jpegs)
    prepare("roxford5k", tmp_path, site.base)
    note = json.loads((tmp_path / "roxford5k/.fetched/jpg/oxbuild_images-v1.tgz.json").read_text())
    official = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz"
    served = site.files[official.removeprefix("https:/")]
    assert (note["url"], note["bytes"]) == (official, len(served))
    assert note["sha256"] == hashlib.sha256(served).hexdigest()


@pytest.mark.parametrize(("first", "second"), [("roxford5k", "oxford5k"), ("paris6k", "rparis6k")])
def test_photos_of_two_sets_are_fetched_once(
    site: Site, tmp_path: Path, jpegs: Iterator[bytes], first: str, second: str
) -> None:
    publish(site, first, jpegs)
    publish(site, second, jpegs)
    prepare(first, tmp_path, site.base)
    prepare(second, tmp_path, site.base)
    assert len(site.paths()) == len(set(site.paths()))
    assert visible(tmp_path / first / "jpg") == visible((tmp_path / second / "jpg").resolve())
    assert visible(tmp_path / second) and (tmp_path / second / "jpg").is_symlink()


def test_a_link_whose_photos_were_removed_is_replaced(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "oxford5k", jpegs)
    publish(site, "roxford5k", jpegs)
    prepare("oxford5k", tmp_path, site.base)
    prepare("roxford5k", tmp_path, site.base)
    (tmp_path / "oxford5k/jpg").rename(tmp_path / "elsewhere")
    prepare("roxford5k", tmp_path, site.base)
    assert visible(tmp_path / "roxford5k") == ["gnd_roxford5k.pkl", "jpg/all_souls_001.jpg"]


def test_an_archive_is_checked_against_the_md5_beside_it(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "gldv2", jpegs)
    site.files["/s3.amazonaws.com/google-landmark/index/images_007.tar"] = tar({"0/1/2/012.jpg": b""}, ".tar")
    with pytest.raises(DownloadError, match=r"index/images_007.tar must have the md5"):
        prepare("gldv2", tmp_path, site.base)
    assert not list(tmp_path.rglob("012.jpg"))


def test_a_set_that_the_disk_cannot_take_is_refused_before_any_of_it_comes(
    site: Site, tmp_path: Path, jpegs: Iterator[bytes]
) -> None:
    publish(site, "gldv2", jpegs)
    site.announced = {f"/s3.amazonaws.com/google-landmark/index/images_{i:03d}.tar": 10**16 for i in range(100)}
    with pytest.raises(InputError, match=r"gldv2 needs 1000000000\.00 GB"):
        prepare("gldv2", tmp_path, site.base)
    assert site.asked == []


def test_an_md5_that_is_none_is_refused(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "gldv2", jpegs)
    site.files["/s3.amazonaws.com/google-landmark/md5sum/test/md5.images_003.txt"] = b"AccessDenied"
    with pytest.raises(DownloadError, match=r"md5.images_003.txt must begin with an md5"):
        prepare("gldv2", tmp_path, site.base)


def test_photos_that_were_removed_are_fetched_again(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "roxford5k", jpegs)
    prepare("roxford5k", tmp_path, site.base)
    (tmp_path / "roxford5k/jpg/all_souls_001.jpg").unlink()
    prepare("roxford5k", tmp_path, site.base)
    assert visible(tmp_path / "roxford5k/jpg") == ["all_souls_001.jpg"]


def test_a_folder_unpacked_in_part_is_finished(site: Site, tmp_path: Path) -> None:
    photos = {f"{i}.jpg": b"whole" for i in range(5)}
    site.files["/www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz"] = tar(photos)
    site.files["/cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl"] = b"truth"
    (tmp_path / "roxford5k/jpg/.oxbuild_images-v1.tgz.unpacking").mkdir(parents=True)
    (tmp_path / "roxford5k/jpg/.oxbuild_images-v1.tgz.unpacking/stray.jpg").write_bytes(b"of another time")
    (tmp_path / "roxford5k/jpg/3.jpg").write_bytes(b"who")
    prepare("roxford5k", tmp_path, site.base)
    assert {p.name: p.read_bytes() for p in (tmp_path / "roxford5k/jpg").iterdir()} == photos


KILLED_AT_THE_THIRD_PHOTO = """
import os, signal, sys, tarfile
from retrieval.data.download import prepare
plain, members = tarfile.data_filter, []
def filtered(member, folder):
    members.append(member)
    if len(members) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(member, folder)
tarfile.data_filter = filtered
prepare("roxford5k", *sys.argv[1:])
"""


def test_a_process_killed_while_unpacking_shows_no_photos_and_the_next_one_finishes(site: Site, tmp_path: Path) -> None:
    photos = {f"{i}.jpg": b"photo" for i in range(5)}
    site.files["/www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz"] = tar(photos)
    site.files["/cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl"] = b"truth"
    assert started(KILLED_AT_THE_THIRD_PHOTO, str(tmp_path), site.base).wait(60) == -signal.SIGKILL
    scratch = tmp_path / "roxford5k/jpg/.oxbuild_images-v1.tgz.unpacking"
    assert any(scratch.iterdir()) and visible(tmp_path / "roxford5k/jpg") == []
    prepare("roxford5k", tmp_path, site.base)
    assert visible(tmp_path / "roxford5k/jpg") == sorted(photos)
    assert len(site.paths()) == len(set(site.paths())) and not scratch.exists()


def test_two_processes_prepare_one_set_once(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "gldv2", jpegs)
    code = "import sys; from retrieval.data.download import prepare; prepare('gldv2', *sys.argv[1:])"
    both = [started(code, str(tmp_path), site.base) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert visible(tmp_path) == sorted(LAYOUTS["gldv2"])
    assert len(site.paths()) == len(set(site.paths()))


def test_an_archive_that_is_broken_where_it_comes_from_is_removed(
    site: Site, tmp_path: Path, jpegs: Iterator[bytes]
) -> None:
    publish(site, "roxford5k", jpegs)
    path = "/www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz"
    whole, site.files[path] = site.files[path], b"Service moved"
    with pytest.raises(DownloadError, match=r"oxbuild_images-v1.tgz .* run again"):
        prepare("roxford5k", tmp_path, site.base)
    site.files[path] = whole
    prepare("roxford5k", tmp_path, site.base)
    assert visible(tmp_path) == sorted(LAYOUTS["roxford5k"])


def test_an_archive_put_where_the_error_says_is_taken(site: Site, tmp_path: Path, jpegs: Iterator[bytes]) -> None:
    publish(site, "roxford5k", jpegs)
    archive = site.files.pop("/www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images-v1.tgz")
    with pytest.raises(DownloadError) as error:
        prepare("roxford5k", tmp_path, site.base)
    Path(str(error.value).rpartition(" by hand to ")[2]).write_bytes(archive)
    prepare("roxford5k", tmp_path, site.base)
    assert visible(tmp_path) == sorted(LAYOUTS["roxford5k"])


def test_what_must_be_fetched_by_hand_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="by hand") as error:
        prepare("holidays", tmp_path)
    assert str(error.value) == str(SOURCES["holidays"].by_hand).format(folder=tmp_path / "holidays")


def test_what_was_fetched_by_hand_is_unpacked_and_kept(tmp_path: Path) -> None:
    (tmp_path / "holidays").mkdir()
    for i in (1, 2):
        (tmp_path / f"holidays/jpg{i}.tar.gz").write_bytes(tar({f"jpg/{i}00000.jpg": b"photo"}))
    prepare("holidays", tmp_path)
    assert visible(tmp_path / "holidays") == ["100000.jpg", "200000.jpg", "jpg1.tar.gz", "jpg2.tar.gz"]


def test_the_half_of_what_must_be_fetched_by_hand_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "holidays").mkdir()
    (tmp_path / "holidays/jpg1.tar.gz").write_bytes(tar({"jpg/100000.jpg": b"photo"}))
    for _ in range(2):
        with pytest.raises(InputError, match="by hand"):
            prepare("holidays", tmp_path)


def test_a_folder_laid_out_by_hand_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holidays").mkdir()
    (tmp_path / "holidays/100000.jpg").write_bytes(b"photo")
    prepare("holidays", tmp_path)


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean.* roxford5k"):
        prepare("roxford5", tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_no_two_files_of_a_set_have_one_place(name: str) -> None:
    files = SOURCES[name].files
    assert len({(file.to, file.name) for file in files}) == len(files) > 0
    assert all(file.url.startswith(("http://", "https://")) for file in files) or SOURCES[name].by_hand


def test_landmarks_have_as_many_parts_as_their_authors_say() -> None:
    parts = [file.to for name in ("gldv2", "gldv2_train") for file in SOURCES[name].files if file.unpack]
    assert {split: parts.count(split) for split in parts} == {"index": 100, "test": 20, "train": 500}
