"""What a cluster node runs to prove that it sees the same folder: `python -m engine.runs.executors.preflight DIR`.

It answers the question it finds there, then holds a lock that the asking machine must see: the run folder's
lock is the fence against a second worker, so a file system that keeps locks to itself cannot be used.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from pathlib import Path

from filelock import FileLock

from engine import files
from engine.runs.provenance import provenance

QUESTION, ANSWER, LOCK, DONE = "question.json", "answer.json", "node.lock", "done"
HOLD_S = 60.0


def answer_to(nonce: str) -> str:
    """What only somebody who has read the question can know."""
    return hashlib.sha256(f"run folders are shared {nonce}".encode()).hexdigest()


def main(place: Path) -> int:
    """Answer, hold the lock until `done` appears, leave."""
    question = files.read_json(place / QUESTION)
    if question is None:
        print(f"There is no question in {place}: this node does not see the runs folder.")
        return 1
    with FileLock(place / LOCK, timeout=5):
        files.write_json(
            place / ANSWER,
            {"answer": answer_to(question["nonce"]), "host": platform.node(), "provenance": provenance()},
        )
        end = time.monotonic() + HOLD_S
        while not (place / DONE).exists() and time.monotonic() < end:
            time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
