"""The parts of the page of one run. A section appears only when it has content."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, compare_view, places, run_live, run_table, selection, widgets
from engine.analysis import predictions as tables
from engine.analysis.ensemble import METHODS
from engine.analysis.metrics import score_of
from engine.errors import EngineError, shorten
from engine.report import confusion
from engine.runs import catalog, forecast, launch, remedies
from engine.runs.config import options, reproducibility
from engine.runs.cost import cost_of
from engine.runs.folder import RunFolder, Summary

SCORES = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "auroc", "prr", "patient_diagnosis")


def about(summary: Summary) -> str:
    """One line: what was trained on what."""
    config = summary.config
    if config.kind != "train":
        return f"{config.kind.capitalize()}, {widgets.when(summary.created_at)}"
    record = catalog.BY_NAME.get(config.model.name)
    name = record.label if record else config.model.name
    size = config.model.image_size or (record.image_size if record else 0)
    powers = ", ".join(config.data.magnifications) or "all magnifications"
    return (
        f"{name} at {size} pixels, {config.data.protocol} split, fold {config.data.fold}, {powers}, "
        f"seed {config.training.seed}"
    )


def badges(summary: Summary) -> None:
    """State and leakage, the first things to know."""
    chip = widgets.status_html(summary.state, stalled=summary.stalled)
    tags = "".join(f'<span class="bh-badge bh-unknown">{widgets.plain(tag)}</span>' for tag in summary.tags)
    if fast := reproducibility(summary.config):
        tags = f'<span class="bh-badge bh-unknown" title="{widgets.plain(fast)}">Fast mode: not exactly resumable</span>{tags}'
    word, at = (
        ("started", summary.status.started_at)
        if summary.status.started_at
        else ("created", summary.created_at)
    )
    began = f'<span class="bh-muted" title="{widgets.when(at)}">{word} {widgets.ago(at)}</span>' if at else ""
    st.html(f'<div class="bh-row">{chip}{widgets.leakage_html(summary.audit)}{tags}{began}</div>')


def actions(folder: RunFolder, summary: Summary) -> None:
    """Stop, kill, resume, fork, compare: those that apply."""
    locked = widgets.read_only_notice()
    said = st.session_state.pop("_run_said", "")
    if said:
        st.toast(widgets.escaped(said), icon=":material/check:")
    with st.container(horizontal=True, gap="small"):
        if run_table.able([summary], "stop"):
            stop = st.button(
                "Stop", icon=":material/stop_circle:", disabled=locked, help="Saves a checkpoint first"
            )
            if stop:
                _do(lambda: launch.stop(folder))
        cure = remedies.remedy(summary.config, summary.status.error)
        if run_table.able([summary], "resume") and (
            st.button(
                "Resume",
                icon=":material/resume:",
                type="secondary" if cure else "primary",
                disabled=locked,
                help="Continues from the last checkpoint"
                if folder.last.is_file()
                else "Starts from the beginning: it has no checkpoint yet",
            )
        ):
            _do(lambda: launch.resume(folder))
        if cure and st.button(
            cure.label,
            icon=":material/healing:",
            type="primary",
            disabled=locked,
            help="A new run with these settings, this one its parent; starts at once",
        ):
            with widgets.errors_shown():
                again = launch.start_remedy(folder)
                st.switch_page(places.page("run"), query_params={"id": again.id})
        if summary.config.kind == "train" and st.button(
            "New run from this one", icon=":material/content_copy:"
        ):
            st.switch_page(places.page("train"), query_params={"from": folder.id})
        for page, label, icon, fits in (
            ("compare", "Compare", "compare_arrows", bool(run_table.able([summary], "compare"))),
            ("explain", "Explain", "blur_on", _has_network(folder, summary, fused=False)),
            ("predict", "Predict", "biotech", _has_network(folder, summary)),
        ):
            if fits and places.has_page(page) and st.button(label, icon=f":material/{icon}:"):
                param = "run" if page == "predict" else "runs"
                st.switch_page(places.page(page), query_params={param: folder.id})


def _has_network(folder: RunFolder, summary: Summary, *, fused: bool = True) -> bool:
    """Whether there is a network: the run's own, or one of every member.

    fused: whether a fusion counts as a member; maps of one cannot be joined with those of others.
    """
    if summary.config.kind != "ensemble":
        return folder.best.is_file()
    try:
        members = [cached.run(str(member)) for member in summary.config.details.get("members") or ()]
        return bool(members) and all(
            member.best.is_file() and (fused or member.config().kind != "fusion") for member in members
        )
    except EngineError:
        return False


def _do(act) -> None:
    with widgets.errors_shown():
        st.session_state["_run_said"] = str(act())
        st.rerun()


# --- results -------------------------------------------------------------------------------------------
def results(summary: Summary) -> None:
    """Scores per magnification, confusion matrices, predictions to look at."""
    if not summary.has_predictions:
        return
    sides = [side for side in ("test", "val", "train") if side in summary.has_predictions]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader("Results", anchor=False)
        if len(sides) > 1:
            selection.choice_from_url("split", sides, "split_shown", default=sides[0])
            side = st.segmented_control(
                "Split", sides, key="split_shown", required=True, label_visibility="collapsed"
            )
            selection.choice_to_url("split", "split_shown", default=sides[0])
        else:
            side = sides[0]
    side = side or sides[0]
    with widgets.errors_shown():
        _scores(summary, side)
        _matrices(summary, side)
        _examples(summary, side)


def _scores(summary: Summary, side: str) -> None:
    table = cached.estimates(summary.id, side, SCORES, by="magnification")
    shown = score_table(table)
    config: dict[str, Any] = {
        name: st.column_config.TextColumn(alignment="right") for name in shown.columns[1:]
    }
    st.dataframe(
        shown,
        hide_index=True,
        alt=f"Scores on {side}: a row per score, a column for all magnifications and one for each.",
        column_config=config,
    )
    first = table.iloc[0][SCORES[0]]
    drawn = (
        "whole cases drawn" if first.n_cases else "images drawn (no case is known), so they are too narrow"
    )
    note = f" For all magnifications: {first.warning}." if first.warning else ""
    st.caption(widgets.escaped(f"95% intervals in brackets, {drawn}.{note}"))
    _spent(summary)


def _spent(summary: Summary) -> None:
    """What the scores cost, and how right the forecast was: beside the scores."""
    folder = cached.run(summary.id)
    cost, foreseen = cost_of(folder), forecast.outcome(folder, summary.status)
    said = [f"Evaluation took {cost}."] if cost else []
    said += [foreseen.as_text()] if foreseen else []
    if fast := reproducibility(summary.config):
        said.append(fast)
    if said:
        st.caption(widgets.escaped(" ".join(said)))


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """`estimate_table` turned for reading: a row per score, a column for all and per magnification, then n."""
    parts, titles = confusion.columns([str(name) for name in table["slice"]])
    names = [titles.get(part, part) for part in parts]
    table = table.iloc[: len(parts)]
    rows = [[score_of(name).title, *(estimate.short for estimate in table[name])] for name in SCORES]
    first = table[SCORES[0]]
    rows.append(["Images", *(f"{estimate.n_images:,}" for estimate in first)])
    rows.append(["Cases", *(f"{estimate.n_cases:,}" for estimate in first)])
    return pd.DataFrame(rows, columns=["Score", *names])


def _matrices(summary: Summary, side: str) -> None:
    table = cached.predictions(summary.id, side)
    matrices = tables.confusion_by_magnification(table)
    classes = tables.classes_of(table)
    colour = widgets.run_colours().get(summary.id, "#7A869A")
    counts = {name: matrix.tolist() for name, matrix in matrices.items()}
    row = confusion.Row(summary.id, summary.name, colour, counts, leaks=summary.audit.get("level") == "leak")
    parts, titles = confusion.columns(list(matrices))
    fig = confusion.figure([row], parts, classes, titles=titles, dark=widgets.is_dark())
    with st.container(key="wide_figure_matrices" if len(parts) > 2 else None):
        widgets.show_figure(
            fig,
            "Images by true class (rows) and predicted class (columns); below each, balanced accuracy and images.",
            confusion.alt_text([row], parts, classes),
            "matrices",
        )


BUCKETS = {"Confidently wrong": "worst", "Confidently right": "best", "Unsure": "unsure", "Random": "random"}


def examples(table: pd.DataFrame, bucket: str, n: int = 8, seed: int = 0) -> pd.DataFrame:
    """The images of a bucket: `worst` (least probability of the true class), `best`, `unsure`, `random`.

    Adds `true_probability` and `predicted`.
    """
    classes = tables.classes_of(table)
    true, guess = tables.labels(table), tables.predicted(table)
    known = true >= 0
    values = tables.probabilities(table)
    rows = table.assign(
        true_probability=np.where(known, values[np.arange(len(table)), np.maximum(true, 0)], np.nan),
        predicted=[classes[index] for index in guess],
        doubt=np.abs(values.max(axis=1) - 1 / len(classes)),
    )[known]
    if bucket == "worst":
        wrong = rows[rows["predicted"] != rows["label"]]
        return wrong.sort_values("true_probability").head(n)
    if bucket == "best":
        return rows.sort_values("true_probability", ascending=False).head(n)
    if bucket == "unsure":
        return rows.sort_values("doubt").head(n)
    return rows.sample(min(n, len(rows)), random_state=seed)


def _examples(summary: Summary, side: str) -> None:
    with widgets.errors_shown():
        table = cached.predictions(summary.id, side)
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
            st.subheader("Predictions", anchor=False)
            label = st.segmented_control(
                "Show",
                list(BUCKETS),
                default="Confidently wrong",
                required=True,
                label_visibility="collapsed",
                key="bucket",
            )
        bucket = BUCKETS[label or "Confidently wrong"]
        found = examples(table, bucket)
        if found.empty:
            st.caption("No image is wrong.")
            return
        paths = _paths(summary)
        columns = st.columns(4)
        for index, row in enumerate(found.to_dict("records")):
            with columns[index % 4]:
                _example(row, paths)


def _paths(summary: Summary) -> dict[str, str]:
    """image_id -> file: of the run, or of what it was made of."""
    return compare_view.image_paths([summary.id, *map(str, summary.config.details.get("members") or ())])


def _example(row: dict[Any, Any], paths: dict[str, str]) -> None:
    said = f"{row['label']}, called {row['predicted']}, p(true) {row['true_probability']:.3f}"
    path = Path(paths.get(row["image_id"], ""))
    drawn = False
    if path.is_file():
        try:
            st.image(cached.thumbnail(path, 320), width="stretch", alt=f"{row['image_id']}: {said}")
            drawn = True
        except EngineError:
            drawn = False
    right = row["predicted"] == row["label"]
    mark = widgets.icon("check", widgets.GREEN) if right else widgets.icon("close", widgets.RED)
    missing = "" if drawn else '<div class="bh-muted">The image file is not here.</div>'
    st.html(
        f'<div style="font-size:.85rem;line-height:1.35;margin-bottom:.6rem">{missing}<div class="bh-row" style="gap:.3rem">{mark}'
        f'<span class="bh-num">{widgets.plain(said)}</span></div><div class="bh-muted" style="overflow-wrap:anywhere">'
        f"{widgets.plain(row['magnification'])} · {widgets.plain(row['slide'] or row['image_id'])}</div></div>"
    )


# --- details -------------------------------------------------------------------------------------------
def details(folder: RunFolder, summary: Summary) -> None:
    """Configuration, environment, history, log, downloads."""
    record = folder.record()
    tabs = st.tabs(["Configuration", "Environment", "History", "Log", "Downloads"])
    with tabs[0]:
        _configuration(folder, summary)
    with tabs[1]:
        found = record.get("provenance") or {}
        packages = found.get("packages") or {}
        widgets.facts(
            [
                ("Python", found.get("python", "n/a")),
                *[(name, version) for name, version in packages.items()],
                ("git commit", found.get("git_commit") or "n/a"),
                ("Machine", found.get("machine", "n/a")),
                ("Cores", found.get("cores", "n/a")),
                ("Executed by", summary.status.executor),
                ("Slot", summary.status.slot or "n/a"),
                *[(label, value) for _, label, value in run_live.numbers(summary.status)],
            ]
        )
    with tabs[2]:
        _history(summary)
    with tabs[3]:
        log = folder.log_tail()
        if log:
            st.code(log, language=None, height=360)
        else:
            st.caption("The log is empty.")
    with tabs[4]:
        _downloads(folder, summary, record)


def _configuration(folder: RunFolder, summary: Summary) -> None:
    config = summary.config
    if config.kind != "train":
        _made_of(summary)
        if config.details.get("members"):
            st.caption("The same from the command line:")
            st.code(launch.command_line(config), language="bash", wrap_lines=True)
        return
    holders = {"DataConfig": config.data, "ModelConfig": config.model, "TrainingConfig": config.training}
    titles = {"DataConfig": "Data", "ModelConfig": "Model", "TrainingConfig": "Training"}
    columns = st.columns(3)
    for column, (group, holder) in zip(columns, holders.items(), strict=True):
        with column:
            st.html(f"<b>{titles[group]}</b>")
            pairs = [
                (item.metadata["label"], shown(item, getattr(holder, item.name)))
                for kind, item in options()
                if kind.__name__ == group
            ]
            widgets.facts(pairs)
    _recorded(config.details)
    _pixels(folder)
    st.caption("The same from the command line:")
    st.code(launch.command_line(config), language="bash", wrap_lines=True)


def _pixels(folder: RunFolder) -> None:
    """The stain reference, and the images that have no pixels or kept their own colours, by name."""
    record = folder.pixels()
    if record is None:
        return
    stain, kept = record["preprocessing"].get("stain"), record.get("not_normalised") or []
    if stain:
        st.caption(
            widgets.escaped(
                f"Stain: {stain['method']}, after the training image {stain['reference']}; "
                f"{len(kept)} of {record['images']:,} images could not be normalised and keep their own colours"
                + (f": {shorten(kept)}." if kept else ".")
            )
        )
    if record.get("left_out"):
        names = shorten([left["image_id"] for left in record["left_out"]])
        st.warning(
            widgets.escaped(
                f"{widgets.counted(len(record['left_out']), 'image')} could not be decoded and took no part: {names}."
            ),
            icon=":material/broken_image:",
        )


def _made_of(summary: Summary) -> None:
    """What an ensemble, a pooled entry or an import was made of; its members lead to their pages."""
    details = summary.config.details
    members = [str(member) for member in details.get("members") or []]
    names = {other.id: other.name for other in cached.summaries()}
    for member in members:
        if member in names:
            st.page_link(
                places.page("run"),
                label=widgets.escaped(names[member]),
                query_params={"id": member},
                icon=":material/monitoring:",
            )
        else:
            st.caption(widgets.escaped(f"{member} is not here any more."))
    rest = {key: value for key, value in details.items() if key != "members"}
    plain = [
        (key.replace("_", " ").capitalize(), _fact(key, value))
        for key, value in rest.items()
        if isinstance(value, str | int | float)
    ]
    if plain:
        widgets.facts(plain)
    _recorded({key: value for key, value in rest.items() if not isinstance(value, str | int | float)})
    if not details:
        st.caption("Nothing was recorded about how this was made.")


def _fact(key: str, value: object) -> object:
    """A recorded value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "method" and value in METHODS:
        return METHODS[str(value)].title
    return str(value).replace("-", " ") if key == "tie_rule" else value


def _recorded(details: dict[str, Any]) -> None:
    """What else is in `config.json`, for those who want it whole."""
    if details:
        with st.expander("Everything that was recorded (JSON)", icon=":material/data_object:"):
            st.json(details)


def shown(item: dataclasses.Field, value: Any) -> str:
    """A configured value as a person reads it: one that is left to something else says to what."""
    if isinstance(value, tuple):
        return ", ".join(value) or "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    meaning = {"image_size": "the model's", "patience": "never", "split_csv": "none", "root": "n/a"}
    if not value and item.name in meaning:
        return meaning[item.name]
    if item.name == "workers" and value == -1:
        return "chosen by the engine"
    left_to_recipe = item.metadata.get("unset") or item.name in ("epochs", "batch_size", "lr") or value == ""
    return "the recipe's" if left_to_recipe and value == item.default else str(value)


def _history(summary: Summary) -> None:
    if not summary.status.history:
        st.caption("No change of state was recorded.")
        return
    widgets.facts(
        [(widgets.when(at), widgets.state_word(state)) for state, at in summary.status.history]
        + (
            [("Now", widgets.state_word(summary.state))]
            if summary.status.history[-1][0] != summary.state
            else []
        )
    )


def _downloads(folder: RunFolder, summary: Summary, record: dict[str, Any]) -> None:
    with st.container(horizontal=True, gap="small"):
        for side in summary.has_predictions:
            widgets.download_table(
                f"Predictions, {side} (CSV)",
                lambda side=side: cached.predictions(folder.id, side),
                f"{folder.id}-{side}.csv",
                f"download_{side}",
            )
        widgets.download_text(
            "Configuration (JSON)",
            json.dumps(record, indent=1, ensure_ascii=False),
            f"{folder.id}-config.json",
            "download_config",
        )
        if (folder.path / "manifest.csv").is_file():
            widgets.download_table(
                "Manifest with split (CSV)",
                lambda: cached.manifest_of(folder.id).table,
                f"{folder.id}-manifest.csv",
                "download_manifest",
            )
