"""One self-contained HTML file: text, data, images and interactive figures inside, nothing fetched.

plotly.js stands in it once. A content security policy with the hashes of its two scripts forbids every
request and every other script, so that even text that slipped through the escaping could not run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from engine import files
from engine.errors import ShareError
from engine.files import spreadsheet_safe
from engine.report import plots, words
from engine.report.checklist import answered
from engine.report.contents import (
    QUESTION,
    Contents,
    Group,
    Picture,
    Progress,
    case_errors,
    collect,
    predictions_table,
    scores_table,
)
from engine.report.flow import flow_svg
from engine.report.plots import Shown
from engine.runs.folder import RunFolder
from engine.share import access

MAX_BYTES = 15_000_000
_ESTIMATE = re.compile(r"(-?\d+\.\d+) (\[.*\])")

_CSS = """
:root{--ink:#23212B;--faint:#6B6676;--edge:#DCD9E4;--soft:#F5F4F8;--accent:#5B3E8F;--leak:#B3261E}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:#fff;font:16px/1.5 Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 28px}
header{padding-top:40px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-bottom:.25rem;border-bottom:1px solid var(--edge)}
h3{font-size:1.02rem;margin:1.5rem 0 .4rem}
p{margin:.45rem 0;max-width:78ch;overflow-wrap:anywhere}
.by,.note,figcaption,small{color:var(--faint);font-size:.9rem}
.pre{white-space:pre-wrap}
.verdict{display:flex;gap:.7rem;align-items:flex-start;border-radius:8px;padding:.8rem 1rem;margin:1rem 0;border:1px solid var(--edge)}
.verdict strong{display:block}.verdict svg{flex:none;margin-top:.15rem}
.leak{background:var(--leak);color:#fff;border-color:var(--leak)}
.clean svg{color:#2E7D4F}.unknown svg{color:var(--faint)}
nav{margin:1.2rem 0;columns:3 200px;font-size:.93rem}nav a{display:block;color:var(--accent);text-decoration:none;padding:.1rem 0}
nav a:hover{text-decoration:underline}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.87rem;width:100%}
th,td{text-align:left;padding:.36rem .6rem;border-bottom:1px solid var(--edge);vertical-align:top;font-variant-numeric:tabular-nums}
th{background:var(--soft);font-weight:600}
td.n{white-space:nowrap}.ci{display:block;color:var(--faint);font-size:.9em}tr.base td{color:var(--faint);font-style:italic}
figure{margin:1rem 0}figure .plot{overflow-x:auto}
.flow{width:100%;max-width:860px;height:auto;font-family:inherit}
.flow text{fill:var(--ink)}.flow .role{fill:var(--faint)}
summary{cursor:pointer;color:var(--accent);font-size:.9rem;margin:.3rem 0}
ul.plain{padding-left:1.1rem;margin:.4rem 0}ul.plain li{margin:.25rem 0;max-width:85ch}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1rem}
.card{border:1px solid var(--edge);border-radius:8px;padding:.7rem;font-size:.85rem;break-inside:avoid}
.card img{width:100%;border-radius:4px;display:block}
.card .pair{display:grid;grid-template-columns:1fr 1fr;gap:.4rem}
.card b{overflow-wrap:anywhere}
.card .wrong{color:#B3261E;font-weight:600}
code,pre{font:.84rem/1.5 'JetBrains Mono','DejaVu Sans Mono',Consolas,monospace}
pre{background:var(--soft);border:1px solid var(--edge);border-radius:6px;padding:.8rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.tick{color:#2E7D4F;font-weight:600;white-space:nowrap}.miss{color:var(--leak);white-space:nowrap}
.files a{display:inline-block;border:1px solid var(--edge);border-radius:6px;padding:.4rem .8rem;margin:.2rem .5rem .2rem 0;color:var(--accent);text-decoration:none}
footer{margin-top:3rem;padding-top:1rem;padding-bottom:3rem;border-top:1px solid var(--edge)}
@media print{nav,.files{display:none}h2{break-after:avoid}figure,table{break-inside:avoid}}
"""

_DRAW = """
document.querySelectorAll('script[data-figure]').forEach(function (source) {
  var figure = JSON.parse(source.textContent);
  var place = document.getElementById(source.dataset.figure);
  Plotly.newPlot(place, figure.data, figure.layout, {displaylogo: false, responsive: false,
    modeBarButtonsToRemove: ['sendDataToCloud', 'lasso2d', 'select2d']});
});
"""

_ICONS = {
    "leak": '<path d="M12 3 1.5 21h21z" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round"/><path d="M12 9v6M12 17.5v.6" stroke="currentColor" stroke-width="2.2"/>',
    "clean": '<path d="M4 12.5 10 18 20 6" fill="none" stroke="currentColor" stroke-width="2.6"/>',
    "unknown": '<circle cx="12" cy="12" r="9.5" fill="none" stroke="currentColor" stroke-width="2"/><path d="M9 9.5a3 3 0 1 1 4 3c-.8.4-1 1-1 2M12 17v.6" fill="none" stroke="currentColor" stroke-width="2"/>',
}


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
    data = render(contents, Path(target).suffix)
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(Path(target), data)
    except OSError as error:
        raise ShareError(
            "The report cannot be written",
            found=f"{error.strerror or error}: {target}",
            remedy="Give a file in a folder that you may write",
        ) from error
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


def text(value: object) -> str:
    """Anything as text in HTML."""
    return html.escape(str(value), quote=True)


# -- the file -------------------------------------------------------------------------------------


class _Page:
    """Collects sections, and the figures with their numbers."""

    def __init__(self) -> None:
        self.body: list[str] = []
        self.sections: list[tuple[str, str]] = []
        self.figures = 0

    def section(self, name: str, title: str, *parts: str) -> None:
        shown = [part for part in parts if part]
        if shown:
            self.sections.append((name, title))
            self.body.append(
                f'<section id="{name}"><h2>{len(self.sections)}. {text(title)}</h2>{"".join(shown)}</section>'
            )

    def figure(self, shown: Shown | None) -> str:
        """A figure: its place, and its data as JSON that no parser takes for markup."""
        if shown is None:
            return ""
        self.figures += 1
        name = f"figure-{self.figures}"
        shown.figure.update_layout(paper_bgcolor="#fff", plot_bgcolor="#fff")
        data = (
            str(shown.figure.to_json())
            .replace("<", "\\u003c")
            .replace("\u2028", "\\u2028")
            .replace("\u2029", "\\u2029")
        )
        width, height = shown.figure.layout.width or 700, shown.figure.layout.height or 420
        return (
            f'<figure><h3>{text(shown.title)}</h3><div class="plot"><div id="{name}" role="img" '
            f'aria-label="{text(shown.alt)}" style="width:{int(width)}px;height:{int(height)}px"></div></div>'
            f'<figcaption>{text(shown.caption)}</figcaption></figure>'
            f'<script type="application/json" data-figure="{name}">{data}</script>'
        )  # fmt: skip


def report_html(contents: Contents) -> str:
    """The whole file as text."""
    from plotly.offline import get_plotlyjs

    page = _Page()
    _fill(page, contents)
    library = get_plotlyjs().replace("</script", "<\\/script")
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:; "
        f"base-uri 'none'; form-action 'none'; script-src {_hash(library)} {_hash(_DRAW)}"
    )
    menu = "".join(
        f'<a href="#{name}">{number}. {text(title)}</a>'
        for number, (name, title) in enumerate(page.sections, 1)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(contents.title)}</title><style>{_CSS}</style></head><body>"
        f"{_head(contents)}<main><nav aria-label=\"Contents\">{menu}</nav>{''.join(page.body)}</main>"
        f"<footer><small>{text(words.CARD)} Made {text(words.day(contents.created_at))} from "
        f"{len(contents.runs)} runs. This file fetches nothing.</small></footer>"
        "<noscript><p>Figures are drawn by a script in this file; all numbers are in the tables.</p></noscript>"
        f"<script>{library}</script><script>{_DRAW}</script></body></html>\n"
    )  # fmt: skip


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode()}'"


def _head(contents: Contents) -> str:
    by = " · ".join(part for part in (contents.author, words.day(contents.created_at)) if part)
    return (
        f'<header><h1>{text(contents.title)}</h1><p class="by">{text(by)}</p>'
        f"{_verdict(contents.worst_audit)}"
        f"{''.join(f'<p>{text(line)}</p>' for line in words.answer(contents))}</header>"
    )


def _verdict(audit: dict) -> str:
    level = words.level_of(audit)
    return (
        f'<div class="verdict {level}" role="note"><svg width="24" height="24" viewBox="0 0 24 24" aria-hidden="true">'
        f"{_ICONS[level]}</svg><div><strong>{words.LEVELS[level]}</strong>{text(audit.get('verdict', ''))}</div></div>"
    )


def _fill(page: _Page, contents: Contents) -> None:
    page.section("question", "Question", _paragraph(contents.question), _note(contents))
    page.section("leakage", "Leakage", _leakage(contents))
    page.section("data", "Data", _data(contents))
    page.section(
        "models", "Models", _table(*words.models_rows(contents)), page.figure(plots.learning_curves(contents))
    )
    page.section("scores", "Scores", *_per_group(contents, lambda group: _scores(page, contents, group)))
    page.section(
        "matrices",
        "Confusion matrices per magnification",
        *_per_group(contents, lambda group: _matrices(page, contents, group)),
    )
    page.section("ensembles", "Ensembles", _ensembles(contents))
    page.section("errors", "Errors", _errors(contents))
    page.section("limits", "Limits", _list(words.limits(contents)))
    page.section("items", "Reporting items: TRIPOD+AI and CLAIM", _checklist(contents))
    page.section(
        "versions",
        "Versions",
        _table(["Made by", "Versions"], [list(row) for row in words.versions(contents)]),
    )
    page.section("reproduce", "How to reproduce", _reproduce(contents))
    page.section("files", "Data files", _files(contents))  # fmt: skip


# -- sections -------------------------------------------------------------------------------------


def _paragraph(value: str) -> str:
    return f'<p class="pre">{text(value)}</p>'


def _note(contents: Contents) -> str:
    return f"<h3>Note of the author</h3>{_paragraph(contents.note)}" if contents.note else ""


def _list(lines: Iterable[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], last_is_baseline: bool = False) -> str:
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = []
    for position, row in enumerate(rows):
        kind = ' class="base"' if last_is_baseline and position == len(rows) - 1 else ""
        cells = "".join(_cell(cell) for cell in row)
        body.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(cell: str) -> str:
    """A cell; an interval stands below its number."""
    found = _ESTIMATE.fullmatch(cell)
    if found:
        return f'<td class="n">{text(found[1])}<span class="ci">{text(found[2])}</span></td>'
    tight = ' class="n"' if len(cell) < 24 and any(sign.isdigit() for sign in cell) else ""
    return f"<td{tight}>{text(cell)}</td>"


def _per_group(contents: Contents, draw: Callable[[Group], str]) -> list[str]:
    several = len(contents.groups) > 1
    parts = []
    for number, group in enumerate(contents.groups, 1):
        size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
        parts.append((f"<h3>Test set {number}: {text(size)}</h3>" if several else "") + draw(group))
    return parts


def _leakage(contents: Contents) -> str:
    rows = [[contents.names[run.id], words.LEVELS[words.level_of(run.audit)], str(run.audit.get("verdict", ""))]
            for run in contents.runs]  # fmt: skip
    explain = (
        "A model that has met a patient in training recognises that patient's tissue and stain, so its "
        "scores on other images of the same patient say little about the next one."
    )
    return _paragraph(explain) + _table(["Run", "Verdict", "Found"], rows)


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
        parts.append(_paragraph("None of these runs recorded which images it was trained on."))
    known = contents.groups[0].comparison
    parts.append(
        _paragraph(
            f"Scores are computed on {contents.split} images; {known.n_images:,} of them in the first set."
        )
    )
    if known.note:
        parts.append(_paragraph(known.note))
    if contents.skipped:
        parts.append("<h3>Runs left out</h3>" + _list(contents.skipped))
    return "".join(parts)


def _scores(page: _Page, contents: Contents, group: Group) -> str:
    size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
    parts = [
        _paragraph(f"Every score with its 95% interval; n = {size}."),
        _table(words.score_header(group), words.score_rows(contents, group), last_is_baseline=True),
        "<details><summary>How each interval was made</summary>"
        + _list(words.score_notes(group))
        + "</details>",
        page.figure(plots.forest(contents, group)),
        "<h3>Balanced accuracy at each magnification</h3>",
        _table(words.power_header(group), words.power_rows(contents, group)),
    ]
    rows = words.difference_rows(contents, group, headline=True)
    if rows:
        others = _table(words.difference_header(), words.difference_rows(contents, group, headline=False))
        reference = contents.names[group.comparison.reference]
        tests = "p exchanges whole cases between the two runs; Holm over the comparisons; McNemar over images ignores that images share patients."
        parts += [
            f"<h3>Differences to {text(reference)}</h3>",
            _table(words.difference_header(), rows),
            f"<small>{text(tests)}</small>",
            f"<details><summary>The other scores</summary>{others}</details>",
        ]
    parts += [page.figure(plots.roc(contents, group)), page.figure(plots.calibration(contents, group))]
    return "".join(parts)


def _matrices(page: _Page, contents: Contents, group: Group) -> str:
    classes = group.comparison.aligned.classes
    header = ["Run", "Images", *[f"{true} taken for {guess}" for true in classes for guess in classes]]
    rows = []
    for entry in group.comparison.entries:
        for part, matrix in entry.confusion.items():
            counts = [_share(matrix, i, j) for i in range(len(classes)) for j in range(len(classes))]
            rows.append([contents.names[entry.id], part, *counts])
    numbers = "<details><summary>The same as numbers</summary>" + _table(header, rows) + "</details>"
    return page.figure(plots.matrices(contents, group)) + numbers


def _share(matrix: list[list[int]], true: int, guess: int) -> str:
    total = sum(matrix[true])
    return f"{matrix[true][guess]:,} ({matrix[true][guess] / total:.1%})" if total else "0 (n/a)"


def _ensembles(contents: Contents) -> str:
    found = words.ensemble_lines(contents)
    if not found:
        return _paragraph("None of these runs is an ensemble.")
    return "".join(
        f"<h3>{text(name)}</h3>{_table(['', ''], [list(fact) for fact in facts])}" for name, facts in found
    )


def _errors(contents: Contents) -> str:
    if contents.errors.empty:
        return _paragraph("No run makes a mistake on these images.")
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
    parts = ["<h3>Images that the runs get wrong, the surest mistakes first</h3>", _table(header, rows)]
    for number, group in enumerate(contents.groups, 1):
        table = case_errors(group)
        which = f" (test set {number})" if len(contents.groups) > 1 else ""
        if not table.empty:
            cases = [
                [row["case"], row["label"], str(row["images"]), f"{row['wrong']} of {row['of']} predictions"]
                for row in table.head(15).to_dict("records")
            ]
            parts += [
                f"<h3>Cases with the most mistakes{which}</h3>",
                _table(["Case", "True", "Images", "Wrong"], cases),
            ]
    if contents.pictures:
        parts += [
            "<h3>Their images</h3>",
            '<p class="note">Right of an image: the class activation map that the run holds, where there is one; light = evidence for malignant.</p>',
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
        _paragraph(
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
    return _paragraph(intro) + f"<pre>{text(chr(10).join(words.commands(contents)))}</pre>"


def _files(contents: Contents) -> str:
    tables = {
        "predictions.csv.gz": predictions_table(contents),
        "scores.csv.gz": scores_table(contents),
    }
    links = []
    for name, table in tables.items():
        data = gzip.compress(spreadsheet_safe(table).to_csv(index=False).encode("utf-8"), mtime=0)
        link = f"data:application/gzip;base64,{base64.b64encode(data).decode()}"
        links.append(
            f'<a download="{name}" href="{link}">{name} · {len(table):,} rows, {len(data) / 1000:.0f} KB</a>'
        )
    return (
        _paragraph("All predictions and scores, as tables (CSV, compressed).")
        + f'<div class="files">{"".join(links)}</div>'
    )
