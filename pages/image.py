"""Image: what do the models say about one image, and what do people say?"""

from __future__ import annotations

import streamlit as st

from dashboard import cached, compare_view, image_view, places, selection, widgets
from engine.errors import EngineError

image = selection.read("image")
widgets.header(image or "Image", "What do the models say about this image, and what do people say?")
split = selection.read("split", "test")
summaries = {one.id: one for one in cached.scored(split if split in compare_view.SPLITS else "test")}
here, missing = selection.divide(selection.read_list("runs"), list(summaries))
widgets.missing_notice(missing)
if not image or not here:
    widgets.empty_state(
        "One image with every model's opinion, its siblings at other magnifications and its overlays.",
        "The link names no image." if here else "The link names no run that is here.",
        action="Choose an image in Compare",
        to="compare",
        icon_name="image",
    )
    widgets.stop()

chosen = [summaries[run_id] for run_id in here]
labels = widgets.run_labels(list(summaries.values()))
try:
    image_view.draw(image, chosen, labels)
except EngineError as error:
    widgets.show_error(error)
    st.page_link(
        places.page("compare"),
        label="Back to the comparison",
        icon=":material/arrow_back:",
        query_params=compare_view.link_params(),
    )
