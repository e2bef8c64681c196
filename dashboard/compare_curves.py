"""The curves of the compare page: ROC and precision-recall, threshold, calibration, risk-coverage, learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from dashboard import cached, compare_view, widgets
from dashboard.compare_view import Line, View
from engine.analysis import curves, intervals, metrics, operating
from engine.analysis.intervals import Resample
from engine.analysis.metrics import Outcome
from engine.errors import EngineError
from engine.report import curve_figures

KINDS = ("ROC", "Threshold", "Calibration", "Risk-coverage", "Learning")
BANDS_UP_TO = 3  # more bands than this hide each other: then only the reference (or the first) has one


def draw(view: View, lines: Sequence[Line], kind: str) -> None:
    """One kind of curve for all entries."""
    if kind == "Learning":
        _learning(lines)
        return
    outcomes = _outcomes(view)
    labels = next(iter(outcomes.values())).classes
    if len(labels) > 2:
        st.caption(f"Drawn for {labels[-1]} against the rest.")
    if kind == "Threshold":
        _threshold(view, lines)
        return
    {"ROC": _discrimination, "Calibration": _calibration, "Risk-coverage": _referral}[kind](
        view, lines, outcomes
    )


def _outcomes(view: View) -> dict[str, Outcome]:
    images = compare_view.aligned(view)
    thresholds = compare_view.thresholds_of(view)
    return {run_id: metrics.outcome(images.tables[run_id], thresholds[run_id]) for run_id in view.ids}


def _positive(result: Outcome) -> int | None:
    return None if len(result.classes) == 2 else len(result.classes) - 1


def _pair(first, second, captions: Sequence[str], alts: Sequence[str], keys: Sequence[str]) -> None:
    for column, figure, caption, alt, key in zip(
        st.columns(2, gap="medium"), (first, second), captions, alts, keys, strict=True
    ):
        with column:
            widgets.show_figure(figure, caption, alt, key, height=460)


def _discrimination(view: View, lines: Sequence[Line], outcomes: dict[str, Outcome]) -> None:
    first = outcomes[lines[0].id]
    positive = _positive(first)
    banded = view.ids if len(lines) <= BANDS_UP_TO else (view.reference or view.ids[0],)
    bands = _bands(view, tuple(banded))
    rocs, precisions, points = [], [], []
    for line in lines:
        own = outcomes[line.id]
        area, precision = metrics.value("auroc", own), metrics.value("average_precision", own)
        if positive is None:
            at = {name: metrics.value(name, own) for name in ("sensitivity", "specificity", "ppv")}
            points.append(
                curve_figures.Point(
                    line.label, line.colour, 1 - at["specificity"], at["sensitivity"], at["ppv"]
                )
            )
        rocs.append(
            curve_figures.Line(
                line.id, f"{line.label} · {widgets.number(area)}", curves.roc(own, positive), line.colour,
                bands.get((line.id, "roc")),
            )
        )  # fmt: skip
        precisions.append(
            curve_figures.Line(
                line.id, f"{line.label} · {widgets.number(precision)}", curves.precision_recall(own, positive),
                line.colour, bands.get((line.id, "precision_recall")),
            )
        )  # fmt: skip
    share = float((first.true == len(first.classes) - 1).mean())
    whose = "" if len(banded) == len(lines) else " of " + next(one.label for one in lines if one.id in banded)
    band = f" Band{whose}: 95% over draws of cases, pointwise. Rings: operating points."
    n = f"n = {widgets.counted(len(first), 'image')}, {widgets.counted(first.n_cases, 'case')}."
    dark = widgets.is_dark()
    _pair(
        curve_figures.roc(rocs, points, dark=dark),
        curve_figures.precision_recall(precisions, share, points, dark=dark),
        (f"ROC with its area. {n}{band}", f"Precision-recall with average precision. Dotted: share of malignant images.{band}"),
        (
            "ROC curves: " + "; ".join(one.label for one in rocs),
            "Precision-recall curves: " + "; ".join(one.label for one in precisions),
        ),
        ("curve_roc", "curve_pr"),
    )  # fmt: skip


def _bands(view: View, ids: tuple[str, ...]) -> dict[tuple[str, str], pd.DataFrame]:
    # neither the operating point nor what the table shows moves a curve
    plain = replace(view, names=(), reference="", thresholds=(), by="magnification")
    return _curve_bands(plain, ids, compare_view.key_of(view))


@st.cache_resource(max_entries=16, show_spinner="Drawing cases for the bands ...")
def _curve_bands(view: View, ids: tuple[str, ...], key: tuple) -> dict[tuple[str, str], pd.DataFrame]:
    outcomes = _outcomes(view)
    sample: Resample = intervals.resample(outcomes[ids[0]])
    return {
        (run_id, kind): curves.curve_band(kind, outcomes[run_id], sample, _positive(outcomes[run_id]))
        for run_id in ids
        for kind in ("roc", "precision_recall")
    }


def _threshold(view: View, lines: Sequence[Line]) -> None:
    """Sensitivity and specificity by threshold, with every entry's operating point."""
    images, thresholds = compare_view.aligned(view), compare_view.thresholds_of(view)
    if len(images.classes) != 2:
        st.info("A threshold needs two classes.", icon=":material/help:")
        return
    tables = {line.id: operating.threshold_table(images.tables[line.id]) for line in lines}
    pairs = [
        [curve_figures.Line(line.id, line.label, tables[line.id], line.colour) for line in lines]
        for _ in range(2)
    ]
    marks = [(line.colour, thresholds[line.id] or 0.5) for line in lines]
    dark = widgets.is_dark()
    _pair(
        curve_figures.by_threshold(pairs[0], "sensitivity", "Sensitivity", marks, dark=dark),
        curve_figures.by_threshold(pairs[1], "specificity", "Specificity", marks, dark=dark),
        (
            "Sensitivity by threshold. Vertical lines: the operating points in use, the same for table and matrices.",
            "Specificity by threshold. Choose the operating point on validation: Images, then Validation.",
        ),
        ("Sensitivity by threshold of the entries.", "Specificity by threshold of the entries."),
        ("curve_sensitivity", "curve_specificity"),
    )


def _calibration(view: View, lines: Sequence[Line], outcomes: dict[str, Outcome]) -> None:
    tables, benefits = [], []
    for line in lines:
        own = outcomes[line.id]
        error = metrics.value("ece", own)
        tables.append(
            curve_figures.Line(
                line.id,
                f"{line.label} · ECE {widgets.number(error)}",
                curves.reliability(own, positive=_positive(own)),
                line.colour,
            )
        )
        benefits.append(
            curve_figures.Line(line.id, line.label, curves.decision_curve(own, _positive(own)), line.colour)
        )
    dark = widgets.is_dark()
    _pair(
        curve_figures.reliability(tables, dark=dark),
        curve_figures.decision_curve(benefits, dark=dark),
        (
            "Reliability: observed share of malignant images by predicted probability; bars: images per bin. Error bars are Wilson's over images, which ignores that images share patients.",
            "Decision curve: net benefit of acting from a probability on, against acting on all or none.",
        ),
        ("Reliability: " + "; ".join(one.label for one in tables), "Decision curves of the entries."),
        ("curve_reliability", "curve_decision"),
    )


def _referral(view: View, lines: Sequence[Line], outcomes: dict[str, Outcome]) -> None:
    found = [
        curve_figures.Line(line.id, line.label, curves.risk_coverage(outcomes[line.id]), line.colour)
        for line in lines
    ]
    widgets.show_figure(
        curve_figures.risk_coverage(found, dark=widgets.is_dark()),
        "Error rate (risk) when each model judges only the images it is surest of and refers the rest. At coverage 1 it "
        "is the error rate on all images.",
        "Risk against coverage of the entries.",
        "curve_risk",
        height=460,
    )


def _learning(lines: Sequence[Line]) -> None:
    """Balanced accuracy and loss by epoch of the entries that were trained here."""
    parts = []
    for line in lines:
        try:
            table = cached.metrics(line.id)
        except EngineError:
            continue
        if not table.empty:
            parts.append(table.assign(run=line.id, name=line.label))
    if not parts:
        st.info("None of these entries was trained here: they have no epochs.", icon=":material/help:")
        return
    table = pd.concat(parts, ignore_index=True)
    colours = {line.id: line.colour for line in lines}
    names = {"balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy", "loss": "Loss"}
    shown = [name for name in names if name in table.columns][:3:2] or list(table.columns[:1])
    dark = widgets.is_dark()
    columns = st.columns(len(shown), gap="medium")
    for column, measure in zip(columns, shown, strict=True):
        with column:
            widgets.show_figure(
                curve_figures.learning_curves(table, measure, names[measure], colours=colours, dark=dark),
                f"{names[measure]} by epoch: training dotted, validation solid.",
                f"{names[measure]} by epoch of {len(parts)} runs.",
                f"curve_{measure}",
            )
