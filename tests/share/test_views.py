"""Frozen views: they never change, they are found by nobody, and a bad link gets a sentence."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import fabricate
import pandas as pd
import pytest

from engine.errors import AccessError, ShareError
from engine.runs.trash import delete, empty_trash
from engine.share import access, freeze, views
from engine.share.views import Part

HOSTILE = "<script>alert(1)</script> **bold** [x](javascript:alert(1)) =1+1 \u202egnp.exe\x00"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def view(runs: Path) -> views.View:
    table = pd.DataFrame({"image": ["a.png", "=cmd"], "p": [0.25, 0.75]})
    figure = {
        "data": [{"type": "scatter", "x": [1, 2], "y": [float("nan"), 2.0]}],
        "layout": {},
        "frames": ["no"],
    }
    parts = [
        Part("leakage", {"level": "leak", "verdict": "Leaks."}),
        Part("text", HOSTILE),
        Part("facts", [("Name", HOSTILE)]),
        Part("table", table, "Scores"),
        Part("figure", figure, "Curve"),
        Part("image", b"\x89PNG\r\n\x1a\n rest", "Image"),
    ]
    return views.create(runs, parts, title="What we found", author="A", note="line 1\nline 2")


def bad(runs: Path, view_id: str, kind: str) -> str:
    with pytest.raises(ShareError) as caught:
        views.read(runs, view_id)
    assert caught.value.kind == kind
    return str(caught.value)


def test_a_view_gives_back_what_was_frozen(runs, view):
    again = views.read(runs, view.id)
    assert (again.title, again.author, again.note, again.state) == (
        "What we found",
        "A",
        "line 1\nline 2",
        "open",
    )
    table = views.table(runs, again, again.parts[3])
    assert table["p"].tolist() == [0.25, 0.75]
    figure = json.loads(views.read_file(runs, again, again.parts[4]))
    assert figure["data"][0]["y"] == [None, 2.0]
    assert set(figure) == {"data", "layout"}
    assert views.read_file(runs, again, again.parts[5]).startswith(b"\x89PNG")


def test_ids_are_unguessable_and_differ(runs, view):
    other = views.create(runs, [Part("text", "x")], title="x")
    assert view.id != other.id
    assert len(view.id) == 32
    assert views.ID_PATTERN.fullmatch(view.id)


def test_hidden_signs_are_taken_out_of_texts_and_the_rest_stays_text(runs, view):
    shown = views.read(runs, view.id).parts[1]["text"]
    assert "<script>" in shown
    assert "\u202e" not in shown
    assert "\x00" not in shown


@pytest.mark.slow
def test_a_view_survives_its_runs(runs):
    folders = [fabricate.run(runs, name=f"m{seed}", seed=seed, epochs=1) for seed in range(2)]
    made = freeze.freeze(folders, title="Two models")
    before = [views.read_file(runs, made, part) for part in made.parts if "file" in part]
    folders[0].write_label(name="renamed")
    folders[1].write_predictions("test", folders[1].predictions("test").head(3))
    for folder in folders:
        delete(folder)
    empty_trash(runs)
    again = views.read(runs, made.id)
    assert [views.read_file(runs, again, part) for part in again.parts if "file" in part] == before
    assert again.parts == made.parts
    with pytest.raises(ShareError, match="not here any more"):
        freeze.freeze_again(runs, made.id)
    assert views.read(runs, made.id).version == 1


def test_a_frozen_comparison_says_leakage_first_and_carries_the_predictions(runs):
    folder = fabricate.run(runs, protocol="image", epochs=1)
    made = freeze.freeze([folder], title="Leaks")
    assert made.parts[0]["kind"] == "leakage"
    assert made.parts[0]["audit"]["level"] == "leak"
    table = views.table(runs, made, made.parts[-1])
    own = folder.predictions("test")
    assert table["image_id"].tolist() == own["image_id"].tolist()
    assert table["prob_malignant lite0 at 160"].tolist() == own["prob_malignant"].round(6).tolist()


@pytest.mark.slow
def test_freezing_again_keeps_the_link_and_shows_the_new_state(runs):
    folder = fabricate.run(runs, epochs=1)
    made = freeze.freeze([folder], title="One")
    folder.write_predictions("test", fabricate.predictions(folder.predictions("test"), seed=5))
    again = freeze.freeze_again(runs, made.id)
    assert (again.id, again.version) == (made.id, 2)
    old, new = made.parts[-1]["sha256"], again.parts[-1]["sha256"]
    assert old != new
    assert not (runs / views.FOLDER / made.id / "v1").exists()
    assert views.read_file(runs, again, again.parts[-1])


@pytest.mark.parametrize(
    ("view_id", "kind"),
    [
        ("", "truncated"),
        ("abc", "truncated"),
        ("A" * 32, "unknown"),
        ("../" * 10 + "aa", "forged"),
        ("A" * 31 + "/", "forged"),
        ("A" * 33, "forged"),
        ("A" * 31 + "\n", "truncated"),
        ("%2e%2e%2f" * 3 + "AAAAA", "forged"),
        ("<script>alert(1)</script>aaaaaaa", "forged"),
        ("é" * 32, "forged"),
        (".." + "A" * 30, "forged"),
    ],
)
def test_bad_ids_get_a_sentence_that_repeats_nothing(runs, view, view_id, kind):
    said = bad(runs, view_id, kind)
    assert "script" not in said
    assert view.id not in said


def test_a_truncated_link_says_so(runs, view):
    assert "31 of 32" in bad(runs, view.id[:-1], "truncated")


def test_an_expired_view_is_closed(runs, view, monkeypatch):
    views.set_expiry(runs, view.id, 2)
    assert views.read(runs, view.id).state == "open"
    later = time.time() + 2 * views.DAY_S + 1
    monkeypatch.setattr(views.time, "time", lambda: later)
    assert "expired on" in bad(runs, view.id, "expired")


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf")])
def test_an_expiry_lies_ahead(runs, days):
    with pytest.raises(ShareError, match="expiry"):
        views.create(runs, [Part("text", "x")], title="x", expires_in_days=days)


def test_a_revoked_view_is_closed_until_reinstated(runs, view):
    views.revoke(runs, view.id)
    assert "revoked on" in bad(runs, view.id, "revoked")
    views.reinstate(runs, view.id)
    assert views.read(runs, view.id).title == view.title


def test_a_link_to_elsewhere_is_no_view(runs, view):
    fake = "B" * 32
    (runs / views.FOLDER / fake).symlink_to(runs / views.FOLDER / view.id)
    bad(runs, fake, "unknown")


def test_a_changed_or_misplaced_file_is_not_shown(runs, view):
    target = runs / views.FOLDER / view.id / view.parts[3]["file"]
    target.write_text("image,p\nforged,1\n")
    with pytest.raises(ShareError, match="damaged"):
        views.read_file(runs, view, view.parts[3])
    secret = runs / "secret.csv"
    secret.write_text("x\n1\n")
    for name in ("../../secret.csv", "/etc/passwd", "v1/../../../secret.csv", ""):
        with pytest.raises(ShareError, match="damaged"):
            views.read_file(runs, view, {**view.parts[3], "file": name})


def test_a_damaged_record_gets_a_sentence_and_hides_no_other_view(runs, view):
    other = views.create(runs, [Part("text", "x")], title="other")
    (runs / views.FOLDER / view.id / "view.json").write_text('{"schema": 1, "id": "')
    bad(runs, view.id, "damaged")
    assert [one.id for one in views.listed(runs)] == [other.id]


def test_a_view_without_its_record_was_never_complete(runs, view):
    folder = runs / views.FOLDER / ("C" * 32)
    shutil.copytree(runs / views.FOLDER / view.id, folder)
    (folder / "view.json").unlink()
    bad(runs, folder.name, "damaged")


@pytest.mark.parametrize("parts", [[], [Part("code", "x")], [Part("image", b"<svg onload=alert(1)>")]])
def test_what_cannot_be_shown_is_refused_and_leaves_nothing(runs, parts):
    with pytest.raises(ShareError):
        views.create(runs, parts, title="x")
    assert list((runs / views.FOLDER).iterdir()) == []


def test_viewers_change_nothing(runs, view):
    access.serve(lambda: access.Actor("v@x.org", access.VIEWER))
    try:
        for act in (
            lambda: views.create(runs, [Part("text", "x")], title="x"),
            lambda: views.revoke(runs, view.id),
            lambda: views.reinstate(runs, view.id),
            lambda: views.set_expiry(runs, view.id, 1),
            lambda: views.remove(runs, view.id),
            lambda: views.refreeze(runs, view.id, [Part("text", "x")]),
            lambda: freeze.freeze_again(runs, view.id),
        ):
            with pytest.raises(AccessError):
                act()
        assert views.read(runs, view.id).title == view.title
    finally:
        access.serve(None)


def test_who_shared_and_revoked_is_written_down(runs, view):
    views.revoke(runs, view.id)
    rows = access.read_log(runs)
    assert [row["action"] for row in rows] == ["revoke", "share"]
    assert {row["target"] for row in rows} == {view.id}
