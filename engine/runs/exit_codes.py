"""How a worker ends: what its supervisor, a script and a cluster read from its exit code."""

from __future__ import annotations

EXIT_COMPLETED = 0
EXIT_INTERNAL = 1
EXIT_STOPPED = 3
EXIT_BUSY = 4
# A failure that a person can act on ends with its own code, so that a script can tell them apart.
EXIT_CODES = {
    "config": 10,
    "data": 11,
    "split": 12,
    "weights": 13,
    "training": 14,
    "out_of_memory": 15,
    "nan_loss": 16,
    "disk_full": 17,
    "hung": 18,
    "gone": 19,
}
