"""The PDF: the same contents, made without a browser; hostile text neither breaks nor steers it."""

from __future__ import annotations

import re

import fabricate
import pytest

from engine.report import pdf
from engine.report.contents import collect

EVIL = (
    '<b>bold</b> <a href="javascript:alert(1)">x</a> <img src="file:///etc/passwd"/> </para> & \u202e 中文 '
    + "w" * 300
)


def pages(data: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", data))


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> bytes:
    runs = tmp_path_factory.mktemp("pdf") / "runs"
    folders = [
        fabricate.run(runs, name=EVIL[:200], epochs=1),
        fabricate.run(runs, name="x", protocol="image", epochs=1),
    ]
    return pdf.report_pdf(collect(folders, title=EVIL, author=EVIL, question=EVIL, note=EVIL * 3, draws=200))


def test_the_pdf_is_whole(evil):
    assert evil.startswith(b"%PDF-")
    assert evil.rstrip().endswith(b"%%EOF")
    assert 4 <= pages(evil) <= 30


def test_no_text_becomes_a_link_a_script_or_a_file(evil):
    """Actions stand in objects. Streams hold glyphs, pixels and what is drawn, where any letters occur by chance."""
    objects = re.sub(rb"stream\r?\n.*?endstream", b"", evil, flags=re.S)
    assert b"/Page" in objects
    for sign in (b"/ObjStm", b"/URI", b"/JavaScript", b"/JS", b"/Launch", b"/EmbeddedFile", b"/OpenAction"):
        assert sign not in objects, sign


def test_letters_that_the_font_lacks_become_a_box():
    assert pdf.plain("Größe µm ≥ ✓") == "Größe µm ≥ ✓"
    assert pdf.plain("中") == "□"


def test_markup_is_escaped_before_reportlab_reads_it():
    assert pdf.text("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"


def test_a_long_word_is_broken_over_lines_and_stays_the_same_word():
    from reportlab.platypus import Paragraph

    word = "20261126-034349-tf_efficientnet_lite0-eb16" * 8
    cell = Paragraph(pdf.text(word), pdf.styles()["body"])
    cell.wrap(100, 1000)
    lines = ["".join(line[1]) for line in cell.blPara.lines]
    assert "".join(lines) == word, "no blank inside an id: it is copied from the page"
    assert max(pdf.pdfmetrics.stringWidth(line, pdf.fonts()[0], 9) for line in lines) <= 100
