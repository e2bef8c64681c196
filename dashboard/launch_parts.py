"""The parts of the launch form."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, cluster_parts, forecast, launch_form, measure, places, selection, widgets
from dashboard.launch_form import Draft
from engine.data.manifest import MAGNIFICATIONS
from engine.data.splits import PROTOCOLS
from engine.errors import ConfigError, EngineError
from engine.runs import catalog, executors, launch, presets
from engine.runs import folder as run_folder
from engine.runs.config import RunConfig
from engine.runs.executors import local
from engine.runs.launch import Prepared

_FIELDS = {dotted: item for _, dotted, item in launch_form.fields()}
MAX_RUNS = 200


# --- one field -----------------------------------------------------------------------------------------
def _key(dotted: str) -> str:
    """Widget keys change with what the form was filled from, so that a link or a fork fills it anew."""
    return f"train_{st.session_state.get('_train_generation', 0)}_{dotted}"


def _label(dotted: str) -> dict[str, Any]:
    facts = _FIELDS[dotted].metadata
    return {
        "label": facts["label"],
        "help": f"{facts['help']}  \nOn the command line: `{facts['flag']}`",
        "key": _key(dotted),
    }


def field(dotted: str, value: Any, *, empty: str = "") -> Any:
    """The widget of a field, chosen by its facts: choices, a switch, a number in its range, or a line of text.

    `empty`: for values that leave it to the recipe or the model (`40 (recipe)`); the box is then empty.
    """
    item = _FIELDS[dotted]
    facts = item.metadata
    about = _label(dotted)
    if facts.get("choices"):
        choices = list(facts["choices"])
        names = {"": empty or "as the recipe says"}
        index = choices.index(value) if value in choices else 0
        return st.selectbox(
            options=choices,
            index=index,
            format_func=lambda name: names[name] if name in names else str(name),
            **about,
        )
    if isinstance(item.default, bool):
        return st.toggle(value=bool(value), **about)
    if isinstance(item.default, int | float):
        return _number(item, value, about, empty)
    return st.text_input(value=str(value), **about)


def _number(item: dataclasses.Field, value: float, about: dict[str, Any], empty: str) -> float:
    kind: Any = float if isinstance(item.default, float) else int
    low, high = item.metadata.get("low"), item.metadata.get("high")
    options: dict[str, Any] = {"min_value": kind(low), "max_value": kind(high)}
    if kind is float:
        options |= {"format": "%g", "step": 1e-4 if item.name == "lr" else 0.05}
    if empty:
        unset = item.metadata.get("unset", 0)
        start: Any = None if value == unset else kind(value)
        given = st.number_input(value=start, placeholder=empty, **options, **about)
        return kind(unset) if given is None else given
    return st.number_input(value=kind(value), **options, **about)


# --- the form ------------------------------------------------------------------------------------------
def form() -> Draft:
    """The three groups; returns what they hold and writes it to the URL."""
    base, start = _start()
    _sources(base)
    columns = st.columns(3, border=True, gap="small")
    with columns[0]:
        st.subheader("Data", anchor=False)
        data, folds = _data(start)
    with columns[1]:
        st.subheader("Model", anchor=False)
        model, models = _model(start)
    with columns[2]:
        st.subheader("Training", anchor=False)
        training, seeds, rates = _training(start)
        executor = cluster_parts.picker(start.executor, _key("executor"))
    config = dataclasses.replace(start.config, data=data, model=model, training=training)
    return Draft(config, models, folds, seeds, executor, rates)


def _start() -> tuple[RunConfig, Draft]:
    """What the form is filled with: the URL on top of a former run, an uploaded file or the defaults."""
    params = {name: st.query_params[name] for name in st.query_params}
    known = places.datasets()
    session = st.session_state
    if not params and session.get("_train_params"):
        params = session["_train_params"]  # back from another page: go on where the form was left
    if params != session.get("_train_params"):
        session["_train_generation"] = session.get("_train_generation", 0) + 1
    base = launch_form.first_config(known[0] if known else "")
    origin = params.get("from", "")
    if origin:
        try:
            folder = cached.run(origin)
            base = dataclasses.replace(folder.config(), name="", experiment="", parent=folder.id, details={})
        except EngineError:
            widgets.missing_notice([origin])
    elif session.get("_train_upload") is not None:
        base = session["_train_upload"]
    start, bad = launch_form.from_params(
        {name: value for name, value in params.items() if name != "from"}, base
    )
    if bad:
        st.warning(
            widgets.escaped(f"The link has values that cannot be read, left as they were: {', '.join(bad)}."),
            icon=":material/link_off:",
        )
    # The widgets keep what they were first filled with; the start is fixed until the link changes.
    generation = session.get("_train_generation", 0)
    if session.get("_train_start", (None,))[0] != generation:
        session["_train_start"] = (generation, base, start)
    return session["_train_start"][1], session["_train_start"][2]


def _sources(base: RunConfig) -> None:
    """Where the values come from, and the ways to begin anew."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if base.parent:
            st.html(
                f'<span class="bh-muted">Filled from the run {widgets.plain(_name_of(base.parent))}.</span>',
                width="content",
            )
        with st.popover("Fill from", icon=":material/upload_file:"):
            done = [summary for summary in cached.summaries() if summary.config.kind == "train"]
            names = widgets.run_labels(done)
            chosen = st.selectbox(
                "A former run", [summary.id for summary in done], index=None, format_func=lambda run_id: names.get(run_id) or str(run_id),
                placeholder="Choose a run",
            )  # fmt: skip
            if chosen:
                _begin_from(chosen)
            file = st.file_uploader("A configuration (JSON)", type="json", max_upload_size=1)
            if file is not None:
                _upload(file.getvalue())
        if st.button("Start over", icon=":material/restart_alt:", type="tertiary"):
            _forget()
            st.switch_page(places.page("train"))


def _name_of(run_id: str) -> str:
    try:
        return cached.run(run_id).name
    except EngineError:
        return run_id


def _begin_from(run_id: str) -> None:
    _forget()
    st.switch_page(places.page("train"), query_params={"from": run_id})


def _forget() -> None:
    for name in ("_train_params", "_train_upload", "_train_start"):
        st.session_state.pop(name, None)
    st.session_state["_train_generation"] = st.session_state.get("_train_generation", 0) + 1


def _upload(data: bytes) -> None:
    """Take a config.json, judged by what is in it."""
    try:
        record = json.loads(data.decode("utf-8"))
        if not isinstance(record, dict):
            raise ConfigError(
                "The file is not a configuration",
                found=type(record).__name__,
                remedy="Give a config.json of a run",
            )
        config = RunConfig.from_record(record)
    except (ValueError, UnicodeDecodeError) as error:
        widgets.show_error(
            ConfigError("The file is not JSON", found=str(error)[:120], remedy="Give a config.json of a run")
        )
        return
    except EngineError as error:
        widgets.show_error(error)
        return
    if st.button("Use this configuration", type="primary"):
        _forget()
        st.session_state["_train_upload"] = dataclasses.replace(
            config, name="", experiment="", parent="", details={}
        )
        st.switch_page(places.page("train"))


# --- data ----------------------------------------------------------------------------------------------
def _data(start: Draft):
    now = start.config.data
    known = list(dict.fromkeys([*([now.root] if now.root else []), *places.datasets()]))
    root = st.selectbox(
        options=known,
        index=known.index(now.root) if now.root in known else None,
        accept_new_options=True,
        placeholder="Choose or type a folder",
        **_label("data.root"),
    )
    root = str(root or "").strip()
    there = _summary(root)
    powers = st.pills(
        options=list(there or MAGNIFICATIONS),
        selection_mode="multi",
        default=[name for name in now.magnifications if name in (there or MAGNIFICATIONS)],
        **_label("data.magnifications"),
    )
    choices = list(_FIELDS["data.protocol"].metadata["choices"])
    protocol = st.selectbox(
        options=choices,
        index=choices.index(now.protocol) if now.protocol in choices else 0,
        format_func=_protocol_name,
        **_label("data.protocol"),
    )
    available = list(PROTOCOLS[protocol].folds) if protocol in PROTOCOLS else [0]
    folds = st.pills(
        options=available,
        selection_mode="multi",
        default=[fold for fold in start.folds if fold in available] or available[:1],
        disabled=len(available) == 1,
        **{**_label("data.fold"), "label": "Folds", "key": _key(f"data.fold_{protocol}")},
    )
    with st.expander("Advanced"):
        split_csv = field("data.split_csv", now.split_csv)
        split_seed = field("data.split_seed", now.split_seed)
        task = field("data.task", now.task)
    folds = tuple(sorted(folds)) or (available[0],)
    data = dataclasses.replace(
        now,
        root=root,
        magnifications=tuple(name for name in MAGNIFICATIONS if name in powers)
        or tuple(name for name in powers),
        protocol=protocol,
        fold=folds[0],
        split_seed=int(split_seed),
        split_csv=split_csv.strip(),
        task=task,
    )
    _verdict(data)
    return data, folds


def _protocol_name(name: str) -> str:
    return PROTOCOLS[name].label if name in PROTOCOLS else "From a CSV" if name == "csv" else str(name)


def _summary(root: str) -> tuple[str, ...]:
    """The data set in one line; returns its magnifications."""
    if not root:
        return ()
    try:
        manifest, inventory = cached.dataset(root)
    except EngineError:
        return ()  # said among the problems
    text = f"{inventory.images:,} images · {inventory.slides} slides · {inventory.cases} cases"
    st.caption(widgets.escaped(text))
    return manifest.magnifications


def _prepared(data) -> Prepared | None:
    try:
        return cached.prepared(data) if data.root else None
    except EngineError:
        return None


def _verdict(data) -> None:
    ready = _prepared(data)
    if ready is None:
        return
    counts = ready.manifest.table["split"].value_counts()
    sides = " · ".join(f"{side} {int(counts.get(side, 0)):,}" for side in ("train", "val", "test"))
    st.caption(widgets.escaped(sides))
    widgets.leakage_badge(ready.audit.as_record())


# --- model ---------------------------------------------------------------------------------------------
def _model(start: Draft):
    now = start.config.model
    key = _key("model.name")
    known = list(catalog.BY_NAME)
    if key not in st.session_state:
        st.session_state[key] = [name for name in start.models if name in known]
    with st.container(horizontal=True, gap="xsmall"):
        groups = {
            "All V1": catalog.FAMILIES["EfficientNetV1"],
            "All V2": catalog.FAMILIES["EfficientNetV2"],
            "The study's ten": catalog.STUDY,
        }
        for label, names in groups.items():
            if st.button(label, key=_key(f"group_{label}"), type="tertiary"):
                st.session_state[key] = list(dict.fromkeys([*st.session_state[key], *names]))
    models = st.multiselect(
        options=known,
        format_func=lambda name: f"{catalog.BY_NAME[name].label} ({name})",
        placeholder="Choose one or several",
        **{**_label("model.name"), "label": "Models"},
    )
    records = [catalog.BY_NAME[name] for name in models]
    weights = [*catalog.PRETRAINED, *([now.pretrained] if now.pretrained not in catalog.PRETRAINED else [])]
    words = {
        "hub": "ImageNet, from the hub (network)",
        "offline": "ImageNet, from an installed package",
        "none": "Random",
    }
    pretrained = st.selectbox(
        options=weights,
        index=weights.index(now.pretrained),
        format_func=lambda name: words[name] if name in words else str(name),
        accept_new_options=True,
        **_label("model.pretrained"),
    )
    made_for = _recipe_of(start).geometry
    geometry = field("model.geometry", now.geometry, empty=f"as the recipe says: {made_for}")
    sizes = sorted({record.input_size(geometry or made_for) for record in records})
    own = f"the model's: {', '.join(map(str, sizes))}" if sizes else "the model's own"
    size = field("model.image_size", now.image_size, empty=own)
    with st.expander("Advanced"):
        dropout = field("model.dropout", now.dropout)
    model = dataclasses.replace(
        now,
        name=models[0] if models else "",
        pretrained=(pretrained or "").strip(),
        image_size=int(size),
        geometry=geometry,
        dropout=float(dropout),
    )
    return model, tuple(models)


def _recipe_of(start: Draft) -> presets.Recipe:
    """The recipe that the form holds; its widget comes after those that ask."""
    chosen = st.session_state.get(_key("training.recipe"), start.config.training.recipe)
    return presets.PRESETS.get(str(chosen)) or next(iter(presets.PRESETS.values()))


# --- training ------------------------------------------------------------------------------------------
def _training(start: Draft):
    now = start.config.training
    names = list(presets.PRESETS)
    recipe = st.selectbox(
        options=names,
        index=names.index(now.recipe) if now.recipe in names else 0,
        format_func=lambda name: presets.PRESETS[name].label if name in presets.PRESETS else str(name),
        **_label("training.recipe"),
    )
    preset = presets.PRESETS[recipe]
    with st.popover("Lab note", icon=":material/science:"):
        st.write(widgets.escaped(preset.note))
    left, right = st.columns(2, gap="small")
    with left:
        epochs = field("training.epochs", now.epochs, empty=f"{preset.stages[-1].epochs} (recipe)")
        rates_text = st.text_input(
            value=", ".join(f"{rate:g}" for rate in start.rates if rate),
            placeholder=f"{preset.stages[-1].lr:g} (recipe)",
            **{**_label("training.lr"), "label": "Learning rates"},
        )
    with right:
        batch = field("training.batch_size", now.batch_size, empty=f"{preset.batch_size} (recipe)")
        seeds_text = st.text_input(
            value=", ".join(map(str, start.seeds)), **{**_label("training.seed"), "label": "Seeds"}
        )
    seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    with widgets.errors_shown():
        seeds = launch.parse_numbers(seeds_text)
    with widgets.errors_shown():
        rates = launch.parse_rates(rates_text)
    device = _device(now.device)
    with st.expander("Advanced"):
        values = {
            name: field(f"training.{name}", getattr(now, name), empty=_recipes_own(preset, name))
            for name in ADVANCED
        }
    training = dataclasses.replace(
        now,
        recipe=recipe,
        epochs=int(epochs),
        batch_size=int(batch),
        lr=rates[0] if rates else 0.0,
        device=device,
        seed=seeds[0] if seeds else now.seed,
        **values,
    )
    return training, seeds, rates


ADVANCED = (
    "augmentation", "sampling", "loss", "class_weights", "label_smoothing", "mixup", "cutmix", "ema", "weight_decay",
    "clip", "accumulate", "patience", "tta", "precision", "compile", "workers", "mode",
)  # fmt: skip


def _recipes_own(preset: presets.Recipe, name: str) -> str:
    """What an empty box stands for; nothing for a field that the recipe does not decide."""
    facts = _FIELDS[f"training.{name}"].metadata
    if "unset" not in facts and "" not in (facts.get("choices") or ()):
        return ""
    value = getattr(preset, name)
    shown = (
        ("on" if value else "off")
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )
    return f"{shown} (recipe)"


def _device(now: str) -> str:
    """The devices that are there, and what is free on each."""
    devices = local.devices(places.runs_folder())
    words = {"auto": "auto (a GPU where there is one)"}
    for device in devices:
        state = "in use" if device.runs else "free"
        words[device.name] = f"{device.name}, {device.title}, {state}"
    choices = list(dict.fromkeys([*words, now]))
    chosen = st.selectbox(
        options=choices,
        index=choices.index(now),
        format_func=lambda name: words[name] if name in words else str(name),
        **_label("training.device"),
    )
    free = "; ".join(
        f"{device.name}: {device.free_mb / 1024:,.1f} of {device.memory_mb / 1024:,.1f} GB free"
        for device in devices
    )
    waiting = sum(summary.state == run_folder.QUEUED for summary in cached.summaries())
    st.caption(widgets.escaped(free + (f"; {widgets.counted(waiting, 'run')} waiting" if waiting else "")))
    return chosen


# --- launch --------------------------------------------------------------------------------------------
def launch_panel(draft: Draft) -> None:
    """Schedule, problems, doubts, how many runs and how long, the command, and the one button."""
    session = st.session_state
    left, right = st.columns([2, 1], gap="large")
    with left, st.container(horizontal=True, vertical_alignment="bottom"):
        name = field("name", draft.config.name)
        experiment = field("experiment", draft.config.experiment)
    draft = dataclasses.replace(
        draft, config=dataclasses.replace(draft.config, name=name.strip(), experiment=experiment.strip())
    )
    _to_url(draft)
    with st.spinner("Checking ..."):
        planned, problems = plan(draft)
        problems += executors.find(draft.executor).problems(places.runs_folder())
    ready = _prepared(draft.config.data)
    found = launch_form.doubts(draft.config, ready, draft.models)
    with right:
        _schedule(draft.config, ready)
        _batch(draft.config, ready)
    with left:
        widgets.show_errors(problems, f"{len(problems)} problems keep this from starting")
        sure = True
        if found and not problems:
            st.warning("\n".join(f"- {widgets.escaped(text)}" for text in found), icon=":material/help:")
            sure = st.checkbox("I mean it: start in spite of this", key=_key("sure_" + str(len(found))))
        reason = places.read_only_reason()
        if reason:
            st.warning(widgets.escaped(reason), icon=":material/lock:")
        count = len(planned)
        _stated(draft, planned, ready)
        clicked = st.button(
            f"Start {widgets.counted(count, 'run')}" if count else "Start",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(problems or reason) or not count or not sure,
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
        st.session_state.setdefault(key, run_folder.new_id("experiment"))
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
    return planned, [*problems, *launch.all_problems(planned, cached.problems)]


def _to_url(draft: Draft) -> None:
    """Write what differs from the start to the URL, so that the link opens the same form."""
    base = st.session_state["_train_start"][1]
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


def _stated(draft: Draft, planned: list[RunConfig], ready: Prepared | None) -> None:
    """How many runs, how long, how much memory: before the button."""
    if not planned:
        return
    parts = [(len(draft.models), "model"), (len(draft.folds), "fold"), (len(draft.seeds), "seed")]
    parts += [(len(draft.rates), "learning rate")] if len(draft.rates) > 1 else []
    product = " × ".join(widgets.counted(n, noun) for n, noun in parts)
    text = f"<b>{widgets.counted(len(planned), 'run')}</b>" + (f" = {product}" if len(planned) > 1 else "")
    if ready is not None:
        counts = ready.manifest.table["split"].value_counts()
        past = cached.past_runs()
        guesses = [
            forecast.forecast(config, int(counts.get("train", 0)), int(counts.get("val", 0)), past)
            for config in planned
        ]
        known = [guess for guess in guesses if math.isfinite(guess.seconds)]
        if known:
            total = sum(guess.seconds for guess in known)
            memory = max(
                (guess.memory_mb for guess in known if math.isfinite(guess.memory_mb)), default=float("nan")
            )
            text += f" · about {widgets.duration(total)}" + (" one after another" if len(known) > 1 else "")
            if math.isfinite(memory):
                text += f", up to {memory:,.0f} MB"
            sources = ", ".join(dict.fromkeys(guess.source for guess in known))
            text += f'<span class="bh-muted"> (scaled from {widgets.plain(sources[:80])})</span>'
        if len(known) < len(planned):
            which = "their time" if len(planned) > 1 else "its time"
            left = len(planned) - len(known)
            text += f' · <span class="bh-muted">{"for " + str(left) + " of them " if known else ""}{which} is not known: no such run has finished here</span>'
    st.html(f'<div style="margin:.2rem 0">{text}</div>')
    if ready is not None:
        _measure(planned[0], ready)


def _measure(config: RunConfig, ready: Prepared) -> None:
    """Time and memory of the first run from a few real steps, on demand: for what never ran here."""
    counts = ready.manifest.table["split"].value_counts()
    sizes = tuple(int(counts.get(side, 0)) for side in ("train", "val", "test"))
    known = st.session_state.get("_train_measured", {})
    name = json.dumps(
        [config.model.name, config.to_record()["model"], config.to_record()["training"], sizes],
        sort_keys=True,
    )
    if name in known:
        guess = known[name]
        st.caption(
            widgets.escaped(
                f"{config.name}: about {widgets.duration(guess.seconds)}, {guess.memory_mb:,.0f} MB ({guess.source})."
            )
        )
        return
    if st.button(
        "Measure time and memory",
        icon=":material/timer:",
        type="tertiary",
        key="measure",
        help="Some real steps on made-up pixels, in a process of its own.",
    ):
        with widgets.errors_shown():
            with st.spinner("A few real steps ..."):
                guess = measure.measure(config, *sizes)
            st.session_state["_train_measured"] = {**known, name: guess}
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
    for column, words, colour in (("head", "head", "#7B5BC4"), ("backbone", "backbone", "#8A8494")):
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
        key=_key("batch"),
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
            sheet = cached.batch_sheet(paths, recipe.augmentation, min(size, 160), geometry, 4)
        said = (
            f"{recipe.augmentation} augmentation: one training image per class (left) and four versions of it"
        )
        st.image(sheet, width="stretch", alt=said)
        st.caption(widgets.escaped(f"{said}, drawn at {min(size, 160)} pixels."))


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
