"""`python hung_loader.py DIR SIGN`: a worker on the tiny network whose loader process never answers.

It hangs in the second epoch, as long as the file SIGN is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

import tiny_runs
import torch

from engine.runs import worker
from engine.training import loading

if __name__ == "__main__":
    tiny_runs.register()
    sign = Path(sys.argv[2])
    load = loading.TrainingImages.__getitem__

    def answer(self, batch):
        while batch.epoch == 2 and sign.exists() and torch.utils.data.get_worker_info():
            time.sleep(0.05)
        return load(self, batch)

    loading.TrainingImages.__getitem__ = answer
    sys.exit(worker.work(Path(sys.argv[1])))
