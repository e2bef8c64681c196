"""Data set: what is in it, what it looks like, how it is divided."""

import streamlit as st

from dashboard import (
    cached,
    dataset_parts,
    leak_gap,
    pixel_preview,
    places,
    selection,
    split_designer,
    widgets,
)
from engine.errors import EngineError

widgets.header("Data set", "What is in it, and does the split keep patients apart?")

root = dataset_parts.choose()
if not root:
    widgets.stop()
try:
    with st.skeleton(height=320):
        manifest, inventory = cached.dataset(root)
except EngineError as error:
    widgets.show_error(error)
    widgets.stop()

places.remember(root)
dataset_parts.summary_line(manifest, inventory)
selection.choice_from_url("view", dataset_parts.VIEWS, "dataset_view", default="Contents")
view = st.segmented_control(
    "View", dataset_parts.VIEWS, key="dataset_view", required=True, label_visibility="collapsed"
)
selection.choice_to_url("view", "dataset_view", default="Contents")

if view == "Images":
    dataset_parts.images(manifest)
elif view == "Leakage gap":
    leak_gap.section(root)
elif view == "Split":
    split_designer.section(root, manifest)
elif view == "Stain and augmentation":
    pixel_preview.section(root, manifest)
else:
    dataset_parts.contents(root, manifest, inventory)
