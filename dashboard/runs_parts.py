"""The parts of the runs page."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import streamlit as st

from dashboard import cached, cluster_parts, places, queue_parts, run_table, selection, widgets
from engine.errors import ConfigError, EngineError
from engine.runs import folder as run_folder
from engine.runs import launch
from engine.runs import status as run_status
from engine.runs import trash as run_trash
from engine.runs.folder import RunFolder, Summary

HEIGHT_ROWS = 14
# Quiet tints for (light, dark); only what needs a person is loud. The word carries the meaning.
GREY, ACCENT, GREEN, AMBER = (
    ("#E6E4EB", "#3A3645"),
    ("#CDBDEB", "#5B3E8F"),
    ("#D3E8DB", "#26452F"),
    ("#F3E2BF", "#5C4413"),
)
LOUD = (widgets.LEAK_RED, widgets.LEAK_RED)
PILLS = {
    "Queued": GREY,
    "Starting": ACCENT,
    "Running": ACCENT,
    "Stopping": AMBER,
    "Completed": GREEN,
    "Stopped": AMBER,
    "Failed": LOUD,
    "Interrupted": ("#F0CF8E", "#8A5F00"),
    "Unknown": GREY,
    "Stalled": ("#F0CF8E", "#8A5F00"),
}
LEAK_PILLS = {"leak": LOUD, "clean": GREEN, "unknown": GREY}


def controls(summaries: Sequence[Summary]) -> tuple[list[Summary], list[str], str]:
    """Filter, grouping and columns, all in the URL; returns the runs kept, the columns, the grouping key."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        query = st.text_input(
            "Filter",
            key="q",
            bind="query-params",
            placeholder="words, or /regular expression/",
            help="Searched in name, id, tags, notes, model, split, status and experiment.",
            width=360,
        )
        choices = ["", *run_table.by_use(summaries)]
        alike = {key for key in choices if key and not run_table.varies(summaries, key)}
        selection.choice_from_url("group", choices, "group_by", default="")
        group = st.selectbox(
            "Group by",
            choices,
            format_func=lambda key: _group_title(key, key in alike),
            key="group_by",
            width=260,
            help="Any configuration key; those by which these runs differ come first.",
        )
        selection.choice_to_url("group", "group_by", default="")
        with st.popover("Columns", icon=":material/view_column:"):
            columns = _columns()
    with widgets.errors_shown():
        kept = run_table.filtered(summaries, query or "")
        return kept, columns, group or ""
    return list(summaries), columns, group or ""


def _group_title(key: str, alike: bool) -> str:
    if not key:
        return "nothing"
    return f"{run_table.COLUMNS[key].title}{' (all the same)' if alike else ''}"


def _columns() -> list[str]:
    known = list(run_table.COLUMNS)
    selection.list_from_url("cols", known, "columns", default=run_table.DEFAULT_COLUMNS)
    chosen = st.multiselect(
        "Columns shown", known, format_func=lambda key: run_table.COLUMNS[key].title, key="columns", width=420
    )
    if tuple(chosen) == run_table.DEFAULT_COLUMNS:
        selection.write(cols=None)
        st.session_state["_url_cols_columns"] = ""
    else:
        selection.list_to_url("cols", "columns")
    return chosen or ["name"]


def live(columns: list[str], group: str) -> None:
    """Table and queue; redrawn every two seconds while something runs or waits."""
    live_table(columns, group)
    summaries = cached.summaries()
    if any(summary.state in (*run_status.ACTIVE, run_status.INTERRUPTED) for summary in summaries):
        queue_parts.queue(places.runs_folder(), summaries)


def live_table(columns: list[str], group: str) -> None:
    """The table and what can be done with the selected rows; redrawn while something runs."""
    summaries = cached.summaries()
    _tell_changes(summaries)
    try:
        kept = run_table.filtered(summaries, st.session_state.get("q") or "")
    except ConfigError:  # said above the table already
        kept = list(summaries)
    if not kept:
        st.info("No run matches the filter.", icon=":material/filter_alt_off:")
        return
    if group:
        kept = run_table.grouped(kept, group)
        _groups(kept, group)
        columns = [*dict.fromkeys([columns[0], "name", group, *columns])]
    chosen = _table(kept, columns)
    selection.write(runs=chosen)
    _actions([summary for summary in kept if summary.id in set(chosen)])


def _groups(kept: Sequence[Summary], group: str) -> None:
    st.dataframe(
        run_table.group_table(kept, group),
        hide_index=True,
        width="content",
        column_config={
            "group": st.column_config.TextColumn(run_table.COLUMNS[group].title),
            "runs": st.column_config.NumberColumn("Runs"),
            "finished": st.column_config.NumberColumn("Completed"),
            "best": st.column_config.NumberColumn("Best (val)", format="%.3f"),
            "mean": st.column_config.NumberColumn("Mean (val)", format="%.3f"),
            "sd": st.column_config.NumberColumn(
                "SD", format="%.3f", help="Over the runs of the group; n/a for one"
            ),
        },
        placeholder="n/a",
        alt="A row per group of runs with the best, mean and spread of their validation scores.",
    )


def _table(kept: Sequence[Summary], columns: Sequence[str]) -> list[str]:
    """Draw the rows; returns the ids selected. The key changes with the list of ids, so that a selection is
    never carried over by position to other runs."""
    ids = [summary.id for summary in kept]
    colours = widgets.run_colours()
    data = run_table.table(kept, columns)
    data.insert(0, "colour", [_swatch(colours.get(run_id, "#888888")) for run_id in ids])
    data.insert(1, "open", [":material/open_in_new:"] * len(ids))
    wanted, _ = selection.divide(selection.read_list("runs"), ids)
    key = f"runs_table_{hash(tuple(ids)) & 0xFFFFFFFF:x}"
    event = st.dataframe(
        data,
        hide_index=True,
        height="auto" if len(ids) <= 10 else 36 * (min(len(ids), HEIGHT_ROWS) + 1),
        row_height=36,
        column_config=_column_config(ids),
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": [ids.index(run_id) for run_id in wanted]}},
        placeholder="n/a",
        key=key,
        alt=f"{len(ids)} runs, newest first, with status, best validation score, model, split and leakage.",
    )
    return selection.rows_to_ids(event.selection.rows, ids)


def _column_config(ids: Sequence[str]) -> dict:
    def open_run() -> None:
        click = st.session_state.get("open_run")
        found = selection.rows_to_ids([click["row"]], ids) if click else []
        if found:
            st.session_state["_go_to_run"] = found[0]

    columns, dark = st.column_config, widgets.is_dark()
    config: dict = {
        "colour": columns.ImageColumn("", width=28, help="The run's colour on every page"),
        "open": columns.ButtonColumn("", width=40, type="tertiary", on_click=open_run, key="open_run"),
        "state": columns.MultiselectColumn(
            "Status",
            options=list(PILLS),
            color=[pair[dark] for pair in PILLS.values()],
            width=100,
        ),
        "name": columns.TextColumn("Name", width=188, pinned=False),
        "progress": columns.ProgressColumn("Progress", format="%d%%", min_value=0, max_value=100, width=88),
        "eta": columns.TextColumn("Left", width=72, help=run_table.COLUMNS["eta"].help),
        "best": columns.NumberColumn("Best (val)", format="%.3f", help=run_table.COLUMNS["best"].help),
        "best_epoch": columns.NumberColumn(
            "Epoch", format="%d", help=run_table.COLUMNS["best_epoch"].help, width=60
        ),
        "fold": columns.NumberColumn("Fold", format="%d", width=48),
        "leakage": columns.MultiselectColumn(
            "Leakage",
            options=list(run_table.LEAK_WORDS.values()),
            color=[LEAK_PILLS[level][dark] for level in run_table.LEAK_WORDS],
            width=120,
        ),
        "age": columns.DatetimeColumn(
            run_table.COLUMNS["age"].title, format="distance", width=104, help=run_table.COLUMNS["age"].help
        ),
        "tags": columns.ListColumn("Tags"),
    }
    for key, column in run_table.COLUMNS.items():
        config.setdefault(key, columns.Column(column.title, help=column.help or None))
    return config


def _swatch(colour: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16"><circle cx="8" cy="8" r="3" fill="{colour}"/></svg>'
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _tell_changes(summaries: Sequence[Summary]) -> None:
    """A notice when a run has ended, failed or come to a standstill since this page was last drawn; and when
    the last active run has ended, the whole page once more."""
    now = {summary.id: "stalled" if summary.stalled else summary.state for summary in summaries}
    before = st.session_state.get("_run_states")
    st.session_state["_run_states"] = now
    if before is None:
        return
    for summary in summaries:
        old, new = before.get(summary.id), now[summary.id]
        if old in (*run_status.ACTIVE, "stalled") and new not in run_status.ACTIVE and old != new:
            icon = "check_circle" if new == run_status.COMPLETED else "error"
            word = "stalled: no sign for minutes" if new == "stalled" else widgets.state_word(new).lower()
            st.toast(f"{widgets.escaped(summary.name)}: {word}", icon=f":material/{icon}:")
    was_busy = any(state in run_status.ACTIVE for state in before.values())
    if was_busy != any(state in run_status.ACTIVE for state in now.values()):
        st.rerun(scope="app")


# --- actions -------------------------------------------------------------------------------------------
def _actions(chosen: list[Summary]) -> None:
    """What can be done with the selected runs. The bar is always there, so that nothing jumps."""
    target = st.session_state.pop("_go_to_run", None)
    if target:
        st.switch_page(places.page("run"), query_params={"id": target})
    locked = bool(places.read_only_reason())
    names = {
        action: run_table.able(chosen, action)
        for action in ("compare", "ensemble", "stop", "resume", "delete")
    }
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        count = widgets.counted(len(chosen), "run") if chosen else "No run"
        st.html(f'<span class="bh-muted bh-num">{count} selected</span>', width="content")
        if st.button(
            "Compare",
            icon=":material/compare_arrows:",
            disabled=not names["compare"] or not places.has_page("compare"),
        ):
            _go("compare", runs=names["compare"])
        if st.button(
            "Ensemble",
            icon=":material/hub:",
            disabled=len(names["ensemble"]) < 2 or not places.has_page("ensemble"),
        ):
            _go("ensemble", members=names["ensemble"])
        if st.button("Stop", icon=":material/stop_circle:", disabled=locked or not names["stop"]):
            _each(names["stop"], lambda folder: launch.stop(folder))
        if st.button("Resume", icon=":material/resume:", disabled=locked or not names["resume"]):
            _each(names["resume"], launch.resume)
        if st.button("Name and tags", icon=":material/edit:", disabled=locked or not chosen):
            label_dialog([summary.id for summary in chosen])
        if st.button(
            "Delete",
            icon=":material/delete:",
            disabled=locked or not names["delete"],
            help="Moves to the trash; can be undone",
        ):
            deleted = _each(names["delete"], launch.delete, rerun=False)
            st.session_state["_undo_delete"] = deleted
            selection.write(runs=None)
            st.rerun(scope="app")


def _go(page: str, **lists: Sequence[Summary]) -> None:
    params = {name: selection.format_list(summary.id for summary in found) for name, found in lists.items()}
    st.switch_page(places.page(page), query_params=params)


def _each(chosen: Sequence[Summary], act, *, rerun: bool = True) -> list[str]:
    """Do something to each run; what fails is said, the others go on. Returns the ids done."""
    done, said = [], []
    for summary in chosen:
        try:
            answer = act(cached.run(summary.id))
            said.append((True, f"{summary.name}: {answer}" if isinstance(answer, str) else ""))
            done.append(summary.id)
        except EngineError as error:
            said.append((False, str(error)))
    st.session_state["_said"] = [(good, text) for good, text in said if text]
    if rerun:
        st.rerun(scope="app")
    return done


def notices() -> None:
    """What the last action did, and the way back from a deletion."""
    for good, text in st.session_state.pop("_said", []):
        if good:
            st.toast(widgets.escaped(text), icon=":material/check:")
        else:
            st.error(widgets.escaped(text), icon=":material/error:")
    widgets.read_only_notice()
    cluster_parts.list_notice(cached.summaries())
    deleted = [
        run_id
        for run_id in st.session_state.get("_undo_delete", [])
        if run_id in run_trash.trashed(places.runs_folder())
    ]
    if deleted:
        with st.container(horizontal=True, vertical_alignment="center", border=True, gap="small"):
            st.html(f"{widgets.counted(len(deleted), 'run')} moved to the trash.", width="content")
            if st.button("Undo", icon=":material/undo:", key="undo_delete"):
                restore(deleted)
            if st.button("Dismiss", type="tertiary", key="dismiss_undo"):
                st.session_state.pop("_undo_delete", None)
                st.rerun()


def restore(ids: Sequence[str]) -> None:
    said = []
    for run_id in ids:
        try:
            run_trash.restore(places.runs_folder(), run_id)
        except EngineError as error:
            said.append((False, str(error)))
    st.session_state["_said"] = said
    st.session_state.pop("_undo_delete", None)
    st.rerun()


@st.dialog("Name, tags and notes", width="medium")
def label_dialog(ids: list[str]) -> None:
    """Names, tags and notes of one run or several. Ids and links stay as they are."""
    folders = [cached.run(run_id) for run_id in ids]
    labels = [folder.label() for folder in folders]
    known = sorted({tag for summary in cached.summaries() for tag in summary.tags})
    if len(ids) == 1:
        names = [st.text_input("Name", labels[0]["name"], max_chars=120)]
        tags = st.multiselect(
            "Tags",
            sorted({*known, *labels[0]["tags"]}),
            default=labels[0]["tags"],
            accept_new_options=True,
        )
        notes = st.text_area("Notes", labels[0]["notes"], max_chars=4000)
        changes = [{"tags": tags, "notes": notes}]
    else:
        names = _names_table([label["name"] for label in labels])
        more = st.multiselect("Add tags to all of them", known, accept_new_options=True)
        common = [
            tag for tag in dict.fromkeys(labels[0]["tags"]) if all(tag in label["tags"] for label in labels)
        ]
        less = st.multiselect("Take tags off all of them", common) if common else []
        changes = run_table.retagged(labels, more, less)
    if st.button("Save", type="primary"):
        with widgets.errors_shown():
            for folder, name, change in zip(folders, names, changes, strict=True):
                folder.write_label(**change, **({"name": name.strip()} if name and name.strip() else {}))
            st.rerun()


def _names_table(names: list[str]) -> list[str]:
    """The names of several runs, each to be edited in its row."""
    edited = st.data_editor(
        {"Name": names},
        hide_index=True,
        num_rows="fixed",
        width="stretch",
        height=min(36 * (len(names) + 1), 360),
        row_height=36,
        column_config={"Name": st.column_config.TextColumn("Name", max_chars=120, required=True)},
        key="names_edited",
        alt=f"The names of {len(names)} runs; a double click or Enter edits one.",
    )
    return [str(name) for name in edited["Name"]]


def trash() -> None:
    """What was deleted: bring it back, or empty the trash for good (asked twice)."""
    ids = run_trash.trashed(places.runs_folder())
    if not ids:
        return
    with st.popover(f"Trash ({len(ids)})", icon=":material/delete:"):
        names = {run_id: RunFolder(places.runs_folder() / run_folder.TRASH / run_id) for run_id in ids}
        chosen = st.multiselect(
            "Deleted runs", ids, format_func=lambda run_id: _trashed_name(names[run_id]), key="trash_ids"
        )
        locked = bool(places.read_only_reason())
        if st.button("Restore", disabled=locked or not chosen, key="trash_restore"):
            restore(chosen)
        sure = st.checkbox("Delete them for good; this cannot be undone", disabled=locked, key="trash_sure")
        if st.button("Empty the trash", disabled=locked or not sure, key="trash_empty"):
            with widgets.errors_shown():
                run_trash.empty_trash(places.runs_folder())
                st.rerun()


def _trashed_name(folder: RunFolder) -> str:
    try:
        return folder.name
    except EngineError:
        return folder.id
