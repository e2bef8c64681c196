"""What a person should do next, from what is there. Pure: the overview draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.folder import Summary

SCORED_KINDS = ("train", "import", "pooled", "fusion")


@dataclass(frozen=True)
class Step:
    """A button: what it does (`sample`, `demo` or `go`), its words, why; `go` opens `page` with `params`."""

    action: str
    label: str
    because: str
    page: str = ""
    params: dict[str, str] = field(default_factory=dict)


def next_step(datasets: Sequence[str], summaries: Sequence[Summary]) -> Step:
    """The one next step: data, a run, watching it, a second run, comparing, combining, explaining."""
    if not datasets and not summaries:
        return Step(
            "sample",
            "Make the sample data set",
            "Synthetic tissue in the layout of BreakHis, written in seconds: everything here works on it.",
        )
    active = [summary for summary in summaries if summary.state in run_status.ACTIVE]
    working = [summary for summary in active if summary.state != run_status.QUEUED]
    if working:
        return Step("go", f"Watch {working[0].name}", "A run is at work.", "run", {"id": working[0].id})
    if active:
        waiting = "A run waits" if len(active) == 1 else f"{len(active)} runs wait"
        return Step("go", "Look at the queue", f"{waiting} and none is at work.", "runs")
    scored = [
        summary
        for summary in summaries
        if "test" in summary.has_predictions and summary.config.kind in SCORED_KINDS
    ]
    if not scored:
        if not datasets:
            return Step(
                "go", "Choose a data set", "No run has results yet, and no data set is open.", "dataset"
            )
        return Step(
            "demo",
            "Train the demo model",
            "Three epochs of a small network with ImageNet weights from an installed package; about two minutes.",
        )
    ensembles = [summary for summary in summaries if summary.config.kind == "ensemble"]
    if len(scored) == 1:
        params = {"from": scored[0].id} if scored[0].config.kind == "train" else {}
        return Step(
            "go", "Train a second model", "One run has results; two can be compared.", "train", params
        )
    chosen = ",".join(summary.id for summary in scored[:4])
    if not ensembles:
        because = f"{len(scored)} runs have results."
        return Step("go", "Compare the runs", because, "compare", {"runs": chosen})
    return Step(
        "go", "Look at the explanations", "Runs and an ensemble are there.", "explain", {"runs": chosen}
    )


def demo_config(data_root: str) -> RunConfig:
    """The demo run: lite0 with weights from its package, 160 pixels, three epochs; under two minutes on two cores."""
    return RunConfig(name="Demo: EfficientNet Lite0").changed(
        data__root=data_root,
        model__name="tf_efficientnet_lite0",
        model__pretrained="offline",
        model__image_size=160,
        model__geometry="square",  # six times as fast as tiles
        training__recipe="quick",
        training__epochs=3,
    )


def best_honest(summaries: Sequence[Summary]) -> Summary | None:
    """The run to show as best: chosen by its validation score among those whose split does not leak.

    Choosing by test would flatter it. Runs without a validation score (imports) cannot be chosen.
    """
    able = [
        summary
        for summary in summaries
        if summary.audit.get("level") == "clean"
        and "test" in summary.has_predictions
        and summary.status.best
        and summary.status.best.get("value") is not None
    ]
    return max(able, key=lambda summary: summary.status.best["value"], default=None)  # type: ignore[index]


def leak_pairs(summaries: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    """(leaking, clean) runs that differ in little but the split: same model, data set and magnifications."""

    def alike(summary: Summary) -> tuple:
        config = summary.config
        return (
            config.model.name, config.model.image_size, config.model.geometry, config.data.root, config.data.magnifications,
            config.training.epochs, config.training.recipe,
        )  # fmt: skip

    done = [
        summary
        for summary in summaries
        if summary.config.kind == "train" and "test" in summary.has_predictions
    ]
    pairs = []
    for leaking in done:
        if leaking.audit.get("level") != "leak":
            continue
        clean = [
            other for other in done if other.audit.get("level") == "clean" and alike(other) == alike(leaking)
        ]
        if clean:
            pairs.append((leaking, clean[0]))
    return pairs
