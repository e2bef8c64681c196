"""The lower half of the compare page: images, curves, patients, slices, settings, the study's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from dashboard import cached, compare_curves, compare_table, compare_view, gallery, selection, widgets
from dashboard.compare_view import Asked, Line, View
from engine.analysis import comparison, intervals, metrics, review
from engine.analysis.alignment import Aligned
from engine.analysis.intervals import Estimate
from engine.report import score_figures
from engine.runs.folder import Summary

VIEWS = ("Images", "Curves", "Patients", "Slices", "Settings", "Study")
SLICES = {"subtype": "Subtype", "magnification": "Magnification", "fold": "Fold"}
UNTOLD = ("name", "experiment", "parent", "created")  # what tells entries apart without being a setting


def draw(
    view: View, summaries: Sequence[Summary], lines: list[Line], labels: Mapping[str, str], whole: Aligned
) -> None:
    """One of several views of the same entries; which one is in the link."""
    st.space("small")
    chosen = selection.option("view", VIEWS, "Below", VIEWS[0], label_visibility="collapsed")
    if chosen == "Images":
        _images(view, lines, labels, whole)
    elif chosen == "Curves":
        kind = selection.option(
            "curve", compare_curves.KINDS, "Curves", compare_curves.KINDS[0], label_visibility="collapsed"
        )
        compare_curves.draw(view, lines, kind)
    elif chosen == "Patients":
        _patients(view, lines)
    elif chosen == "Slices":
        _slices(view, lines, whole)
    elif chosen == "Settings":
        _settings(view, summaries, lines)
    else:
        _study(view, summaries, labels)


# --- images --------------------------------------------------------------------------------------------
def _images(view: View, lines: list[Line], labels: Mapping[str, str], whole: Aligned) -> None:
    table = compare_view.opinions(view)
    flags = review.flags(cached.marks())
    asked = compare_view.asked_from_url(view.ids, whole.classes)
    asked = _bucket_choice(view, labels, asked)
    rows, sentence = compare_view.listed(table, asked, labels, set(flags))
    gallery.draw(
        rows,
        lines,
        compare_view.image_paths(view.ids),
        sentence,
        key="compare",
        width=5,
        link=compare_view.link_params(runs=",".join(view.ids)),
        flags=flags,
    )


def _bucket_choice(view: View, labels: Mapping[str, str], asked: Asked) -> Asked:
    """Which images to show where no cell or patient is open: a bucket, and whose."""
    many = len(view.ids) > 1
    known = [name for name in compare_view.BUCKETS if many or name not in compare_view.OF_SEVERAL]
    opened = "The clicked cell" if asked.cell else f"Patient {asked.case}" if asked.case else ""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        picked = st.selectbox(
            "Show",
            ["", *known] if opened else known,
            index=0 if opened else known.index(asked.bucket),
            format_func=lambda name: compare_view.BUCKETS[name][0] if name else opened,
            width=280,
            key=f"compare_bucket_{asked.cell.text if asked.cell else asked.case or asked.bucket}",
        )
        whose = asked.whose
        if picked and compare_view.BUCKETS[picked][1] and many:
            whose = st.selectbox(
                "of",
                list(view.ids),
                index=list(view.ids).index(whose),
                format_func=lambda run_id: labels[run_id],
                width=240,
                key=f"compare_whose_{whose}",
            )
    if picked and (opened or picked != asked.bucket or whose != asked.whose):
        of_one = compare_view.BUCKETS[picked][1]
        selection.write(cell=None, case=None, bucket=picked, whose=whose if of_one else None, page=None)
        st.rerun()
    return asked


# --- patients ------------------------------------------------------------------------------------------
def _patients(view: View, lines: list[Line]) -> None:
    """Bars with k/n for one entry, and all entries side by side in a table."""
    table = patient_table(view, lines)
    if table.empty:
        st.info("The cases of these images are not known.", icon=":material/help:")
        return
    names = {line.id: line.label for line in lines}
    whose = lines[0].id
    if len(lines) > 1:
        selection.choice_from_url("patients", list(names), "compare_patients_of", whose)
        whose = st.selectbox(
            "Bars of", list(names), format_func=lambda one: names[one], key="compare_patients_of", width=320
        )
        selection.choice_to_url("patients", "compare_patients_of", lines[0].id)
    images = compare_view.aligned(view)
    cases = metrics.case_table(images.tables[whose], compare_view.thresholds_of(view)[whose])
    right = int((cases["label"] == cases["diagnosis"]).sum())
    low, high = intervals.wilson(right, len(cases))
    chart = f"patients_{whose}"
    widgets.show_figure(
        score_figures.case_bars(cases, dark=widgets.is_dark()),
        f"{names[whose]}: share of each patient's images that are right, hardest first. Hatched: the patient's mean "
        f"probability gives the wrong diagnosis ({right} of {len(cases)} patients right, {right / len(cases):.3f} "
        f"[{low:.3f}, {high:.3f}], Wilson). Click a bar to see the patient's images.",
        f"Recognition per patient of {names[whose]}, {right} of {len(cases)} diagnosed rightly.",
        chart,
        on_select=lambda: _open_patient(chart),
    )
    columns: dict = {
        line.label: st.column_config.ProgressColumn(line.label, format="percent", min_value=0, max_value=1)
        for line in lines
    }
    st.dataframe(table, hide_index=True, column_config=columns, key="compare_patients")
    widgets.download_table("CSV", table, f"patients_{view.split}.csv", "compare_patients_csv")


def _open_patient(chart: str) -> None:
    data = compare_view.clicked(st.session_state.get(chart))
    if data:
        selection.write(case=data[0], cell=None, bucket=None, page=None, view=None)


def patient_table(view: View, lines: Sequence[Line]) -> pd.DataFrame:
    """A row per case: label, images, and per entry the share of right images; hardest first."""
    images = compare_view.aligned(view)
    thresholds = compare_view.thresholds_of(view)
    tables = {line.id: metrics.case_table(images.tables[line.id], thresholds[line.id]) for line in lines}
    first = tables[lines[0].id][["case", "label", "n_images"]]
    frame = first.rename(columns={"case": "Case", "label": "Truly", "n_images": "Images"})
    for line in lines:
        frame[line.label] = tables[line.id]["recognition"].to_numpy()
    shares = [line.label for line in lines]
    return frame.assign(_mean=frame[shares].mean(axis=1)).sort_values("_mean").drop(columns="_mean")


# --- slices --------------------------------------------------------------------------------------------
def _slices(view: View, lines: list[Line], whole: Aligned) -> None:
    """Scores within each subtype, magnification or fold, a column per entry."""
    there = {
        name: words
        for name, words in SLICES.items()
        if name in whole.frame.columns and whole.frame[name].astype(str).ne("").any()
    }
    if not there:
        st.info("Neither subtype, magnification nor fold of these images is known.", icon=":material/help:")
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        by = selection.option("slice", there, "Slices", next(iter(there)), label_visibility="collapsed")
        # within a subtype all images are of one class: what can be scored is the share that is right
        names = ["accuracy"] if by == "subtype" else list(view.names)
        score = names[0]
        if len(names) > 1:
            missing = selection.choice_from_url("slice_score", names, "compare_slice_score", names[0])
            score = st.selectbox(
                "Score", names, format_func=lambda one: metrics.SCORES[one].title, key="compare_slice_score",
                width=260, label_visibility="collapsed",
            )  # fmt: skip
            selection.choice_to_url("slice_score", "compare_slice_score", names[0])
            if missing:
                st.caption("The score of the link is not among the columns.")
    with st.spinner("Drawing cases within each slice ...", show_time=True):
        found = slice_estimates(view, by, score)
    counts = slice_counts(view, by)
    st.html(compare_table.slices_html(found, counts, lines, by))
    title = "Share right" if by == "subtype" else metrics.SCORES[score].title
    st.caption(
        widgets.escaped(
            f"{title} with 95% intervals over whole cases of that slice. "
            + ("Below: right / images, and what the wrong ones were called. " if by == "subtype" else "")
            + "n/a: undefined there, or too few cases for an interval; ! = hover for a warning."
        )
    )
    widgets.download_table(
        "CSV",
        lambda: slice_frame(found, counts, lines, score),
        f"slices_{by}_{view.split}.csv",
        "compare_slices_csv",
    )


def slice_estimates(view: View, by: str, score: str) -> dict[str, dict[str, Estimate]]:
    """slice -> entry -> a score with its interval, `all` first."""
    return _slice_estimates(replace(view, names=(), reference="", by=by), score, compare_view.key_of(view))


@st.cache_resource(max_entries=32, show_spinner=False)
def _slice_estimates(view: View, score: str, key: tuple) -> dict[str, dict[str, Estimate]]:
    images, thresholds = compare_view.aligned(view), compare_view.thresholds_of(view)
    found: dict[str, dict[str, Estimate]] = {}
    for run_id, table in images.tables.items():
        rows: pd.DataFrame = intervals.estimate_table(
            table, [score], by=view.by, threshold=thresholds[run_id]
        )
        for part, estimate in zip(rows["slice"], rows[score], strict=True):
            found.setdefault(str(part), {})[run_id] = estimate
    return found


def slice_counts(view: View, by: str) -> dict[str, dict]:
    """slice -> `images`, `cases`, `truly`, and per entry `(right, what the wrong ones were called most)`."""
    table = compare_view.opinions(view)
    parts = {"all": table} | {str(part): rows for part, rows in table.groupby(by, sort=False) if str(part)}
    counts = {}
    for part, rows in parts.items():
        truly = [str(label) for label in dict.fromkeys(rows["label"])]
        own: dict = {
            "images": len(rows),
            "cases": int(rows.loc[rows["case"] != "", "case"].nunique()),
            "truly": truly[0] if len(truly) == 1 else "",
        }
        for run_id in view.ids:
            wrong = rows.loc[~rows[f"right_{run_id}"].to_numpy(dtype=bool), f"predicted_{run_id}"]
            called = str(wrong.mode().iloc[0]) if len(wrong) else ""
            own[run_id] = (len(rows) - len(wrong), called)
        counts[part] = own
    return counts


def slice_frame(
    found: Mapping[str, Mapping[str, Estimate]],
    counts: Mapping[str, Mapping],
    lines: Sequence[Line],
    score: str,
) -> pd.DataFrame:
    """The slices for a spreadsheet: one row per slice and entry."""
    rows = []
    for part, own in found.items():
        for line in lines:
            one = own[line.id]
            rows.append(
                {
                    "slice": part, "run": line.id, "name": line.label, "score": score, "value": one.value,
                    "low": one.low, "high": one.high, "interval": one.method, "warning": one.warning,
                    "images": one.n_images, "cases": one.n_cases, "right": counts[part][line.id][0],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


# --- settings ------------------------------------------------------------------------------------------
def _settings(view: View, summaries: Sequence[Summary], lines: list[Line]) -> None:
    """Only what differs, tinted, with the scores in the same table."""
    if len(summaries) < 2:
        st.info("Tick a second entry to see what differs.", icon=":material/check:")
        return
    table = differing(summaries)
    scores = compare_view.compare(view, with_intervals=True)
    st.html(compare_table.settings_html(table, scores, lines, view.names))
    st.caption(
        "Scores above, then only the settings that differ; tinted: other than in the first entry. "
        "Everything else is the same in all entries."
        if len(table)
        else "These entries have the same settings."
    )


def differing(summaries: Sequence[Summary]) -> pd.DataFrame:
    """`engine.analysis.comparison.config_differences` without names and times."""
    table = comparison.config_differences({one.id: one.config.to_record() for one in summaries})
    noise = table["setting"].isin(UNTOLD) | table["setting"].str.endswith("sha256")
    return table[~noise].reset_index(drop=True)


# --- the study -----------------------------------------------------------------------------------------
def _study(view: View, summaries: Sequence[Summary], labels: Mapping[str, str]) -> None:
    """Our runs beside the source study's published figures, and what differs in protocol."""
    from engine.analysis import study

    wanted = replace(view, names=("accuracy",), reference="", by="magnification")
    table = compare_view.compare(wanted, with_intervals=True)
    configs = {summary.id: summary.config.to_record() for summary in summaries}
    beside = study.beside(table.entries, configs)
    names = [labels.get(run_id, name) for run_id, name in zip(beside["id"], beside["name"], strict=True)]
    shown = pd.DataFrame(
        {
            "Entry": names,
            "Accuracy": [widgets.number(value) for value in beside["accuracy"]],
            "95% interval": [
                f"[{low:.3f}, {high:.3f}] {kind}" if low == low else "n/a"
                for low, high, kind in zip(beside["low"], beside["high"], beside["interval"], strict=True)
            ],
            "n": beside["n"],
            **{
                power: [widgets.number(value) for value in beside[power]]
                for power in ("40X", "100X", "200X", "400X")
            },
            "Split": beside["protocol"],
        }
    )
    st.dataframe(shown, hide_index=True, key="compare_study")
    st.caption(
        widgets.escaped(
            f"Study: {study.CITATION}, recomputed from its counts. Its patients are on both sides of its split: "
            "compare its figures with runs split by image, never with runs split by case."
        )
    )
    st.markdown("**What differs in protocol**")
    first, *rest = [
        study.differences(configs[one.id], n_images=table.n_images, n_cases=table.n_cases)
        for one in summaries
    ]
    protocols = first.rename(columns={"aspect": "Aspect", "study": "Study", "ours": labels[summaries[0].id]})
    for one, own in zip(summaries[1:], rest, strict=True):
        protocols[labels[one.id]] = own["ours"].to_numpy()
    st.dataframe(protocols, hide_index=True, key="compare_protocol")
    widgets.download_table("CSV", shown, f"study_{view.split}.csv", "compare_study_csv")
