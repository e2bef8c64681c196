"""The flow of images from the data set to the test, drawn as SVG: boxes and arrows, no script, no font."""

from __future__ import annotations

import html
from collections.abc import Sequence

from engine.report.contents import Flow

WIDTH, BOX, GAP = 860, 250, 30
SIDES = (
    ("train", "Training", "the networks learn from these"),
    ("val", "Validation", "the best epoch is chosen on these"),
    ("test", "Test", "the scores are computed on these"),
)


def flow_lines(flow: Flow) -> list[tuple[str, list[str]]]:
    """What each box says: all images, those left out, then the three sides; (title, lines)."""
    images, _ = flow.total()
    boxes = [("Data set", [f"{images + flow.unused:,} images", flow.root or "data set"])]
    if flow.unused:
        boxes.append(("Left out", [f"{flow.unused:,} images", "on no side of this split"]))
    for side, title, _ in SIDES:
        boxes.append((title, _side_lines(flow, side)))
    return boxes


def _side_lines(flow: Flow, side: str) -> list[str]:
    classes = flow.counts.get(side, {})
    lines = [f"{sum(images for images, _, _ in classes.values()):,} images"]
    for name, (images, cases, slides) in classes.items():
        sizes = f"{images:,} {name}"
        lines.append(f"{sizes} · {cases} cases, {slides} slides" if cases else sizes)
    return lines


def flow_svg(flow: Flow) -> str:
    """The diagram of one split as an SVG element; every text escaped."""
    boxes = flow_lines(flow)
    top, rest = boxes[0], boxes[1:]
    left_out = rest[0] if flow.unused else None
    sides = rest[1:] if left_out else rest
    side_height = 34 + 19 * max(len(lines) for _, lines in sides) + 26
    height = 90 + 62 + side_height + 14
    parts = [_box((WIDTH - BOX) / 2, 8, BOX, 78, top[0], top[1], "#EFEAF7", "#5B3E8F")]
    if left_out:
        parts.append(_arrow((WIDTH + BOX) / 2, 47, WIDTH - BOX + 30, 47))
        parts.append(_box(WIDTH - BOX + 30, 8, BOX - 34, 78, left_out[0], left_out[1], "#F5F4F8", "#9A95A6"))
    y = 152
    for index, ((title, lines), (_, _, role)) in enumerate(zip(sides, SIDES, strict=True)):
        x = 20 + index * (BOX + GAP + 5)
        parts.append(_arrow(WIDTH / 2, 86, x + BOX / 2, y))
        parts.append(
            _box(x, y, BOX, side_height, title, [*lines, role], "#FFFFFF", "#5B3E8F", faint_last=True)
        )
    label = html.escape(alt_text(flow), quote=True)
    return (
        f'<svg class="flow" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        f'markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#7A7486"/>'
        f"</marker></defs>{''.join(parts)}</svg>"
    )


def alt_text(flow: Flow) -> str:
    """The diagram in words."""
    return "; ".join(f"{title}: {', '.join(lines)}" for title, lines in flow_lines(flow))


def _box(
    x: float, y: float, width: float, height: float, title: str, lines: Sequence[str], fill: str, edge: str,
    faint_last: bool = False,
) -> str:  # fmt: skip
    text = [
        f'<text x="{x + 14:.0f}" y="{y + 24:.0f}" font-weight="650" font-size="15">{html.escape(title)}</text>'
    ]
    for index, line in enumerate(lines):
        faint = ' class="role" fill="#6B6676"' if faint_last and index == len(lines) - 1 else ""
        text.append(
            f'<text x="{x + 14:.0f}" y="{y + 46 + 19 * index:.0f}" font-size="13"{faint}>{html.escape(line[:44])}</text>'
        )
    rect = f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6" fill="{fill}" stroke="{edge}"/>'
    return rect + "".join(text)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#7A7486" stroke-width="1.4" marker-end="url(#tip)"/>'
