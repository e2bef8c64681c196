"""Lines that are appended: what was written comes back, whatever a person typed and wherever a kill came."""

import pytest

from engine import files


@pytest.mark.parametrize(
    "text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb\x0cc", "two\nlines", "\U0001f600"]
)
def test_a_line_holds_any_text(tmp_path, text):
    target = tmp_path / "lines.jsonl"
    for number in range(2):
        files.append_line(target, {"n": number, "text": text})
    assert files.read_lines(target) == [{"n": 0, "text": text}, {"n": 1, "text": text}]


def test_a_torn_line_costs_only_itself(tmp_path):
    target = tmp_path / "lines.jsonl"
    files.append_line(target, {"n": 0})
    with target.open("a") as file:
        file.write('{"n": 1, "te')
    files.append_line(target, {"n": 2})
    assert files.read_lines(target) == [{"n": 0}, {"n": 2}]
    assert files.read_lines(tmp_path / "absent") == []
