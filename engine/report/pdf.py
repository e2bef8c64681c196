"""The report as a PDF: the same contents laid out by reportlab, figures drawn as vectors, no browser.

reportlab's paragraphs read markup, so every text goes through `text`. Letters that the font has not are
shown as a box; the HTML report has them all.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from reportlab.graphics import shapes
from reportlab.graphics.shapes import Drawing, Line, PolyLine, String
from reportlab.lib.colors import Color, HexColor, white
from reportlab.lib.enums import TA_CENTER
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    Image,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

from engine.analysis import curves
from engine.analysis.metrics import outcome
from engine.report import confusion, words
from engine.report.checklist import answered
from engine.report.contents import HEADLINE, Contents, Flow, Group, Picture, powers
from engine.report.document import LEVELS, level_of
from engine.report.flow import SIDES, flow_lines
from engine.report.theme import SEQUENTIAL, blend, readable_on
from engine.wording import when

Rect: Any = shapes.Rect  # its published types know only the keywords of a solid shape
MARGIN = 18 * mm
WIDTH = A4[0] - 2 * MARGIN
INK, FAINT, EDGE, SOFT = HexColor("#23212B"), HexColor("#6B6676"), HexColor("#DCD9E4"), HexColor("#F5F4F8")
ACCENT, LEAK, GREEN = HexColor("#5B3E8F"), HexColor("#B3261E"), HexColor("#2E7D4F")
_ROOM = 190  # points below the heading of a section, or it begins the next page
_ESTIMATE = re.compile(r"(-?\d+\.\d+) (\[.*\])")  # the interval stands below its number


# -- type -----------------------------------------------------------------------------------------


@cache
def fonts() -> tuple[str, str]:
    """(regular, bold): DejaVu Sans, which matplotlib carries; Vera, which reportlab carries, without it."""
    found = importlib.util.find_spec("matplotlib")
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" if found and found.origin else None
    if folder and (folder / "DejaVuSans.ttf").is_file():
        pdfmetrics.registerFont(TTFont("Report", str(folder / "DejaVuSans.ttf")))
        pdfmetrics.registerFont(TTFont("Report-Bold", str(folder / "DejaVuSans-Bold.ttf")))
    else:
        pdfmetrics.registerFont(TTFont("Report", "Vera.ttf"))
        pdfmetrics.registerFont(TTFont("Report-Bold", "VeraBd.ttf"))
    return "Report", "Report-Bold"


def plain(value: object) -> str:
    """Text with letters that the font has; others become a box."""
    known: Any = pdfmetrics.getFont(fonts()[0])
    have = known.face.charToGlyph
    return "".join(sign if sign == "\n" or ord(sign) in have else "□" for sign in str(value))


def text(value: object) -> str:
    """Text for a paragraph: nothing in it is markup. A word too long for its line is broken by the paragraph."""
    return html.escape(plain(value), quote=False).replace("\n", "<br/>")


@cache
def styles() -> dict[str, ParagraphStyle]:
    regular, bold = fonts()
    body = ParagraphStyle("body", fontName=regular, fontSize=9, leading=13, textColor=INK, splitLongWords=1)

    def style(name: str, **values: Any) -> ParagraphStyle:
        return ParagraphStyle(name, parent=body, **values)

    return {
        "body": body,
        "title": style("title", fontName=bold, fontSize=18, leading=23, spaceAfter=3),
        "by": style("by", textColor=FAINT, spaceAfter=6),
        "h2": style(
            "h2", fontName=bold, fontSize=13, leading=17, spaceBefore=14, spaceAfter=5, keepWithNext=1
        ),
        "h4": style("h4", fontName=bold, fontSize=10, leading=14, spaceBefore=8, spaceAfter=3),
        "h3": style(
            "h3", fontName=bold, fontSize=10, leading=14, spaceBefore=8, spaceAfter=3, keepWithNext=1
        ),
        "cell": style("cell", fontSize=7, leading=9.2),
        "tiny": style("tiny", fontSize=6, leading=8),
        "tiny head": style("tiny head", fontName=bold, fontSize=6, leading=8),
        "head": style("head", fontName=bold, fontSize=7, leading=9.2),
        "small": style("small", fontSize=7.5, leading=10.5, textColor=FAINT),
        "code": style("code", fontSize=7.5, leading=11),
        "verdict": style("verdict", fontSize=9.5, leading=13.5),
        "center": style("center", fontSize=7, leading=9, alignment=TA_CENTER),
    }


def _p(value: object, name: str = "body") -> Paragraph:
    return Paragraph(text(value), styles()[name])


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[float] | None = None
) -> Table:
    """A table as wide as the page; column widths in shares, equal unless given."""
    shares = widths or _shares(header, rows)
    total = sum(shares)
    small = "tiny " if len(header) > 7 else ""
    cells = [[_p(name, f"{small}head") for name in header]] if any(header) else []
    cells += [
        [_p(_ESTIMATE.sub(r"\1\n\2", str(value)), "tiny" if small else "cell") for value in row]
        for row in rows
    ]
    table = Table(
        cells, colWidths=[WIDTH * share / total for share in shares], repeatRows=1 if any(header) else 0
    )
    look = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, EDGE),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
    if any(header):
        look.append(("BACKGROUND", (0, 0), (-1, 0), SOFT))
    table.setStyle(TableStyle(look))
    return table


def _shares(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[float]:
    """Widths after the longest lines and the longest words of the header, within limits."""
    widths = []
    for position, name in enumerate(header):
        lines = [
            len(line) for row in rows for line in _ESTIMATE.sub(r"\1\n\2", str(row[position])).split("\n")
        ]
        word = max((len(part) for part in str(name).split()), default=0)
        widths.append(min(max([word * 1.35, 11.0, *lines]), 34.0 if len(header) <= 7 else 16.0))
    return widths


# -- the file -------------------------------------------------------------------------------------


def report_pdf(contents: Contents) -> bytes:
    """The whole file."""
    fonts()
    buffer = io.BytesIO()
    document = BaseDocTemplate(
        buffer, pagesize=A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=MARGIN, bottomMargin=MARGIN,
        title=plain(contents.title), author=plain(contents.author), subject=words.CARD,
    )  # fmt: skip
    frame = Frame(MARGIN, MARGIN, WIDTH, A4[1] - 2 * MARGIN, 0, 0, 0, 0)
    document.addPageTemplates([PageTemplate("page", [frame], onPage=_footer(contents))])
    document.build(_story(contents))
    return buffer.getvalue()


def _footer(contents: Contents) -> Callable[[Any, Any], None]:
    def draw(canvas: Any, document: Any) -> None:
        canvas.saveState()
        canvas.setFont(fonts()[0], 7)
        canvas.setFillColor(FAINT)
        canvas.drawString(MARGIN, 10 * mm, plain(f"{contents.title[:70]} · {words.CARD}"))
        canvas.drawRightString(A4[0] - MARGIN, 10 * mm, str(document.page))
        canvas.restoreState()

    return draw


def _story(contents: Contents) -> list[Flowable]:
    story: list[Flowable] = [
        _p(contents.title, "title"),
        _p(" · ".join(part for part in (contents.author, when(contents.created_at)) if part), "by"),
        _verdict(contents.worst_audit),
        Spacer(1, 5),
        *[_p(line) for line in words.answer(contents)],
    ]
    sections: list[tuple[str, list[Flowable]]] = [
        ("Question", _question(contents)),
        ("Leakage", _leakage(contents)),
        ("Data", _data(contents)),
        ("Models", [_table(*words.models_rows(contents))]),
        ("Scores", _per_group(contents, _scores)),
        ("Confusion matrices per magnification", _per_group(contents, _matrices)),
        ("Ensembles", _ensembles(contents)),
        ("Errors", _errors(contents)),
        ("Limits", [_p(f"• {line}") for line in words.limits(contents)]),
        ("Reporting items: TRIPOD+AI and CLAIM", _checklist(contents)),
        ("Versions", [_table(["Made by", "Versions"], words.versions(contents), [1, 4])]),
        ("How to reproduce", [_p(line, "code") for line in words.commands(contents)]),
    ]  # fmt: skip
    for number, (title, parts) in enumerate(sections, 1):
        story += [CondPageBreak(_ROOM), _p(f"{number}. {title}", "h2"), *parts]
    return story


def _per_group(contents: Contents, draw: Callable[[Contents, Group], list[Flowable]]) -> list[Flowable]:
    """The same for every set of test images, each under its own heading where there are several."""
    parts: list[Flowable] = []
    for number, group in enumerate(contents.groups, 1):
        if len(contents.groups) > 1:
            size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
            parts.append(_p(f"Test set {number}: {size}", "h3"))
        parts += draw(contents, group)
    return parts


def _verdict(audit: dict[str, Any]) -> Table:
    level = level_of(audit)
    bad = level == "leak"
    colour = "#FFFFFF" if bad else "#23212B"
    words_ = f'<font color="{colour}"><b>{LEVELS[level]}.</b> {text(audit.get("verdict", ""))}</font>'
    table = Table([[Paragraph(words_, styles()["verdict"])]], colWidths=[WIDTH])
    look: list[tuple] = [
        ("BOX", (0, 0), (-1, -1), 0.8, LEAK if bad else EDGE),
        ("LINEBEFORE", (0, 0), (0, -1), 4, LEAK if bad else GREEN if level == "clean" else FAINT),
        ("LEFTPADDING", (0, 0), (-1, -1), 10),
        ("TOPPADDING", (0, 0), (-1, -1), 6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 7),
    ]
    if bad:
        look.append(("BACKGROUND", (0, 0), (-1, -1), LEAK))
    table.setStyle(TableStyle(look))
    return table


def _question(contents: Contents) -> list[Flowable]:
    parts: list[Flowable] = [_p(contents.question)]
    if contents.note:
        parts += [_p("Note of the author", "h3"), _p(contents.note)]
    return parts


def _leakage(contents: Contents) -> list[Flowable]:
    rows = [
        [contents.names[run.id], LEVELS[level_of(run.audit)], str(run.audit.get("verdict", ""))]
        for run in contents.runs
    ]  # fmt: skip
    return [_table(["Run", "Verdict", "Found"], rows, [2, 2, 5])]


def _data(contents: Contents) -> list[Flowable]:
    parts: list[Flowable] = []
    for flow in contents.flows:
        runs = ", ".join(flow.runs[:6]) + (" ..." if len(flow.runs) > 6 else "")
        facts = f"Protocol {flow.protocol}, fold {flow.fold}, split seed {flow.seed}; split hash {flow.split_hash}"
        parts.append(KeepTogether([_p(f"Split of {runs}", "h3"), _p(facts), _flow(flow)]))
    if not contents.flows:
        parts.append(_p("None of these runs recorded which images it was trained on."))
    if contents.skipped:
        parts += [_p("Runs left out", "h3"), *[_p(f"• {line}") for line in contents.skipped]]
    return parts


def _scores(contents: Contents, group: Group) -> list[Flowable]:
    table = _table(words.score_header(group), words.score_rows(contents, group))
    parts: list[Flowable] = [
        _p(words.scores_sentence(contents, group)),
        Spacer(1, 3),
        table,
        KeepTogether([_p("Balanced accuracy with 95% intervals", "h3"), _forest(contents, group)]),
    ]
    if words.has_powers(group):
        powers_ = _table(words.power_header(group), words.power_rows(contents, group))
        parts += [_p("Balanced accuracy at each magnification", "h3"), powers_]
    rows = words.difference_rows(contents, group, headline=True)
    if rows:
        title = f"Differences to {contents.names[group.comparison.reference]}"
        tests = "p exchanges whole cases between the two runs; Holm over the comparisons; McNemar over images ignores that images share patients."
        parts += [_p(title, "h3"), _table(words.difference_header(), rows), _p(tests, "small")]
    drawn = _roc(contents, group)
    if drawn is not None:
        parts.append(KeepTogether([_p("ROC curves", "h3"), drawn]))
    parts += [
        _p("How each interval was made", "h3"),
        *[_p(f"• {line}", "small") for line in words.score_notes(group)],
    ]
    return parts


def _ensembles(contents: Contents) -> list[Flowable]:
    found = words.ensemble_lines(contents)
    if not found:
        return [_p("None of these runs is an ensemble.")]
    return [part for name, facts in found for part in (_p(name, "h3"), _table(["", ""], facts, [1, 5]))]


def _errors(contents: Contents) -> list[Flowable]:
    if contents.errors.empty:
        return [_p("No run makes a mistake on these images.")]
    rows = [
        [row["image_id"], row["case"] or "unknown", row["magnification"] or "unknown", row["label"],
         f"{row['wrong']} of {row['of']}", f"{row['confidence']:.3f}"]
        for row in contents.errors.to_dict("records")
    ]  # fmt: skip
    header = ["Image", "Case", "Magnification", "True", "Runs wrong", "Mean probability of the wrong class"]
    parts: list[Flowable] = [_table(header, rows, [5, 2, 2, 1.6, 1.6, 2.2])]
    if contents.pictures:
        parts += [
            _p(
                "Their images, with the maps that the runs hold (coloured = evidence for malignant, light = much)",
                "h3",
            ),
            *_pictures(contents.pictures),
        ]
    return parts


def _pictures(pictures: Sequence[Picture]) -> list[Flowable]:
    rows = [
        [_picture(picture) for picture in pictures[start : start + 3]] for start in range(0, len(pictures), 3)
    ]
    tables: list[Flowable] = []
    for row in rows:
        cells = [*row, *[""] * (3 - len(row))]
        tables.append(Table([cells], colWidths=[WIDTH / 3] * 3, style=[("VALIGN", (0, 0), (-1, -1), "TOP")]))
    return tables


def _picture(picture: Picture) -> list[Flowable]:
    shots = [picture.image, *[data for _, data in picture.overlays[:1]]]
    width = WIDTH / 3 - 10
    images = []
    for data in shots:
        image = Image(io.BytesIO(data))
        each = width / len(shots) - 2
        image.drawHeight, image.drawWidth = each * image.imageHeight / image.imageWidth, each
        images.append(image)
    said = ", ".join(
        f"{name}: {guess} {probability:.2f}" for name, guess, probability in picture.verdicts[:4]
    )
    return [
        Table([images], style=[("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 2)]),
        _p(f"{picture.image_id}; truly {picture.label}", "cell"),
        _p(said, "cell"),
    ]


def _checklist(contents: Contents) -> list[Flowable]:
    items = answered(contents)
    parts: list[Flowable] = [
        _p(
            "Ticked where this report holds the answer; missing is what its author must add. Wording shortened; "
            "TRIPOD+AI: BMJ 385:e078378, 2024; CLAIM: Radiol Artif Intell 2:e200029, 2020."
        )
    ]
    for standard in dict.fromkeys(item.standard for item in items):
        own = [item for item in items if item.standard == standard]
        ticked = sum(item.ticked for item in own)
        rows = [[item.number, item.asks, "ticked" if item.ticked else "MISSING", item.where] for item in own]
        parts += [
            CondPageBreak(90),  # a heading kept with a table of two pages would leave this one empty
            _p(f"{standard}: {ticked} of {len(own)} answered here", "h4"),
            _table(["Item", "Asks for", "", "Where"], rows, [0.6, 5, 1, 3]),
        ]
    return parts


# -- drawings -------------------------------------------------------------------------------------


def _string(x: float, y: float, value: object, size: float = 7, **more: Any) -> String:
    bold = more.pop("bold", False)
    return String(
        x,
        y,
        plain(value),
        fontName=fonts()[1 if bold else 0],
        fontSize=size,
        fillColor=more.pop("color", INK),
        **more,
    )


def _fit(value: str, size: float, width: float) -> str:
    """A text cut to a width, in points."""
    shown = plain(value)
    while shown and pdfmetrics.stringWidth(shown, fonts()[0], size) > width:
        shown = shown[:-2].rstrip() + "…" if not shown.endswith("…") else shown[:-2] + "…"
        if shown == "…":
            break
    return shown


def _flow(flow: Flow) -> Drawing:
    boxes = flow_lines(flow)
    top, rest = boxes[0], boxes[1:]
    left_out = rest.pop(0) if flow.unused else None
    height = 150.0
    drawing = Drawing(WIDTH, height)
    width = WIDTH / 3 - 12
    middle = WIDTH / 2
    _box(drawing, middle - width / 2, height - 46, width, 42, top[0], top[1], SOFT)
    if left_out:
        _arrow(drawing, middle + width / 2, height - 25, WIDTH - width + 20, height - 25)
        _box(drawing, WIDTH - width + 20, height - 46, width - 20, 42, left_out[0], left_out[1], white)
    for index, ((title, lines), (_, _, role)) in enumerate(zip(rest, SIDES, strict=True)):
        x = index * (WIDTH / 3) + 6
        _arrow(drawing, middle, height - 46, x + width / 2, 82)
        _box(drawing, x, 4, width, 78, title, [*lines, role], white)
    return drawing


def _box(
    drawing: Drawing,
    x: float,
    y: float,
    width: float,
    height: float,
    title: str,
    lines: list[str],
    fill: Color,
) -> None:
    drawing.add(Rect(x, y, width, height, rx=4, ry=4, fillColor=fill, strokeColor=ACCENT, strokeWidth=0.7))
    drawing.add(_string(x + 7, y + height - 13, title, 8.5, bold=True))
    for index, line in enumerate(lines):
        drawing.add(_string(x + 7, y + height - 25 - 10.5 * index, _fit(line, 7, width - 12), 7))


def _arrow(drawing: Drawing, x1: float, y1: float, x2: float, y2: float) -> None:
    drawing.add(Line(x1, y1, x2, y2, strokeColor=FAINT, strokeWidth=0.7))
    direction = np.array([x2 - x1, y2 - y1]) / max(float(np.hypot(x2 - x1, y2 - y1)), 1e-9)
    side = np.array([-direction[1], direction[0]])
    for sign in (1, -1):
        end = np.array([x2, y2]) - 5 * direction + sign * 2.2 * side
        drawing.add(Line(x2, y2, float(end[0]), float(end[1]), strokeColor=FAINT, strokeWidth=0.7))


def _forest(contents: Contents, group: Group) -> Drawing:
    entries = group.comparison.entries
    colours = contents.colours
    estimates = [entry.scores[HEADLINE] for entry in entries]
    known = [value for one in estimates for value in (one.value, one.low, one.high) if np.isfinite(value)]
    base = group.comparison.baseline.get(HEADLINE, float("nan"))
    low = min([*known, base if np.isfinite(base) else 0.5, 0.5]) - 0.02
    high = max([*known, 0.6]) + 0.02
    left, right, step = 150.0, WIDTH - 120, 16.0
    height = 34 + step * len(entries)
    drawing = Drawing(WIDTH, height)

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for tick in np.arange(np.ceil(low * 10) / 10, high, 0.1):
        x = place(float(tick))
        drawing.add(Line(x, 20, x, height - 4, strokeColor=EDGE, strokeWidth=0.5))
        drawing.add(_string(x, 10, f"{tick:.1f}", 7, color=FAINT, textAnchor="middle"))
    if np.isfinite(base):
        drawing.add(
            Line(
                place(base),
                20,
                place(base),
                height - 4,
                strokeColor=LEAK,
                strokeWidth=0.8,
                strokeDashArray=[3, 2],
            )
        )
        drawing.add(_string(place(base) + 3, height - 8, "always the commonest class", 6, color=LEAK))
    for index, (entry, one) in enumerate(zip(entries, estimates, strict=True)):
        y = height - 18 - step * index
        colour = HexColor(colours[entry.id])
        drawing.add(
            _string(left - 8, y - 2.5, _fit(contents.names[entry.id], 7, left - 12), 7, textAnchor="end")
        )
        if np.isfinite(one.low + one.high):
            drawing.add(Line(place(one.low), y, place(one.high), y, strokeColor=colour, strokeWidth=1.6))
        if np.isfinite(one.value):
            drawing.add(
                Rect(place(one.value) - 3, y - 3, 6, 6, rx=3, ry=3, fillColor=colour, strokeColor=white)
            )
        drawing.add(_string(right + 8, y - 2.5, one.short, 7))
    return drawing


def _roc(contents: Contents, group: Group) -> Drawing | None:
    aligned = group.comparison.aligned
    if len(aligned.classes) != 2:
        return None
    colours, side, left, bottom = contents.colours, 200.0, 34.0, 26.0
    drawing = Drawing(WIDTH, side + bottom + 8)
    drawing.add(Rect(left, bottom, side, side, fillColor=None, strokeColor=EDGE))
    drawing.add(Line(left, bottom, left + side, bottom + side, strokeColor=EDGE, strokeDashArray=[2, 2]))
    for tick in (0, 0.5, 1):
        drawing.add(
            _string(left + side * tick, bottom - 10, f"{tick:g}", 7, color=FAINT, textAnchor="middle")
        )
        drawing.add(
            _string(left - 5, bottom + side * tick - 2.5, f"{tick:g}", 7, color=FAINT, textAnchor="end")
        )
    drawing.add(_string(left + side / 2, 4, "1 - specificity (sensitivity upwards)", 7, textAnchor="middle"))
    for index, entry in enumerate(group.comparison.entries):
        table = curves.roc(outcome(aligned.tables[entry.id]))
        colour = HexColor(colours[entry.id])
        points = [
            value
            for x, y in zip(table["fpr"], table["tpr"], strict=True)
            for value in (left + side * float(x), bottom + side * float(y))
        ]
        if len(points) >= 4:
            drawing.add(PolyLine(points, strokeColor=colour, strokeWidth=1.1))
        y = bottom + side - 8 - 13 * index
        x = left + side + 16
        drawing.add(Line(x, y + 2.5, x + 14, y + 2.5, strokeColor=colour, strokeWidth=1.6))
        label = f"{contents.names[entry.id]} · {entry.scores['auroc'].short}"
        drawing.add(_string(x + 19, y, _fit(label, 7, WIDTH - x - 20), 7))
    return drawing


def _matrices(contents: Contents, group: Group) -> list[Flowable]:
    """A row of matrices per run: all images, then each magnification; colour = share of the true class."""
    classes = group.comparison.aligned.classes
    parts: list[Flowable] = [
        _p("Counts of images; rows true, columns predicted; colour is the share of the true class.", "small")
    ]
    columns, titles = confusion.columns(["all", *powers(group)])
    for entry in group.comparison.entries:
        shown = {titles.get(name, name): entry.confusion.get(name, []) for name in columns}
        parts.append(_matrix_row(contents.names[entry.id], shown, classes))
    return parts


def _matrix_row(name: str, matrices: dict[str, list[list[int]]], classes: Sequence[str]) -> Drawing:
    size = len(classes)
    cell = 24.0 if size <= 2 else min(18.0, 76.0 / size)
    drawing = Drawing(WIDTH, size * cell + 24)
    drawing.add(_string(0, size * cell / 2, _fit(name, 7.5, 112), 7.5))
    for position, (column, matrix) in enumerate(matrices.items()):
        x = 150 + position * (size * cell + 20)
        drawing.add(_string(x + size * cell / 2, size * cell + 13, column, 7, bold=True, textAnchor="middle"))
        for true, row in enumerate(matrix):
            if position == 0:
                drawing.add(
                    _string(
                        x - 4,
                        (size - true - 0.5) * cell - 2,
                        classes[true][:9],
                        6,
                        color=FAINT,
                        textAnchor="end",
                    )
                )
            total = sum(row)
            for guess, count in enumerate(row):
                fill = blend(SEQUENTIAL, count / total if total else 0.0)
                y = (size - 1 - true) * cell
                drawing.add(
                    Rect(x + guess * cell, y, cell, cell, fillColor=HexColor(fill), strokeColor=white)
                )
                if size <= 4:
                    drawing.add(
                        _string(
                            x + (guess + 0.5) * cell,
                            y + cell / 2 - 2.5,
                            f"{count:,}",
                            7,
                            color=HexColor(readable_on(fill)),
                            textAnchor="middle",
                        )
                    )
        for guess, label in enumerate(classes):
            if size <= 2:
                drawing.add(
                    _string(
                        x + (guess + 0.5) * cell,
                        size * cell + 4,
                        f"{label[:3]}.",
                        5.5,
                        color=FAINT,
                        textAnchor="middle",
                    )
                )
    return drawing
