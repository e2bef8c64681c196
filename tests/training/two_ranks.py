"""One rank of a run of two processes: `python two_ranks.py RUN` under torch.distributed.run."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import tiny_runs

if __name__ == "__main__":
    tiny_runs.register()
    from engine.runs.folder import RunFolder
    from engine.runs.reporter import Reporter
    from engine.training.loop import train

    folder = RunFolder(Path(sys.argv[1]))
    first = int(os.environ["RANK"]) == 0
    with folder.hold() if first else contextlib.nullcontext():
        report = Reporter(folder, writes=first)
        if first:
            report.begin(0)
        report.end(train(folder, report))
