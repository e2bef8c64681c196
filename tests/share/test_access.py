"""Roles: local people edit, strangers read, the list decides who logs in, and doubt closes the door."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import AccessError
from engine.share import access
from engine.share.access import EDITOR, NOBODY, VIEWER, Actor, AllowList, without_login

LOCAL = {"Host": "localhost:8501", "Origin": "http://localhost:8501"}


@pytest.fixture(autouse=True)
def in_a_terminal():
    yield
    access.serve(None)


def test_whoever_has_the_terminal_edits():
    assert access.actor().role == EDITOR
    assert access.require_editor("delete runs").may_edit


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        (LOCAL, None),
        (LOCAL, "127.0.0.1"),
        (LOCAL, "::ffff:127.0.0.1"),
        ({"host": "127.0.0.1:8501"}, "::1"),
        ({"host": "[::1]:8501", "origin": "http://[::1]:8501"}, None),
        ({}, None),
    ],
)
def test_without_login_this_machine_edits(headers, peer):
    assert without_login(headers, peer).role == EDITOR


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        (LOCAL, "192.168.1.7"),
        (LOCAL, "::ffff:10.0.0.1"),
        (LOCAL, "nonsense"),
        ({**LOCAL, "X-Forwarded-For": "10.1.1.1"}, None),
        ({**LOCAL, "x-real-ip": "10.1.1.1"}, None),
        ({**LOCAL, "Forwarded": "for=10.1.1.1"}, None),
        ({"Host": "dashboard.lab.org"}, None),
        ({"Host": "localhost:8501", "Origin": "https://dashboard.lab.org"}, None),
        ({"Host": "localhost.evil.org:8501"}, None),
        ({"Host": "127.0.0.1.evil.org"}, None),
    ],
)
def test_without_login_others_only_read(headers, peer):
    found = without_login(headers, peer)
    assert found.role == VIEWER
    assert "another machine" in found.reason


def test_a_setting_decides_for_all_where_there_is_no_login():
    assert without_login(LOCAL, None, "viewer").role == VIEWER
    assert without_login({"Host": "x"}, "172.17.0.1", "editor").role == EDITOR
    assert without_login({"Host": "x"}, "172.17.0.1", "admin").role == VIEWER


LIST = AllowList(("Boss@Lab.org", "sub:42"), ("*@lab.org",))


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"email": "boss@lab.org", "email_verified": True}, EDITOR),
        ({"email": "BOSS@LAB.ORG"}, EDITOR),
        ({"sub": "42"}, EDITOR),
        ({"email": "student@lab.org"}, VIEWER),
        ({"email": "boss@lab.org", "email_verified": False}, NOBODY),
        ({"email": "boss@lab.org", "email_verified": "false"}, NOBODY),
        ({"email": "student@lab.org.evil.com"}, NOBODY),
        ({"email": "sub:42"}, NOBODY),
        ({"email": "", "sub": ""}, NOBODY),
        ({"name": "boss@lab.org"}, NOBODY),
        ({}, NOBODY),
    ],
)
def test_the_list_decides(claims, role):
    assert LIST.role_of(claims) == role


def test_an_empty_list_lets_nobody_in():
    assert AllowList().role_of({"email": "a@b.c", "sub": "1"}) == NOBODY


@pytest.mark.parametrize(
    "text", ["", "editors = 'a@b.c'", "editors = [1]", "editor = ['a@b.c']", "editors = [", "\x00"]
)
def test_a_list_that_is_not_understood_lets_nobody_in(tmp_path: Path, text):
    source = tmp_path / "access.toml"
    source.write_text(text)
    found = access.logged_in({"email": "a@b.c"}, source)
    assert found.role == NOBODY
    assert found.reason


def test_a_missing_list_lets_nobody_in(tmp_path: Path):
    found = access.logged_in({"email": "a@b.c"}, tmp_path / "access.toml")
    assert found.role == NOBODY
    assert "nobody is on the list" in found.reason


def test_a_list_is_read(tmp_path: Path):
    (tmp_path / "access.toml").write_text('editors = ["a@b.c"]\nviewers = ["*"]\n')
    assert access.logged_in({"email": "a@b.c"}, tmp_path / "access.toml").role == EDITOR
    assert access.logged_in({"email": "d@b.c"}, tmp_path / "access.toml").role == VIEWER


def test_a_server_that_cannot_tell_who_asks_lets_nobody_edit():
    def broken() -> Actor:
        raise RuntimeError("no session")

    access.serve(broken)
    assert access.actor().role == NOBODY
    with pytest.raises(AccessError):
        access.require_editor("delete runs")
    with pytest.raises(AccessError):
        access.require_viewer()


def test_the_refusal_says_what_and_why():
    with pytest.raises(AccessError, match=r"You may not delete runs.*v is a viewer here"):
        access.require_editor("delete runs", Actor("v", VIEWER, "v is a viewer here"))


def test_acts_are_logged_in_order_and_survive_a_torn_line(tmp_path: Path):
    access.log(tmp_path, "launch", "run-1", Actor("a", EDITOR))
    with open(tmp_path / access.LOG, "a") as file:
        file.write('{"torn')
    access.log(tmp_path, "delete", "run-1", Actor("<b>", EDITOR), more=1)
    rows = access.read_log(tmp_path)
    assert [(row["action"], row["who"]) for row in rows] == [("delete", "<b>"), ("launch", "a")]
