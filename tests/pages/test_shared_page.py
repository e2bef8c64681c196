"""The Share page and frozen views, as AppTest sees them."""

from __future__ import annotations

import io
import threading
import zipfile

import fabricate
import pytest

from dashboard import gate, share_page
from engine.runs.folder import run_folders
from engine.runs.trash import delete, empty_trash
from engine.share import access, bundle, freeze, views
from engine.share.views import Part

EVIL = "<script>alert(1)</script> **bold** [x](javascript:alert(1)) :material/delete: $x$"


@pytest.fixture(autouse=True)
def as_before():
    yield
    access.serve(None)


def test_an_empty_share_page_teaches(app, said):
    at = app("shared")
    assert not at.exception
    assert "nothing has been frozen yet" in said(at)


def test_runs_are_frozen_from_the_page_and_the_link_opens_after_they_are_gone(
    app, said, finished_run, runs_dir
):
    at = app("shared", runs=finished_run.id)
    at.text_input(key="freeze_title").set_value("Our result")
    at.text_input(key="freeze_author").set_value("A. Person")
    at.button[0].click().run()
    assert not at.exception, at.exception
    (view,) = views.listed(runs_dir)
    assert view.title == "Our result"
    assert f"/shared?view={view.id}" in said(at)
    delete(finished_run)
    empty_trash(runs_dir)
    opened = app("shared", view=view.id)
    assert not opened.exception
    text = said(opened)
    assert "Our result" in text
    assert "A. Person" in text
    assert "No leak" in text or "Clean" in text
    assert len(opened.dataframe) >= 4
    assert not opened.button, "a visitor can change nothing"
    assert not opened.text_input


def test_a_view_shows_text_as_text(app, said, runs_dir):
    made = views.create(
        runs_dir, [Part("text", EVIL), Part("facts", [(EVIL, EVIL)])], title=EVIL, author=EVIL, note=EVIL
    )
    at = app("shared", view=made.id)
    bodies = [str(element.proto.body) for element in at.get("html")]
    assert not [body for body in bodies if "<script" in body]
    assert sum("&lt;script&gt;" in body for body in bodies) >= 4
    for caption in at.caption:
        assert "**bold**" not in caption.value
        assert "<script>" not in caption.value


@pytest.mark.parametrize(
    ("view_id", "sentence"),
    [
        ("", "incomplete"),
        ("abc", "incomplete"),
        ("A" * 32, "no shared view at this address"),
        ("../../etc/passwd", "not the address of a shared view"),
        ("<script>alert(1)</script>", "not the address of a shared view"),
    ],
)
def test_a_bad_link_gets_a_sentence(app, said, runs_dir, view_id, sentence):
    at = app("shared", view=view_id)
    assert not at.exception
    assert sentence in said(at)
    assert "<script" not in said(at)


def test_expired_and_revoked_links_say_so(app, said, runs_dir):
    made = views.create(runs_dir, [Part("text", "secret words")], title="x")
    views.revoke(runs_dir, made.id)
    at = app("shared", view=made.id)
    assert "was revoked on" in said(at)
    assert "secret words" not in said(at)


def test_a_view_is_revoked_and_opened_again_from_the_list(app, runs_dir, finished_run):
    made = freeze.freeze([finished_run], title="x")
    at = app("shared")
    at.button(key=f"revoke_{made.id}").click().run()
    assert views.listed(runs_dir)[0].state == "revoked"
    at.button(key=f"reinstate_{made.id}").click().run()
    assert views.listed(runs_dir)[0].state == "open"


@pytest.mark.slow
def test_a_report_is_made_on_the_page(app, finished_run, leaking_run):
    at = app("shared", part="Report", runs=f"{finished_run.id},{leaking_run.id}")
    at.text_input(key="report_title").set_value("Report <b>")
    next(button for button in at.button if button.label == "Make the report").click().run(timeout=120)
    assert not at.exception, at.exception
    made = at.session_state["report_made"]
    assert made["data"].startswith(b"<!doctype html>")
    assert b"Report &lt;b&gt;" in made["data"]
    assert made["size"] < 15_000_000


def test_a_bundle_is_made_on_the_page(app, finished_run, runs_dir):
    at = app("shared", part="Bundles")
    at.button(key="bundle_make").click().run()
    assert not at.exception, at.exception
    data = (runs_dir / ".bundles" / f"{finished_run.id}.zip").read_bytes()
    assert "bundle.json" in zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_a_bundle_is_brought_in_by_its_path_and_a_bad_one_is_a_sentence(app, said, runs_dir, tmp_path):
    source = fabricate.run(tmp_path / "elsewhere", name=EVIL, epochs=2)
    zipped = bundle.write_bundle(source, tmp_path / "run.zip")
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zipped.read_bytes()[:-200])
    for path, words in (
        (tmp_path / "none.zip", "There is no such file"),
        (bad, "zip"),
        (zipped, "Imported: "),
        (zipped, "Imported: "),  # once more: it is the same run
    ):
        at = app("shared", part="Bundles")
        at.text_input(key="bundle_path").set_value(str(path)).run()
        at.button(key="bundle_import").click().run()
        assert not at.exception, at.exception
        assert words in said(at), said(at)[-600:]
        assert "**bold**" not in "".join(note.value for note in at.success)
    (imported,) = run_folders(runs_dir)
    assert imported.id == source.id
    assert imported.predictions("test").equals(source.predictions("test"))


def test_the_log_shows_who_did_what_as_text(app, runs_dir):
    access.log(runs_dir, "delete", EVIL, access.Actor(EVIL, access.EDITOR))
    at = app("shared", part="Log")
    assert at.dataframe[0].value["Did"].tolist() == ["delete"]
    assert at.dataframe[0].value["To"].tolist() == [EVIL]


def test_a_viewer_gets_no_button(app, said, runs_dir, finished_run, monkeypatch):
    freeze.freeze([finished_run], title="x")
    monkeypatch.setenv(gate.ROLE, "viewer")
    at = app("shared", runs=finished_run.id)
    assert not at.exception
    assert "Read only" in said(at)
    assert "Only editors can" in said(at)
    assert not [button for button in at.button if button.key and button.key.startswith(("revoke", "freeze"))]


def test_the_engine_refuses_a_button_that_was_drawn_before_the_role_changed(app, said, runs_dir, monkeypatch):
    made = views.create(runs_dir, [Part("text", "x")], title="x")
    at = app("shared")
    monkeypatch.setenv(gate.ROLE, "viewer")
    # The list would not draw the button again, so the act is asked for as a forged click would.
    monkeypatch.setattr(
        share_page, "_view_row", lambda view: share_page._act("Revoke", "block", view, views.revoke)
    )
    at.button(key=f"revoke_{made.id}").click().run()
    assert "You may not change shared views" in said(at)
    assert views.read(runs_dir, made.id).state == "open"


def test_nobody_sees_a_page_but_whoever_has_the_link_sees_the_view(
    app, said, runs_dir, finished_run, monkeypatch
):
    made = views.create(runs_dir, [Part("text", "shown to all")], title="Shared with the world")
    nobody = access.Actor("stranger", access.NOBODY, "stranger is not on the list of this server")
    monkeypatch.setattr(gate, "find", lambda: nobody)
    for page in ("overview", "runs", "shared"):
        text = said(app(page))
        assert "not on the list" in text, page
        assert finished_run.name not in text, page
    assert "shown to all" in said(app("shared", view=made.id))
    hidden = app("runs", view=made.id)
    assert "not on the list" in said(hidden), "the parameter opens one page only"


def test_a_thread_of_the_server_is_nobody(monkeypatch):
    gate.serve()
    assert access.actor().role == access.EDITOR, "a test is no server"
    monkeypatch.setattr(gate.runtime, "exists", lambda: True)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(access.actor().role))
    thread.start()
    thread.join()
    assert found == [access.NOBODY]


def _page_with_a_freeze_button():
    from dashboard import sharing
    from engine.share.views import Part

    sharing.freeze_button(
        lambda: [Part("text", "what this page shows")], {"page": "explain"}, "here", title="Maps"
    )


def test_any_page_can_freeze_what_it_shows(runs_dir, said):
    from streamlit.testing.v1 import AppTest

    at = AppTest.from_function(_page_with_a_freeze_button, default_timeout=30).run()
    assert not at.exception, at.exception
    at.button[0].click().run()
    assert not at.exception, at.exception
    (view,) = views.listed(runs_dir)
    assert (view.title, view.source) == ("Maps", {"page": "explain"})
    assert f"/shared?view={view.id}" in said(at)
