"""Figures of the run page, and the images it picks."""

import fabricate
import pandas as pd

from dashboard import run_figures, run_parts


def test_curves_show_training_and_validation_with_the_best_epoch_marked(finished_run):
    best = finished_run.status().best
    fig, words = run_figures.learning_curves(finished_run.metrics(), best)
    assert {trace.name for trace in fig.data if trace.name in ("training", "validation")} == {
        "training",
        "validation",
    }
    marks = [trace for trace in fig.data if trace.marker.symbol == "circle-open"]
    assert [(mark.x[0], mark.y[0]) for mark in marks] == [(best["epoch"], best["value"])]
    assert "6 epochs" in words


def test_the_mark_is_on_the_curve_though_another_score_chose_the_epoch(finished_run):
    metrics = finished_run.metrics()
    chosen = {"metric": "accuracy", "value": 0.99, "epoch": 2}
    fig, _ = run_figures.learning_curves(metrics, chosen)
    (mark,) = [trace for trace in fig.data if trace.marker.symbol == "circle-open"]
    curve = metrics[(metrics["split"] == "val") & (metrics["epoch"] == 2)]
    assert (mark.x[0], mark.y[0]) == (2, curve["balanced_accuracy"].iloc[0])


def test_the_labels_of_curves_that_end_together_step_apart():
    rows = [
        {
            "epoch": epoch,
            "split": side,
            "loss": 1.0 / epoch + (0.01 if side == "val" else 0.0),
            "accuracy": score,
        }
        for epoch in (1, 2, 3)
        for side, score in (("train", 0.3 * epoch), ("val", 0.5))
    ]
    fig, _ = run_figures.learning_curves(pd.DataFrame(rows))
    shifts = [
        (label.text, label.yshift)
        for label in fig.layout.annotations
        if label.text in ("training", "validation")
    ]
    assert shifts == [("training", -7), ("validation", 7), ("training", 0), ("validation", 0)]


def test_curves_of_one_epoch_can_be_drawn(finished_run):
    metrics = finished_run.metrics()
    fig, words = run_figures.learning_curves(metrics[metrics["epoch"] == 1])
    assert len(fig.data) >= 4
    assert "1 epoch" in words


def test_many_epochs_are_lines_without_a_dot_for_each():
    """A browser draws every dot of a live curve again whenever it grows."""
    rows = [
        {"epoch": epoch, "split": side, "loss": 1 / epoch, "accuracy": 0.5, "lr": 1e-3}
        for epoch in range(1, run_figures.DOTTED_EPOCHS + 2)
        for side in ("train", "val")
    ]
    many, few = pd.DataFrame(rows), pd.DataFrame(rows[:-2])
    assert {trace.mode for trace in run_figures.learning_curves(many)[0].data} == {"lines"}
    assert "lines+markers" in {trace.mode for trace in run_figures.learning_curves(few)[0].data}


def test_buckets_hold_what_they_promise(tmp_path):
    table = fabricate.predictions(fabricate.manifest(tmp_path).table, seed=3, skill=0.5)
    worst = run_parts.examples(table, "worst")
    assert (worst["predicted"] != worst["label"]).all()
    assert worst["true_probability"].is_monotonic_increasing
    assert run_parts.examples(table, "best")["true_probability"].min() > 0.9
    unsure = run_parts.examples(table, "unsure")
    assert (unsure["prob_malignant"] - 0.5).abs().max() < 0.2
    assert run_parts.examples(table, "random", seed=1).equals(run_parts.examples(table, "random", seed=1))
