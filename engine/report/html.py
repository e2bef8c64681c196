"""One self-contained HTML file: text, data, images and interactive figures inside, nothing fetched.

plotly.js stands in it once. A content security policy with the hashes of its two scripts forbids every
request and every other script, so that even text that slipped through the escaping could not run.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import ShareError
from engine.progress import Progress
from engine.report import plots, words
from engine.report.checklist import answered
from engine.report.contents import (
    QUESTION,
    Contents,
    Group,
    Picture,
    case_errors,
    collect,
    predictions_table,
    scores_table,
)
from engine.report.document import (
    LEVELS,
    Page,
    bullets,
    document,
    level_of,
    paragraph,
    table,
    table_file,
    text,
    verdict,
    write,
)
from engine.report.flow import flow_svg
from engine.runs.folder import RunFolder
from engine.share import access
from engine.wording import when

MAX_BYTES = 15_000_000


def write_report(
    folders: Sequence[RunFolder],
    target: Path,
    *,
    title: str,
    author: str = "",
    question: str = QUESTION,
    note: str = "",
    split: str = "test",
    pictures: int = 12,
    progress: Progress | None = None,
) -> Path:
    """Write the report of some runs: HTML, or PDF where the target ends in `.pdf`.

    Args:
        folders: the runs, in the order they are shown.
        target: the file; replaced whole or not at all.
        title, author, question, note: text; shown as text, whatever is in it.
        split: whose predictions are reported.
        pictures: at most so many images of mistakes (with maps the run folders hold); 0 = none.
        progress: called with (steps done, steps).

    Raises:
        ShareError: nothing to report, or the file cannot be written.
        RunError, PredictionsError: a run cannot be read or scored.
    """
    contents = collect(
        folders, title=title, author=author, question=question, note=note, split=split, pictures=pictures,
        progress=progress,
    )  # fmt: skip
    write(Path(target), render(contents, Path(target).suffix))
    access.log(folders[0].runs, "report", ",".join(run.id for run in contents.runs), title=contents.title)
    return Path(target)


def render(contents: Contents, suffix: str = ".html") -> bytes:
    """The report as a file's bytes: `.html` or `.pdf`.

    Raises:
        ShareError: another ending.
    """
    if suffix.lower() in (".html", ".htm", ""):
        return report_html(contents).encode("utf-8")
    if suffix.lower() == ".pdf":
        from engine.report.pdf import report_pdf

        return report_pdf(contents)
    raise ShareError("A report is HTML or PDF", found=suffix, remedy="Give a file that ends in .html or .pdf")


# -- the file -------------------------------------------------------------------------------------


def report_html(contents: Contents) -> str:
    """The whole file as text."""
    page = Page()
    _fill(page, contents)
    footer = f"{words.CARD} Made {when(contents.created_at)} from {len(contents.runs)} runs."
    return document(contents.title, _head(contents), page, footer)


def _head(contents: Contents) -> str:
    by = " · ".join(part for part in (contents.author, when(contents.created_at)) if part)
    return (
        f'<header><h1>{text(contents.title)}</h1><p class="by">{text(by)}</p>'
        f"{verdict(contents.worst_audit)}"
        f"{''.join(f'<p>{text(line)}</p>' for line in words.answer(contents))}</header>"
    )


def _fill(page: Page, contents: Contents) -> None:
    page.section("question", "Question", paragraph(contents.question), _note(contents))
    page.section("leakage", "Leakage", _leakage(contents))
    page.section("data", "Data", _data(contents))
    page.section(
        "models", "Models", table(*words.models_rows(contents)), page.figure(plots.learning_curves(contents))
    )
    page.section("scores", "Scores", *_per_group(contents, lambda group: _scores(page, contents, group)))
    page.section(
        "matrices",
        "Confusion matrices per magnification",
        *_per_group(contents, lambda group: _matrices(page, contents, group)),
    )
    page.section("ensembles", "Ensembles", _ensembles(contents))
    page.section("errors", "Errors", _errors(contents))
    page.section("limits", "Limits", bullets(words.limits(contents)))
    page.section("items", "Reporting items: TRIPOD+AI and CLAIM", _checklist(contents))
    page.section(
        "versions",
        "Versions",
        table(["Made by", "Versions"], [list(row) for row in words.versions(contents)]),
    )
    page.section("reproduce", "How to reproduce", _reproduce(contents))
    page.section("files", "Data files", _files(contents))  # fmt: skip


# -- sections -------------------------------------------------------------------------------------


def _note(contents: Contents) -> str:
    return f"<h3>Note of the author</h3>{paragraph(contents.note)}" if contents.note else ""


def _per_group(contents: Contents, draw: Callable[[Group], str]) -> list[str]:
    several = len(contents.groups) > 1
    parts = []
    for number, group in enumerate(contents.groups, 1):
        size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
        parts.append((f"<h3>Test set {number}: {text(size)}</h3>" if several else "") + draw(group))
    return parts


def _leakage(contents: Contents) -> str:
    rows = [[contents.names[run.id], LEVELS[level_of(run.audit)], str(run.audit.get("verdict", ""))]
            for run in contents.runs]  # fmt: skip
    explain = (
        "A model that has met a patient in training recognises that patient's tissue and stain, so its "
        "scores on other images of the same patient say little about the next one."
    )
    return paragraph(explain) + table(["Run", "Verdict", "Found"], rows)


def _data(contents: Contents) -> str:
    parts = []
    for flow in contents.flows:
        facts = f"Protocol {flow.protocol}, fold {flow.fold}, split seed {flow.seed}, split hash"
        runs = ", ".join(flow.runs[:6]) + (" ..." if len(flow.runs) > 6 else "")
        parts.append(
            f"<h3>Split of {text(runs)}</h3><p>{text(facts)} <code>{text(flow.split_hash)}</code>.</p>"
            f"<figure>{flow_svg(flow)}</figure>"
        )
    if not contents.flows:
        parts.append(paragraph("None of these runs recorded which images it was trained on."))
    known = contents.groups[0].comparison
    parts.append(
        paragraph(
            f"Scores are computed on {contents.split} images; {known.n_images:,} of them in the first set."
        )
    )
    if known.note:
        parts.append(paragraph(known.note))
    if contents.skipped:
        parts.append("<h3>Runs left out</h3>" + bullets(contents.skipped))
    return "".join(parts)


def _scores(page: Page, contents: Contents, group: Group) -> str:
    parts = [
        paragraph(words.scores_sentence(contents, group)),
        table(words.score_header(group), words.score_rows(contents, group), last_is_baseline=True),
        "<details><summary>How each interval was made</summary>"
        + bullets(words.score_notes(group))
        + "</details>",
        page.figure(plots.forest(contents, group)),
    ]
    if words.has_powers(group):
        parts += [
            "<h3>Balanced accuracy at each magnification</h3>",
            table(words.power_header(group), words.power_rows(contents, group)),
        ]
    rows = words.difference_rows(contents, group, headline=True)
    if rows:
        others = table(words.difference_header(), words.difference_rows(contents, group, headline=False))
        reference = contents.names[group.comparison.reference]
        tests = "p exchanges whole cases between the two runs; Holm over the comparisons; McNemar over images ignores that images share patients."
        parts += [
            f"<h3>Differences to {text(reference)}</h3>",
            table(words.difference_header(), rows),
            f"<small>{text(tests)}</small>",
            f"<details><summary>The other scores</summary>{others}</details>",
        ]
    parts += [page.figure(plots.roc(contents, group)), page.figure(plots.calibration(contents, group))]
    return "".join(parts)


def _matrices(page: Page, contents: Contents, group: Group) -> str:
    classes = group.comparison.aligned.classes
    header = ["Run", "Images", *[f"{true} taken for {guess}" for true in classes for guess in classes]]
    rows = []
    for entry in group.comparison.entries:
        for part, matrix in entry.confusion.items():
            counts = [_share(matrix, i, j) for i in range(len(classes)) for j in range(len(classes))]
            rows.append([contents.names[entry.id], part, *counts])
    numbers = "<details><summary>The same as numbers</summary>" + table(header, rows) + "</details>"
    return page.figure(plots.matrices(contents, group)) + numbers


def _share(matrix: list[list[int]], true: int, guess: int) -> str:
    total = sum(matrix[true])
    return f"{matrix[true][guess]:,} ({matrix[true][guess] / total:.1%})" if total else "0 (n/a)"


def _ensembles(contents: Contents) -> str:
    found = words.ensemble_lines(contents)
    if not found:
        return paragraph("None of these runs is an ensemble.")
    return "".join(
        f"<h3>{text(name)}</h3>{table(['', ''], [list(fact) for fact in facts])}" for name, facts in found
    )


def _errors(contents: Contents) -> str:
    if contents.errors.empty:
        return paragraph("No run makes a mistake on these images.")
    rows = [
        [row["image_id"], row["case"] or "unknown", row["magnification"] or "unknown", row["subtype"] or "unknown",
         row["label"], f"{row['wrong']} of {row['of']}", f"{row['confidence']:.3f}"]
        for row in contents.errors.to_dict("records")
    ]  # fmt: skip
    header = [
        "Image",
        "Case",
        "Magnification",
        "Subtype",
        "True",
        "Runs wrong",
        "Mean probability of the wrong class",
    ]
    parts = ["<h3>Images that the runs get wrong, the surest mistakes first</h3>", table(header, rows)]
    for number, group in enumerate(contents.groups, 1):
        mistakes = case_errors(group)
        which = f" (test set {number})" if len(contents.groups) > 1 else ""
        if not mistakes.empty:
            cases = [
                [row["case"], row["label"], str(row["images"]), f"{row['wrong']} of {row['of']} predictions"]
                for row in mistakes.head(15).to_dict("records")
            ]
            parts += [
                f"<h3>Cases with the most mistakes{which}</h3>",
                table(["Case", "True", "Images", "Wrong"], cases),
            ]
    if contents.pictures:
        parts += [
            "<h3>Their images</h3>",
            '<p class="note">Right of an image: the class activation map that the run holds, where there is one: coloured = evidence for malignant, light = much.</p>',
            f'<div class="cards">{"".join(_card(picture) for picture in contents.pictures)}</div>',
        ]
    return "".join(parts)


def _card(picture: Picture) -> str:
    said = "".join(
        f'<div><span class="{"" if guess == picture.label else "wrong"}">{text(guess)} {probability:.3f}</span> {text(name)}</div>'
        for name, guess, probability in picture.verdicts[:10]
    )
    shots = [(f"{picture.label}, {picture.magnification}", picture.image), *picture.overlays[:3]]
    images = "".join(
        f'<figure style="margin:0"><img alt="{text(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{text(alt)}</figcaption></figure>"
        for alt, data in shots
    )
    pair = "pair" if len(shots) > 1 else ""
    return (
        f'<div class="card"><div class="{pair}">{images}</div><b>{text(picture.image_id)}</b>'
        f"<div>case {text(picture.case or 'unknown')} · {text(picture.magnification or 'magnification unknown')} · truly {text(picture.label)}</div>{said}</div>"
    )


def _checklist(contents: Contents) -> str:
    items = answered(contents)
    parts = [
        paragraph(
            "Ticked where this report holds the answer; missing is what its author must add before it is "
            "published. Wording shortened; TRIPOD+AI: BMJ 385:e078378, 2024; CLAIM: Radiol Artif Intell 2:e200029, 2020."
        )
    ]
    for standard in dict.fromkeys(item.standard for item in items):
        own = [item for item in items if item.standard == standard]
        rows = "".join(
            f'<tr><td class="n">{text(item.number)}</td><td>{text(item.asks)}</td>'
            + (
                f'<td class="tick">✓ ticked</td><td>{text(item.where)}</td>'
                if item.ticked
                else '<td class="miss">✗ missing</td><td></td>'
            )
            + "</tr>"
            for item in own
        )
        ticked = sum(item.ticked for item in own)
        parts.append(
            f"<h3>{text(standard)}: {ticked} of {len(own)} answered here</h3>"
            f'<div class="scroll"><table><thead><tr><th>Item</th><th>Asks for</th><th></th><th>Where</th></tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return "".join(parts)


def _reproduce(contents: Contents) -> str:
    commits = sorted({str(run.provenance.get("git_commit") or "")[:12] for run in contents.runs} - {""})
    known = f"Code: commit {', '.join(commits)}. " if commits else ""
    intro = f"{known}DATA is the folder of the data set; the split follows from protocol, fold and seed, and its hash must be the one above."
    return paragraph(intro) + f"<pre>{text(chr(10).join(words.commands(contents)))}</pre>"


def _files(contents: Contents) -> str:
    tables = {
        "predictions.csv.gz": predictions_table(contents),
        "scores.csv.gz": scores_table(contents),
    }
    links = "".join(table_file(name, one) for name, one in tables.items())
    return paragraph("All predictions and scores, as tables (CSV, compressed).") + links
