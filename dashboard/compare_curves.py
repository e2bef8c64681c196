"""The curves of the compare page: learning, ROC and precision-recall, calibration, referral."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import cached, compare_view, widgets
from dashboard.compare_view import Line, View
from engine.analysis import curves, intervals, metrics
from engine.analysis.intervals import Resample
from engine.analysis.metrics import Outcome
from engine.errors import EngineError
from engine.report import figures

KINDS = ("ROC", "Calibration", "Referral", "Learning")
BANDS_UP_TO = 3  # more bands than this hide each other


def draw(view: View, lines: Sequence[Line], kind: str) -> None:
    """One kind of curve for all entries."""
    if kind == "Learning":
        _learning(lines)
        return
    outcomes = _outcomes(view)
    labels = next(iter(outcomes.values())).classes
    if len(labels) > 2:
        st.caption(f"Drawn for {labels[-1]} against the rest.")
    {"ROC": _discrimination, "Calibration": _calibration, "Referral": _referral}[kind](view, lines, outcomes)


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
    bands = _bands(view) if len(lines) <= BANDS_UP_TO else {}
    rocs, precisions = [], []
    for line in lines:
        own = outcomes[line.id]
        area, precision = metrics.value("auroc", own), metrics.value("average_precision", own)
        rocs.append(
            figures.Line(
                line.id, f"{line.label} · {widgets.number(area)}", curves.roc(own, positive), line.colour,
                bands.get((line.id, "roc")),
            )
        )  # fmt: skip
        precisions.append(
            figures.Line(
                line.id, f"{line.label} · {widgets.number(precision)}", curves.precision_recall(own, positive),
                line.colour, bands.get((line.id, "precision_recall")),
            )
        )  # fmt: skip
    share = float((first.true == len(first.classes) - 1).mean())
    band = " Bands: 95% over draws of cases, pointwise." if bands else ""
    n = f"n = {widgets.counted(len(first), 'image')}, {widgets.counted(first.n_cases, 'case')}."
    dark = widgets.is_dark()
    _pair(
        figures.roc(rocs, dark=dark),
        figures.precision_recall(precisions, share, dark=dark),
        (f"ROC with its area. {n}{band}", f"Precision-recall with average precision. Dotted: share of malignant images.{band}"),
        (
            "ROC curves: " + "; ".join(one.label for one in rocs),
            "Precision-recall curves: " + "; ".join(one.label for one in precisions),
        ),
        ("curve_roc", "curve_pr"),
    )  # fmt: skip


def _bands(view: View) -> dict[tuple[str, str], pd.DataFrame]:
    return _curve_bands(view, compare_view.stamps(view.ids, view.split))


@st.cache_resource(max_entries=16, show_spinner="Drawing cases for the bands ...")
def _curve_bands(view: View, key: tuple) -> dict[tuple[str, str], pd.DataFrame]:
    outcomes = _outcomes(view)
    sample: Resample = intervals.resample(next(iter(outcomes.values())))
    return {
        (run_id, kind): curves.curve_band(kind, own, sample, _positive(own))
        for run_id, own in outcomes.items()
        for kind in ("roc", "precision_recall")
    }


def _calibration(view: View, lines: Sequence[Line], outcomes: dict[str, Outcome]) -> None:
    tables, benefits = [], []
    for line in lines:
        own = outcomes[line.id]
        error = metrics.value("ece", own)
        tables.append(
            figures.Line(
                line.id,
                f"{line.label} · ECE {widgets.number(error)}",
                curves.reliability(own, positive=_positive(own)),
                line.colour,
            )
        )
        benefits.append(
            figures.Line(line.id, line.label, curves.decision_curve(own, _positive(own)), line.colour)
        )
    dark = widgets.is_dark()
    _pair(
        figures.reliability(tables, dark=dark),
        figures.decision_curve(benefits, dark=dark),
        (
            "Reliability: observed share of malignant images by predicted probability; bars: images per bin. Error bars are Wilson's over images, which ignores that images share patients.",
            "Decision curve: net benefit of acting from a probability on, against acting on all or none.",
        ),
        ("Reliability: " + "; ".join(one.label for one in tables), "Decision curves of the entries."),
        ("curve_reliability", "curve_decision"),
    )


def _referral(view: View, lines: Sequence[Line], outcomes: dict[str, Outcome]) -> None:
    found = [
        figures.Line(line.id, line.label, curves.risk_coverage(outcomes[line.id]), line.colour)
        for line in lines
    ]
    widgets.show_figure(
        figures.risk_coverage(found, dark=widgets.is_dark()),
        "Error rate when each model judges only the images it is surest of and refers the rest.",
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
                figures.learning_curves(table, measure, names[measure], colours=colours, dark=dark),
                f"{names[measure]} by epoch: training dotted, validation solid.",
                f"{names[measure]} by epoch of {len(parts)} runs.",
                f"curve_{measure}",
            )
