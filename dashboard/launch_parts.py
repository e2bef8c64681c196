"""The three groups of the launch form; what stands below them is in launch_panel."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard import cached, cluster_parts, launch_form, places, widgets
from dashboard.launch_form import Draft
from engine.data.manifest import MAGNIFICATIONS
from engine.data.splits import PROTOCOLS
from engine.errors import ConfigError, EngineError
from engine.runs import catalog, launch, presets
from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.executors import local
from engine.runs.launch import Prepared

_FIELDS = {dotted: item for _, dotted, item in launch_form.fields()}
MAX_RUNS = 200


# --- one field -----------------------------------------------------------------------------------------
def key_of(dotted: str) -> str:
    """Widget keys change with what the form was filled from, so that a link or a fork fills it anew."""
    return f"train_{st.session_state.get('_train_generation', 0)}_{dotted}"


def _label(dotted: str) -> dict[str, Any]:
    facts = _FIELDS[dotted].metadata
    return {
        "label": facts["label"],
        "help": f"{facts['help']}  \nOn the command line: `{facts['flag']}`",
        "key": key_of(dotted),
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
        training, seeds, rates, executor = _training(start)
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
        **{**_label("data.fold"), "label": "Folds", "key": key_of(f"data.fold_{protocol}")},
    )
    with st.expander("Advanced"):
        split_csv = field("data.split_csv", now.split_csv)
        split_seed = field("data.split_seed", now.split_seed)
        task = field("data.task", now.task)
        keep_ambiguous = field("data.keep_ambiguous", now.keep_ambiguous)
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
        keep_ambiguous=bool(keep_ambiguous),
    )
    _verdict(data, folds)
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


def prepared(data) -> Prepared | None:
    """The data set divided as the form says; None where it cannot be (which is among the problems)."""
    try:
        return cached.prepared(data) if data.root else None
    except EngineError:
        return None


def of_folds(data, folds: Sequence[int]) -> dict[int, Prepared]:
    """Fold -> the data set divided by it; folds that cannot be made are left out (they are among the problems)."""
    found = {fold: prepared(dataclasses.replace(data, fold=fold)) for fold in folds}
    return {fold: ready for fold, ready in found.items() if ready is not None}


def _verdict(data, folds: Sequence[int]) -> None:
    """How many images each fold trains on, chooses on and is tested on, and the worst of what leaks."""
    ready = of_folds(data, folds)
    if not ready:
        return
    lines = []
    for fold, one in ready.items():
        counts = one.manifest.table["split"].value_counts()
        sides = " · ".join(f"{side} {int(counts.get(side, 0)):,}" for side in ("train", "val", "test"))
        lines.append(f"fold {fold}: {sides}" if len(ready) > 1 else sides)
    st.caption("  \n".join(map(widgets.escaped, lines)))
    widgets.leakage_badge(launch_form.worst_audit(ready))


# --- model ---------------------------------------------------------------------------------------------
def _model(start: Draft):
    now = start.config.model
    key = key_of("model.name")
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
            if st.button(label, key=key_of(f"group_{label}"), icon=":material/add:", type="tertiary"):
                st.session_state[key] = list(dict.fromkeys([*st.session_state[key], *names]))
    models = st.multiselect(
        options=known,
        format_func=lambda name: catalog.BY_NAME[name].label if name in catalog.BY_NAME else str(name),
        placeholder="Choose one or several",
        **{**_label("model.name"), "label": "Models"},
    )
    records = [catalog.BY_NAME[name] for name in models]
    if len(records) > 2:  # the box shows one line of them
        st.caption(widgets.escaped(f"{len(records)}: {', '.join(record.label for record in records)}"))
    weights = [*catalog.PRETRAINED, *([now.pretrained] if now.pretrained not in catalog.PRETRAINED else [])]
    words = {
        "hub": "ImageNet, from the hub (network)",
        "offline": "ImageNet, from an installed package",
        "none": "Random",
    }
    words |= (theirs := _checkpoint_of(start.config.parent))
    weights += [path for path in theirs if path not in weights]
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
        stain = field("model.stain", now.stain)
        dropout = field("model.dropout", now.dropout)
    model = dataclasses.replace(
        now,
        name=models[0] if models else "",
        pretrained=(pretrained or "").strip(),
        image_size=int(size),
        geometry=geometry,
        stain=stain,
        dropout=float(dropout),
    )
    return model, tuple(models)


def _checkpoint_of(parent: str) -> dict[str, str]:
    """The best checkpoint of the run that the form was filled from, as first weights: its path and its words."""
    if not parent:
        return {}
    try:
        folder = cached.run(parent)
    except EngineError:
        return {}
    return {str(folder.best): f"The checkpoint of {folder.name}"} if folder.best.is_file() else {}


def _recipe_of(start: Draft) -> presets.Recipe:
    """The recipe that the form holds; its widget comes after those that ask."""
    chosen = st.session_state.get(key_of("training.recipe"), start.config.training.recipe)
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
    executor = cluster_parts.picker(start.executor, key_of("executor"))
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
    return training, seeds, rates, executor


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
    waiting = sum(summary.state == run_status.QUEUED for summary in cached.summaries())
    st.caption(widgets.escaped(free + (f"; {widgets.counted(waiting, 'run')} waiting" if waiting else "")))
    return chosen
