"""What is said of judged images, as tables and sentences: the page, the command and the report share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from engine.analysis import intervals
from engine.analysis.intervals import Estimate
from engine.analysis.metrics import SCORES
from engine.analysis.predictions import classes_of, labels, predicted
from engine.errors import EngineError, shorten
from engine.predict.referral import Rule, confidence
from engine.runs import results
from engine.runs.folder import RunFolder

if TYPE_CHECKING:
    from engine.predict.judge import Judged

RESEARCH = "Research use only. Not for diagnosis."
TABLE_SCORES = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "auroc", "ece")


def image_rows(judged: Judged, rule: Rule) -> pd.DataFrame:
    """A row per image, for people: prediction, calibrated probabilities, agreement, referral, what is known."""
    table = judged.table
    classes, guess = classes_of(table), predicted(table)
    shown = pd.DataFrame({"Image": table["image_id"], "Predicted": [classes[k] for k in guess]})
    for name in _told_by(classes):
        shown[f"P({name})"] = table[f"calibrated_{name}"]
    if judged.own_colours:
        kept = table["image_id"].isin(judged.own_colours)
        shown["Stain"] = np.where(kept, "own colours", "normalised")
    if len(judged.members) > 1:
        pairs = zip(table["agreeing"], table["members"], strict=True)
        shown["Members agree"] = [f"{agreeing} of {members}" for agreeing, members in pairs]
    shown["Refer"] = rule.reasons(table)
    for column, title in (("case", "Case"), ("magnification", "Magnification"), ("label", "True")):
        if table[column].ne("").any():
            shown[title] = table[column]
    return shown


def _told_by(classes: Sequence[str]) -> Sequence[str]:
    """The classes whose probabilities are shown: of two the second says all."""
    return classes[1:] if len(classes) == 2 else classes


def case_rows(judged: Judged, rule: Rule) -> pd.DataFrame:
    """A row per case: diagnosis by mean probability, images, those called malignant and referred; may be empty."""
    table = judged.table.assign(referred=[bool(why) for why in rule.reasons(judged.table)])
    table = table.assign(called=predicted(table) == len(classes_of(table)) - 1)
    known = table[table["case"].ne("")]
    if known.empty:
        return pd.DataFrame()
    classes = classes_of(table)
    grouped = known.groupby("case", sort=True)
    means = pd.DataFrame({name: grouped[f"calibrated_{name}"].mean() for name in classes})
    found = pd.DataFrame(
        {
            "Images": grouped.size(),
            **{f"Mean P({name})": means[name] for name in _told_by(classes)},
            f"Images called {classes[-1]}": grouped["called"].sum(),
            "Images to refer": grouped["referred"].sum(),
        }
    ).reset_index(names="Case")
    found.insert(1, "Diagnosis", [classes[k] for k in means.to_numpy().argmax(axis=1)])
    if known["label"].ne("").any():
        found["True"] = [", ".join(sorted(set(part) - {""})) for _, part in grouped["label"]]
    return found


def scores(judged: Judged, met: Met) -> dict[str, Estimate]:
    """Scores of the labelled images that the model was not trained on, with intervals over cases, by the
    calibrated probabilities; may be empty."""
    table = judged.table[~judged.table["image_id"].isin(met.names)]
    if not (labels(table) >= 0).any():
        return {}
    calibrated = {f"prob_{name}": table[f"calibrated_{name}"] for name in classes_of(table)}
    return intervals.estimates(table.assign(**calibrated), TABLE_SCORES)


@dataclass(frozen=True)
class Met:
    """What of the judged images a run was trained on: their ids, and the cases; `known` is False where that is not
    recorded."""

    names: frozenset[str]
    cases: tuple[str, ...]
    known: bool


def met_before(folder: RunFolder, table: pd.DataFrame) -> Met:
    """Images (by name) and cases of a judged table that the run, or any member, was trained on."""
    try:
        learned = results.trained_on(folder)
    except EngineError:
        return Met(frozenset(), (), False)
    return Met(
        learned.images & set(table["image_id"]),
        tuple(sorted((set(table["case"]) - {""}) & learned.cases)),
        learned.known,
    )


# -- sentences ------------------------------------------------------------------------------------


def counts_sentence(judged: Judged) -> str:
    """`12 images: 4 benign, 8 malignant.`"""
    table = judged.table
    names = classes_of(table)
    counts = np.bincount(predicted(table), minlength=len(names))
    parts = ", ".join(f"{n:,} {name}" for n, name in zip(counts, names, strict=True))
    return f"{_images(len(table))}: {parts}."


def met_sentence(met: Met, name: str) -> str:
    """That a model has met these images or patients; empty where it has not."""
    if met.names or met.cases:
        parts = [f"on {len(met.names):,} of these images"] if met.names else []
        if met.cases:
            parts.append(
                f"on images of {len(met.cases):,} of these cases ({shorten(list(met.cases), limit=3)})"
            )
        return f"{name} was trained {' and '.join(parts)}: what it says about them proves nothing."
    return "" if met.known else f"What {name} was trained on is not recorded: these images may be among it."


def unlike_sentence(judged: Judged, names: int = 5) -> str:
    """How many images look unlike those the model was trained on, and which; or why that is not known."""
    if judged.appearance is None:
        return f"Whether they look like the training images is not known: {judged.unfamiliar.rstrip('.')}."
    table = judged.table
    far = table[table["unlike"].ne("")]
    size = f"{judged.appearance.n_images:,} training images of {judged.appearance.n_cases} cases"
    if far.empty:
        return (
            f"None of them looks unlike the training images in stain or magnification ({size}). Small differences, "
            "such as the next magnification, often go unnoticed."
        )
    parts = [f"{n:,} in {why}" for why, n in far["unlike"].value_counts().items()]
    shown = shorten(far["image_id"].tolist(), limit=names)
    verb = "looks" if len(far) == 1 else "look"
    return (
        f"{len(far):,} of {_images(len(table))} {verb} unlike the training images ({', '.join(parts)}; "
        f"{size}): {shown}. What the model says about them is a guess outside of what it knows."
    )


def stain_sentence(judged: Judged, names: int = 5) -> str:
    """How many images could not be recoloured as the training images were; empty where nothing is recoloured."""
    if judged.own_colours is None:
        return ""
    if not judged.own_colours:
        return "The stain of every image was normalised, as in training."
    return (
        f"{len(judged.own_colours):,} of {_images(len(judged.table))} could not be stain-normalised and were judged "
        f"in their own colours: {shorten(list(judged.own_colours), limit=names)}."
    )


def refused_sentence(judged: Judged, names: int = 5) -> str:
    """Which files were not judged and why; empty where all were."""
    if not judged.refused:
        return ""
    lines = shorten([f"{one.name}: {one.reason}" for one in judged.refused], limit=names)
    return f"{len(judged.refused):,} files were not judged: {lines}."


def referral_sentence(judged: Judged, rule: Rule) -> str:
    """How many images go to a person, and why."""
    why = [text for text in rule.reasons(judged.table) if text]
    members = f", or fewer than {rule.agreement:.0%} of the members agree" if len(judged.members) > 1 else ""
    return (
        f"{len(why):,} of {_images(len(judged.table))} are to be seen by a person: where the predicted class has a "
        f"probability below {rule.probability:.2f}{members}{', or the image is unlike the training images' if rule.unlike else ''}."
    )


def score_lines(judged: Judged, met: Met) -> list[tuple[str, str]]:
    """(score, value with interval and n) of the labelled images that the model was not trained on."""
    return [(SCORES[name].title, str(one)) for name, one in scores(judged, met).items()]


def left_out_sentence(judged: Judged, met: Met) -> str:
    """How many labelled images are not scored because the model was trained on them; empty where none is."""
    labelled = labels(judged.table) >= 0
    out = int((labelled & judged.table["image_id"].isin(met.names)).sum())
    if not out:
        return ""
    if out == labelled.sum():
        return f"Nothing is scored: the model was trained on every image whose label is known ({out:,})."
    return f"The scores leave out {_images(out)} that the model was trained on."


def sentences(judged: Judged, rule: Rule, met: Met, name: str) -> list[str]:
    """Everything in order: what was met before, the counts, calibration, stain, looks, referral, refusals."""
    lines = [
        met_sentence(met, name),
        counts_sentence(judged),
        str(judged.calibration),
        stain_sentence(judged),
        unlike_sentence(judged),
        referral_sentence(judged, rule),
        refused_sentence(judged),
    ]
    return [line for line in lines if line]


def least_sure(judged: Judged, limit: int) -> Sequence[str]:
    """Images in the order in which a person should look at them: unlike ones, then the least sure."""
    table = judged.table
    order = np.lexsort([confidence(table), table["unlike"].eq("").to_numpy()])
    return table["image_id"].iloc[order].head(limit).tolist()


def _images(n: int) -> str:
    return f"{n:,} image{'' if n == 1 else 's'}"
