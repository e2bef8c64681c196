"""The report: complete, self-contained, and no text in it is anything but text."""

from __future__ import annotations

import base64
import gzip
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pytest

from engine.data import images
from engine.errors import ShareError
from engine.report import checklist, html, words
from engine.report.contents import collect, predictions_table
from engine.runs import ensembles
from engine.runs.folder import RunFolder
from engine.runs.results import import_predictions

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'</title>&lt;b&gt; **bold** [x](javascript:alert(3))"


class _Tags(HTMLParser):
    """Tags with their attributes, and the text outside scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self._within = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if not self._within:
            self.said.append(data)


def parsed(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    return tags


@pytest.fixture(scope="module")
def evil_text(tmp_path_factory) -> str:
    runs = tmp_path_factory.mktemp("html") / "runs"
    folders = [
        fabricate.run(runs, name=EVIL, seed=1, epochs=2),
        fabricate.run(runs, name="plain", protocol="image", epochs=2),
    ]
    contents = collect(folders, title=EVIL, author=EVIL, question=EVIL, note=EVIL, draws=200)
    return html.report_html(contents)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    runs = tmp_path_factory.mktemp("two") / "runs"
    folders = [
        fabricate.run(runs, name=name, seed=seed, epochs=2) for seed, name in enumerate(("one", "two"))
    ]
    return collect(folders, title="Two models", draws=200)


def test_every_section_of_a_report_is_there(contents):
    said = "\n".join(parsed(html.report_html(contents)).said)
    for title in (
        "Question", "Leakage", "Data", "Models", "Scores", "Confusion matrices per magnification", "Ensembles",
        "Errors", "Limits", "Reporting items", "Versions", "How to reproduce", "Data files",
    ):  # fmt: skip
        assert re.search(rf"\d+\. {title}", said), title
    for run in contents.runs:
        assert run.split_hash in said
    for entry in contents.groups[0].comparison.entries:
        value, interval = entry.scores["balanced_accuracy"].short.split(" ", 1)
        assert value in said
        assert interval in said
    assert "n = 48 images, 4 cases" in said
    assert "Research use only" in said


def test_the_leakage_verdict_stands_before_any_number(evil_text):
    tags = parsed(evil_text)
    said = "\n".join(tags.said)
    assert said.index("This split leaks patients") < said.index("balanced accuracy of")
    assert any(attrs.get("class") == "verdict leak" for _, attrs in tags.tags)


def test_nothing_in_a_report_is_fetched(evil_text):
    loading = {"src", "href", "data", "action", "srcset", "poster", "formaction", "background"}
    for tag, attrs in parsed(evil_text).tags:
        for name, value in attrs.items():
            if name in loading and value:
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert tag not in ("iframe", "object", "embed", "form", "base"), tag


def test_no_text_of_a_person_becomes_markup(evil_text):
    tags = parsed(evil_text)
    assert not [attrs for tag, attrs in tags.tags if tag == "img" and attrs.get("src") == "x"]
    assert not [name for _, attrs in tags.tags for name in attrs if name.startswith("on")]
    scripts = [attrs for tag, attrs in tags.tags if tag == "script"]
    assert len([attrs for attrs in scripts if attrs.get("type") != "application/json"]) == 2
    assert "".join(tags.said).count(EVIL) >= 5  # title, author, question, note, run name: as they were typed


def test_figures_carry_names_as_text(evil_text):
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', evil_text, re.S):
        assert "<" not in data
        shown = data.replace("\\u003c", "<")
        assert "<script>" not in shown.replace("&lt;script>", "").replace("&lt;script&gt;", "")


def test_a_policy_allows_the_two_scripts_and_nothing_else(evil_text):
    policy = next(
        attrs["content"] for tag, attrs in parsed(evil_text).tags if tag == "meta" and "http-equiv" in attrs
    )
    assert policy
    assert "default-src 'none'" in policy
    script = policy.split("script-src")[1]
    assert script.count("sha256-") == 2
    assert "unsafe" not in script


def test_the_tables_inside_are_the_predictions(contents):
    text = html.report_html(contents)
    link = re.search(r'download="predictions.csv.gz" href="data:application/gzip;base64,([^"]+)"', text)
    assert link
    table = pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(link[1]))))
    run = contents.runs[0]
    merged = run.table.merge(table, on="image_id")
    assert len(merged) == len(run.table)
    assert np.allclose(merged["prob_malignant"], merged[f"prob_malignant {run.name}"], atol=1e-6)


def test_items_are_ticked_by_what_is_there(contents):
    items = {(item.standard, item.number): item for item in checklist.answered(contents)}
    assert items["TRIPOD+AI", "12a"].ticked
    assert items["CLAIM", "21"].where == "Leakage"
    for number in ("3b", "8a", "17", "18a"):
        assert not items["TRIPOD+AI", number].ticked
    assert not items["CLAIM", "27"].ticked
    said = "\n".join(parsed(html.report_html(contents)).said)
    assert said.count("ticked") > 20
    assert said.count("missing") > 20


def test_imports_without_a_split_tick_less_and_leak_unknown(contents, tmp_path):
    source = tmp_path / "theirs.csv"
    contents.runs[0].table.to_csv(source, index=False)
    folder = import_predictions([source], "theirs", tmp_path / "runs")
    found = collect([folder], title="x", draws=200)
    assert found.worst_audit["level"] == "unknown"
    items = {(item.standard, item.number): item for item in checklist.answered(found)}
    assert not items["TRIPOD+AI", "12a"].ticked
    assert not items["CLAIM", "21"].ticked
    assert any("not known which patients" in line for line in words.limits(found))
    assert "recorded which images" in html.report_html(found)


def test_a_locked_ensemble_says_how_it_was_chosen(tmp_path):
    runs = tmp_path / "runs"
    members = [fabricate.run(runs, name=f"m{k}", seed=k, epochs=2) for k in range(2)]
    choice = ensembles.Selection(subsets=6, methods=("mean", "vote"), candidates=tuple(m.id for m in members))
    saved = ensembles.save_ensemble(members, "mean", "both", runs, selection=choice, locked=True)
    facts = dict(words.ensemble_lines(collect([saved], title="One", draws=200))[0][1])
    assert facts["Selection"].startswith(
        "Chosen on validation after 6 combinations of 2 runs searched by mean and vote, locked by "
    )


def test_runs_of_different_folds_are_not_compared(tmp_path):
    folders = [
        fabricate.run(tmp_path, name="a", epochs=1),
        fabricate.run(tmp_path, name="b", protocol="image", epochs=1),
    ]
    found = collect(folders, title="x", draws=200)
    assert len(found.groups) == 2
    assert len(found.flows) == 2
    assert len(predictions_table(found)) == len(
        set(found.runs[0].table["image_id"]) | set(found.runs[1].table["image_id"])
    )
    assert predictions_table(found)["label"].isin(["benign", "malignant"]).all()
    assert "Test set 2" in html.report_html(found)


def test_the_command_line_makes_the_run_again(contents):
    import shlex

    from engine.cli import parser
    from engine.commands.flags import config as config_of

    run = contents.runs[1]
    given = parser().parse_args(shlex.split(words.train_command(run))[3:])
    record = config_of(given).to_record()
    for key in ("model", "training"):
        assert record[key] == run.config[key]
    assert {**record["data"], "root": ""} == {**run.config["data"], "root": ""}
    assert record["name"] == run.config["name"]


def test_images_of_mistakes_are_inside_when_they_are_at_hand(tmp_path):
    folder: RunFolder = fabricate.run(tmp_path / "runs", epochs=1, skill=0.2)
    manifest = folder.manifest()
    drawn = np.random.default_rng(0)
    for path in manifest.table["path"]:
        target = manifest.absolute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(images.encode_png(drawn.integers(0, 255, (46, 70, 3), dtype=np.uint8)))
    found = collect([folder], title="x", draws=200, pictures=4)
    assert len(found.pictures) == 4
    text = html.report_html(found)
    assert text.count("data:image/jpeg;base64,") == 4
    for picture in found.pictures:
        assert picture.image_id in text
    assert collect([folder], title="x", draws=200, pictures=0).pictures == ()


def test_what_cannot_be_reported_is_said(tmp_path):
    done = fabricate.run(tmp_path / "runs", epochs=1)
    queued = fabricate.run(tmp_path / "runs", name="waits", state="queued")
    for folders, sentence in (
        ([], "at least one run"),
        ([done, done], "named twice"),
        ([queued], "None of these runs"),
    ):
        with pytest.raises(ShareError, match=sentence):
            html.write_report(folders, tmp_path / "x.html", title="x")
    with pytest.raises(ShareError, match="HTML or PDF"):
        html.write_report([done], tmp_path / "x.docx", title="x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ShareError, match="cannot be written"):
        html.write_report([done], tmp_path / "file" / "x.html", title="x")
    steps: list[tuple[int, int]] = []
    html.write_report(
        [done, queued], tmp_path / "x.html", title="x", progress=lambda a, b: steps.append((a, b))
    )
    assert steps[-1][0] == steps[-1][1]
    assert [a for a, _ in steps] == sorted(a for a, _ in steps)
    assert "waits: no predictions" in (tmp_path / "x.html").read_text()


def test_a_file_is_replaced_whole(tmp_path):
    target: Path = html.write_report(
        [fabricate.run(tmp_path / "runs", epochs=1)], tmp_path / "x.html", title="x"
    )
    assert target.read_text().rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []
