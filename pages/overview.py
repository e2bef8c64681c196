"""Overview: what is here, and the next step."""

from pathlib import Path

import streamlit as st

from dashboard import cached, next_step, overview_parts, places, widgets

widgets.header("Overview", "What is here, and what is the next step?")

datasets = places.datasets()
summaries = cached.summaries()
step = next_step.next_step(datasets, summaries)

widgets.read_only_notice()

if step.action == "sample":
    overview_parts.welcome(step)
    widgets.stop()

overview_parts.counts(datasets, summaries)
overview_parts.take(step, Path(datasets[0]) if datasets else None)

left, right = st.columns([3, 2], gap="large")
with left:
    overview_parts.recent(summaries)
with right:
    overview_parts.best(summaries)
overview_parts.honest_splits(summaries)
