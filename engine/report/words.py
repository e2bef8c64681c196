"""The sentences and tables of a report that its skins share: answer, models, limits, how to reproduce."""

from __future__ import annotations

import re
import shlex
from typing import Any

from engine.analysis.metrics import SCORES
from engine.errors import EngineError
from engine.report.contents import HEADLINE, Contents, Group, RunPart
from engine.runs.config import FAST, DataConfig, ModelConfig, RunConfig, TrainingConfig, options
from engine.runs.selection import selection_sentence

FEW_CASES = 30
CARD = "Research use only. Not for diagnosis."
_BREAKHIS = re.compile(r"(CNB|SOB)_(B|M)_[A-Z]+-\d\d-\d+[A-Z]*-(40|100|200|400)-\d+\.png")


def answer(contents: Contents) -> list[str]:
    """What was found, a sentence per group of runs: the best score, its interval, n, and the baseline."""
    sentences = []
    for group in contents.groups:
        entries = [
            entry
            for entry in group.comparison.entries
            if entry.scores[HEADLINE].value == entry.scores[HEADLINE].value
        ]
        if not entries:
            continue
        best = max(entries, key=lambda entry: entry.scores[HEADLINE].value)
        k, n = best.patients
        several = (
            f"Best of {len(entries)} by this very score, which flatters it: " if len(entries) > 1 else ""
        )
        patients = f" {k} of {n} patients are diagnosed rightly." if n else ""
        base = group.comparison.baseline.get("accuracy")
        floor = (
            f" Always saying the commonest class would be right on {base:.1%} of the images."
            if base == base
            else ""
        )
        sentences.append(
            f"{several}{contents.names[best.id]} has a balanced accuracy of {best.scores[HEADLINE]}."
            f"{patients}{floor}"
        )  # fmt: skip
    return sentences


def models_rows(contents: Contents) -> tuple[list[str], list[list[str]]]:
    """Header and a row per run: what was trained, how, chosen on what."""
    header = [
        "Run",
        "Model",
        "First weights",
        "Input",
        "Recipe",
        "Epochs, batch, seed",
        "Split",
        "Best on validation",
    ]
    return header, [_model_row(contents, run) for run in contents.runs]


def _model_row(contents: Contents, run: RunPart) -> list[str]:
    config = RunConfig.from_record(run.config)
    name = contents.names[run.id]
    if run.kind == "import":
        sources = ", ".join(map(str, config.details.get("sources", ()))) or "unknown"
        return [name, run.model, "unknown", "unknown", f"from {sources}", "unknown", "unknown", "unknown"]
    if run.kind == "ensemble":
        how = f"{config.details.get('method', 'mean')} of {len(run.members)} members"
        return [name, "Ensemble", "its members'", "its members'", how, "none", _split_text(run), "none"]
    size = f"{config.model.image_size} px" if config.model.image_size else "the architecture's own size"
    best = (
        f"{run.best['metric'].replace('_', ' ')} {run.best['value']:.3f} (epoch {run.best['epoch']})"
        if run.best
        else "n/a"
    )
    training = config.training
    return [
        name,
        run.model,
        config.model.pretrained,
        f"{size}, {config.model.geometry}",
        training.recipe + (f", augmentation {training.augmentation}" if training.augmentation else ""),
        f"{_chosen(training.epochs)}, {_chosen(training.batch_size)}, {training.seed}",
        _split_text(run),
        best,
    ]  # fmt: skip


def _chosen(number: int) -> str:
    return str(number) if number else "the recipe's"


def _split_text(run: RunPart) -> str:
    data = run.config.get("data", {})
    return f"{data.get('protocol', 'unknown')}, fold {data.get('fold', 0)}, hash {run.split_hash[:12] or 'unknown'}"


def score_header(group: Group) -> list[str]:
    return ["Run", *[SCORES[name].title for name in group.comparison.entries[0].scores], "Patients right"]


def score_rows(contents: Contents, group: Group) -> list[list[str]]:
    """A row per run with every score and its interval; last the baseline."""
    rows = []
    for entry in group.comparison.entries:
        k, n = entry.patients
        rows.append(
            [
                contents.names[entry.id],
                *[one.short for one in entry.scores.values()],
                f"{k}/{n}" if n else "n/a",
            ]
        )
    base = group.comparison.baseline
    names = list(group.comparison.entries[0].scores)
    rows.append(
        ["Always the commonest class", *[_digits(base.get(name)) for name in names], ""]
    )  # fmt: skip
    return rows


def _digits(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.3f}"


def score_notes(group: Group) -> list[str]:
    """How the intervals were made, and their warnings, each once."""
    seen: dict[str, None] = {}
    for entry in group.comparison.entries:
        for name, one in entry.scores.items():
            seen.setdefault(
                f"{SCORES[name].title}: {one.method}" + (f" ({one.warning})" if one.warning else "")
            )
    return list(seen)


def difference_header() -> list[str]:
    return [
        "Run minus reference",
        "Score",
        "Difference [95%]",
        "p (cases exchanged)",
        "p (Holm)",
        "McNemar p (images)",
    ]


def difference_rows(contents: Contents, group: Group, *, headline: bool) -> list[list[str]]:
    """Paired differences to the first run of the group: of the headline score, or of all others."""
    rows = []
    for one in group.comparison.differences:
        if (one.score == HEADLINE) != headline:
            continue
        rows.append(
            [
                contents.names[one.id],
                SCORES[one.score].title,
                one.estimate.short,
                _p(one.p),
                _p(one.p_holm),
                f"{_p(one.mcnemar.p)} ({one.mcnemar.first_only} : {one.mcnemar.second_only})",
            ]
        )
    return rows


def _p(value: float) -> str:
    return "n/a" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


def scores_sentence(contents: Contents, group: Group) -> str:
    """What the table of scores holds, and why a number stands without its interval where one does."""
    size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
    said = f"Every score with its 95% interval over whole cases; n = {size}."
    if any("[n/a]" in cell for row in score_rows(contents, group) for cell in row):
        said += " [n/a]: too few cases of a class for an interval."
    return said


def has_powers(group: Group) -> bool:
    """Whether images of several magnifications were scored: with one, its table says nothing new."""
    return len(power_header(group)) > 3  # the run, all images, and one column per magnification


def power_header(group: Group) -> list[str]:
    return ["Run", *[text for text, _ in next(iter(group.by_power.values()))]]


def power_rows(contents: Contents, group: Group) -> list[list[str]]:
    """Balanced accuracy of every run at each magnification."""
    return [
        [contents.names[run_id], *[one.short for _, one in rows]] for run_id, rows in group.by_power.items()
    ]


# -- ensembles ------------------------------------------------------------------------------------


def ensemble_lines(contents: Contents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per ensemble: its name, and facts (method, members with weights, what it was fitted on)."""
    found = []
    for run in contents.runs:
        if run.kind not in ("ensemble", "fusion", "pooled"):
            continue
        details = run.config.get("details", {})
        weights = details.get("weights") or []
        members = []
        for position, member in enumerate(run.members):
            name = contents.names.get(member, member)
            weight = f" (weight {float(weights[position]):.3g})" if position < len(weights) else ""
            members.append(name + weight)
        facts = [
            ("Method", str(details.get("method") or run.kind)),
            ("Members", "; ".join(members) or "unknown"),
        ]
        if details.get("tie_rule"):
            facts.append(("Ties", str(details["tie_rule"])))
        chosen = selection_sentence(details)
        if chosen:
            facts.append(("Selection", chosen))
        facts.append(("Leakage", str(run.audit.get("verdict", "Unknown."))))
        found.append((contents.names[run.id], facts))
    return found


# -- limits ---------------------------------------------------------------------------------------


def limits(contents: Contents) -> list[str]:
    """What a reader must keep in mind, derived from what is known."""
    found = []
    if contents.worst_audit["level"] == "leak":
        found.append(
            "Patients are on more than one side of a split used here: these scores say how well the models "
            "recognise patients they have met, and are no estimate for new ones."
        )
    if contents.worst_audit["level"] == "unknown":
        found.append(
            "For some runs it is not known which patients they learned from: their scores may be too high."
        )
    for group in contents.groups:
        n = group.comparison.n_cases
        if n and n < FEW_CASES:
            found.append(
                f"Only {n} cases were tested ({group.comparison.n_images:,} images): the intervals are wide and rough."
            )
        if not n:
            found.append(
                "The cases of the images are not known: intervals treat images of one patient as independent and are too narrow."
            )
    if len(contents.groups) > 1:
        found.append(
            f"The runs were tested on {len(contents.groups)} different sets of images; only runs within one set are compared."
        )
    tried = sum(len(group.ids) for group in contents.groups)
    if tried > 1:
        found.append(
            f"{tried} runs were scored on {contents.split} images; the best of several is flattered by chance."
        )
    fast = [
        contents.names[run.id]
        for run in contents.runs
        if run.config.get("training", {}).get("mode") == "fast" and run.kind != "import"
    ]
    if fast:
        found.append(f"{FAST} This holds for {', '.join(fast)}.")
    if any(_is_breakhis(run) for run in contents.runs):
        found.append(
            "BreakHis is one collection of 82 slides in which malignant images are more than twice as frequent "
            "as benign ones: predictive values hold at that frequency only, and nothing here shows how the "
            "models do on slides of another laboratory."
        )  # fmt: skip
    found.append(
        "No age, ethnicity or other attribute of the patients is known, so fairness cannot be assessed."
    )
    found.append("A map of a network's attention is no proof of what the network used.")
    return [*found, CARD]


def _is_breakhis(run: RunPart) -> bool:
    first = str(run.table["image_id"].iloc[0]) if len(run.table) else ""
    return bool(_BREAKHIS.fullmatch(first))


# -- how to reproduce -----------------------------------------------------------------------------


def commands(contents: Contents) -> list[str]:
    """Command lines that make these runs and this report again, in order."""
    lines = []
    for run in contents.runs:
        if run.kind == "train":
            lines.append(train_command(run))
        elif run.kind == "import":
            sources = [str(name) for name in run.config.get("details", {}).get("sources", ())] or [
                "predictions.csv"
            ]
            lines.append(shlex.join(["python", "-m", "engine", "import", *sources, "--name", run.name]))
        elif run.kind == "ensemble":
            method = str(run.config.get("details", {}).get("method") or "mean")
            lines.append(
                shlex.join(
                    [
                        "python",
                        "-m",
                        "engine",
                        "ensemble",
                        *run.members,
                        "--method",
                        method,
                        "--name",
                        run.name,
                    ]
                )
            )
    ids = [run.id for run in contents.runs]
    lines.append(
        shlex.join(
            ["python", "-m", "engine", "report", *ids, "--title", contents.title, "--out", "report.html"]
        )
    )
    return lines


def train_command(run: RunPart) -> str:
    """The command line of one trained run: every setting that is not the default."""
    try:
        config = RunConfig.from_record(run.config)
    except EngineError:
        return ""
    groups = {
        DataConfig: config.data,
        ModelConfig: config.model,
        TrainingConfig: config.training,
        RunConfig: config,
    }
    words = ["python", "-m", "engine", "train"]
    for group, item in options():
        value = getattr(groups[group], item.name)
        if item.name == "root":
            words += [item.metadata["flag"], "DATA"]
        elif value != item.default and item.name != "experiment":
            words += [item.metadata["flag"], *_words(value)]
    return shlex.join(words)


def _words(value: Any) -> list[str]:
    if value is True:
        return []
    return [",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def versions(contents: Contents) -> list[tuple[str, str]]:
    """What made the runs (as they recorded it), and what made this report."""
    rows = []
    seen: dict[str, list[str]] = {}
    for run in contents.runs:
        text = version_text(run.provenance) if run.provenance else "not recorded"
        seen.setdefault(text, []).append(contents.names[run.id])
    for text, names in seen.items():
        rows.append(("All runs" if len(seen) == 1 else ", ".join(names), text))
    rows.append(("This report", version_text(contents.versions)))
    return rows


def version_text(record: dict[str, Any]) -> str:
    """A provenance record in a line: Python, packages, commit, machine."""
    packages = ", ".join(f"{name} {version}" for name, version in (record.get("packages") or {}).items())
    parts = [
        f"Python {record.get('python', 'unknown')}",
        packages,
        f"commit {record['git_commit'][:12]}" if record.get("git_commit") else "commit not recorded",
        str(record.get("machine", "")),
        f"{record['cores']} cores" if record.get("cores") else "",
    ]
    return "; ".join(part for part in parts if part)
