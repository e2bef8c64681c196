"""Frozen views of runs: scores, matrices, curves and predictions as they are now, copied.

The parts are those of a report (`engine.report`); a page that shows something else makes its own parts
and calls `engine.share.views.create`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from engine.errors import EngineError, ShareError
from engine.progress import Progress
from engine.report import plots, words
from engine.report.contents import Contents, Group, collect, predictions_table
from engine.runs.folder import RunFolder, locate
from engine.share import access, views
from engine.share.views import Part, View


def freeze(
    folders: Sequence[RunFolder],
    *,
    title: str,
    author: str = "",
    note: str = "",
    expires_in_days: float | None = None,
    split: str = "test",
    pictures: int = 0,
    progress: Progress | None = None,
) -> View:
    """Freeze the results of some runs under a link.

    Args:
        folders: runs of one runs folder, in the order they are shown.
        expires_in_days: None = never.
        split: whose predictions are shown.
        pictures: at most so many images of mistakes, 0 = no image of a patient leaves the data set.
        progress: called with (steps done, steps).

    Raises:
        AccessError: whoever asks is no editor.
        ShareError, RunError, PredictionsError: as `engine.report.contents.collect`.
    """
    access.require_editor("share views")
    contents = collect(folders, title=title, author=author, split=split, pictures=pictures, progress=progress)
    source = {
        "page": "compare",
        "runs": [run.id for run in contents.runs],
        "split": split,
        "pictures": pictures,
    }
    return views.create(
        folders[0].runs, parts_of(contents), title=title, author=author, note=note,
        expires_in_days=expires_in_days, source=source,
    )  # fmt: skip


def freeze_again(runs: Path, view_id: str, *, progress: Progress | None = None) -> View:
    """Show under the same link what the same runs say now.

    Raises:
        AccessError, ShareError: as `freeze`; the view was not made from runs, or one of them is gone.
    """
    access.require_editor("share views")
    known = next((view for view in views.listed(runs) if view.id == view_id), None)
    if known is None:
        views.read(runs, view_id)  # says what is wrong with the link
        raise ShareError("There is no shared view at this address")
    ids = known.source.get("runs")
    if not isinstance(ids, list) or not ids:
        raise ShareError(
            "This view was not made from runs", remedy="Open the page it shows and share it from there"
        )
    try:
        folders = [locate(runs, str(run_id)) for run_id in ids]
    except EngineError as error:
        raise ShareError(
            "A run that this view shows is not here any more",
            found=str(error),
            remedy="The view still shows what it showed; make a new one from the runs that are left",
        ) from error
    contents = collect(
        folders, title=known.title, author=known.author, split=str(known.source.get("split", "test")),
        pictures=int(known.source.get("pictures", 0)), progress=progress,
    )  # fmt: skip
    return views.refreeze(runs, view_id, parts_of(contents))


def parts_of(contents: Contents) -> list[Part]:
    """What a visitor sees, in order: leakage first, the answer, scores, matrices, curves, limits, predictions."""
    parts = [
        Part("leakage", contents.worst_audit),
        Part("text", "\n".join(words.answer(contents))),
    ]
    for group in contents.groups:
        parts += _group_parts(contents, group)
    curves = plots.learning_curves(contents)
    if curves:
        parts.append(_figure(curves))
    header, rows = words.models_rows(contents)
    parts.append(Part("table", pd.DataFrame(rows, columns=header), "Models"))
    for flow in contents.flows:
        parts.append(Part("facts", _split_facts(flow), "Split"))
    for name, facts in words.ensemble_lines(contents):
        parts.append(Part("facts", facts, f"Ensemble {name}"))
    if not contents.errors.empty:
        parts.append(Part("table", contents.errors.round(4), "Images that most runs get wrong"))
    for picture in contents.pictures:
        said = "; ".join(f"{name}: {guess} {p:.3f}" for name, guess, p in picture.verdicts[:6])
        parts.append(
            Part("image", picture.image, picture.image_id, f"Truly {picture.label}. {said}", picture.image_id)
        )
    parts.append(Part("text", "\n".join(words.limits(contents)), "Limits"))
    parts.append(Part("facts", words.versions(contents), "Versions"))
    caption = "Probability per image and run, as it was when this view was frozen."
    return [*parts, Part("table", predictions_table(contents), "Predictions", caption)]


def _group_parts(contents: Contents, group: Group) -> list[Part]:
    size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
    scores = pd.DataFrame(words.score_rows(contents, group), columns=words.score_header(group))
    powers = pd.DataFrame(words.power_rows(contents, group), columns=words.power_header(group))
    parts = [
        _figure(plots.forest(contents, group)),
        Part("table", scores, "Scores", f"With 95% intervals over whole cases; n = {size}."),
        Part("table", powers, "Balanced accuracy at each magnification", f"n = {size}."),
        _figure(plots.matrices(contents, group)),
    ]
    shown = [plots.roc(contents, group), plots.calibration(contents, group)]
    return [*parts, *[_figure(one) for one in shown if one is not None]]


def _figure(shown: plots.Shown) -> Part:
    return Part("figure", shown.figure, shown.title, shown.caption, shown.alt)


def _split_facts(flow: Any) -> list[tuple[str, str]]:
    sides = [
        (
            side,
            "; ".join(
                f"{images:,} {label} of {cases} cases" for label, (images, cases, _) in classes.items()
            ),
        )
        for side, classes in flow.counts.items()
    ]
    return [
        ("Protocol", f"{flow.protocol}, fold {flow.fold}, seed {flow.seed}"),
        ("Split hash", flow.split_hash),
        *sides,
        ("Runs", ", ".join(flow.runs)),
    ]
