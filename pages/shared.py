"""Share: frozen views, reports, bundles, the log; with `?view=` one frozen view, read only."""

import streamlit as st

from dashboard import cached, selection, share_page, shared_view, widgets

if "view" in st.query_params:
    shared_view.show(selection.read("view"))
    st.stop()

widgets.header("Share", "How do these results leave this machine, and who may see them?")
selection.choice_from_url("part", share_page.PARTS, "share_part", share_page.PARTS[0])
part = st.segmented_control(
    "Part", share_page.PARTS, key="share_part", label_visibility="collapsed", required=True
)
selection.choice_to_url("part", "share_part", share_page.PARTS[0])

scored = cached.scored()
if part == "Report":
    share_page.report(scored)
elif part == "Bundles":
    share_page.bundles(cached.summaries())
elif part == "Log":
    share_page.log()
else:
    share_page.frozen_views(scored)
