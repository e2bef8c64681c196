"""One HTML file that needs nothing else: text, data, images and interactive figures inside, nothing fetched.

plotly.js stands in it once, where there is a figure. A content security policy with the hashes of its scripts
forbids every request and every other script, so that even text that slipped through the escaping could not run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.errors import ShareError

if TYPE_CHECKING:
    import pandas as pd

    from engine.report.plots import Shown

_ESTIMATE = re.compile(r"(-?\d+\.\d+) (\[.*\])")

LEVELS = {"leak": "This split leaks patients", "clean": "No leakage", "unknown": "Leakage unknown"}

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


def text(value: object) -> str:
    """Anything as text in HTML."""
    return html.escape(str(value), quote=True)


class Page:
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


def document(title: str, head: str, page: Page, footer: str) -> str:
    """The whole file as text.

    Args:
        title: text. head: HTML that stands above the contents. footer: text.
    """
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("</script", "<\\/script"), _DRAW] if page.figures else []
    allowed = " ".join(_hash(script) for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:; "
        f"base-uri 'none'; form-action 'none'; script-src {allowed}"
    )
    menu = "".join(
        f'<a href="#{name}">{number}. {text(heading)}</a>'
        for number, (name, heading) in enumerate(page.sections, 1)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_CSS}</style></head><body>"
        f"{head}<main><nav aria-label=\"Contents\">{menu}</nav>{''.join(page.body)}</main>"
        f"<footer><small>{text(footer)} This file fetches nothing.</small></footer>"
        "<noscript><p>Figures are drawn by a script in this file; all numbers are in the tables.</p></noscript>"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )  # fmt: skip


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode()}'"


def level_of(audit: dict[str, Any]) -> str:
    """leak, clean or unknown; anything else is unknown."""
    level = str(audit.get("level"))
    return level if level in LEVELS else "unknown"


def verdict(audit: dict) -> str:
    level = level_of(audit)
    return (
        f'<div class="verdict {level}" role="note"><svg width="24" height="24" viewBox="0 0 24 24" aria-hidden="true">'
        f"{_ICONS[level]}</svg><div><strong>{text(audit.get('title') or LEVELS[level])}</strong>{text(audit.get('verdict', ''))}</div></div>"
    )


def paragraph(value: str) -> str:
    return f'<p class="pre">{text(value)}</p>'


def bullets(lines: Iterable[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], last_is_baseline: bool = False) -> str:
    """Rows under a header; a header of blanks is left out."""
    cells = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    head = f"<thead><tr>{cells}</tr></thead>" if any(header) else ""
    body = []
    for position, row in enumerate(rows):
        kind = ' class="base"' if last_is_baseline and position == len(rows) - 1 else ""
        cells = "".join(_cell(value) for value in row)
        body.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'


def _cell(value: str) -> str:
    """A cell; an interval stands below its number."""
    found = _ESTIMATE.fullmatch(value)
    if found:
        return f'<td class="n">{text(found[1])}<span class="ci">{text(found[2])}</span></td>'
    tight = ' class="n"' if len(value) < 24 and any(sign.isdigit() for sign in value) else ""
    return f"<td{tight}>{text(value)}</td>"


def table_file(name: str, frame: pd.DataFrame) -> str:
    """A link that saves a table from within the file: CSV, compressed, safe for spreadsheets."""
    data = gzip.compress(files.spreadsheet_safe(frame).to_csv(index=False).encode("utf-8"), mtime=0)
    link = f"data:application/gzip;base64,{base64.b64encode(data).decode()}"
    size = f"{len(frame):,} rows, {len(data) / 1000:.0f} KB"
    return f'<div class="files"><a download="{text(name)}" href="{link}">{text(name)} · {size}</a></div>'


def write(target: Path, data: bytes) -> None:
    """Write a report whole or not at all; its folder is made where it is not there.

    Raises:
        ShareError: the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(target, data)
    except OSError as error:
        raise ShareError(
            "The report cannot be written",
            found=f"{error.strerror or error}: {target}",
            remedy="Give a file in a folder that you may write",
        ) from error
