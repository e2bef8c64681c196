"""The runs page: every run, filtered from the link, deleted with undo."""

from engine.runs import trash


def test_an_empty_page_says_why_and_what_to_do(app, said):
    at = app("runs")
    assert not at.exception
    assert "nothing has been trained or imported yet" in said(at)
    assert "Train a model" in [button.label for button in at.button]


def test_every_run_stands_in_the_table_with_its_leakage(app, finished_run, leaking_run, make_run):
    make_run(name="broken", state="failed")
    at = app("runs")
    assert not at.exception
    table = at.dataframe[0].value
    assert set(table["name"]) == {"lite0 at 160", "image split", "broken"}
    assert table.set_index("name").loc["image split", "leakage"][0].endswith("leaks patients")
    assert table.set_index("name").loc["broken", "state"][0] == "Failed"


def test_the_filter_of_a_link_is_applied(app, finished_run, leaking_run):
    at = app("runs", q="image")
    assert not at.exception
    assert at.text_input(key="q").value == "image"
    assert at.dataframe[0].value["name"].tolist() == ["image split"]


def test_a_wrong_expression_is_a_sentence_and_the_runs_stay(app, said, finished_run):
    at = app("runs", q="/(/")
    assert not at.exception
    assert "not a regular expression" in said(at)
    assert len(at.dataframe[0].value) == 1


def test_runs_of_a_link_that_are_gone_are_named(app, said, finished_run):
    at = app("runs", runs=f"{finished_run.id},20200101-000000-gone-abcd")
    assert not at.exception
    assert "The link names a run that is not here: 20200101-000000-gone-abcd." in said(at)


def test_columns_and_grouping_come_from_the_link(app, finished_run, leaking_run):
    at = app("runs", cols="name,training.seed", group="data.protocol")
    assert not at.exception
    groups, runs = at.dataframe[0].value, at.dataframe[1].value
    assert set(groups["group"]) == {"case", "image"}
    assert {"name", "training.seed", "data.protocol"} <= set(runs.columns)
    assert "best" not in runs.columns


def test_a_damaged_run_does_not_hide_the_others(app, finished_run, leaking_run):
    (leaking_run.path / "config.json").write_text("{", encoding="utf-8")
    at = app("runs")
    assert not at.exception
    assert len(at.dataframe[0].value) == 2


def test_a_deleted_run_can_be_brought_back(app, said, finished_run, leaking_run, runs_dir):
    at = app("runs", runs=leaking_run.id)
    delete = next(button for button in at.button if button.label == "Delete")
    delete.click().run()
    assert not at.exception
    assert trash.trashed(runs_dir) == [leaking_run.id]
    assert "1 run moved to the trash" in said(at)
    at.button(key="undo_delete").click().run()
    assert trash.trashed(runs_dir) == []
    assert not at.exception


def test_nothing_can_be_done_in_a_read_only_runs_folder(app, finished_run, monkeypatch):
    from dashboard import places

    monkeypatch.setattr(places, "read_only_reason", lambda: "read-only")
    at = app("runs", runs=finished_run.id)
    state = {button.label: button.disabled for button in at.button}
    assert all(state[name] for name in ("Stop", "Delete", "Name and tags"))
    assert not state["Compare"]


def test_a_reader_can_compare_but_change_nothing(app, said, finished_run, monkeypatch):
    monkeypatch.setenv("DASHBOARD_ROLE", "viewer")
    at = app("runs", runs=finished_run.id)
    assert not at.exception
    state = {button.label: button.disabled for button in at.button}
    assert all(state[name] for name in ("Stop", "Resume", "Delete", "Name and tags"))
    assert not state["Compare"]
    assert "Read only" in said(at)


def test_names_and_tags_of_several_runs_are_offered_together(app, finished_run, leaking_run):
    finished_run.write_label(tags=["both", "mine"])
    leaking_run.write_label(tags=["both"])
    at = app("runs", runs=f"{finished_run.id},{leaking_run.id}")
    next(button for button in at.button if button.label == "Name and tags").click().run()
    assert not at.exception
    assert next(box for box in at.multiselect if box.label == "Take tags off all of them").options == ["both"]
    assert set(next(box for box in at.multiselect if box.label.startswith("Add")).options) == {"both", "mine"}


def test_when_a_run_began_is_a_time_that_sorts(app, finished_run):
    began = app("runs").dataframe[-1].value["age"]
    assert str(began.dtype).startswith("datetime64")
