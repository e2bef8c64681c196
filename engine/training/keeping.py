"""When a run's two files of weights are written: `best.safetensors`, and `last.ckpt` that a resume goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import WeightsError
from engine.runs.folder import RunFolder
from engine.runs.presets import Recipe
from engine.training import checkpoint

STATE_SCHEMA = 1
SAVE_EVERY_S = 600.0
"""Within an epoch a checkpoint is written this often, so that a kill costs ten minutes at most."""
SHORT_EPOCH_S = 10.0
"""An epoch on cached features is over in milliseconds, and writing the weights after each would take ten times as
long as training them: they are written this often. A kill costs seconds, and the resumed run ends with the same bits."""


class Keeper:
    """Writes the weights of a run, and reads where it stands.

    Args:
        writes: whether this process is the one that writes the run's folder.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, *, writes: bool):
        self.folder, self.recipe, self.writes = folder, recipe, writes
        self._saved_at = time.monotonic()
        self._best: tuple[nn.Module, dict[str, torch.Tensor], dict[str, Any]] | None = None

    def is_due(self, every_s: float) -> bool:
        """Whether the last state was written so many seconds ago."""
        return time.monotonic() - self._saved_at > every_s

    @property
    def has_new_best(self) -> bool:
        """Whether there are best weights that are not written yet."""
        return self._best is not None

    def best(self, model: nn.Module, facts: Mapping[str, Any]) -> None:
        """The weights of the best epoch so far, copied: they are written with the next state.

        Only what is trained is copied; until then the rest of the network must stay as it is.
        """
        if self.writes:
            trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            self._best = model, trained, dict(facts)

    def save(self, state: dict[str, Any]) -> None:
        """Write the best weights, if there are new ones, then everything that a resume needs.

        In this order: a kill between the two repeats the epochs since the state before, which find the same best.
        """
        self._saved_at = time.monotonic()
        if not self.writes:
            return
        if self._best is not None:
            model, trained, facts = self._best
            checkpoint.save_weights(self.folder.best, {**model.state_dict(), **trained}, facts)
            self._best = None
        head = {
            "schema": STATE_SCHEMA,
            "fingerprint": self.recipe.fingerprint(),
            "threads": torch.get_num_threads(),
        }
        checkpoint.save_state(self.folder.last, {**head, **state})

    def read(self) -> dict[str, Any] | None:
        """The last state that verifies; None to begin at the beginning.

        Raises:
            WeightsError: the checkpoint belongs to other settings.
        """
        state = checkpoint.load_state(self.folder.last)
        if state is None:
            return None
        if state["schema"] != STATE_SCHEMA or state["fingerprint"] != self.recipe.fingerprint():
            raise WeightsError(
                "The last checkpoint was made with other settings",
                found=f"recipe {state['fingerprint']}, now {self.recipe.fingerprint()}",
                remedy="Start a new run from this one instead of resuming it",
                kind="settings",
            )
        if self.recipe.mode == "exact":
            torch.set_num_threads(state["threads"])  # sums in another order have other last bits
        return state
