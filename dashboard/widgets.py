"""What every page draws the same way: header, empty state, errors, badges, runs, numbers, figures, downloads.

Names, notes and file names come from people: they are text, never HTML or Markdown (`plain`, `escaped`).
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import places, selection
from engine.errors import EngineError
from engine.files import spreadsheet_safe
from engine.report import colours, theme
from engine.runs import folder as run_folder
from engine.runs import status as run_status
from engine.runs.folder import Summary
from engine.wording import counted, escaped
from engine.wording import duration as duration
from engine.wording import when as when

LEAK_RED, BENIGN, MALIGNANT = theme.LEAKAGE, theme.BENIGN, theme.MALIGNANT
# Words and icons in colour: readable (WCAG AA) on the ground of both themes, set by `style`.
RED, GREEN, AMBER, VIOLET, GREY = (
    f"var(--bh-{name})" for name in ("red", "green", "amber", "violet", "grey")
)
_TONES = {
    "light": {
        "red": "#B3261E",
        "green": "#2E7D4F",
        "amber": "#8F5E00",
        "violet": "#5B3E8F",
        "grey": "#6B6774",
    },
    "dark": {
        "red": "#F2867F",
        "green": "#5BB98A",
        "amber": "#E0A33A",
        "violet": "#B79DEB",
        "grey": "#A29DAD",
    },
}

# state -> (Material icon, word, colour). The word and the icon carry the meaning, the colour only helps.
STATES: dict[str, tuple[str, str, str]] = {
    run_status.QUEUED: ("schedule", "Queued", GREY),
    run_status.STARTING: ("hourglass_top", "Starting", VIOLET),
    run_status.RUNNING: ("play_circle", "Running", VIOLET),
    run_status.STOPPING: ("pending", "Stopping", AMBER),
    run_status.COMPLETED: ("check_circle", "Completed", GREEN),
    run_status.STOPPED: ("stop_circle", "Stopped", AMBER),
    run_status.FAILED: ("error", "Failed", RED),
    run_status.INTERRUPTED: ("power_off", "Interrupted", AMBER),
    run_status.UNKNOWN: ("help", "Unknown", GREY),
}

_STYLE = """
<style>
.bh-row{display:flex;flex-wrap:wrap;gap:.4rem .5rem;align-items:center}
.bh-icon{font-family:"Material Symbols Rounded";font-size:1.15em;line-height:1;font-weight:400;
 letter-spacing:normal;text-transform:none;white-space:nowrap;flex:none;font-feature-settings:"liga"}
.bh-badge{display:inline-flex;gap:.45rem;align-items:flex-start;border-radius:6px;padding:.3rem .6rem;
 font-size:.87rem;line-height:1.35}
.bh-leak{background:#B3261E;color:#fff;font-weight:550}
.bh-small{padding:.05rem .4rem;font-size:.8rem;align-items:center}
.bh-clean,.bh-unknown{border:1px solid color-mix(in srgb,currentColor 22%,transparent)}
.bh-clean .bh-icon{color:var(--bh-green)}
.bh-chip{display:inline-flex;gap:.3rem;align-items:center;font-size:.87rem;font-weight:550;white-space:nowrap}
.bh-dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;flex:none}
.bh-muted{opacity:.68}
.bh-num{font-variant-numeric:tabular-nums}
.bh-question{opacity:.72;margin:.1rem 0 0 0;font-size:.95rem}
dl.bh-facts{margin:0!important;padding:0!important;display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;font-size:.9rem}
.bh-facts dt{opacity:.68}.bh-facts dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
[data-testid="stMetricValue"]{font-variant-numeric:tabular-nums}
[data-testid="stMainBlockContainer"]{padding-left:2.4rem;padding-right:2.4rem}
/* Streamlit's own 60% are a contrast of 4.2 on white */
[data-testid="stMain"] [data-testid="stCaptionContainer"]{opacity:.72}
/* as tall as the boxes beside it, so that labels stand on one line */
button[data-variant="segmented_control"]{min-height:2.5rem}
/* the accent as a word: as a ground for white it is too dark for words on the dark theme */
button[data-variant][data-selected="true"] p,[data-testid="stTab"][aria-selected="true"] p,
[data-testid="stSliderThumbValue"]{color:var(--bh-violet)}
</style>
"""


# Where the page itself is narrow, Streamlit squeezes columns until words break; here they go below each other.
_NARROW = """
{0} [data-testid="stHorizontalBlock"]{{flex-wrap:wrap}}
{0} [data-testid="stColumn"]{{min-width:min(100%,15rem)}}
{0} [data-testid="stColumn"] [data-testid="stColumn"]{{min-width:min(100%,8.5rem)}}
{0} [data-testid="stColumn"]:has(>[data-testid="stVerticalBlock"]>[data-testid="stElementContainer"]:only-child [data-testid="stMetric"]){{min-width:8rem}}
{0} .st-key-recent_runs [data-testid="stColumn"]{{min-width:0}}
{0} [class*="st-key-wide_figure"]{{overflow-x:auto}}
{0} [class*="st-key-wide_figure"] [data-testid="stElementContainer"]:has([data-testid="stPlotlyChart"]){{min-width:40rem}}
"""


def _narrow() -> str:
    """`_NARROW` for a narrow window, and for one that the open sidebar makes narrow."""
    beside_sidebar = '[data-testid="stApp"]:has([data-testid="stSidebar"][data-collapsed="false"])'
    return f"@media (max-width:800px){{{_NARROW.format('')}}}@media (max-width:1080px){{{_NARROW.format(beside_sidebar)}}}"


# --- text ----------------------------------------------------------------------------------------------
def plain(text: object) -> str:
    """Text for HTML: everything with a meaning there is escaped."""
    return html.escape(str(text), quote=True)


def icon(name: str, colour: str = "") -> str:
    """A Material icon as HTML, hidden from screen readers since words stand beside it."""
    style = f' style="color:{colour}"' if colour else ""
    return f'<span class="bh-icon" aria-hidden="true"{style}>{name}</span>'


def number(value: float | None, digits: int = 3) -> str:
    """`0.859`; undefined is n/a."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    images: int | None = None,
    cases: int | None = None,
    digits: int = 3,
) -> str:
    """`0.859 [0.812, 0.901] · n = 110 images, 10 cases`: a number never stands alone."""
    text = number(value, digits)
    if low is not None and high is not None:
        text += f" [{number(low, digits)}, {number(high, digits)}]"
    counts = [counted(n, noun) for n, noun in ((images, "image"), (cases, "case")) if n is not None]
    return f"{text} · n = {', '.join(counts)}" if counts else text


def ago(seconds_since_1970: float | None, now: float | None = None) -> str:
    """`3 min ago`; `n/a` where the time is not known."""
    if not seconds_since_1970:
        return "n/a"
    passed = (now or time.time()) - seconds_since_1970
    if passed < 45:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size * 0.95:
            return f"{max(1, round(passed / size))} {unit} ago"
    return "1 min ago"


# --- page frame ----------------------------------------------------------------------------------------
def style() -> None:
    """The style sheet of the classes used here; once per run, by Home.py."""
    theme_name = "dark" if is_dark() else "light"
    tones = {
        "ground": st.get_option(f"theme.{theme_name}.backgroundColor") or "Canvas",
        **_TONES[theme_name],
    }
    values = ";".join(f"--bh-{name}:{value}" for name, value in tones.items())
    st.html(f"{_STYLE}<style>:root{{{values}}}{_narrow()}</style>")


def header(title: str, question: str) -> None:
    """Title, the question the page answers, and the share button (filled when the page is drawn)."""
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="small"
    ):
        with st.container(gap=None):
            st.title(escaped(title), anchor=False)
            st.html(f'<p class="bh-question">{plain(question)}</p>')
        st.session_state["_share_slot"] = st.container(width="content")


def fill_share() -> None:
    """Draw the share button with the address as it is at the end of the page; Home.py calls it last."""
    slot = st.session_state.pop("_share_slot", None)
    if slot is not None:
        with slot:
            share_link()


def stop() -> NoReturn:
    """End the page here, its share button drawn: after `st.stop` Streamlit draws nothing more, not even in `finally`."""
    fill_share()
    st.stop()


def share_link() -> None:
    """A popover with this view's link; whoever opens it sees the same selection."""
    with st.popover("Share", icon=":material/link:", help="A link to exactly this view"):
        st.caption("Whoever can reach this server sees the same view through this link.")
        st.code(current_link(), language=None, wrap_lines=True)


def current_link() -> str:
    """The address of this view with its selection."""
    base = (st.context.url or "").split("?")[0]
    query = selection.query_string({name: st.query_params.get_all(name) for name in st.query_params})
    return f"{base}{query}" or "/"


def empty_state(
    shows: str,
    because: str,
    *,
    action: str = "",
    to: str = "",
    key: str = "empty_action",
    icon_name: str = "inbox",
    params: Mapping[str, str] | None = None,
) -> bool:
    """What this page shows, why it is empty, one button that fixes it.

    Args:
        shows, because: one sentence each.
        action: the button's words; none without.
        to: page to go to (`train`) when clicked; without it the click is returned.

    Returns:
        Whether the button was clicked (only without `to`).
    """
    with st.container(border=True, horizontal_alignment="center", gap="small", key=f"{key}_box"):
        st.html(
            f'<div style="text-align:center;padding:1.1rem 0 .2rem">'
            f'<div style="font-size:1.9rem;opacity:.55">{icon(icon_name)}</div>'
            f'<div style="margin-top:.4rem">{plain(shows)}</div>'
            f'<div class="bh-muted" style="margin-top:.15rem">{plain(because)}</div></div>'
        )
        clicked = bool(action) and st.button(action, type="primary", key=key)
        st.space("small")
    if clicked and to:
        st.switch_page(places.page(to), query_params=dict(params or {}))
    return bool(clicked)


# --- errors --------------------------------------------------------------------------------------------
def show_error(error: EngineError | Mapping[str, Any], *, level: str = "error") -> None:
    """A failure in words: what was wrong, what was found, what to do.

    Args:
        error: an `EngineError`, or its record as `status.json` stores it.
        level: `error`, or `warning` for a doubt that may be overridden.
    """
    if isinstance(error, EngineError):
        message, found, remedy = error.message + ".", error.found, error.remedy
    else:
        # A record has what was found in its message: only the first sentence is the headline.
        message, _, found = str(error.get("message") or "It failed.").partition(" Found: ")
        remedy = error.get("remedy")
    parts = [f"**{escaped(message)}**"]
    if found:
        parts.append(f"Found: {escaped(found.rstrip('.'))}.")
    if remedy:
        parts.append(f"{escaped(remedy.rstrip('.'))}.")
    draw = st.warning if level == "warning" else st.error
    draw("  \n".join(parts), icon=":material/warning:" if level == "warning" else ":material/error:")


def show_errors(errors: Sequence[EngineError], title: str = "") -> None:
    """All problems together, one box."""
    if not errors:
        return
    if len(errors) == 1:
        show_error(errors[0])
        return
    lines = [f"**{escaped(title or f'{len(errors)} problems')}**"]
    for error in errors:
        lines.append(f"- {escaped(str(error))}")
    st.error("\n".join(lines), icon=":material/error:")


@contextmanager
def errors_shown():
    """`with errors_shown():` an EngineError inside becomes a box, and the rest of the page goes on."""
    try:
        yield
    except EngineError as error:
        show_error(error)


def missing_notice(missing: Sequence[str], noun: str = "run") -> None:
    """Say which ids of the link are not here."""
    sentence = selection.missing_sentence(missing, noun)
    if sentence:
        st.warning(escaped(sentence), icon=":material/link_off:")


def read_only_notice() -> bool:
    """Say why nothing can be changed here, if so; returns whether acts are off."""
    reason = places.read_only_reason()
    if reason:
        st.warning(escaped(reason), icon=":material/lock:")
    return bool(reason)


# --- badges --------------------------------------------------------------------------------------------
def leakage_html(audit: Mapping[str, Any] | None, *, short: bool = False) -> str:
    """The verdict on a split as HTML; red with icon and words where it leaks."""
    level = str((audit or {}).get("level") or "unknown")
    verdict = str((audit or {}).get("verdict") or "Unknown: no split was recorded.")
    if level == "leak":
        words = "Leaks patients" if short else verdict
        return f'<span class="bh-badge bh-leak" role="note" title="{plain(verdict)}">{icon("warning")}<span>{plain(words)}</span></span>'
    name, shown = ("verified", "No leak") if level == "clean" else ("help", "Leakage unknown")
    kind = "clean" if level == "clean" else "unknown"
    words = shown if short else verdict
    return f'<span class="bh-badge bh-{kind}" role="note" title="{plain(verdict)}">{icon(name)}<span>{plain(words)}</span></span>'


def leakage_badge(audit: Mapping[str, Any] | None, *, short: bool = False) -> None:
    """The badge that follows a split into every result made from it.

    Args:
        audit: the record in a run's `config.json`, or `Audit.as_record()`.
        short: `Leaks patients` instead of the whole verdict (which is then the tooltip).
    """
    st.html(leakage_html(audit, short=short))


def leakage_of(summaries: Sequence[Summary]) -> dict[str, Any]:
    """One audit record for a result made of several runs: the worst of theirs, naming the runs."""
    leaking = [summary for summary in summaries if summary.audit.get("level") == "leak"]
    if leaking:
        if len(summaries) == 1:
            return dict(leaking[0].audit)
        names = ", ".join(summary.name for summary in leaking[:3]) + (" ..." if len(leaking) > 3 else "")
        verdict = f"{len(leaking)} of {len(summaries)} runs were trained on a split that leaks: {names}. {leaking[0].audit.get('verdict', '')}"
        return {"level": "leak", "verdict": verdict.strip()}
    unknown = [summary for summary in summaries if summary.audit.get("level") != "clean"]
    if unknown:
        return {
            "level": "unknown",
            "verdict": f"Unknown: the split of {counted(len(unknown), 'run')} of {len(summaries)} was not recorded.",
        }
    return (
        dict(summaries[0].audit)
        if len(summaries) == 1
        else {
            "level": "clean",
            "verdict": f"Clean: no case is on two sides of the split of any of the {len(summaries)} runs.",
        }
    )


def state_word(state: str) -> str:
    return STATES.get(state, STATES[run_status.UNKNOWN])[1]


def status_html(state: str, *, stalled: bool = False) -> str:
    """A status chip: icon and word."""
    name, word, colour = STATES.get(state, STATES[run_status.UNKNOWN])
    if stalled:
        name, word, colour = "hourglass_disabled", f"{word}, no sign for minutes", AMBER
    return f'<span class="bh-chip">{icon(name, colour)}<span>{plain(word)}</span></span>'


def status_chip(state: str, *, stalled: bool = False) -> None:
    st.html(f'<div class="bh-row">{status_html(state, stalled=stalled)}</div>')


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """A list of label and value, aligned; for configuration and provenance."""
    rows = "".join(f"<dt>{plain(label)}</dt><dd>{plain(value)}</dd>" for label, value in pairs)
    st.html(f'<dl class="bh-facts">{rows}</dl>')


# --- runs ----------------------------------------------------------------------------------------------
def run_colours(summaries: Sequence[Summary] | None = None) -> dict[str, str]:
    """Run id -> its colour on every page and in every report (`engine.report.colours`); all runs unless given."""
    if summaries is None:
        ids = [folder.id for folder in run_folder.run_folders(places.runs_folder())]
    else:
        ids = [summary.id for summary in summaries]
    dealt = colours.run_colours(places.runs_folder(), ids)
    return {run_id: theme.on_dark(colour) for run_id, colour in dealt.items()} if is_dark() else dealt


def run_label(summary: Summary, summaries: Sequence[Summary] = ()) -> str:
    """A run's name; with the end of its id where another run has the same name."""
    twins = sum(1 for other in summaries if other.name == summary.name)
    return f"{summary.name} ({summary.id[-4:]})" if twins > 1 else summary.name


def run_labels(summaries: Sequence[Summary]) -> dict[str, str]:
    """Id -> label, names told apart."""
    return {summary.id: run_label(summary, summaries) for summary in summaries}


def run_picker(
    label: str,
    summaries: Sequence[Summary],
    *,
    param: str = "runs",
    default: Sequence[str] = (),
    key: str = "",
    help: str | None = None,
    max_selections: int | None = None,
) -> list[str]:
    """Choose runs; the choice is the URL parameter `param`, order kept. Ids that are not here are named.

    Returns:
        Ids in the order they were chosen.
    """
    key = key or f"picked_{param}"
    known = [summary.id for summary in summaries]
    names = run_labels(summaries)
    missing = selection.list_from_url(param, known, key, default)
    missing_notice(missing)
    chosen = st.multiselect(
        label,
        known,
        format_func=lambda run_id: names[run_id] if run_id in names else str(run_id),
        key=key,
        help=help,
        max_selections=max_selections,
        placeholder="Choose runs",
    )
    selection.list_to_url(param, key)
    return list(chosen)


def run_legend(ids: Sequence[str], names: Mapping[str, str], colours: Mapping[str, str]) -> None:
    """The chosen runs with their colours, in a line."""
    parts = [
        f'<span class="bh-chip"><span class="bh-dot" style="background:{colours.get(run_id, "#888")}"></span>'
        f"<span>{plain(names.get(run_id, run_id))}</span></span>"
        for run_id in ids
    ]
    st.html(f'<div class="bh-row">{"".join(parts)}</div>')


# --- figures -------------------------------------------------------------------------------------------
def is_dark() -> bool:
    """Whether the reader looks at the dark theme."""
    return st.context.theme.type == "dark"


def verdict_colours() -> tuple[str, str]:
    """(patients on both sides, patients kept apart) as a figure wants its colours."""
    tones = _TONES["dark" if is_dark() else "light"]
    return tones["red"], tones["green"]


def themed(fig: go.Figure) -> go.Figure:
    """The figure in the one template, light or dark as the reader has it."""
    fig.update_layout(template=theme.template(is_dark()))  # its font is that of annotations too
    return fig


def show_figure(
    fig: go.Figure,
    caption: str,
    alt: str,
    key: str,
    *,
    on_select: Callable[..., None] | str | None = None,
    selection_mode: Sequence[str] = ("points",),
    height: int | None = None,
) -> Any:
    """A figure with how it was computed (caption) and what it shows for those who cannot see it (alt).

    Returns:
        The selection, where `on_select="rerun"` asks for one.
    """
    if height:
        fig.update_layout(height=height)
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    more: dict[str, Any] = {}
    if on_select is not None:
        more = {"on_select": on_select, "selection_mode": list(selection_mode)}
    event = st.plotly_chart(themed(fig), theme=None, key=key, config=config, alt=alt, **more)
    if caption:
        st.caption(escaped(caption))
    return event


# --- downloads -----------------------------------------------------------------------------------------
def download_table(
    label: str, table: pd.DataFrame | Callable[[], pd.DataFrame], file_name: str, key: str
) -> None:
    """A CSV that a spreadsheet opens without running anything; made when it is asked for."""

    def data() -> bytes:
        made = table() if callable(table) else table
        return spreadsheet_safe(made).to_csv(index=False).encode("utf-8")

    st.download_button(
        label,
        data,
        file_name=file_name,
        mime="text/csv",
        key=key,
        icon=":material/download:",
        on_click="ignore",
    )


def download_text(
    label: str, text: str | Callable[[], str], file_name: str, key: str, mime: str = "application/json"
) -> None:
    """A text file (JSON unless `mime` says otherwise), made when it is asked for."""

    def data() -> bytes:
        return (text() if callable(text) else text).encode("utf-8")

    st.download_button(
        label, data, file_name=file_name, mime=mime, key=key, icon=":material/download:", on_click="ignore"
    )
