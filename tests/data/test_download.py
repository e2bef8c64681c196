"""The download survives a server that breaks off, a file that changes, and an archive that reaches outside."""

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engine.data import download as module
from engine.data.download import download
from engine.data.images import encode_png
from engine.errors import DataError

NAMES = ("SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-2523-40-001.png")


def archive(extra: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*NAMES, *([extra] if extra else [])):
            pixels = np.random.default_rng(len(name)).integers(0, 256, (60, 90, 3), dtype=np.uint8)
            data = encode_png(pixels)
            facts = tarfile.TarInfo(name if extra == name else f"BreaKHis_v1/{name}")
            facts.size = len(data)
            tar.addfile(facts, io.BytesIO(data))
    return buffer.getvalue()


class Server:
    """Serves one file with ranges; breaks off after `limit` bytes of each answer."""

    def __init__(self, data: bytes, limit: int | None = None, version: str = '"1"'):
        self.data, self.limit, self.version, self.ranges = data, limit, version, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.ranges.append(wanted)
                start = 0
                if wanted and self.headers.get("If-Range") == outer.version:
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                rest = outer.data[start:]
                self.send_response(206 if start else 200)
                self.send_header("ETag", outer.version)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: outer.limit])

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/BreaKHis_v1.tar.gz"


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(*args, **options) -> Server:
        servers.append(Server(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()


def test_an_archive_is_fetched_unpacked_and_counted(tmp_path, serve):
    data = archive()
    steps = []
    result = download(tmp_path, serve(data).url, lambda *step: steps.append(step), pause_s=0)
    assert result.fetched == len(data)
    assert result.inventory.images == 2
    assert not result.complete  # two of 7,909
    assert steps[-1] == (len(data), len(data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BreaKHis_v1"]


def test_a_server_that_breaks_off_is_asked_for_the_rest(tmp_path, serve):
    data = archive()
    server = serve(data, limit=len(data) // 4 + 1)
    result = download(tmp_path, server.url, pause_s=0)
    assert result.fetched == len(data)
    assert len(server.ranges) == 4
    assert server.ranges[1] == f"bytes={len(data) // 4 + 1}-"
    assert result.inventory.images == 2


def test_a_later_call_goes_on_where_the_first_stopped(tmp_path, serve, monkeypatch):
    data = archive()
    server = serve(data, limit=len(data) // 2)
    real, calls = module._attempt, []

    def once(*args):
        calls.append(1)
        return real(*args) if len(calls) == 1 else (0, None, "the network is down")

    monkeypatch.setattr(module, "_attempt", once)
    with pytest.raises(DataError) as error:
        download(tmp_path, server.url, tries=2, pause_s=0)
    assert error.value.kind == "network"
    assert "the network is down" in str(error.value.found)
    monkeypatch.setattr(module, "_attempt", real)
    result = download(tmp_path, server.url, pause_s=0)
    assert result.fetched == len(data) - len(data) // 2
    assert result.inventory.images == 2


def test_a_changed_file_is_not_glued_onto_the_old_part(tmp_path, serve):
    data = archive()
    (tmp_path / "BreaKHis_v1.tar.gz.part").write_bytes(b"x" * 100)
    (tmp_path / "BreaKHis_v1.tar.gz.part.json").write_text('{"version": "\\"old\\""}')
    assert download(tmp_path, serve(data).url, pause_s=0).fetched == len(data)


def test_a_damaged_archive_is_put_aside_with_a_sentence(tmp_path, serve):
    with pytest.raises(DataError) as error:
        download(tmp_path, serve(b"no archive at all" * 50).url, pause_s=0)
    assert error.value.kind == "archive"
    assert (tmp_path / "BreaKHis_v1.tar.gz.damaged").exists()


def test_nothing_is_unpacked_outside_the_folder(tmp_path, serve):
    with pytest.raises(DataError) as error:
        download(tmp_path / "in", serve(archive("../outside.png")).url, pause_s=0)
    assert error.value.kind == "archive"
    assert not (tmp_path / "outside.png").exists()


def test_no_server_and_no_room_are_sentences(tmp_path, serve, monkeypatch):
    with pytest.raises(DataError) as error:
        download(tmp_path, "http://127.0.0.1:9/x.tar.gz", tries=2, pause_s=0)
    assert error.value.kind == "network"
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1})())
    with pytest.raises(DataError) as error:
        download(tmp_path, serve(archive()).url, pause_s=0)
    assert error.value.kind == "disk_full"
