"""Overview: what is here, and the next step."""

from dashboard import widgets

widgets.header("Overview", "What is here, and what is the next step?")
