"""Import: predictions of any other tool become entries. Columns are mapped in a form, several files at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from dashboard import cached, places, predict_view, tick_list, widgets
from engine.analysis import importing
from engine.errors import EngineError, PredictionsError
from engine.runs import results
from engine.share import access

LEFT_OUT = ""
MEANINGS = {
    LEFT_OUT: "left out",
    "image_id": "image (file name)",
    "label": "true class",
    "prob_benign": "probability of benign",
    "prob_malignant": "probability of malignant",
    "case": "case (patient)",
    "slide": "slide",
    "magnification": "magnification",
    "subtype": "subtype",
    "split": "split (train, val, test)",
    "fold": "fold",
}
ONE, EACH = "parts of one model", "a model of its own"
MOST_COLUMNS = 40
Upload = tuple[str, bytes]


# --- pure ----------------------------------------------------------------------------------------------
def meanings_of(column: str) -> dict[str, str]:
    """What a column may mean, ours -> words; any column may be the probability of a class of its own name."""
    named = column.strip().removeprefix("prob_").removeprefix("p_").removesuffix("_prob").strip() or column
    own = f"prob_{named}"
    return MEANINGS if own in MEANINGS else {**MEANINGS, own: f"probability of “{named}”"}


def problem(mapping: Mapping[str, str]) -> str:
    """What is still missing from a mapping (theirs -> ours), in a sentence; empty where it can be imported."""
    ours = [name for name in mapping.values() if name != LEFT_OUT]
    twice = sorted({MEANINGS.get(name, name) for name in ours if ours.count(name) > 1})
    if twice:
        return f"Two columns mean the same: {', '.join(twice)}."
    if "image_id" not in ours:
        return "Say which column holds the image's file name."
    probs = [name for name in ours if name.startswith("prob_")]
    if not probs:
        return "Say which column holds the probability of malignant (or one column per class)."
    if len(probs) == 1 and probs[0] not in ("prob_benign", "prob_malignant"):
        return "One probability is enough for benign and malignant only; other classes need a column each."
    return ""


def title_of(file_name: str) -> str:
    """What a run is called after a file of this name."""
    return predict_view.safe_name(file_name).rpartition(".")[0] or "imported"


# --- saving --------------------------------------------------------------------------------------------
@contextmanager
def _on_disk(uploads: Sequence[Upload]) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="import-") as scratch:
        files = []
        for position, (own, data) in enumerate(uploads):
            folder = Path(scratch) / str(position)
            folder.mkdir()
            files.append(folder / predict_view.safe_name(own))
            files[-1].write_bytes(data)
        yield files


def save(
    uploads: Sequence[Upload], names: Sequence[str], mapping: Mapping[str, str], *, each: bool = False
) -> list[str]:
    """The ids of the runs that the files become: one run, or with `each` one per file (and name).

    Raises:
        PredictionsError: not predictions. AccessError: a viewer asks.
    """
    access.require_editor("import predictions")
    titles = [name.strip() or title_of(own) for name, (own, _) in zip(names, uploads, strict=False)]
    with _on_disk(uploads) as files:
        if each:
            made = results.import_each(files, titles, places.runs_folder(), mapping=mapping)
        else:
            made = [results.import_predictions(files, titles[0], places.runs_folder(), mapping=mapping)]
    return [folder.id for folder in made]


def beside(ticked: Sequence[str], saved: Sequence[str]) -> list[str]:
    """What is ticked after an import: the entries that predicted the same images too, and what was imported."""

    def images(run_id: str) -> set[str]:
        try:
            return set(cached.predictions(run_id)["image_id"])
        except EngineError:
            return set()

    own = images(saved[0])
    kept = [
        run_id for run_id in ticked if len(own & images(run_id)) > 0.5 * min(len(own), len(images(run_id)))
    ]
    return [*kept, *saved]


# --- drawing -------------------------------------------------------------------------------------------
def draw(key: str) -> None:
    """The button that opens the form; what is imported is ticked in the list `key`."""
    reason = places.read_only_reason() or (
        "" if access.actor().may_edit else access.actor().reason or "You may only read"
    )
    if st.button(
        "Import predictions", key="import_open", icon=":material/upload_file:", disabled=bool(reason),
        help=reason or "CSV files of any other tool: Keras, MATLAB, a colleague's model",
    ):  # fmt: skip
        _form(key)


@st.dialog("Import predictions", width="large")
def _form(key: str) -> None:
    st.caption(
        "CSV files with a row per image: its file name and a probability. BreakHis file names give true class, "
        "case and magnification; split and fold columns make it a pooled cross-validation."
    )
    chosen = st.file_uploader("CSV files", type="csv", accept_multiple_files=True, key="import_files")
    if not chosen:
        return
    uploads = [(one.name, one.getvalue()) for one in chosen]
    try:
        with _on_disk(uploads) as files:
            columns = importing.columns_of(files[0])
            others = [importing.columns_of(file) for file in files[1:]]
    except EngineError as error:
        widgets.show_error(error)
        return
    for (own, _), found in zip(uploads[1:], others, strict=True):
        if set(found) != set(columns):
            st.warning(
                f"{widgets.escaped(own)} has other columns than {widgets.escaped(uploads[0][0])}: import them one after the other.",
                icon=":material/warning:",
            )
            return
    mapping = _mapping(columns)
    said = problem(mapping)
    taken = {theirs: ours for theirs, ours in mapping.items() if ours != LEFT_OUT}
    each, names = _naming(uploads, taken)
    if said:
        st.info(said, icon=":material/arrow_upward:")
    if st.button("Import", type="primary", key="import_go", disabled=bool(said)):
        try:
            saved = save(uploads, names, taken, each=each)
        except PredictionsError as error:
            widgets.show_error(error)
            return
        tick_list.change(key, beside(tick_list.chosen(key), saved))
        st.toast(f"{widgets.counted(len(saved), 'entry', 'entries')} imported", icon=":material/check:")
        st.rerun()


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    """A choice per column of the file; those whose name says what they are come filled in."""
    st.markdown("**What the columns mean**")
    guessed = importing.guess_mapping(columns)
    mapping: dict[str, str] = {}
    shown = list(columns[:MOST_COLUMNS])
    for start in range(0, len(shown), 3):
        for place, column in zip(st.columns(3), shown[start : start + 3], strict=False):
            meanings = meanings_of(column)
            guess = guessed.get(column, LEFT_OUT)
            mapping[column] = place.selectbox(
                widgets.escaped(column),
                list(meanings),
                index=list(meanings).index(guess) if guess in meanings else 0,
                format_func=lambda ours, meanings=meanings: meanings[ours],
                key=f"import_column_{start}_{column}",
            )
    if len(columns) > MOST_COLUMNS:
        st.caption(f"The other {len(columns) - MOST_COLUMNS} columns are left out.")
    return mapping


def _naming(uploads: Sequence[Upload], mapping: Mapping[str, str]) -> tuple[bool, list[str]]:
    """(whether each file is a run of its own, a name per run)."""
    each = False
    if len(uploads) > 1:
        with _on_disk(uploads) as files:
            same = importing.predict_the_same(files, mapping)
        each = (
            st.radio("Each file is", [ONE, EACH], index=int(same), horizontal=True, key="import_each") == EACH
        )
        if each != same:
            st.caption(
                "The files predict some of the same images, so as parts of one model they contradict each other."
                if same
                else "The files predict different images: as models of their own they have nothing to compare."
            )
    named = uploads if each else uploads[:1]
    return each, [
        st.text_input(
            "Name" if len(named) == 1 else f"Name of {widgets.escaped(own)}",
            title_of(own),
            max_chars=120,
            key=f"import_name_{position}_{own}",
        )
        for position, (own, _) in enumerate(named)
    ]
