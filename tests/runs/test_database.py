"""SQLite files that can be made again: where they may lie."""

from pathlib import Path

import pytest

from engine.runs import database

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/a /home nfs4 rw 0 0
/dev/vdb /home/local ext4 rw 0 0
//server/b /mnt/Proben\\040Süd cifs rw 0 0
nonsense
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", False),
        ("/data/runs", False),
        ("/home", True),
        ("/home/ada/runs", True),
        ("/home/local/runs", False),
        ("/homework", False),
        ("/mnt/Proben Süd/runs", True),
    ],
)
def test_the_innermost_mount_says_whether_a_folder_is_on_a_network(monkeypatch, folder, expected):
    monkeypatch.setattr(Path, "read_text", lambda *args, **words: MOUNTS)
    assert database.on_network(Path(folder)) is expected


def test_where_no_mounts_are_told_a_folder_is_taken_for_local(monkeypatch):
    def absent(*args, **words):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert not database.on_network(Path("/home"))
