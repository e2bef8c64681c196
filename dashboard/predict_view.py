"""The parts of the predict page: what is given, and what its predictions say per image and per case."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import cached, explain_view, widgets
from dashboard.predict_job import Job
from engine.data import files, images
from engine.errors import DataError
from engine.predict import maps, summary
from engine.predict.judge import Judged, Refused, reason_of
from engine.predict.referral import Rule, worth
from engine.predict.told import Told, read_told
from engine.report import judged as judged_report
from engine.runs import results
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder, Summary
from engine.share import access

MOST_UPLOADS = 200
MOST_BYTES = 50_000_000
SOURCES = ("Drop images", "Name a folder")
KEPT_MAPS = 40


# --- who judges ----------------------------------------------------------------------------------------
def able(summaries: Sequence[Summary]) -> list[Summary]:
    """Runs that can judge new images: with weights, or made of runs that have them; newest first."""
    by_id = {summary.id: summary for summary in summaries}
    known: dict[str, bool] = {}

    def can(run_id: str) -> bool:
        if run_id not in known:
            known[run_id] = False  # an ensemble that named itself would otherwise never end
            known[run_id] = run_id in by_id and _can(by_id[run_id], can)
        return known[run_id]

    return [summary for summary in summaries if can(summary.id)]


def _can(summary: Summary, can: Callable[[str], bool]) -> bool:
    kind, members = summary.config.kind, list(summary.config.details.get("members") or ())
    if kind in (*NETWORKS, "fusion") and not cached.run(summary.id).best.is_file():
        return False
    if kind in NETWORKS:
        return True
    return kind in ("ensemble", "fusion", "tta") and bool(members) and all(map(can, members))


# --- what is judged ------------------------------------------------------------------------------------
def save_uploads(uploads: Sequence[tuple[str, bytes]], folder: Path) -> tuple[list[Path], list[Refused]]:
    """Write uploaded images to a folder; each is judged by its bytes, whatever its name says.

    Args:
        uploads: (file name, bytes). folder: a new, private one; the caller deletes it.
    """
    kept: list[Path] = []
    refused = [
        Refused(safe_name(name), f"only {MOST_UPLOADS} files are taken at once; name their folder instead")
        for name, _ in uploads[MOST_UPLOADS:]
    ]
    taken: set[str] = set()
    for name, data in uploads[:MOST_UPLOADS]:
        shown = safe_name(name)
        if len(data) > MOST_BYTES:
            size = f"{len(data) / 1e6:.0f} MB, at most {MOST_BYTES // 1_000_000} MB"
            refused.append(Refused(shown, f"too large ({size})"))
            continue
        try:
            images.decode(data)
        except DataError as error:
            refused.append(Refused(shown, reason_of(error)))
            continue
        unique = _free(shown, taken)
        taken.add(unique)
        (folder / unique).write_bytes(data)
        kept.append(folder / unique)
    return kept, refused


def safe_name(name: str) -> str:
    """The last part of an uploaded name, printable, never a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = files.printable(last).replace("/", "_").strip(" .")
    return shown[-150:] or "unnamed"


def _free(name: str, taken: set[str]) -> str:
    """`a.png`, `a (2).png`: two uploads of one name stay two."""
    unique, number = name, 2
    stem, dot, ending = name.rpartition(".")
    while unique in taken:
        unique = f"{stem or ending} ({number}){dot}{ending if stem else ''}"
        number += 1
    return unique


def folder_sources(text: str) -> list[Path]:
    """The images of a folder on the server.

    Raises:
        DataError: nothing there, or no image in it.
    """
    if not text.strip():
        raise DataError("No folder is named", remedy="Give the path of a folder of images on this machine")
    return results.image_files([Path(text.strip()).expanduser()])


def inputs() -> tuple[str, list, object]:
    """The widgets that take images: (folder, uploads, a CSV of cases or None)."""
    sources = SOURCES if access.actor().may_edit else SOURCES[:1]
    source = st.segmented_control("Images", sources, default=sources[0], key="predict_source", required=True)
    folder, uploads = "", []
    if source == SOURCES[1]:
        folder = st.text_input(
            "Folder on this machine",
            key="predict_folder",
            placeholder="/data/new_images",
            help="With everything below it. Folders called like a class (benign/, malignant/) label their images.",
        ).strip()
    else:
        uploads = st.file_uploader(
            f"PNG, JPEG or TIFF, at most {MOST_UPLOADS} files of {MOST_BYTES // 1_000_000} MB",
            accept_multiple_files=True,
            max_upload_size=MOST_BYTES // 1_000_000,
            key="predict_uploads",
        )
    with st.expander("Cases and labels", icon=":material/groups:"):
        table = st.file_uploader(
            "A CSV with the columns image and case, or label",
            type=["csv"],
            key="predict_cases_file",
            help="BreakHis file names tell their case and label by themselves.",
        )
    return folder, list(uploads or ()), table


def job_of(folder: RunFolder, named: str, uploads: list, table) -> Job:
    """What the inputs ask for.

    Raises:
        DataError: no such folder, or a CSV that cannot be read. AccessError: a reader names a folder.
    """
    if named:
        access.require_editor("read a folder of this machine")
        return Job(folder, folder_sources(named), _told(table))
    scratch = tempfile.TemporaryDirectory(prefix="predict-")
    data = [(upload.name, upload.getvalue()) for upload in uploads]
    paths, refused = save_uploads(data, Path(scratch.name))
    return Job(folder, paths, _told(table), tuple(refused), scratch)


def _told(table) -> Told | None:
    if table is None:
        return None
    with tempfile.TemporaryDirectory(prefix="cases-") as scratch:
        source = Path(scratch) / "cases.csv"
        source.write_bytes(table.getvalue())
        return read_told(source)


def rule_of_link(several: bool) -> Rule:
    """The sliders of whom to refer; they are on the page, and in its link, before anything is judged.

    Args:
        several: it is an ensemble that judges, so that its members can disagree.
    """
    below = st.slider(
        "Refer images below this probability to a person", 0.5, 1.0, 0.65, 0.01,
        key="refer", bind="query-params",
    )  # fmt: skip
    agreement = 100
    if several:
        agreement = st.slider(
            "Refer images on which fewer members agree, %", 50, 100, 100, 5,
            key="agree", bind="query-params",
        )  # fmt: skip
    return Rule(below, agreement / 100)


# --- what is said --------------------------------------------------------------------------------------
def answer(job: Job, judged: Judged, label: str, rule: Rule) -> None:
    """Everything about what was judged."""
    folder = job.folder
    if judged.stopped:
        words = f"Stopped: {len(judged.table):,} of {len(job.paths):,} images were judged."
        st.warning(words, icon=":material/stop_circle:")
    met = summary.met_before(folder, judged.table)
    if met.names or met.cases:
        widgets.leakage_badge({"level": "leak", "verdict": summary.met_sentence(met, label)})
    elif not met.known:
        st.caption(widgets.escaped(summary.met_sentence(met, label)))
    st.markdown(f"**{widgets.escaped(summary.counts_sentence(judged))}** {widgets.escaped(f'By {label}.')}")
    st.caption(widgets.escaped(str(judged.calibration)))
    _stain(judged)
    _unlike(judged)
    left_out = summary.left_out_sentence(judged, met)
    if job.scores or left_out:
        st.subheader("Scores by the labels that are known", anchor=False)
        if job.scores:
            widgets.facts(job.scores)
        st.caption(left_out)
    st.subheader("Images", anchor=False)
    st.caption(widgets.escaped(summary.referral_sentence(judged, rule)))
    value = worth(folder, rule, judged.calibration)
    if value is not None:
        st.caption(widgets.escaped(str(value)))
    _images(folder, judged, rule)
    per_case = summary.case_rows(judged, rule)
    if not per_case.empty:
        st.subheader("Cases", anchor=False)
        st.dataframe(per_case, hide_index=True, column_config=_bars(per_case), key="predict_cases")
    _downloads(folder, judged, rule, per_case)


def refusals(refused: Sequence[Refused], shown: int = 10) -> None:
    """Which files are not judged, and why."""
    if not refused:
        return
    lines = [f"- {widgets.escaped(one.name)}: {widgets.escaped(one.reason)}." for one in refused[:shown]]
    more = f"\n- and {len(refused) - shown:,} more" if len(refused) > shown else ""
    st.warning(
        f"**{widgets.counted(len(refused), 'file')} not judged**\n" + "\n".join(lines) + more,
        icon=":material/warning:",
    )


def _stain(judged: Judged) -> None:
    sentence = widgets.escaped(summary.stain_sentence(judged))
    if judged.own_colours:
        st.warning(sentence, icon=":material/palette:")
    elif sentence:
        st.caption(sentence)


def _unlike(judged: Judged) -> None:
    sentence = widgets.escaped(summary.unlike_sentence(judged))
    if judged.table["unlike"].ne("").any():
        st.warning(sentence, icon=":material/travel_explore:")
    else:
        st.caption(sentence)


def _bars(table: pd.DataFrame) -> dict:
    return {
        name: st.column_config.ProgressColumn(name, format="%.3f", min_value=0, max_value=1)
        for name in table.columns
        if "P(" in name
    }


def _images(folder: RunFolder, judged: Judged, rule: Rule) -> None:
    """The table, and the chosen image beside its map; first those that a person should see first."""
    shown = summary.image_rows(judged, rule)
    order = list(summary.least_sure(judged, len(shown)))
    shown = shown.set_index("Image").loc[order].reset_index()
    event = st.dataframe(
        shown, hide_index=True, column_config={**_bars(shown), "Refer": st.column_config.TextColumn(width=170)}, key="predict_table", on_select="rerun",
        selection_mode="single-row", height=min(38 + 35 * len(shown), 390),
    )  # fmt: skip
    rows = event["selection"]["rows"]
    name = order[rows[0]] if rows and rows[0] < len(order) else order[0]
    _one(folder, judged, name, shown.iloc[order.index(name)].drop("Image"))


def _one(folder: RunFolder, judged: Judged, name: str, row: pd.Series) -> None:
    """One image, the map over it, and what is known of it."""
    record = judged.table.set_index("image_id").loc[name]
    left, middle = st.columns(2, gap="medium")
    target = str(folder.config().classes[-1])
    with left, widgets.errors_shown():
        pixels = images.decode(judged.paths[name])
        left.image(images.encode_jpeg(pixels, maps.WIDTH), caption=widgets.escaped(name))
    with middle, widgets.errors_shown():
        shot = _overlay(folder, judged, name, target, str(record["magnification"]))
        words = f"Coloured: evidence for {target}, light = much. Research use only."
        middle.image(shot, caption=widgets.escaped(words))
    facts = [(str(key), _plain(value)) for key, value in row.items() if _plain(value)]
    if judged.appearance is not None:
        for name_of in ("stain", "magnification"):
            far = f"{record[f'{name_of}_distance']:.2f} of the limit"
            facts.append((f"{name_of.capitalize()}, distance to the training images", far))
    widgets.facts(facts)
    st.caption("Choose a row above to see another image.")


def _plain(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _overlay(folder: RunFolder, judged: Judged, name: str, target: str, magnification: str) -> bytes:
    """The map over one image; made when it is looked at, kept in this session only."""
    made: dict[tuple, bytes] = st.session_state.setdefault("_predict_maps", {})
    key = (folder.id, str(judged.paths[name]), target)
    if key not in made:
        with st.spinner("Looking ..."):
            found = maps.maps_of(folder, [judged.paths[name]], target, explain_view.load)[0]
            made[key] = maps.pictures(judged.paths[name], found, magnification)[1]
        for old in list(made)[:-KEPT_MAPS]:
            del made[old]
    return made[key]


def _downloads(folder: RunFolder, judged: Judged, rule: Rule, per_case: pd.DataFrame) -> None:
    with st.container(horizontal=True):
        widgets.download_table("Predictions as CSV", judged.table, "predictions.csv", "predict_csv")
        if not per_case.empty:
            widgets.download_table("Cases as CSV", per_case, "cases.csv", "predict_cases_csv")
        widgets.download_text(
            "Report as HTML",
            lambda: judged_report.judged_report(folder, judged, rule),
            "predictions.html",
            "predict_report",
            mime="text/html",
        )
    st.caption("The report holds the first twelve images with their maps; making it takes some seconds.")


def labels_of(run_id: str, labels: dict[str, str]) -> str:
    """A run's label, also when it is not in the list any more."""
    return labels.get(run_id) or cached.run(run_id).name
