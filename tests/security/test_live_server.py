"""A live server asked by strangers: foreign Host and Origin, paths that climb, links and names full of markup."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
from pathlib import Path
from urllib.parse import quote

import fabricate
import pytest
from live_server import serving
from payload import EVIL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SECRET = "the secret of the machine"
CLIMB = ("../../secret.txt", "..%2f..%2fsecret.txt", "%2e%2e/%2e%2e/secret.txt", "..%252f..%252fsecret.txt")
CLIMB += (
    "%252e%252e%252f%252e%252e%252fsecret.txt",
    "....//....//secret.txt",
    "..\\..\\secret.txt",
    "/etc/passwd",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the module, whose runs are named with markup; beside its folders lies a secret."""
    place = tmp_path_factory.mktemp("live")
    (place / "secret.txt").write_text(SECRET)
    runs = place / "runs"
    runs.mkdir()
    for seed in (0, 1):
        run = fabricate.run(runs, name=f"{EVIL} {seed}", seed=seed, data_root=place / "sample_data")
        run.write_label(name=f"{EVIL} {seed}", tags=[EVIL], notes=EVIL)
    with serving(runs, place / "sample_data", place / "server.log") as made:
        yield made


def address(server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)


def ask(
    server, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """A raw request: nothing tidies the path on its way."""
    connection = http.client.HTTPConnection(*address(server), timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def websocket_status(server, host: str, origin: str) -> int:
    """The status of an upgrade to the socket that pages work through: 101 lets in."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}",
        f"Origin: {origin}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    with socket.create_connection(address(server), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.recv(4096).split(b" ", 2)[1])


def test_a_page_of_another_site_cannot_work_through_this_server(server):
    host = server.url.removeprefix("http://")
    assert websocket_status(server, host, server.url) == 101
    for origin in ("https://evil.example", "http://127.0.0.1.evil.example", "null"):
        assert websocket_status(server, host, origin) == 403, origin


def test_a_foreign_host_is_refused(server):
    """DNS rebinding: the browser believes that evil.example is this machine.

    Everything of a run goes through the socket; what answers without it (the frame, Streamlit's own files) is
    the same on every machine.
    """
    port = server.url.rsplit(":", 1)[1]
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"):
        assert websocket_status(server, host, f"http://{host}") in (400, 403), host


def test_an_upload_without_a_session_is_refused(server):
    status, _ = ask(server, "/_stcore/upload_file/a/b", "PUT", b"x", Origin="https://evil.example")
    assert status in (400, 403, 404)


@pytest.mark.parametrize(
    "prefix", ["", "static/", "app/static/", "media/", "component/", "_stcore/", "runs/"]
)
def test_no_path_climbs_out(server, prefix):
    for climb in CLIMB:
        status, body = ask(server, f"/{prefix}{climb}".replace("\\", "%5c"))
        assert SECRET.encode() not in body, climb
        assert b"root:" not in body, climb
        assert status in (200, 301, 302, 307, 308, 400, 403, 404, 405), climb
        if status == 200:  # the frame of the application, whatever the address: it reads nothing of it
            assert b"<!doctype html>" in body.lower(), climb


PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))


def parameters() -> set[str]:
    """Every parameter that a page reads from its address, found in the source."""
    reads = r"(?:read|read_list|choice_from_url|list_from_url|option|choice_to_url|list_to_url)\(\s*\"(\w+)\""
    bound = r"key=\"(\w+)\",\s*bind=\"query-params\""
    found: set[str] = set()
    for path in [*(ROOT / "dashboard").glob("*.py"), *(ROOT / "pages").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(reads, text)) | set(re.findall(bound, text))
    return found


def test_the_parameters_are_found():
    assert {"runs", "members", "id", "view", "image", "split", "page", "threshold", "data"} <= parameters()


@pytest.mark.parametrize("page", PAGES)
def test_hostile_parameters_get_a_page_or_a_sentence(app, said, finished_run, tmp_path, page):
    """Every parameter at once, then each value beside a run that is really there."""
    (tmp_path / "secret.txt").write_text(SECRET)
    real = {
        "runs": finished_run.id,
        "members": finished_run.id,
        "id": finished_run.id,
        "run": finished_run.id,
    }
    for value in ("../../secret.txt", "%252e%252e%252fsecret.txt", EVIL):
        for kept in ({}, real):
            given = {**dict.fromkeys(parameters(), value), **kept}
            at = app(page, **given)
            assert not at.exception, (value, [item.message for item in at.exception])
            assert SECRET not in said(at)


@pytest.mark.browser
def test_markup_in_names_notes_tags_and_links_stays_text(server, browser):
    from playwright.sync_api import expect

    first, second = sorted(path.name for path in server.runs.iterdir() if path.name[:1] == "2")
    both = f"{first},{second}"
    places = ["", "runs", f"run?id={first}", f"compare?runs={both}", f"ensemble?members={both}"]
    places += [f"explain?runs={both}", "predict", "train", "dataset", "shared"]
    places += [f"compare?runs={quote(EVIL)}", f"run?id={quote(EVIL)}", f"shared?view={quote(EVIL)}"]
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    for place in places:
        page.goto(f"{server.url}/{place}")
        expect(page.locator("h1").first).to_be_visible(timeout=60_000)
        page.wait_for_function(
            "() => document.querySelector('[data-testid=\"stApp\"]').dataset.testScriptState === 'notRunning'",
            timeout=60_000,
        )
        assert page.get_by_test_id("stException").count() == 0, place
        assert page.evaluate("() => window.stolen") is None, place
        assert page.title() != "stolen", place
        assert page.locator("img[src='x']").count() == 0, place
    context.close()
