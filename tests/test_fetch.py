"""Downloads from a real server on this machine: cut, resumed, replaced, refused."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dermdistill.data import fetch as module
from dermdistill.data import resume
from dermdistill.data.fetch import DATASETS, LOCK, Dataset, fetch, unpack
from dermdistill.errors import ConfigError, DataError

CSV = b"image,MEL,NV\n" + b"".join(b"ISIC_%07d,0,1\n" % n for n in range(60_000))
UNVERIFIED = "ignore:no official checksum"


def archive(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(name.replace("__", "/"), data)
    return held.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`, honours Range and If-Range, and hangs up where `server.cuts` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        name = self.path.lstrip("/")
        server.requests.append((name, self.headers.get("Range")))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if name not in server.files:
            return self.send_error(404)
        data = server.files[name]
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(data[start:][:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args):
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(resume, "WAIT_S", 0.0)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.files, running.cuts, running.statuses = {"t.csv": CSV}, [], []
    running.requests, running.ranges = [], True
    running.url = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setitem(DATASETS, "test", Dataset(running.url, {"t.csv": None}))
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def kept_of(sent: int) -> int:
    """Bytes that are kept of those sent before a cut: whole chunks."""
    return sent // resume.CHUNK_BYTES * resume.CHUNK_BYTES


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_official_files_of_isic2019():
    dataset = DATASETS["isic2019"]
    assert dataset.base_url.startswith("https://")
    assert set(dataset.files) == {
        "ISIC_2019_Training_Input.zip", "ISIC_2019_Training_GroundTruth.csv",
        "ISIC_2019_Training_Metadata.csv", "ISIC_2019_Test_Input.zip",
        "ISIC_2019_Test_GroundTruth.csv", "ISIC_2019_Test_Metadata.csv",
    }  # fmt: skip


def test_first_download_is_recorded_as_unverified_then_verified(server, tmp_path):
    with pytest.warns(UserWarning, match=r"no official checksum is known for t\.csv"):
        folder = fetch("test", tmp_path)
    assert (folder / "t.csv").read_bytes() == CSV
    lock = json.loads((folder / LOCK).read_text())
    assert lock["t.csv"]["sha256"] == digest(CSV)
    assert "not compared" in lock["t.csv"]["trust"]
    fetch("test", tmp_path)
    assert len(server.requests) == 1
    (folder / "t.csv").write_bytes(b"damaged")
    fetch("test", tmp_path)
    assert (folder / "t.csv").read_bytes() == CSV


@pytest.mark.filterwarnings(UNVERIFIED)
def test_a_cut_connection_is_resumed_at_its_byte(server, tmp_path):
    server.cuts = [500_000]
    fetch("test", tmp_path)
    assert (tmp_path / "t.csv").read_bytes() == CSV
    assert server.requests == [("t.csv", None), ("t.csv", f"bytes={kept_of(500_000)}-")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [LOCK, "t.csv"]


@pytest.mark.filterwarnings(UNVERIFIED)
def test_a_line_that_stays_cut_keeps_the_part_for_the_next_call(server, tmp_path):
    kept = kept_of(300_000)
    server.cuts = [300_000] + [0] * resume.ATTEMPTS
    with pytest.raises(DataError, match=rf"{kept:,} bytes are kept in .*it continues there"):
        fetch("test", tmp_path)
    assert (tmp_path / "t.csv.part").read_bytes() == CSV[:kept]
    assert not (tmp_path / "t.csv").exists()
    server.requests.clear()
    fetch("test", tmp_path)
    assert server.requests == [("t.csv", f"bytes={kept}-")]
    assert (tmp_path / "t.csv").read_bytes() == CSV


@pytest.mark.filterwarnings(UNVERIFIED)
def test_a_file_that_was_replaced_meanwhile_starts_anew(server, tmp_path):
    server.cuts = [300_000] + [0] * resume.ATTEMPTS
    with pytest.raises(DataError):
        fetch("test", tmp_path)
    server.files["t.csv"] = CSV[::-1]
    fetch("test", tmp_path)
    assert (tmp_path / "t.csv").read_bytes() == CSV[::-1]


@pytest.mark.filterwarnings(UNVERIFIED)
@pytest.mark.parametrize("kept", [CSV, CSV + b"more", CSV[:10]])
def test_any_part_file_ends_right(server, tmp_path, kept):
    """Whole already; longer than the file; and a server that knows no ranges."""
    server.ranges = len(kept) >= len(CSV)
    (tmp_path / "t.csv.part").write_bytes(kept)
    fetch("test", tmp_path)
    assert (tmp_path / "t.csv").read_bytes() == CSV


def test_a_wrong_checksum_is_refused_and_leaves_no_file(server, tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: .*does not match"):
        fetch("test", tmp_path, checksums={"t.csv": digest(b"other")})
    assert list(tmp_path.iterdir()) == []
    fetch("test", tmp_path, checksums={"t.csv": digest(CSV)})
    assert json.loads((tmp_path / LOCK).read_text())["t.csv"]["trust"] == "given checksum"


@pytest.mark.filterwarnings(UNVERIFIED)
def test_passing_failures_are_tried_again_lasting_ones_are_told(server, tmp_path):
    server.statuses = [503, 500, 429]
    fetch("test", tmp_path / "a")
    assert (tmp_path / "a" / "t.csv").read_bytes() == CSV
    server.files.clear()
    server.requests.clear()
    with pytest.raises(DataError, match=rf"{server.url}/t\.csv: the server says 404 .*base_url"):
        fetch("test", tmp_path / "b")
    assert len(server.requests) == 1


def test_wrong_names_and_addresses(server, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'isic2019'"):
        fetch("isic2018", tmp_path)
    with pytest.raises(ConfigError, match=r"a checksum for 'u\.csv'"):
        fetch("test", tmp_path, checksums={"u.csv": ""})
    with pytest.raises(DataError, match="is no address"):
        fetch("test", tmp_path, base_url="gopher://x")
    with pytest.raises(DataError, match="it continues"):
        fetch("test", tmp_path, base_url="http://127.0.0.1:1")


@pytest.mark.filterwarnings(UNVERIFIED)
def test_an_unpacked_archive_may_be_deleted(server, tmp_path, monkeypatch):
    server.files["X_Input.zip"] = archive(X_Input__a="1", X_Input__b="2")
    monkeypatch.setitem(DATASETS, "test", Dataset(server.url, {"X_Input.zip": None}))
    fetch("test", tmp_path)
    assert sorted(p.name for p in (tmp_path / "X_Input").iterdir()) == ["a", "b"]
    (tmp_path / "X_Input.zip").unlink()
    server.requests.clear()
    fetch("test", tmp_path)
    assert server.requests == []


def test_archives_without_a_folder_of_their_name_get_one(tmp_path):
    (tmp_path / "z.zip").write_bytes(archive(a="1", sub__b="2"))
    (tmp_path / ".z.unpacking" / "z" / "left by a call that was killed").mkdir(parents=True)
    unpack(tmp_path / "z.zip", tmp_path / "z")
    assert sorted(p.name for p in (tmp_path / "z").iterdir()) == ["a", "sub"]
    assert (tmp_path / "z" / "sub" / "b").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["z", "z.zip"]


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_no_member_leaves_the_folder(tmp_path, member):
    (tmp_path / "z.zip").write_bytes(archive(**{"fine": b"1", member: b"2"}))
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "z.zip", tmp_path / "z")
    assert [p.name for p in tmp_path.iterdir()] == ["z.zip"]


def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as zipped:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc")
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "z.zip", tmp_path / "z")


def test_broken_archives_leave_nothing_behind(tmp_path):
    whole = archive(a=b"x" * 5000, b=b"y" * 5000)
    for broken in (whole[:3000], b"", whole.replace(b"xxxx", b"xxzx", 1)):
        (tmp_path / "z.zip").write_bytes(broken)
        with pytest.raises(DataError, match="is broken"):
            unpack(tmp_path / "z.zip", tmp_path / "z")
        assert [p.name for p in tmp_path.iterdir()] == ["z.zip"]


def test_more_than_the_disk_holds_is_refused_before_writing(tmp_path, monkeypatch):
    (tmp_path / "z.zip").write_bytes(archive(a=b"x" * 5000))
    usage = module.shutil.disk_usage(tmp_path)._replace(free=4999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="are free"):
        unpack(tmp_path / "z.zip", tmp_path / "z")
