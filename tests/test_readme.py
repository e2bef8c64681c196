"""What README says about the repository is so: its commands, its map of files, the paths and tests it names."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from engine import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_FOR_PEOPLE = {"work", "supervise"}  # what workers and supervisors are started with


def block_after(words: str) -> str:
    """The first code block after these words."""
    return README[README.index(words) :].split("```")[1]


def parser_of(command: str) -> argparse.ArgumentParser:
    (commands,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[command]


def listed_commands() -> dict[str, str]:
    """Command -> how README shows it; ` | ` outside of brackets stands between two commands."""
    found = {}
    for line in block_after("## The command line").splitlines():
        if line.startswith("python -m engine "):
            shown = re.split(r" {2,}", line.removeprefix("python -m engine "))[0]  # what follows explains it
            for part in re.split(r" \| (?![^\[]*\])", shown):
                found[part.split()[0]] = part
    return found


def test_every_command_is_listed_and_every_listed_one_is_there():
    (commands,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert set(listed_commands()) == set(commands.choices) - NOT_FOR_PEOPLE


@pytest.mark.parametrize("command", sorted(listed_commands()))
def test_every_option_that_is_shown_is_there(command):
    known = {option for action in parser_of(command)._actions for option in action.option_strings}
    shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", listed_commands()[command]))
    assert shown <= known


def test_the_map_names_every_module_of_the_engine_and_every_page():
    tree = block_after("## How it is built")
    sections = re.split(r"\n(?=  [a-z]+/ |[a-z]+/ )", tree)
    for folder in sorted(path for path in (ROOT / "engine").rglob("*") if (path / "__init__.py").is_file()):
        name = folder.relative_to(ROOT / "engine").parts[0]
        (section,) = (
            (one for one in sections if one.strip().startswith(f"{name}/")) if name != "commands" else (tree,)
        )
        stems = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        assert stems <= set(re.findall(r"\w+", section)), f"engine/{name}"
    pages = next(one for one in sections if one.startswith("pages/"))
    assert set(re.findall(r"\w+", pages)) - {"pages"} == {path.stem for path in (ROOT / "pages").glob("*.py")}
    for name in re.findall(r"\b\w+\.py\b", tree):
        assert list(ROOT.glob(f"{name}")) + list(ROOT.glob(f"*/{name}")), name


def test_every_path_that_is_named_exists():
    named = set(re.findall(r"`((?:engine|dashboard|pages|tests|\.ci|\.streamlit)/[\w./-]*)", README))
    named |= set(re.findall(r"(?:pytest|python) (tests/[\w./]+)", README))
    named |= set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README))
    assert len(named) > 30
    for path in named - {".streamlit/secrets.toml"}:  # the one that whoever installs it writes
        assert (ROOT / path).exists(), path


def test_every_dotted_name_leads_somewhere():
    for dotted in set(re.findall(r"`(engine(?:\.\w+)+)`", README)):
        path = ROOT / Path(*dotted.split("."))
        if path.is_dir() or path.with_suffix(".py").is_file():
            continue
        source = path.parent.with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {path.name}\b|^{path.name}\b.* = ", source, re.MULTILINE), dotted
