"""What the compare page knows: its view as a record, cached comparisons, the score table, what a click means.

Pure functions first: AppTest cannot click a chart, so everything behind a click is tested here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import cached, places, widgets
from engine.analysis import comparison, curves, metrics
from engine.analysis.comparison import Aligned, Comparison, Entry, PairedDifference
from engine.analysis.intervals import Estimate
from engine.data.manifest import order_magnifications
from engine.errors import EngineError
from engine.runs.folder import RunFolder, Summary

MODES = {"counts": "Counts", "percent": "Row %", "difference": "Difference"}
# bucket of engine.analysis.comparison -> (words, whether it is about one entry)
BUCKETS = {
    "all-wrong": ("All get it wrong", False),
    "disagree": ("They disagree", False),
    "only-wrong": ("Only this one wrong", True),
    "only-right": ("Only this one right", True),
    "confident-wrong": (f"Confident and wrong (from {comparison.CONFIDENT:.2f})", True),
    "unsure-right": (f"Unsure and right (below {comparison.UNSURE:.2f})", True),
    "wrong": ("Wrong", True),
}
MOST_RUNS = 16
LOOKED_UP = 10  # manifests of other runs in which an import's images are looked up


# --- pure: what a click opens --------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """One cell of the matrices: whose, in which slice (`all`, `100X`), true and predicted class."""

    entry: str
    part: str
    true: str
    guess: str

    @property
    def text(self) -> str:
        """As the URL has it."""
        return ",".join((self.entry, self.part, self.true, self.guess))


def parse_cell(text: str, entries: Sequence[str], classes: Sequence[str]) -> Cell | None:
    """A cell of the URL; None where it is not one of this view's."""
    parts = text.split(",")
    if len(parts) != 4 or parts[0] not in entries or parts[2] not in classes or parts[3] not in classes:
        return None
    return Cell(*parts)


def clicked_cell(event: object) -> Cell | None:
    """The cell that a Plotly selection event names in its custom data; None when nothing is selected."""
    points = ((event or {}).get("selection") or {}).get("points") or []  # type: ignore[attr-defined]
    for point in points:
        data = point.get("customdata") or []
        if isinstance(data, Mapping):  # Streamlit sends arrays as {"0": ..., "1": ...} in some versions
            data = [data[key] for key in sorted(data, key=int)]
        if len(data) >= 4:
            return Cell(*(str(value) for value in data[:4]))
    return None


def cell_images(opinions: pd.DataFrame, cell: Cell, by: str, against: str | None = None) -> pd.DataFrame:
    """The images behind a cell; with `against` (difference mode) those that are in it for one of the two only."""
    slices = {by: cell.part}
    own = comparison.select_images(
        opinions, entry=cell.entry, true=cell.true, guess=cell.guess, slices=slices
    )
    if against is None or against == cell.entry:
        return own
    other = comparison.select_images(opinions, entry=against, true=cell.true, guess=cell.guess, slices=slices)
    changed = own.index.symmetric_difference(other.index)
    return opinions.loc[changed.sort_values()]


def cell_sentence(cell: Cell, labels: Mapping[str, str], n: int, against: str | None = None) -> str:
    """What the gallery shows, in words."""
    where = "" if cell.part == "all" else f" at {cell.part}"
    images = widgets.counted(n, "image")
    if against and against != cell.entry:
        return (
            f"{images}{where}, truly {cell.true}, called {cell.guess} by only one of "
            f"{labels[cell.entry]} and {labels[against]}"
        )
    return f"{images}{where}, truly {cell.true}, called {cell.guess} by {labels[cell.entry]}"


# --- pure: the score table -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Line:
    """An entry as the score table shows it."""

    id: str
    label: str
    colour: str
    leaks: bool


def sorted_lines(lines: Sequence[Line], table: Comparison, score: str) -> list[Line]:
    """Best first by a score; the order of choosing where no score is named. Undefined comes last."""
    if score not in metrics.SCORES:
        return list(lines)
    sign = -1 if metrics.SCORES[score].higher_is_better else 1
    values = {entry.id: entry.scores[score].value for entry in table.entries if score in entry.scores}

    def order(line: Line) -> tuple[bool, float]:
        value = values.get(line.id, float("nan"))
        return (value != value, 0.0 if value != value else sign * value)

    return sorted(lines, key=order)


def score_table_html(
    table: Comparison, lines: Sequence[Line], names: Sequence[str], reference: str = ""
) -> str:
    """The scores with their intervals, a row per entry, the majority baseline last.

    With a reference, each row also says its paired difference to it.
    """
    results = {entry.id: entry for entry in table.entries}
    gaps = {(gap.id, gap.score): gap for gap in table.differences if gap.reference == reference}
    best = {name: _best(table, name) for name in names}
    head = "".join(
        f'<th scope="col" title="{widgets.plain(metrics.SCORES[name].help)}">{widgets.plain(metrics.SCORES[name].title)}</th>'
        for name in names
    )
    rows = []
    for line in lines:
        entry = results[line.id]
        cells = "".join(
            _score_cell(entry.scores[name], gaps.get((line.id, name)), entry.scores[name].value == best[name])
            for name in names
        )
        mark = " bh-reference" if line.id == reference else ""
        rows.append(
            f'<tr class="{mark}"><th scope="row">{_name_html(line, line.id == reference)}</th>{cells}</tr>'
        )
    base = "".join(f"<td><span>{widgets.number(table.baseline.get(name))}</span></td>" for name in names)
    rows.append(f'<tr class="bh-base"><th scope="row">Always the larger class</th>{base}</tr>')
    return (
        f'<div class="bh-scroll"><table class="bh-scores"><thead><tr><th scope="col">Entry</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{_TABLE_STYLE}"
    )


def _best(table: Comparison, name: str) -> float | None:
    values = [
        entry.scores[name].value
        for entry in table.entries
        if entry.scores[name].value == entry.scores[name].value
    ]
    if len(table.entries) < 2 or not values:
        return None
    return max(values) if metrics.SCORES[name].higher_is_better else min(values)


def _score_cell(estimate: Estimate, gap: PairedDifference | None, best: bool) -> str:
    value = widgets.number(estimate.value)
    known = estimate.low == estimate.low
    interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]" if known else "&nbsp;"
    if estimate.value != estimate.value:
        interval = "&nbsp;"
    elif not known and estimate.method == "not computed yet":
        interval = '<span class="bh-wait">interval …</span>'
    title = widgets.plain("; ".join(part for part in (estimate.method, estimate.warning) if part))
    flag = "<sup>!</sup>" if estimate.warning else ""
    text = f'<span class="bh-value{" bh-best" if best else ""}">{value}</span><br><small>{interval}{flag}</small>'
    if gap is not None:
        text += f"<br>{_gap_html(gap)}"
    return f'<td title="{title}">{text}</td>'


def _gap_html(gap: PairedDifference) -> str:
    """`Δ +0.021 p .310` and its interval; bold where the adjusted test and the interval both leave zero out."""
    one = gap.estimate
    if one.value != one.value:
        return "<small>Δ n/a</small>"
    low, high = _bounds(gap)
    clear = low == low and (low > 0 or high < 0) and gap.p_holm < 0.05
    interval = f"[{low:+.3f}, {high:+.3f}]" if low == low else "[n/a]"
    p = (
        "n/a"
        if gap.p_holm != gap.p_holm
        else "&lt; .001"
        if gap.p_holm < 0.001
        else f"{gap.p_holm:.3f}".lstrip("0")
    )
    test = gap.mcnemar
    title = widgets.plain(
        f"sign-flip over cases, Holm over {gap.comparisons}. Exact McNemar p = {test.p:.3g} "
        f"({test.first_only} images only this one right, {test.second_only} only the reference; {test.label})"
    )
    weight = ' class="bh-clear"' if clear else ""
    return f'<small{weight} title="{title}">Δ {one.value:+.3f} p {p}<br>{interval}</small>'


def _bounds(gap: PairedDifference) -> tuple[float, float]:
    """The interval of a difference, no wider than the score allows: bootstrap-t of few cases may run to infinity."""
    low, high = metrics.score_of(gap.score).range
    reach = high - low
    return max(gap.estimate.low, -reach), min(gap.estimate.high, reach)


def _name_html(line: Line, reference: bool) -> str:
    leak = (
        f' <span class="bh-leakmark" title="Leaks patients">{widgets.icon("warning")} leaks</span>'
        if line.leaks
        else ""
    )
    note = '<br><small class="bh-muted">reference</small>' if reference else ""
    return f'<span class="bh-dot" style="background:{line.colour}"></span> {widgets.plain(line.label)}{leak}{note}'


_TABLE_STYLE = """<style>
.bh-scroll{overflow-x:auto}
.bh-scores{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
.bh-scores th,.bh-scores td{padding:.32rem .4rem;text-align:right;vertical-align:top;border:0;
 border-bottom:1px solid color-mix(in srgb,currentColor 12%,transparent);line-height:1.3;white-space:nowrap}
.bh-scores thead th{font-weight:550;font-size:.78rem;opacity:.75;white-space:normal;vertical-align:bottom;cursor:help}
.bh-scores th:first-child{text-align:left;font-weight:550;white-space:normal;min-width:7rem}
.bh-scores small{font-size:.73rem;opacity:.75}.bh-scores .bh-best{font-weight:700}
.bh-scores .bh-clear{font-weight:700;opacity:1}
.bh-scores .bh-base td,.bh-scores .bh-base th{opacity:.72;font-weight:400}
.bh-scores .bh-reference{background:color-mix(in srgb,currentColor 5%,transparent)}
.bh-scores .bh-wait{opacity:.5}.bh-scores sup{color:#A06A00}
.bh-leakmark{color:var(--st-red-color,#B3261E);font-size:.8rem;font-weight:600;white-space:nowrap}
</style>"""


def score_csv(table: Comparison, lines: Sequence[Line], names: Sequence[str]) -> pd.DataFrame:
    """The score table for a spreadsheet: one row per entry and score, unrounded."""
    rows = []
    labels = {line.id: line.label for line in lines}
    gaps = {(gap.id, gap.score): gap for gap in table.differences}
    for entry in table.entries:
        for name in names:
            one = entry.scores[name]
            gap = gaps.get((entry.id, name))
            rows.append(
                {
                    "run": entry.id,
                    "name": labels.get(entry.id, entry.name),
                    "score": name,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "level": one.level,
                    "interval": one.method,
                    "warning": one.warning,
                    "images": entry.n,
                    "cases": entry.n_cases,
                    "baseline": table.baseline.get(name),
                    "reference": gap.reference if gap else "",
                    "difference": gap.estimate.value if gap else None,
                    "difference_low": _bounds(gap)[0] if gap else None,
                    "difference_high": _bounds(gap)[1] if gap else None,
                    "p_holm": gap.p_holm if gap else None,
                }
            )
    return pd.DataFrame(rows)


def score_latex(table: Comparison, lines: Sequence[Line], names: Sequence[str]) -> str:
    """The score table for a paper: booktabs, value with its interval."""
    results = {entry.id: entry for entry in table.entries}
    titles = " & ".join(["Entry", *(_tex(metrics.SCORES[name].title) for name in names)])
    rows = [
        " & ".join([_tex(line.label), *(_tex(results[line.id].scores[name].short) for name in names)])
        + r" \\"
        for line in lines
    ]
    base = " & ".join(
        ["Always the larger class", *(widgets.number(table.baseline.get(name)) for name in names)]
    )
    note = f"n = {table.n_images} images, {table.n_cases} cases; 95\\% intervals: {_tex(table.entries[0].scores[names[0]].method)}."
    body = "\n".join(rows)
    return (
        f"% {note}\n\\begin{{tabular}}{{l{'r' * len(names)}}}\n\\toprule\n{titles} \\\\\n\\midrule\n{body}\n"
        f"\\midrule\n{base} \\\\\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _tex(text: str) -> str:
    """Text with LaTeX's signs escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


# --- operating point -----------------------------------------------------------------------------------
RULES = {
    "argmax": "where it is the most probable class",
    "fixed": "from one threshold on",
    "youden": "by Youden's index on validation",
    "sensitivity": "so that sensitivity on validation is at least",
    "specificity": "so that specificity on validation is at least",
}


@dataclass(frozen=True)
class Point:
    """How the operating point is chosen. value: the threshold (fixed) or the bound (sensitivity, specificity)."""

    rule: str = "argmax"
    value: float = 0.0

    @property
    def text(self) -> str:
        """As the URL has it: empty, `0.42`, `youden`, `sensitivity:0.95`."""
        if self.rule == "argmax":
            return ""
        if self.rule == "fixed":
            return f"{self.value:g}"
        return self.rule if self.rule == "youden" else f"{self.rule}:{self.value:g}"


def parse_point(text: str) -> Point:
    """A point of the URL; the most probable class where it makes no sense."""
    rule, _, bound = text.partition(":")
    if rule == "youden":
        return Point("youden")
    try:
        value = float(bound or rule)
    except ValueError:
        return Point()
    if rule in ("sensitivity", "specificity"):
        return Point(rule, value) if 0.5 <= value <= 1 else Point()
    return Point("fixed", value) if not bound and 0.01 <= value <= 0.99 else Point()


def thresholds_at(ids: Sequence[str], point: Point) -> tuple[float | None, ...]:
    """The threshold of every entry; those chosen on validation are the same whatever is looked at.

    Raises:
        RunError, PredictionsError: an entry without usable validation predictions.
    """
    if point.rule == "argmax":
        return tuple([None] * len(ids))
    if point.rule == "fixed":
        return tuple([point.value] * len(ids))
    return tuple(_chosen(run_id, point, stamps([run_id], "val")) for run_id in ids)


@st.cache_data(max_entries=256, show_spinner=False)
def _chosen(run_id: str, point: Point, key: tuple) -> float:
    table = RunFolder(Path(key[0]) / run_id).predictions("val")
    return curves.operating_point(table, point.rule, point.value or 0.95).threshold


# --- cached --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class View:
    """What is compared; the key of everything cached. thresholds: per id, None = most probable class."""

    ids: tuple[str, ...]
    split: str = "test"
    magnification: str = "all"
    by: str = "magnification"
    names: tuple[str, ...] = metrics.DEFAULT_SCORES
    reference: str = ""
    thresholds: tuple[float | None, ...] = ()


def stamps(ids: Sequence[str], split: str) -> tuple:
    """Times and sizes of the predictions behind a view, with the folder they lie in."""
    folder = places.runs_folder()
    files = [cached.run(run_id).predictions_file(split) for run_id in ids]
    return (str(folder), *(cached._file_stamp(file) for file in files))


def aligned(view: View) -> Aligned:
    """The entries on their common images, shared by all sessions: read, never changed.

    Raises:
        RunError, PredictionsError: no predictions, or entries that cannot be compared.
    """
    whole = _aligned(view.ids, view.split, stamps(view.ids, view.split))
    return whole if view.magnification == "all" else _restricted(whole, view.magnification)


@st.cache_resource(max_entries=16, show_spinner=False)
def _aligned(ids: tuple[str, ...], split: str, _key: tuple) -> Aligned:
    tables = {run_id: RunFolder(Path(_key[0]) / run_id).predictions(split) for run_id in ids}
    return comparison.align(tables)


def _restricted(whole: Aligned, magnification: str) -> Aligned:
    keep = (whole.frame["magnification"] == magnification).to_numpy()
    tables = {name: table[keep].reset_index(drop=True) for name, table in whole.tables.items()}
    return replace(whole, tables=tables)


def compare(view: View, with_intervals: bool) -> Comparison:
    """The comparison of a view. With intervals it takes seconds once, then nothing.

    Raises:
        RunError, PredictionsError: as `aligned`.
    """
    return _compare(view, with_intervals, stamps(view.ids, view.split))


@st.cache_resource(max_entries=64, show_spinner=False)
def _compare(view: View, with_intervals: bool, _key: tuple) -> Comparison:
    images = aligned(view)
    thresholds = thresholds_of(view)
    entries = [Entry(run_id, run_id, images.tables[run_id], {}, thresholds[run_id]) for run_id in view.ids]
    found = comparison.compare(
        entries,
        names=view.names,
        reference=view.reference or None,
        by=view.by,
        with_intervals=with_intervals,
    )
    if with_intervals:
        _ready().add((view, _key))
    return found


@st.cache_resource
def _ready() -> set:
    """Views whose intervals were computed: the page then draws them at once."""
    return set()


def is_ready(view: View) -> bool:
    return (view, stamps(view.ids, view.split)) in _ready()


def thresholds_of(view: View) -> dict[str, float | None]:
    return dict(zip(view.ids, view.thresholds or (None,) * len(view.ids), strict=True))


def opinions(view: View) -> pd.DataFrame:
    """A row per image with every entry's prediction (engine.analysis.comparison.opinions)."""
    return _opinions(replace(view, names=(), reference=""), stamps(view.ids, view.split))


@st.cache_resource(max_entries=16, show_spinner=False)
def _opinions(view: View, _key: tuple) -> pd.DataFrame:
    return comparison.opinions(aligned(view), thresholds_of(view))


def image_paths(ids: Sequence[str]) -> dict[str, str]:
    """image_id -> absolute path, from the manifests of these runs.

    Imports have none: their images are looked up by name in the newest manifests of other runs.
    """
    found, lacking = _known_paths(ids)
    if lacking:
        others = [
            one.id for one in cached.summaries() if one.config.kind == "train" and one.id not in set(ids)
        ]
        found = {**_known_paths(others[:LOOKED_UP])[0], **found}
    return found


def _known_paths(ids: Sequence[str]) -> tuple[dict[str, str], bool]:
    """(image_id -> path, whether one of the runs has no manifest)."""
    found: dict[str, str] = {}
    lacking = False
    for run_id in ids:
        try:
            folder = cached.run(run_id)
            found = {**_paths(str(folder.path), cached._file_stamp(folder.path / "manifest.csv")), **found}
        except EngineError:
            lacking = True
    return found, lacking


@st.cache_resource(max_entries=32, show_spinner=False)
def _paths(path: str, _key: tuple) -> dict[str, str]:
    manifest = RunFolder(Path(path)).manifest()
    return {
        image: str(manifest.absolute(place))
        for image, place in zip(manifest.table["image_id"], manifest.table["path"], strict=True)
    }


# --- small ---------------------------------------------------------------------------------------------
def default_ids(summaries: Sequence[Summary], split: str, most: int = 4) -> list[str]:
    """The newest run and the next ones that predicted images of the same test part."""
    chosen: list[str] = []
    first: set[str] = set()
    for summary in summaries:
        try:
            images = set(cached.predictions(summary.id, split)["image_id"])
        except EngineError:
            continue
        if not chosen or len(first & images) > 0.5 * len(first | images):
            first = first or images
            chosen.append(summary.id)
        if len(chosen) == most:
            break
    return chosen


def magnifications(images: Aligned) -> list[str]:
    return list(order_magnifications(images.frame["magnification"].unique()))


def named_note(note: str, labels: Mapping[str, str]) -> str:
    """The engine's sentence about left-out images with names instead of ids."""
    for run_id, label in labels.items():
        note = note.replace(run_id, label)
    return note
