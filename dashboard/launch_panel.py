"""What stands below the launch form: schedule, problems, doubts, how many runs and how long, the one button."""

from __future__ import annotations

import dataclasses
import json
import math

import plotly.graph_objects as go
import streamlit as st

from dashboard import (
    cached,
    launch_form,
    launch_parts,
    pixel_preview,
    places,
    run_figures,
    selection,
    widgets,
)
from dashboard.launch_form import Draft
from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError, EngineError
from engine.report import theme
from engine.runs import catalog, creation, executors, forecast, launch, presets
from engine.runs.config import RunConfig
from engine.runs.launch import Prepared

MAX_RUNS = 200


def show(draft: Draft) -> None:
    """Schedule, problems, doubts, how many runs and how long, the command, and the one button."""
    session = st.session_state
    left, right = st.columns([2, 1], gap="large")
    with left, st.container(horizontal=True, vertical_alignment="bottom"):
        name = launch_parts.field("name", draft.config.name)
        experiment = launch_parts.field("experiment", draft.config.experiment)
    draft = dataclasses.replace(
        draft, config=dataclasses.replace(draft.config, name=name.strip(), experiment=experiment.strip())
    )
    _to_url(draft)
    with st.spinner("Checking ..."):
        planned, problems = plan(draft)
        problems += executors.find(draft.executor).problems(places.runs_folder())
    ready = launch_parts.prepared(draft.config.data)
    found = launch_form.doubts(draft.config, ready, launch_parts.of_folds(draft.config.data, draft.folds))
    with right:
        _schedule(draft.config, ready)
        _batch(draft.config, ready)
    with left:
        widgets.show_errors(problems, f"{len(problems)} problems keep this from starting")
        sure = True
        if found and not problems:
            st.warning("\n".join(f"- {widgets.escaped(text)}" for text in found), icon=":material/help:")
            # Another doubt is another question: a tick given to one is not given to the next.
            key = launch_parts.key_of(f"sure_{hash(tuple(found)) & 0xFFFFFFFF:x}")
            sure = st.checkbox("I mean it: start in spite of this", key=key)
        locked = widgets.read_only_notice()
        count = len(planned)
        _stated(draft, planned, ready)
        clicked = st.button(
            f"Start {widgets.counted(count, 'run')}" if count else "Start",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(problems) or locked or not count or not sure,
            key="launch",
        )
        _commands(draft, planned)
    if clicked:
        _launch(planned, draft.executor)
    session["_train_last"] = draft


def _commands(draft: Draft, planned: list[RunConfig]) -> None:
    """The same launch as one command line, and the configuration as a file."""
    if not planned:
        return
    st.caption("The same from the command line:")
    config = draft.config.changed(experiment=planned[0].experiment, model__geometry=planned[0].model.geometry)
    line = launch.command_line(
        config,
        models=draft.models,
        folds=draft.folds,
        seeds=draft.seeds,
        rates=draft.rates,
        executor=draft.executor,
    )
    st.code(line, language="bash", wrap_lines=True)
    widgets.download_text(
        "Configuration (JSON)" if len(planned) == 1 else "Configuration of the first run (JSON)",
        json.dumps(planned[0].to_record(), indent=1, ensure_ascii=False),
        "config.json",
        "download_config",
    )


def plan(draft: Draft) -> tuple[list[RunConfig], list[EngineError]]:
    """The runs of a draft, and everything that is wrong with any of them, each problem once."""
    problems: list[EngineError] = []
    if not draft.models:
        problems.append(ConfigError("No model is chosen", remedy="Choose one or several"))
    if not draft.seeds:
        problems.append(ConfigError("No seed is given", remedy="Give at least one, like 0"))
    if not draft.rates:
        problems.append(ConfigError("A learning rate cannot be read", remedy="Give numbers like 1e-4, 1e-3"))
    if problems:
        return [], problems
    config = draft.config
    if not config.experiment and max(map(len, (draft.models, draft.folds, draft.seeds, draft.rates))) > 1:
        # One id for as long as the form is filled in, so that the command shown does not change at every click.
        key = "_train_experiment"
        st.session_state.setdefault(key, creation.new_id("experiment"))
        config = dataclasses.replace(config, experiment=st.session_state[key])
    planned = launch.plan(
        config, models=draft.models, folds=draft.folds, seeds=draft.seeds, rates=draft.rates
    )
    if len(planned) > MAX_RUNS:
        problems.append(
            ConfigError(
                "That many runs at once are no experiment",
                found=f"{len(planned)} runs",
                remedy=f"Start at most {MAX_RUNS}",
            )
        )
    return planned, [*problems, *launch.all_problems(planned, cached.data_problems)]


def _to_url(draft: Draft) -> None:
    """Write what differs from the start to the URL, so that the link opens the same form."""
    known = places.datasets()
    base = launch_form.link_base(st.session_state["_train_start"][1], known[0] if known else "")
    params = launch_form.to_params(draft, base)
    if not base.parent and draft.config.data.root:
        params["data"] = draft.config.data.root
    if base.parent:
        params["from"] = base.parent
    for name in list(st.query_params):
        if name not in params:
            del st.query_params[name]
    selection.write(**params)
    st.session_state["_train_params"] = params
    st.session_state.pop("_train_upload", None)  # from here on the link says all of it


def _stated(draft: Draft, planned: list[RunConfig], ready: Prepared | None) -> None:
    """How many runs, how long, how much memory: before the button."""
    if not planned:
        return
    parts = [(len(draft.models), "model"), (len(draft.folds), "fold"), (len(draft.seeds), "seed")]
    parts += [(len(draft.rates), "learning rate")] if len(draft.rates) > 1 else []
    product = " × ".join(widgets.counted(n, noun) for n, noun in parts)
    text = f"<b>{widgets.counted(len(planned), 'run')}</b>" + (f" = {product}" if len(planned) > 1 else "")
    if ready is None:
        st.html(f'<div style="margin:.2rem 0">{text}</div>')
        return
    sizes, runs = launch.part_sizes(ready.manifest), places.runs_folder()
    finished = forecast.known_runs(runs)
    guesses = [forecast.expected(config, sizes, runs, finished) for config in planned]
    st.html(f'<div style="margin:.2rem 0">{text}{launch_form.cost_html(guesses)}</div>')
    unknown = [config for config, guess in zip(planned, guesses, strict=True) if not guess.known]
    if unknown and not places.read_only_reason():
        _measure(unknown, sizes)


def _measure(unknown: list[RunConfig], sizes: tuple[int, int, int]) -> None:
    """Time and memory from a few real steps, on demand: for every model that never ran here.

    The answer is kept in the runs folder, so that the launch and the command line know it too.
    """
    distinct = {forecast.same_cost(config, sizes): config for config in unknown}
    what = "" if len(distinct) == 1 else f" of {len(distinct)} models"
    clicked = st.button(
        f"Measure time and memory{what}",
        icon=":material/timer:",
        type="tertiary",
        key="measure",
        help="Some real steps on made-up pixels, in a process of its own; about ten seconds a model.",
    )
    if not clicked:
        return
    bar = st.progress(0.0, text="A few real steps ...")
    with widgets.errors_shown():
        for done, config in enumerate(distinct.values()):
            bar.progress(
                done / len(distinct), text=widgets.escaped(f"A few real steps of {config.model.name} ...")
            )
            forecast.measure(config, sizes, places.runs_folder())
        st.rerun()


def _schedule(config: RunConfig, ready: Prepared | None) -> None:
    """The learning rates over the run, as they will be."""
    try:
        recipe = presets.resolve(config)
    except ConfigError:
        return
    images = int((ready.manifest.table["split"] == "train").sum()) if ready is not None else 1000
    updates = max(1, -(-images // recipe.images_per_update))
    table = presets.schedule_preview(recipe, min(updates, 20))
    fig = go.Figure()
    for column, words, colour in (
        ("head", "head", theme.accent(widgets.is_dark())),
        ("backbone", "backbone", run_figures.TRAIN),
    ):
        part = table.dropna(subset=[column])
        if part.empty:
            continue
        fig.add_scatter(x=part["epoch"], y=part[column], mode="lines", line={"color": colour, "width": 2}, name=words, showlegend=False,
                        hovertemplate=f"{words}, epoch %{{x:.1f}}: %{{y:.2e}}<extra></extra>")  # fmt: skip
        fig.add_annotation(x=part["epoch"].iloc[-1], y=math.log10(max(part[column].max(), 1e-9)), text=words, showarrow=False,
                           yshift=9, xanchor="right", font={"color": colour, "size": 12})  # fmt: skip
    fig.update_yaxes(type="log", tickformat=".0e", dtick=1)
    fig.update_xaxes(title_text="epoch", rangemode="tozero")
    fig.update_layout(
        height=190,
        margin={"l": 8, "r": 8, "t": 26, "b": 8},
        title={"text": "Learning rate", "font_size": 13, "x": 0},
    )
    said = "; ".join(
        f"stage {position}: {stage.epochs} epochs, {presets.TRAINABLE[stage.trainable].split(';')[0]}"
        for position, stage in enumerate(recipe.stages, 1)
    )
    widgets.show_figure(
        fig,
        f"{recipe.epochs} epochs of {updates} updates, {recipe.images_per_update} images each; {said}.",
        f"Learning rate over {recipe.epochs} epochs. {said}.",
        "schedule",
    )


def _batch(config: RunConfig, ready: Prepared | None) -> None:
    """A few training images as the network will see them, on demand."""
    if ready is None:
        return
    try:
        recipe = presets.resolve(config)
    except ConfigError:
        return
    if not st.toggle(
        "Preview an augmented batch",
        key=launch_parts.key_of("batch"),
        help="Drawn by a process of its own; takes some seconds.",
    ):
        return
    record = catalog.BY_NAME.get(config.model.name)
    geometry = config.model.geometry or recipe.geometry
    size = config.model.image_size or (record.input_size(geometry) if record else 224)
    train = ready.manifest.table[ready.manifest.table["split"] == "train"]
    rows = train.groupby("label", sort=False).head(1)
    paths = tuple(str(ready.manifest.absolute(str(path))) for path in rows["path"][:3])
    with widgets.errors_shown():
        with st.spinner("Augmenting ..."):
            normaliser = cached.stain_normaliser(ready, config.model.stain)
            seen = Preprocessing(size, geometry, recipe.interpolation, normaliser)
            sheet, own_colours = cached.batch_sheet(paths, recipe.augmentation, seen, 4)
        said = pixel_preview.batch_caption(recipe.augmentation, seen, "training image", 4, own_colours)
        st.image(sheet, width="stretch", alt=said)
        st.caption(widgets.escaped(said))


def _launch(planned: list[RunConfig], executor: str) -> None:
    with widgets.errors_shown():
        with st.spinner(f"Starting {widgets.counted(len(planned), 'run')} ..."):
            folders = launch.start_all(planned, places.runs_folder(), executor=executor)
        places.remember(planned[0].data.root)
        st.session_state.pop("_train_experiment", None)
        if len(folders) == 1:
            st.switch_page(places.page("run"), query_params={"id": folders[0].id})
        st.switch_page(
            places.page("runs"), query_params={"q": planned[0].experiment} if planned[0].experiment else {}
        )
