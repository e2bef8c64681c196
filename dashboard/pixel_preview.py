"""What stain normalisation and augmentation do to this data set's own images, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import cached, selection, widgets
from engine.data import images, stain
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import EngineError
from engine.runs.config import AUGMENTATIONS, DataConfig, ModelConfig, help_of
from engine.runs.launch import Prepared

SHOWN = 6
WIDTH = 320
SQUARE = 224
VERSIONS = 6


def section(root: str, manifest: Manifest) -> None:
    """Stain before and after, then a batch as the network would see it."""
    method = _stain(root)
    _augmentation(root, manifest, method)


def _stain(root: str) -> str:
    """Before and after; returns the chosen method."""
    st.subheader("Stain normalisation", anchor=False)
    selection.choice_from_url("stain", list(stain.METHODS), "preview_stain", default="macenko")
    method = st.segmented_control(
        "Method",
        list(stain.METHODS),
        format_func=lambda name: stain.METHODS.get(name, str(name)),
        key="preview_stain",
        required=True,
        help=help_of(ModelConfig, "stain"),
    )
    selection.choice_to_url("stain", "preview_stain", default="macenko")
    try:
        with st.spinner("Recolouring ..."):
            reference, pictures, failed = cached.stain_preview(root, str(method), SHOWN)
    except EngineError as error:
        widgets.show_error(error, level="info")
        return str(method)
    columns = st.columns(SHOWN, gap="small")
    for column, (image_id, before, after, worked) in zip(columns, pictures, strict=False):
        with column:
            st.image(before, width="stretch", alt=f"{image_id} as it is")
            st.image(after, width="stretch", alt=f"{image_id} after {method}")
            words = "" if worked else " · not normalised"
            st.html(
                f'<div style="font-size:.75rem;overflow-wrap:anywhere;margin-top:-.4rem">{widgets.plain(image_id)}{words}</div>'
            )
    st.caption(
        widgets.escaped(
            f"Above as it is, below recoloured after {reference}, an ordinary image of the training part (by case, first "
            f"fold). {len(pictures) - failed} of {len(pictures)} shown could be normalised. A run takes its reference from "
            "its own training part and records it; in the study, another method (Vahadane) lowered the accuracy."
        )
    )
    return str(method)


def _augmentation(root: str, manifest: Manifest, method: str) -> None:
    st.subheader("Augmentation", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        selection.choice_from_url(
            "augmentation", list(AUGMENTATIONS), "preview_augmentation", default="study"
        )
        recipe = st.segmented_control("Recipe", AUGMENTATIONS, key="preview_augmentation", required=True)
        selection.choice_to_url("augmentation", "preview_augmentation", default="study")
        selection.choice_from_url("resized", list(images.INTERPOLATIONS), "preview_resized", default="area")
        resized = st.segmented_control(
            "Resized", list(images.INTERPOLATIONS), key="preview_resized", required=True,
            help="; ".join(f"{name}: {words}" for name, words in images.INTERPOLATIONS.items()) + ".",
        )  # fmt: skip
        selection.choice_to_url("resized", "preview_resized", default="area")
        recoloured = st.toggle(
            f"Recoloured by {method}", key="preview_recoloured", help="With the method chosen above."
        )
        wanted = st.toggle(
            "Draw a batch", key="preview_batch", help="By a process of its own; takes some seconds."
        )
    if not wanted:
        return
    rows = manifest.table.groupby("label", sort=False).head(1)
    paths = tuple(str(manifest.absolute(str(path))) for path in rows["path"][:4])
    with widgets.errors_shown():
        with st.spinner("Augmenting ..."):
            normaliser = cached.stain_normaliser(_split_of(root), method) if recoloured else None
            seen = Preprocessing(SQUARE, "square", str(resized), normaliser)
            sheet, own_colours = cached.batch_sheet(paths, str(recipe), seen, VERSIONS)
        said = batch_caption(str(recipe), seen, "image", VERSIONS, own_colours)
        st.image(sheet, width="stretch", alt=said)
        st.caption(widgets.escaped(said))


def batch_caption(
    recipe: str, preprocessing: Preprocessing, what: str, versions: int, own_colours: Sequence[int]
) -> str:
    """What a sheet of `cached.batch_sheet` shows, and which of its rows could not be recoloured."""
    words = [f"One {what} per class as it is (left)"]
    if preprocessing.stain:
        reference = preprocessing.stain.reference
        words.append(f"recoloured by {reference.method} after {reference.image_id}")
    words.append(f"and {versions} versions of it, augmentation {recipe}")
    resized = (
        "windows at native resolution"
        if preprocessing.geometry == "tiles"
        else f"{preprocessing.geometry}, {preprocessing.interpolation} interpolation"
    )
    said = f"{', '.join(words)}; {preprocessing.size} pixels, {resized}."
    if own_colours:
        rows = ", ".join(str(row + 1) for row in own_colours)
        said += f" Not normalised, in {'its' if len(own_colours) == 1 else 'their'} own colours: row {rows}."
    return said


def _split_of(root: str) -> Prepared:
    """The first fold by case; where cases are unknown, a split by image.

    Raises:
        DataError, SplitError: the data set cannot be divided.
    """
    try:
        return cached.prepared(DataConfig(root=root, protocol="case"))
    except EngineError:
        return cached.prepared(DataConfig(root=root, protocol="image"))


def before_and_after(
    root: str, method: str, count: int
) -> tuple[str, list[tuple[str, bytes, bytes, bool]], int]:
    """The reference's name, images of different slides before and after (PNG), and how many could not be normalised.

    The reference comes from the training part of a split by case; where cases are unknown, of a split by image.

    Raises:
        DataError: no image can serve as reference.
        SplitError: the data set cannot be divided.
    """
    ready = _split_of(root)
    normaliser = cached.stain_normaliser(ready, method)
    if normaliser is None:
        raise ValueError(f"no stain normalisation: {method}")
    shown = stain.preview(ready.manifest, normaliser, count)
    pictures = [
        (image_id, _small(before), _small(after), worked) for image_id, before, after, worked in shown
    ]
    return normaliser.reference.image_id, pictures, sum(not worked for *_, worked in shown)


def _small(image) -> bytes:
    return images.encode_png(images.shrink(image, WIDTH))
