"""Train: one form, three groups, one button."""

import streamlit as st

from dashboard import launch_panel, launch_parts, places, widgets

widgets.header("Train", "What is trained on what, how, and is it worth starting?")

if not places.datasets() and "data" not in st.query_params and "from" not in st.query_params:
    widgets.empty_state(
        "This page starts runs: choose data, model and training, then press one button.",
        "It cannot start anything yet because no data set has been opened.",
        action="Open a data set",
        to="dataset",
        icon_name="model_training",
    )
    widgets.stop()

draft = launch_parts.form()
launch_panel.show(draft)
