"""Fixtures of the run machinery: see machines.py and jobs_head.py."""

from jobs_head import head  # noqa: F401 - beside this file: pytest puts tests/runs on the path
from machines import holder, machine, run  # noqa: F401
