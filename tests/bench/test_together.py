"""All benches in one table: every shape of record, a bench that fails, the README's place, the whole command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bench import growth, together
from engine.commands.processes import BENCHES
from engine.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {
    "loader": [
        {"name": "folder", "images_per_second": 60.0, "cores": 1, "help": "PIL"},
        {"name": "cache", "images_per_second": 1200.0, "cores": 1, "ratio": 20.0, "help": "packed"},
        {"name": "memory growth", "megabytes": 12.0, "help": "added"},
    ],
    "train": [
        {"name": "plain", "value": 10.0, "unit": "images/s", "limit": None, "ok": None, "detail": "cpu"},
        {"name": "ours", "value": 12.0, "unit": "images/s", "limit": None, "ok": None, "detail": ""},
        {"name": "ours / plain", "value": 1.2, "unit": "times", "limit": 1.08, "ok": True, "detail": ""},
        {"name": "wait share", "value": 0.5, "unit": "of the time", "limit": 0.03, "ok": False, "detail": ""},
    ],
    "runs": [
        {
            "what": "listing",
            "value": 100.0,
            "unit": "ms",
            "limit": 150.0,
            "peer": "mlflow",
            "peer_value": 1300.0,
        }
        | {"ratio": 13.0, "n": "1,000 runs"}
    ],
    "compare": [
        {"what": "tables", "ours_s": 0.02, "theirs_s": 2.0, "ratio": 100.0, "limit_s": 0.3, "within": True},
        {"what": "AUC", "ours_s": 0.6, "theirs_s": None, "ratio": None, "limit_s": 0.5, "within": False},
    ],
    "explain": [
        {
            "what": "GradCAM, beside plain inference",
            "ours_s": 0.1,
            "theirs_s": 0.1,
            "ratio": 1.0,
            "limit_s": 0.2,
        }
    ],
    "predict": [
        {
            "what": "judge",
            "images_per_s": 40.0,
            "peer_images_per_s": 44.0,
            "ratio": 0.9,
            "limit": 0.8,
            "within": True,
            "detail": "1,000 files",
        }
    ],
}
WHERE = {
    "processor": "a chip",
    "cores": 2,
    "memory_gb": 8.0,
    "load": 0.1,
    "device": "",
    "system": "Linux",
} | {"versions": {"python": "3.11", "torch": "2", "mlflow": ""}}


@pytest.fixture(scope="module")
def rows():
    return together.table(RECORDS, {"ensemble": "ended with exit code 1"})


def test_every_shape_of_record_becomes_a_row_of_the_same_columns(rows):
    assert {tuple(row) for row in rows} == {
        ("bench", "what", "ours", "theirs", "unit", "ratio", "beside", "limit", "kept", "detail")
    }
    found = {(row["bench"], row["what"]): row for row in rows}
    assert found["train", "training"]["ours"] == 12.0
    assert found["train", "training"]["theirs"] == 10.0
    assert found["loader", "cache"]["theirs"] == 60.0
    assert found["runs", "listing"]["kept"] is True
    assert found["runs", "listing"]["beside"] == "mlflow"
    assert found["compare", "AUC"]["kept"] is False
    assert found["explain", "GradCAM"]["beside"] == "plain inference"
    assert found["predict", "judge"]["limit"] == "at least 0.800 times"
    assert found["predict", "judge"]["theirs"] == 44.0
    assert len(rows) == 3 + 2 + 1 + 2 + 1 + 1 + 1


def test_a_bench_that_fails_is_a_row_that_says_so(rows):
    assert rows[-1]["bench"] == "ensemble"
    assert rows[-1]["kept"] is False
    assert "exit code 1" in together.text(rows, WHERE)


def test_a_missed_promise_is_marked_in_words(rows):
    lines = together.text(rows, WHERE).splitlines()
    (line,) = [line for line in lines if " AUC " in line]
    assert line.endswith("MISSED")
    assert "MISSED" not in next(line for line in lines if " tables " in line)


def test_the_table_names_machine_and_versions_and_goes_between_the_markers(rows, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{together.BEGIN}\nyesterday\n{together.END}\n\nafter\n", encoding="utf-8")
    for _ in range(2):  # putting it there again changes nothing
        together.put_into(readme, rows, WHERE)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{together.BEGIN}\n\n| bench | what |")
    assert text.endswith(
        f"a chip, 2 cores, 8 GB, load 0.1; Linux; python 3.11, torch 2\n\n{together.END}\n\nafter\n"
    )
    assert "yesterday" not in text
    assert "| 20.0 ms | 2.00 s | 100x |" in text


def test_a_file_without_the_markers_is_refused_and_left_alone(rows, tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="no place for the table"):
        together.put_into(path, rows, WHERE)
    assert path.read_text(encoding="utf-8") == "mine"


def test_the_readme_has_the_place():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index(together.BEGIN) < text.index(together.END)


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (0.5, "0.500"), (4.5678, "4.57"), (1234.5, "1,234")]
)
def test_figures_have_three_digits(value, text):
    assert together._figure(value) == text


def test_every_bench_has_a_quick_version_and_a_counterpart():
    assert set(BENCHES) <= set(together.QUICK)
    assert set(BENCHES) <= set(together.BESIDE)


@pytest.mark.slow
def test_growth_is_measured_at_every_size():
    records = growth.run(runs=(2, 4), predictions=(200, 400), draws=50, repeats=1)
    assert [record["what"] for record in records] == [
        "listing 2 runs",
        "listing 4 runs",
        "balanced accuracy of 200 predictions, 50 draws of cases",
        "balanced accuracy of 400 predictions, 50 draws of cases",
    ]
    assert all("2 times as many" in records[row]["detail"] for row in (1, 3))
    assert all(record["ours_s"] > 0 for record in records)


@pytest.mark.slow
def test_several_benches_are_one_document_and_files(tmp_path):
    words = [
        "runs",
        "growth",
        "--quick",
        "--json",
        "--out",
        f"{tmp_path}/t.json",
        "--out",
        f"{tmp_path}/t.md",
    ]
    ended = subprocess.run([sys.executable, "-m", "engine", "bench", *words], cwd=ROOT, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {row["bench"] for row in found["table"]} == {"runs", "growth"}
    assert found["machine"]["versions"]["torch"]
    assert json.loads((tmp_path / "t.json").read_text())["table"] == found["table"]
    assert (tmp_path / "t.md").read_text().startswith("| bench | what |")
