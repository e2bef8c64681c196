"""The reporting items of TRIPOD+AI and CLAIM: what a report answers by itself, and what its author must add.

Wording is ours, shortened; numbers are those of the originals. An item is ticked only where the report
holds what answers it; everything about patients, purpose, ethics and funding is for the author.

Collins et al., TRIPOD+AI statement, BMJ 385:e078378, 2024. Mongan, Moy & Kahn, CLAIM, Radiology:
Artificial Intelligence 2:e200029, 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.report.contents import Contents

Answer = Callable[[Contents], str]


@dataclass(frozen=True)
class Item:
    """`number` in the standard, what it asks, and how the report answers: a sentence, or empty = missing."""

    number: str
    asks: str
    answer: Answer


@dataclass(frozen=True)
class Answered:
    """An item as the report shows it."""

    standard: str
    number: str
    asks: str
    where: str

    @property
    def ticked(self) -> bool:
        return bool(self.where)


def _missing(_: Contents) -> str:
    return ""


def _says(text: str) -> Answer:
    return lambda _: text


def _trained(text: str) -> Answer:
    """Answered where every run was trained here, so that its configuration is known."""
    return lambda contents: text if all(run.kind != "import" for run in contents.runs) else ""


def _split(text: str) -> Answer:
    return lambda contents: text if contents.flows else ""


def _intervals(contents: Contents) -> str:
    known = [
        one
        for group in contents.groups
        for entry in group.comparison.entries
        for one in entry.scores.values()
    ]
    return "Scores: 95% intervals over whole cases" if any(one.low == one.low for one in known) else ""


def _powers(contents: Contents) -> str:
    several = any(len(rows) > 2 for group in contents.groups for rows in group.by_power.values())
    return "Scores and matrices per magnification" if several else ""


def _cases(contents: Contents) -> str:
    return "Errors: per case" if any(group.comparison.n_cases for group in contents.groups) else ""


def _ensemble(contents: Contents) -> str:
    return "Ensembles" if any(run.kind in ("ensemble", "fusion") for run in contents.runs) else ""


def _overlays(contents: Contents) -> str:
    return "Errors: class activation maps" if any(picture.overlays for picture in contents.pictures) else ""


def _errors(contents: Contents) -> str:
    return "Errors" if len(contents.errors) else "Errors: none were made"


TRIPOD_AI = (
    Item("1", "Title names the study as developing or evaluating a prediction model, its population and outcome", _missing),
    Item("2", "Structured abstract", _missing),
    Item("3a", "Health-care context, diagnostic or prognostic, and why the model is needed", _missing),
    Item("3b", "Target population, intended purpose in the care pathway, intended users", _missing),
    Item("3c", "Known health inequalities between groups of people", _missing),
    Item("4", "Objectives: development, evaluation, or both", lambda c: "Question" if c.question else ""),
    Item("5a", "Sources of the data for development and for evaluation, and how representative they are", _split("Data (representativeness: see Limits)")),
    Item("5b", "Dates of the data", _missing),
    Item("6a", "Setting: number and place of centres", _missing),
    Item("6b", "Eligibility criteria of the patients", _missing),
    Item("6c", "Treatments received", _missing),
    Item("7", "Preparation of the data and checks of its quality", _trained("Models: input size, geometry, augmentation")),
    Item("8a", "Outcome: what is predicted, how and when it was determined", _missing),
    Item("8b", "Qualification of those who determined the outcome", _missing),
    Item("8c", "Whether they were blinded", _missing),
    Item("9a", "Choice of predictors", _says("Question and Models: the image alone")),
    Item("9b", "Definition of the predictors and how they were measured", _missing),
    Item("9c", "Qualification of those who assessed the predictors", _missing),
    Item("10", "How the sample size was arrived at", _missing),
    Item("11", "Missing data", _split("Data: images left out are counted")),
    Item("12a", "How the data were divided for development and evaluation", _split("Data: flow and split hash; Leakage")),
    Item("12b", "How predictors were handled", _trained("Models")),
    Item("12c", "Type of model, all steps of building it, hyperparameters, internal validation", _trained("Models, How to reproduce")),
    Item("12d", "Heterogeneity between clusters of patients or centres", _cases),
    Item("12e", "Measures and plots of performance, comparison of models", _says("Scores")),
    Item("12f", "Updating of the model after evaluation", _says("None was done")),
    Item("12g", "How predictions were computed at evaluation", _says("Scores: class of greatest probability; files in Data files")),
    Item("13", "Class imbalance and what was done about it", _says("Scores: baseline and balanced accuracy")),
    Item("14", "Fairness between groups of people", _missing),
    Item("15", "Output of the model and any threshold", _says("Scores: probability per class; the more probable class")),
    Item("16", "Differences between development and evaluation data", _split("Data: counts per side")),
    Item("17", "Ethical approval and consent", _missing),
    Item("18a", "Funding", _missing),
    Item("18b", "Conflicts of interest", _missing),
    Item("18c", "Where the protocol can be found", _missing),
    Item("18d", "Registration", _missing),
    Item("18e", "Availability of the data", _says("Data files: predictions; images by the data set's own licence")),
    Item("18f", "Availability of the code", _trained("How to reproduce: commit and commands")),
    Item("19", "Involvement of patients and public", _missing),
    Item("20a", "Flow of the participants", _split("Data: flow diagram")),
    Item("20b", "Characteristics of the participants", _missing),
    Item("20c", "Comparison of development and evaluation data in important predictors", _missing),
    Item("21", "Participants and outcome events in each analysis", _says("Scores: images and cases per class")),
    Item("22", "Full model, so that others can predict", _trained("How to reproduce (weights travel in a bundle)")),
    Item("23a", "Performance with confidence intervals, also in subgroups", lambda c: _intervals(c) and (_powers(c) or _intervals(c))),
    Item("23b", "Heterogeneity of performance between clusters", _cases),
    Item("24", "Results of updating", _says("None was done")),
    Item("25", "Interpretation, with fairness and earlier studies", _missing),
    Item("26", "Limitations", _says("Limits")),
    Item("27a", "How poor or missing input is handled in use", _missing),
    Item("27b", "What users must do and know", _missing),
    Item("27c", "Next steps for research", _missing),
)  # fmt: skip

CLAIM = (
    Item("7", "Data sources", _split("Data")),
    Item("9", "Preprocessing", _trained("Models: input size, geometry")),
    Item("12", "De-identification", _missing),
    Item("14", "Reference standard", _missing),
    Item("16", "Source of annotations and qualification of annotators", _missing),
    Item("19", "Intended sample size", _missing),
    Item("20", "How data were assigned to partitions", _split("Data: protocol, fold, seed, split hash")),
    Item("21", "Level at which partitions are disjoint (patient, slide, image)", lambda c: "Leakage" if c.worst_audit["level"] != "unknown" else ""),
    Item("22", "Detailed description of the model", _trained("Models")),
    Item("23", "Software libraries", _says("Versions")),
    Item("24", "Initialisation of the parameters", _trained("Models: first weights")),
    Item("25", "Training: augmentation, hyperparameters", _trained("Models, How to reproduce")),
    Item("26", "How the final model was selected", _trained("Models: best epoch on validation")),
    Item("27", "Ensembling", _ensemble),
    Item("28", "Metrics of performance", _says("Scores")),
    Item("29", "Statistical significance and uncertainty", _intervals),
    Item("30", "Robustness or sensitivity analysis", _powers),
    Item("31", "Explainability or interpretability", _overlays),
    Item("32", "Validation on external data", _missing),
    Item("33", "Flow of participants", _split("Data: flow diagram")),
    Item("34", "Characteristics of cases in each partition", _missing),
    Item("35", "Performance on every partition", _missing),
    Item("36", "Estimates with their precision", _intervals),
    Item("37", "Failure analysis", _errors),
    Item("38", "Limitations", _says("Limits")),
    Item("39", "Implications for practice", _missing),
    Item("41", "Where protocol, software and data can be found", _trained("How to reproduce")),
    Item("42", "Funding", _missing),
)  # fmt: skip
STANDARDS = (("TRIPOD+AI", TRIPOD_AI), ("CLAIM", CLAIM))


def answered(contents: Contents) -> list[Answered]:
    """Every item of both standards with where the report answers it; `where` empty = missing."""
    return [
        Answered(standard, item.number, item.asks, item.answer(contents))
        for standard, items in STANDARDS
        for item in items
    ]
