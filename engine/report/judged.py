"""The report of a prediction: one HTML file about new images, for whoever has to look at them."""

from __future__ import annotations

import base64
import contextlib
import time
from pathlib import Path

from engine.errors import EngineError, ShareError
from engine.predict import maps, summary
from engine.predict.judge import Judged
from engine.predict.referral import Rule
from engine.report import words
from engine.report.document import Page, bullets, document, paragraph, table, table_file, text, verdict, write
from engine.runs.folder import RunFolder
from engine.runs.provenance import provenance
from engine.share import access
from engine.wording import when

LISTED = 400
PICTURES = 12


def write_judged_report(
    folder: RunFolder, judged: Judged, rule: Rule, target: Path, *, title: str = "", author: str = ""
) -> Path:
    """Write the report of a prediction as one HTML file; replaced whole or not at all.

    Raises:
        ShareError: another ending, or the file cannot be written.
    """
    target = Path(target)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ShareError("This report is HTML", found=target.name, remedy="Give a file that ends in .html")
    write(target, judged_report(folder, judged, rule, title=title, author=author).encode("utf-8"))
    access.log(folder.runs, "report", folder.id, title=title or "Predictions")
    return target


def judged_report(
    folder: RunFolder,
    judged: Judged,
    rule: Rule,
    *,
    title: str = "",
    author: str = "",
    pictures: int = PICTURES,
) -> str:
    """The report as text of HTML: what was judged by what, whom to look at, every image, every case, limits."""
    made = time.time()
    title = title.strip()[:200] or "Predictions for new images"
    met = summary.met_before(folder, judged.table)
    page = Page()
    page.section("answer", "What was found", bullets(summary.sentences(judged, rule, met, folder.name)))
    page.section("model", "Model", _model(folder, judged))
    lines, left_out = summary.score_lines(judged, met), summary.left_out_sentence(judged, met)
    if lines or left_out:
        intro = "By the labels that names, folders or the CSV tell; 95% intervals over whole cases."
        rows = table(["Score", "Value"], [list(one) for one in lines]) if lines else ""
        page.section("scores", "Scores", paragraph(f"{intro} {left_out}".strip()), rows)
    page.section("first", "Images to look at first", _pictures(folder, judged, rule, pictures))
    cases = summary.case_rows(judged, rule)
    if not cases.empty:
        page.section("cases", "Cases", table(list(cases.columns), _rows(cases)))
    shown = summary.image_rows(judged, rule)
    note = (
        f"The first {LISTED} of {len(shown):,} images; all of them are in the file below."
        if len(shown) > LISTED
        else ""
    )
    page.section(
        "images",
        "Images",
        paragraph(note) if note else "",
        table(list(shown.columns), _rows(shown.head(LISTED))),
    )
    page.section("limits", "Limits", bullets(_limits(judged)))
    page.section("files", "Data files", table_file("predictions.csv.gz", judged.table))
    by = " · ".join(part for part in (author.strip()[:120], when(made)) if part)
    head = (
        f'<header><h1>{text(title)}</h1><p class="by">{text(by)}</p>'
        f"{verdict(_audit(folder, met))}<p>{text(summary.counts_sentence(judged))}</p></header>"
    )
    return document(title, head, page, f"{summary.RESEARCH} Made {when(made)} with {folder.name}.")


def _audit(folder: RunFolder, met: summary.Met) -> dict:
    """The badge: red where the model has met what it judges, otherwise that of its own split."""
    if met.names or met.cases:
        title = "This model has met these patients"
        return {"level": "leak", "title": title, "verdict": summary.met_sentence(met, folder.name)}
    return folder.audit()


def _model(folder: RunFolder, judged: Judged) -> str:
    config = folder.config()
    facts = [["Run", f"{folder.name} ({folder.id})"], ["Kind", config.kind]]
    if judged.members:
        facts.append(["Members", ", ".join(judged.members)])
        facts.append(["Method", str(config.details.get("method", "mean"))])
    else:
        facts.append(["Model", config.model.name])
    facts += [
        ["Trained on", f"{config.data.protocol} split, fold {config.data.fold}: {folder.audit().get('verdict', 'Unknown.')}"],
        ["Calibration", str(judged.calibration)],
        ["Versions", words.version_text(provenance())],
    ]  # fmt: skip
    return table(["", ""], facts)


def _pictures(folder: RunFolder, judged: Judged, rule: Rule, limit: int) -> str:
    """The images a person should see first, each beside its map."""
    wanted = list(summary.least_sure(judged, limit))
    if not wanted:
        return ""
    rows = {str(row["image_id"]): row for row in judged.table.to_dict("records")}
    why = dict(zip(judged.table["image_id"], rule.reasons(judged.table), strict=True))
    target = str(folder.config().classes[-1])
    cards = []
    for start in range(0, len(wanted), 4):
        part = wanted[start : start + 4]
        with contextlib.suppress(EngineError, OSError):
            files_of = [judged.paths[name] for name in part]
            for name, found in zip(part, maps.maps_of(folder, files_of, target), strict=True):
                row = rows[name]
                shots = maps.pictures(judged.paths[name], found, str(row["magnification"]))
                cards.append(
                    _card(
                        name, found.predicted, float(row[f"calibrated_{found.predicted}"]), why[name], shots
                    )
                )
    note = f"Unlike the training images first, then the least sure. Right: coloured where the model finds evidence for {target}, light = much."
    return f'<p class="note">{text(note)}</p><div class="cards">{"".join(cards)}</div>' if cards else ""


def _card(name: str, predicted: str, probability: float, why: str, shots: tuple[bytes, bytes]) -> str:
    images = "".join(
        f'<img alt="{text(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for alt, data in zip((f"{name}", f"map over {name}"), shots, strict=True)
    )
    refer = f'<div class="wrong">to a person: {text(why)}</div>' if why else ""
    return (
        f'<div class="card"><div class="pair">{images}</div><b>{text(name)}</b>'
        f"<div>{text(predicted)} {probability:.3f}</div>{refer}</div>"
    )


def _limits(judged: Judged) -> list[str]:
    found = [
        "A probability speaks of images like those the model was trained and validated on: another scanner, "
        "stain or magnification changes it in ways that no calibration here can see.",
        "Cases are diagnosed by the mean probability of the images at hand, however few they are.",
        "A map of a network's attention is no proof of what the network used.",
    ]
    if judged.appearance is None:
        found.insert(0, summary.unlike_sentence(judged))
    return [*found, summary.RESEARCH]


def _rows(frame) -> list[list[str]]:
    return [
        [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        for row in frame.itertuples(index=False)
    ]
