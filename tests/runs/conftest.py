"""Fixtures of the run machinery: see machines.py."""

from machines import machine  # noqa: F401 - beside this file: pytest puts tests/runs on the path
