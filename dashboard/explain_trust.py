"""Can the map be believed? This map, a sample with intervals by case, and the randomisation check; each beside
a map with random weights, which is what a map is worth that knows nothing of the decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, explain_view, widgets
from engine.errors import EngineError
from engine.explain import methods
from engine.explain.explanation import Explanation
from engine.explain.runs import Map
from engine.explain.trust import CONTROL, MEASURES, Trust
from engine.report import trust_figures
from engine.report.trust_figures import Curve

SAMPLE = 8
RANDOMISED = 4


def draw(
    run_id: str,
    label: str,
    found: Map | None,
    path: str,
    rows: pd.DataFrame,
    paths: Mapping[str, str],
    question: dict[str, str],
) -> None:
    """The three checks of the first ticked model."""
    if not isinstance(found, Explanation) or not cached.run(run_id).best.is_file():
        st.info(
            "Measured for one model at a time: tick a trained run first (its map must be there).",
            icon=":material/help:",
        )
        return
    st.caption(widgets.escaped(f"By {label}, {methods.find_method(question['method']).label}."))
    _this_map(run_id, path, found, question)
    _sample(run_id, rows, paths, question)
    _randomisation(run_id, rows, paths, question)


def _kept(key: tuple, label: str, make: Callable[[], Any], widget: str) -> Any:
    """A result of this session, or a button that makes it; None until then.

    The key holds the time of the checkpoint, so that new weights are measured anew.
    """
    results: dict = st.session_state.setdefault("_explain_trust", {})
    if key not in results:
        place = st.empty()
        if not place.button(label, key=widget, icon=":material/science:"):
            return None
        place.empty()
        results[key] = make()
    return results[key]


def _key(run_id: str, *parts: Any) -> tuple:
    return (run_id, cached.file_stamp(cached.run(run_id).best), *parts)


# --- this map ------------------------------------------------------------------------------------------
def _this_map(run_id: str, path: str, found: Explanation, question: dict[str, str]) -> None:
    st.markdown("**This map**")
    st.caption(
        "The pixels the map calls relevant are taken away or put back, step by step. A map that shows what the network "
        "used makes the probability fall (or rise) faster than random weights do."
    )
    key = _key(run_id, "map", path, cached.file_stamp(path), *question.values())
    made = _kept(
        key, "Measure this map", lambda: _measure_map(run_id, path, found, question), "explain_measure_map"
    )
    if made is None:
        return
    own, control = made
    name, random = methods.find_method(question["method"]).label, methods.find_method(CONTROL).label
    fig = trust_figures.faithfulness(curves_of(own, control, name, random), dark=widgets.is_dark())
    words = (
        f"ROAD {own.road:.3f} (random {control.road:.3f}; more is better), deletion {own.deletion_area:.3f} "
        f"({control.deletion_area:.3f}; less), insertion {own.insertion_area:.3f} ({control.insertion_area:.3f}; more)"
    )
    widgets.show_figure(
        fig,
        f"{words}. One image: a single map proves little, the sample below says more.",
        f"Probability of {found.target} while pixels are removed or inserted. {words}.",
        "explain_map_curves",
    )


def _measure_map(run_id: str, path: str, found: Explanation, question: dict[str, str]):
    from engine.explain.faithfulness import faithfulness

    loaded = explain_view.load(cached.run(run_id))
    pixels = explain_view.pixels_of(path)
    with st.spinner("Measuring ..."):
        other = explain_view.map_of(run_id, path, CONTROL, found.target, question["layer"])
        assert isinstance(other, Explanation)
        return faithfulness(loaded, pixels, found), faithfulness(loaded, pixels, other)


def curves_of(own: Any, control: Any, name: str, random: str) -> dict[str, list[Curve]]:
    """Both maps' faithfulness (`engine.explain.faithfulness.Faithfulness`) as panels."""
    steps = np.linspace(0, 1, len(own.deletion))
    at = np.concatenate([[0.0], own.fractions])

    def removed(one: Any, which: str) -> np.ndarray:
        return np.concatenate([[one.probability], getattr(one, which)])

    def pair(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[Curve]:
        return [Curve(name, x, first), Curve(random, x, second, control=True)]

    return {
        "ROAD, most relevant removed": pair(at, removed(own, "most_first"), removed(control, "most_first")),
        "ROAD, least relevant removed": pair(
            at, removed(own, "least_first"), removed(control, "least_first")
        ),
        "Deletion": pair(steps, own.deletion, control.deletion),
        "Insertion": pair(steps, own.insertion, control.insertion),
    }


# --- over a sample -------------------------------------------------------------------------------------
def spread_over(rows: pd.DataFrame, paths: Mapping[str, str], count: int) -> pd.DataFrame:
    """At most `count` rows whose file is known, evenly over the filter (its order is by case)."""
    known = rows[rows["image_id"].isin(paths)]
    if known.empty:
        return known
    return known.iloc[np.unique(np.linspace(0, len(known) - 1, count).round().astype(int))]


def _sample(run_id: str, rows: pd.DataFrame, paths: Mapping[str, str], question: dict[str, str]) -> None:
    sample = spread_over(rows, paths, SAMPLE)
    st.markdown("**Over a sample**")
    st.caption(
        f"{widgets.counted(len(sample), 'image')} of {widgets.counted(sample['case'].nunique(), 'case')} spread over this "
        "filter, each explained for the class it is predicted to be. A method whose whole interval does not beat the "
        "control explains nothing."
    )
    key = _key(run_id, "sample", question["method"], question["layer"], tuple(sample["image_id"]))
    found = _kept(
        key, "Measure the sample", lambda: _measure(run_id, sample, paths, question), "explain_measure"
    )
    if found is None:
        return
    st.dataframe(trust_table(found), hide_index=True, key="explain_trust")
    st.caption(
        widgets.escaped(
            f"{_size(found)}; 95% intervals over whole cases. "
            + " ".join(f"{measure.label}: {measure.help}" for measure in MEASURES)
        )
    )


def _size(found: list[Trust]) -> str:
    """`n = 8 images, 4 cases`."""
    return str(found[0].mean).partition("· ")[2]


def trust_table(found: list[Trust]) -> pd.DataFrame:
    """A row per measure: each method's mean, the difference to the control, and whether it beats it."""
    better = {1: "more is better", -1: "less is better", 0: "compare with its area"}
    lines = []
    for measure in MEASURES:
        own = [one for one in found if one.measure == measure.name]
        line = {"Measure": f"{measure.label} ({better[measure.better]})"}
        line |= {methods.find_method(one.method).label: one.mean.short for one in own}
        for one in own:
            if one.difference is not None:
                line["Difference"] = one.difference.short
                line["Beats random"] = {True: "yes", False: "no", None: "n/a"}[one.beats_control]
        lines.append(line)
    return pd.DataFrame(lines)


def _measure(
    run_id: str, sample: pd.DataFrame, paths: Mapping[str, str], question: dict[str, str]
) -> list[Trust]:
    from engine.explain.faithfulness import SampleImage, measure_sample
    from engine.explain.trust import summarise

    loaded = explain_view.load(cached.run(run_id))
    images = (
        SampleImage(
            row["image_id"], explain_view.pixels_of(paths[row["image_id"]]), row["case"], row["label"]
        )
        for _, row in sample.iterrows()
    )
    bar = st.progress(0.0, "Measuring ...")

    def report(done: int) -> None:
        bar.progress(done / len(sample), f"{done} of {len(sample)} images")

    table = measure_sample(
        loaded,
        images,
        tuple(dict.fromkeys((question["method"], CONTROL))),
        layer=question["layer"] or None,
        progress=report,
    )
    bar.empty()
    return summarise(table)


# --- parameter randomisation ---------------------------------------------------------------------------
def _randomisation(
    run_id: str, rows: pd.DataFrame, paths: Mapping[str, str], question: dict[str, str]
) -> None:
    sample = spread_over(rows, paths, RANDOMISED)
    st.markdown("**Does it depend on what was learnt?**")
    st.caption(
        f"The network's parts are given random weights one after another, from the classifier down (Adebayo et al., 2018), "
        f"and {widgets.counted(len(sample), 'image')} are explained again each time. A map that explains the network must "
        "change; one that stays alike is an edge detector."
    )
    key = _key(run_id, "randomised", *question.values(), tuple(sample["image_id"]))
    found = _kept(key, "Randomise", lambda: _randomised(run_id, sample, paths, question), "explain_randomise")
    if not found:
        return
    curves = [
        Curve(
            methods.find_method(one.method).label, np.arange(len(one.parts)), one.mean, one.method == CONTROL
        )
        for one in found
    ]
    own = found[0]
    fig = trust_figures.randomisation(curves, own.parts, dark=widgets.is_dark())
    widgets.show_figure(
        fig,
        f"Spearman correlation of the signed maps, mean of {widgets.counted(own.correlation.shape[1], 'image')}; parts are "
        "randomised from left to right and stay so. With everything randomised "
        + "; ".join(f"{methods.find_method(one.method).label} keeps {one.left:.2f}" for one in found)
        + " (mean absolute correlation).",
        "Correlation with the trained network's map after each step: "
        + "; ".join(f"{curve.name} " + ", ".join(f"{value:.2f}" for value in curve.y) for curve in curves),
        "explain_randomisation",
    )


def _randomised(
    run_id: str, sample: pd.DataFrame, paths: Mapping[str, str], question: dict[str, str]
) -> list:
    from engine.explain.randomisation import randomisation_check

    loaded = explain_view.load(cached.run(run_id))
    pixels = [explain_view.pixels_of(paths[name]) for name in sample["image_id"]]
    asked = tuple(dict.fromkeys((question["method"], CONTROL)))
    bar = st.progress(0.0, "Randomising ...")
    found = []
    for position, method in enumerate(asked):

        def report(done: int, total: int, position: int = position) -> None:
            bar.progress((position + done / total) / len(asked), f"Part {done} of {total}")

        try:
            found.append(
                randomisation_check(
                    loaded,
                    pixels,
                    method=method,
                    target=question["target"],
                    layer=question["layer"] or None,
                    progress=report,
                )
            )
        except EngineError as error:
            widgets.show_error(error)
    bar.empty()
    return found
