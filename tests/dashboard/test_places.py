"""Where things lie."""

from dashboard import places


def test_data_sets_are_remembered_last_one_first(runs_dir, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        places.remember(tmp_path / name)
    places.remember(tmp_path / "one")
    assert places.datasets() == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_a_data_set_that_is_gone_is_left_out(runs_dir, tmp_path):
    places.remember(tmp_path / "never there")
    assert places.datasets() == []


def test_the_sample_is_found_without_being_remembered(runs_dir):
    places.sample_folder().mkdir()
    assert places.datasets() == [str(places.sample_folder())]


def test_a_runs_folder_that_cannot_be_written_is_said(runs_dir, monkeypatch):
    assert places.read_only_reason() == ""
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    assert "cannot be written" in places.read_only_reason()
