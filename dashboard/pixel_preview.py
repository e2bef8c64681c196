"""What stain normalisation and augmentation do to this data set's own images, before anything is trained on them."""

from __future__ import annotations

import streamlit as st

from dashboard import cached, selection, widgets
from engine.data import images, stain
from engine.data.manifest import Manifest
from engine.errors import EngineError
from engine.runs.config import AUGMENTATIONS, DataConfig, ModelConfig, help_of

SHOWN = 6
WIDTH = 320


def section(root: str, manifest: Manifest) -> None:
    """Stain before and after, then a batch as the network would see it."""
    _stain(root)
    _augmentation(manifest)


def _stain(root: str) -> None:
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
        return
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


def _augmentation(manifest: Manifest) -> None:
    st.subheader("Augmentation", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        selection.choice_from_url(
            "augmentation", list(AUGMENTATIONS), "preview_augmentation", default="study"
        )
        recipe = st.segmented_control("Recipe", AUGMENTATIONS, key="preview_augmentation", required=True)
        selection.choice_to_url("augmentation", "preview_augmentation", default="study")
        wanted = st.toggle(
            "Draw a batch", key="preview_batch", help="By a process of its own; takes some seconds."
        )
    if not wanted:
        return
    rows = manifest.table.groupby("label", sort=False).head(1)
    paths = tuple(str(manifest.absolute(str(path))) for path in rows["path"][:4])
    with widgets.errors_shown():
        with st.spinner("Augmenting ..."):
            sheet = cached.batch_sheet(paths, str(recipe), 160, "square", 7)
        said = f"{recipe}: one image per class as it is (left) and seven versions of it, at 160 pixels"
        st.image(sheet, width="stretch", alt=said)
        st.caption(widgets.escaped(f"{said}."))


def before_and_after(
    root: str, method: str, count: int
) -> tuple[str, list[tuple[str, bytes, bytes, bool]], int]:
    """The reference's name, images of different slides before and after (PNG), and how many could not be normalised.

    The reference comes from the training part of a split by case; where cases are unknown, of a split by image.

    Raises:
        DataError: no image can serve as reference.
        SplitError: the data set cannot be divided.
    """
    try:
        ready = cached.prepared(DataConfig(root=root, protocol="case"))
    except EngineError:
        ready = cached.prepared(DataConfig(root=root, protocol="image"))
    normaliser = stain.StainNormaliser(stain.choose_reference(ready.manifest, method))
    shown = stain.preview(ready.manifest, normaliser, count)
    pictures = [
        (image_id, _small(before), _small(after), worked) for image_id, before, after, worked in shown
    ]
    return normaliser.reference.image_id, pictures, sum(not worked for *_, worked in shown)


def _small(image) -> bytes:
    return images.encode_png(images.shrink(image, WIDTH))
