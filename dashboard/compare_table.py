"""The tables of the compare page as HTML, so that a cell holds value, interval and difference together.

Names, classes and slices are text (`widgets.plain`). What a mouse sees on hover stands in words below the
table too (`warning_sentences`, `paired_tests`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dashboard import widgets
from dashboard.compare_view import Line
from engine.analysis import metrics
from engine.analysis.comparison import Comparison, PairedDifference
from engine.analysis.intervals import Estimate
from engine.report import score_table
from engine.wording import signed

WAITING = "not computed yet"  # how `comparison.compare` labels a score whose interval was not asked for


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


def html(table: Comparison, lines: Sequence[Line], names: Sequence[str], reference: str = "") -> str:
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
    return _whole(f'<tr><th scope="col">Entry</th>{head}</tr>', rows)


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
    interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]" if known else "[n/a]"
    if estimate.value != estimate.value:
        interval = "&nbsp;"
    elif not known and estimate.method == WAITING:
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
    low, high = score_table.difference_bounds(gap)
    clear = low == low and (low > 0 or high < 0) and gap.p_holm < 0.05
    interval = f"[{signed(low)}, {signed(high)}]" if low == low else "[n/a]"
    p = widgets.plain(p_text(gap.p_holm))
    test = gap.mcnemar
    title = widgets.plain(
        f"sign-flip over cases, Holm over {gap.comparisons}. Exact McNemar p = {test.p:.3g} "
        f"({test.first_only} images only this one right, {test.second_only} only the reference; {test.label})"
    )
    weight = ' class="bh-clear"' if clear else ""
    return f'<small{weight} title="{title}">Δ {signed(one.value)} p {p}<br>{interval}</small>'


def _name_html(line: Line, reference: bool) -> str:
    leak = (
        f' <span class="bh-leakmark" title="Leaks patients">{widgets.icon("warning")} leaks</span>'
        if line.leaks
        else ""
    )
    notes = [*(["reference"] if reference else []), *line.notes]
    note = "".join(f'<br><small class="bh-muted">{widgets.plain(text)}</small>' for text in notes)
    return f'<span class="bh-dot" style="background:{line.colour}"></span> {widgets.plain(line.label)}{leak}{note}'


def _whole(head: str, rows: Sequence[str]) -> str:
    """A table that scrolls sideways under a fixed first column."""
    return (
        f'<div class="bh-scroll" tabindex="0"><table class="bh-scores"><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{_TABLE_STYLE}"
    )


# --- what the numbers must be read with ----------------------------------------------------------------
def warning_sentences(table: Comparison, lines: Sequence[Line]) -> list[str]:
    """The warnings of the table in words, each once: which scores (and whose, where not everybody's) it is about."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in table.entries:
        for name, one in entry.scores.items():
            for warning in filter(None, one.warning.split("; ")):
                found.setdefault(warning, {}).setdefault(metrics.SCORES[name].title, []).append(entry.id)
    labels = {line.id: line.label for line in lines}
    sentences = []
    for warning, titles in found.items():
        whose = list(dict.fromkeys(run_id for ids in titles.values() for run_id in ids))
        about = "" if len(whose) == len(table.entries) else f" of {', '.join(labels[one] for one in whose)}"
        scores = "All scores" if len(titles) == len(table.entries[0].scores) > 1 else ", ".join(titles)
        sentences.append(f"{scores}{about}: {warning}.")
    return sentences


def methods(table: Comparison) -> str:
    """How the intervals of the table were made, each way once; `none` only where there is no other."""
    found: dict[str, None] = {}
    for entry in table.entries:
        for one in entry.scores.values():
            found[one.method.split(",")[0] + (" for patients" if one.method.startswith("Wilson") else "")] = (
                None
            )
    made = [name for name in found if name not in ("none", "undefined")]
    return ", ".join(made) if made else "none"


def remedy(sentences: Sequence[str]) -> str:
    """What helps against too few patients; empty where that is not what is wrong."""
    text = " ".join(sentences)
    if "no interval can be made" in text:
        return (
            "one patient says nothing about how much patients differ. Test more patients: train the other folds "
            "and pool them (tick the folds here, or python -m engine pool), so that every patient is tested once."
        )
    if "the interval is rough" in text:
        return (
            "pool the folds of a cross-validation (tick them here, or python -m engine pool), so that every "
            "patient is tested once."
        )
    return ""


def paired_tests(table: Comparison, lines: Sequence[Line], score: str) -> pd.DataFrame:
    """Every entry against the reference: difference of a score with both tests, a row per entry."""
    labels = {line.id: line.label for line in lines}
    rows = []
    for gap in table.differences:
        if gap.score != score:
            continue
        low, high = score_table.difference_bounds(gap)
        bounds = "" if low == low else " [n/a]"
        rows.append(
            {
                "Entry": labels[gap.id],
                f"Difference in {metrics.SCORES[score].title.lower()}": signed(gap.estimate.value, low, high)
                + bounds,
                "p, sign-flip over cases": p_text(gap.p),
                f"p, Holm over {gap.comparisons}": p_text(gap.p_holm),
                "Only this one right": gap.mcnemar.first_only,
                "Only the reference right": gap.mcnemar.second_only,
                "p, exact McNemar": p_text(gap.mcnemar.p),
            }
        )
    return pd.DataFrame(rows)


def p_text(p: float) -> str:
    return "n/a" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


# --- slices and settings -------------------------------------------------------------------------------
def slices_html(
    found: Mapping[str, Mapping[str, Estimate]], counts: Mapping[str, Mapping], lines: Sequence[Line], by: str
) -> str:
    """A row per slice (all first), a column per entry; within subtypes also right / images and what they were called.

    Args:
        found: slice -> entry -> estimate. counts: slice -> `images, cases, truly` and entry -> (right, called).
    """
    head = "".join(f'<th scope="col">{_name_html(line, False)}</th>' for line in lines)
    rows = []
    for part, own in found.items():
        size = counts[part]
        title = "All" if part == "all" else f"Fold {part}" if by == "fold" else part
        truly = f" · {size['truly']}" if size["truly"] and by == "subtype" else ""
        n = f"{widgets.counted(size['images'], 'image')}, {widgets.counted(size['cases'], 'case')}"
        cells = []
        for line in lines:
            cell = _score_cell(own[line.id], None, False)
            if by == "subtype":
                right, called = size[line.id]
                wrong = f" · {widgets.plain(called)}" if called and part != "all" else ""
                cell = cell.replace("</td>", f"<br><small>{right:,} / {size['images']:,}{wrong}</small></td>")
            cells.append(cell)
        rows.append(
            f'<tr><th scope="row">{widgets.plain(title)}{widgets.plain(truly)}<br><small>{n}</small></th>'
            f"{''.join(cells)}</tr>"
        )
    return _whole(f'<tr><th scope="col">{widgets.plain(by.capitalize())}</th>{head}</tr>', rows)


def settings_html(
    differing: pd.DataFrame, table: Comparison, lines: Sequence[Line], names: Sequence[str]
) -> str:
    """Scores, then the settings that differ, a column per entry; other than in the first entry is tinted and said."""
    results = {entry.id: entry for entry in table.entries}
    head = "".join(f'<th scope="col">{_name_html(line, False)}</th>' for line in lines)
    best = {name: _best(table, name) for name in names}
    rows = []
    for name in names:
        cells = "".join(
            _score_cell(
                results[line.id].scores[name], None, results[line.id].scores[name].value == best[name]
            )
            for line in lines
        )
        rows.append(f'<tr><th scope="row">{widgets.plain(metrics.SCORES[name].title)}</th>{cells}</tr>')
    for _, row in differing.iterrows():
        first = row[lines[0].id]
        cells = []
        for line in lines:
            other = row[line.id] != first
            said = '<span class="bh-sr">differs: </span>' if other else ""
            text = widgets.plain(row[line.id] or "not set")
            cells.append(f'<td class="bh-setting{" bh-other" if other else ""}">{said}{text}</td>')
        rows.append(
            f'<tr><th scope="row"><code>{widgets.plain(row["setting"])}</code></th>{"".join(cells)}</tr>'
        )
    return _whole(f'<tr><th scope="col">Setting</th>{head}</tr>', rows)


_TABLE_STYLE = """<style>
.bh-scroll{overflow-x:auto}
.bh-scores{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
.bh-scores th,.bh-scores td{padding:.32rem .4rem;text-align:right;vertical-align:top;border:0;
 border-bottom:1px solid color-mix(in srgb,currentColor 12%,transparent);line-height:1.3;white-space:nowrap}
.bh-scores thead th{font-weight:550;font-size:.78rem;opacity:.75;white-space:normal;vertical-align:bottom;cursor:help}
.bh-scores th:first-child{text-align:left;font-weight:550;white-space:normal;min-width:8.8rem;max-width:15rem;
 overflow-wrap:anywhere;position:sticky;left:0;background:var(--bh-ground,Canvas)}
.bh-scores .bh-setting{white-space:normal;max-width:14rem;overflow-wrap:anywhere}
.bh-scores .bh-other{background:color-mix(in srgb,var(--bh-violet) 16%,transparent);font-weight:550}
.bh-sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.bh-scores small{font-size:.73rem;opacity:.75}.bh-scores .bh-best{font-weight:700}
.bh-scores .bh-clear{font-weight:700;opacity:1}
.bh-scores .bh-base td,.bh-scores .bh-base th{opacity:.72;font-weight:400}
.bh-scores tr.bh-reference>td,.bh-scores tr.bh-reference>th:first-child{background:color-mix(in srgb,currentColor 6%,var(--bh-ground,Canvas))}
.bh-scores .bh-wait{opacity:.5}.bh-scores sup{color:var(--bh-amber)}
.bh-leakmark{color:var(--bh-red);font-size:.8rem;font-weight:600;white-space:nowrap}
</style>"""
WARN_STYLE = """<style>.bh-warn{margin:.3rem 0 0 0;padding-left:1.1rem;font-size:.85rem;line-height:1.4}
.bh-warn li{margin:0}</style>"""
