"""Any text as an id, a name, a link or a table: a sentence or the text itself, never a path, markup or a crash."""

from __future__ import annotations

import csv
import html
import io

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard import compare_view, gallery, selection, widgets
from engine import files
from engine.analysis import importing
from engine.errors import EngineError, RunError, ShareError
from engine.runs import creation, listing
from engine.runs import folder as contract
from engine.runs.config import RunConfig
from engine.share import views

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PATHS = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "%2e%2e", "%252e%252e%252f", "%2f", "\x00", "~", "etc", "passwd", "C:"]
    )
).map("".join)
HOSTILE = st.one_of(st.text(max_size=80), PATHS, PATHS.map(lambda path: f"20261122-201500-x-3f2a{path}"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "runs"
    creation.create(root, RunConfig(name="first"), "first")
    (root.parent / "secret.json").write_text("{}")
    return root


@SETTINGS
@given(text=HOSTILE)
def test_no_text_is_an_id_outside_the_runs_folder(runs, text):
    try:
        found = contract.locate(runs, text)
    except RunError:
        return
    assert found.path.resolve().parent == runs.resolve()


@SETTINGS
@given(text=HOSTILE)
def test_no_text_is_a_view_outside_its_folder(runs, text):
    with pytest.raises(ShareError):
        views.locate(runs, text)


@SETTINGS
@given(text=HOSTILE)
def test_an_id_made_from_any_text_is_safe(text):
    assert contract.ID_PATTERN.fullmatch(creation.new_id(text))


@SETTINGS
@given(text=HOSTILE)
def test_a_name_is_kept_as_text_and_shown_as_text(runs, text):
    (run,) = contract.run_folders(runs)
    try:
        run.write_label(name=text)
    except EngineError:
        return
    assert listing.summaries(runs)[0].id == run.id
    for shown in (widgets.plain(run.name), widgets.plain(text)):
        assert not set(shown) & set("<>\"'")
    assert (
        html.unescape(widgets.plain(text)) == html.unescape(text)
        or html.unescape(widgets.plain(text)) == text
    )


@SETTINGS
@given(text=HOSTILE)
def test_a_link_of_any_text_is_a_selection_or_a_sentence(text):
    ids = selection.parse_list(text)
    here, missing = selection.divide(ids, ["a"])
    assert set(here) <= {"a"}
    assert bool(selection.missing_sentence(missing)) == bool(missing)
    assert selection.parse_list(selection.format_list(ids)) == ids
    assert compare_view.parse_cell(text, ["a"], ["benign", "malignant"]) is None
    compare_view.rule_of(text)
    assert gallery.whole_number(text) >= 0
    assert "\n" not in selection.query_string({"runs": text})


TABLES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.lists(HOSTILE, min_size=1, max_size=5), min_size=1, max_size=5).map(
        lambda rows: "\n".join(",".join(row) for row in rows).encode("utf-8", "replace")
    ),
    st.lists(st.tuples(HOSTILE, st.sampled_from(["benign", "malignant", ""]), HOSTILE), max_size=5).map(
        lambda rows: _csv([("image_id", "label", "prob_malignant"), *rows])
    ),
)


def _csv(rows) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


@SETTINGS
@given(data=TABLES)
def test_a_table_of_any_bytes_is_predictions_or_a_sentence(tmp_path, data):
    source = tmp_path / "foreign.csv"
    source.write_bytes(data)
    try:
        table = importing.read_foreign([source])
    except EngineError:
        return
    assert table["prob_malignant"].between(0, 1).all()


@SETTINGS
@given(text=HOSTILE)
def test_no_cell_of_a_table_for_people_begins_as_a_formula(text):
    cells = [sign + text for sign in files.FORMULA_SIGNS] + [text]
    for kind in (str, object):
        safe = files.spreadsheet_safe(pd.DataFrame({"name": pd.Series(cells, dtype=kind), "n": 1.5}))
        assert not any(cell.startswith(files.FORMULA_SIGNS) for cell in safe["name"])
        assert [cell.removeprefix("'") for cell in safe["name"]] == [cell.removeprefix("'") for cell in cells]
