"""One run over several nodes: `python -m engine.runs.executors.ray_train DIR PROCESSES CPUS GPUS`, as a Ray job.

Ray Train places the processes and makes them one torch group; each of them does what any worker does. The
first one holds the run's lock and writes. The only module that imports ray, and only on the cluster.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.runs.exit_codes import EXIT_COMPLETED, EXIT_INTERNAL, EXIT_STOPPED
from engine.runs.folder import RunFolder
from engine.runs.status import COMPLETED, STOPPED
from engine.runs.worker import work


def main(place: Path, processes: int, cpus: float, gpus: float) -> int:
    """Train with so many processes; the exit code of a worker."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
    from ray.train.torch import TorchTrainer  # pyright: ignore[reportMissingImports]

    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    trainer = TorchTrainer(
        each_process,
        train_loop_config={"place": str(place)},
        scaling_config=ScalingConfig(
            num_workers=processes,
            use_gpu=gpus > 0,
            resources_per_worker=resources,
            placement_strategy="SPREAD",
        ),
        # The run folder says what to do after a failure; a restart by Ray would be a second opinion.
        run_config=RunConfig(
            name=place.name,
            storage_path=str(place / ".ray"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # the folder has the reason, if its worker could write one
        print(f"Ray Train: {error}", flush=True)
    state = RunFolder(place).state()
    return {COMPLETED: EXIT_COMPLETED, STOPPED: EXIT_STOPPED}.get(state, EXIT_INTERNAL)


def each_process(config: dict[str, str]) -> None:
    """What runs on every node; RANK and WORLD_SIZE are in the environment, as torch.distributed.run has them.

    Raises:
        RuntimeError: this process did not do its part.
    """
    from ray.train import get_context  # pyright: ignore[reportMissingImports]

    context = get_context()
    os.environ.update(
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        NO_ALBUMENTATIONS_UPDATE="1",
    )
    code = work(Path(config["place"]))
    if code not in (EXIT_COMPLETED, EXIT_STOPPED):
        raise RuntimeError(f"the worker of rank {context.get_world_rank()} ended with exit code {code}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
