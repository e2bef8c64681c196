"""The report of a prediction: every word of a person stays text, nothing is fetched, the model's past is told."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pytest

from engine.predict.calibration import Calibration
from engine.predict.judge import Judged, Refused
from engine.predict.referral import Rule
from engine.report import judged as report
from engine.runs.folder import RunFolder

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'</title>&lt;b&gt; **bold** [x](javascript:alert(3))"
CLASSES = ("benign", "malignant")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said.append(data)


def judged(folder: RunFolder, rows: pd.DataFrame, **more) -> Judged:
    """What `engine.predict.judge.judge` gives, with made-up probabilities."""
    table = fabricate.predictions(rows, 0).reset_index(drop=True)
    table = table.assign(
        **{f"calibrated_{name}": table[f"prob_{name}"] for name in CLASSES},
        agreeing=1,
        members=2,
        stain_distance=np.nan,
        magnification_distance=np.nan,
        unlike="stain",
    )
    facts = {"refused": (), "calibration": Calibration(reason=EVIL), "appearance": None, "unfamiliar": EVIL}
    paths = {name: Path("nowhere") / "image.png" for name in table["image_id"]}
    return Judged(folder.id, table, paths, **{**facts, "members": (EVIL, "two"), **more})


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> tuple[_Tags, str]:
    folder = fabricate.run(tmp_path_factory.mktemp("judged") / "runs", name=EVIL, epochs=1)
    rows = folder.manifest().table.head(4)
    hostile = rows.assign(
        image_id=[f"{EVIL}{k}.png" for k in range(4)], case=[EVIL, EVIL, "B", "C"], magnification=EVIL
    )
    found = judged(folder, hostile, refused=(Refused(EVIL, EVIL),))
    text = report.judged_report(folder, found, Rule(0.99), title=EVIL, author=EVIL, pictures=2)
    tags = _Tags()
    tags.feed(text)
    return tags, text


def test_no_name_of_a_file_a_case_or_a_person_becomes_markup(evil):
    tags, _ = evil
    assert not [attrs for tag, attrs in tags.tags if tag == "img" and attrs.get("src") == "x"]
    assert not [name for _, attrs in tags.tags for name in attrs if name.startswith("on")]
    assert not [value for _, attrs in tags.tags for value in attrs.values() if "javascript:" in (value or "")]
    said = "".join(tags.said)
    # Title, author, run, member, four images, two cases: as they were typed.
    assert said.count(EVIL[:60]) >= 9


def test_nothing_is_fetched_and_nothing_runs_that_the_policy_does_not_name(evil):
    tags, _ = evil
    for tag, attrs in tags.tags:
        assert tag not in ("iframe", "object", "embed", "form", "base"), tag
        for name in ("src", "href", "action", "srcset", "background"):
            assert (attrs.get(name) or "#").startswith(("data:", "#")), (tag, attrs)
    (policy,) = [attrs["content"] for tag, attrs in tags.tags if tag == "meta" and "http-equiv" in attrs]
    assert "default-src 'none'" in str(policy)


def test_images_that_are_gone_leave_the_rest_of_the_report(evil):
    tags, text = evil
    assert not [tag for tag, _ in tags.tags if tag == "img"]
    assert "What was found" in text
    assert "unlike training: stain" in text


def test_a_model_that_has_met_the_patients_says_so_above_all_else(tmp_path):
    folder = fabricate.run(tmp_path / "runs", name="plain", epochs=1)
    rows = folder.manifest().table
    text = report.judged_report(
        folder, judged(folder, rows[rows["split"] == "train"].head(3)), Rule(), pictures=0
    )
    assert text.index("This model has met these patients") < text.index("What was found")
