"""The Dockerfile and what README says about it: checked without a container runtime."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), continued lines joined, comments dropped."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
    ]


def test_everything_that_is_copied_exists_and_every_floor_is_copied():
    sources = [part for word, rest in instructions() if word == "COPY" for part in shlex.split(rest)[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
    assert {"engine", "dashboard", "pages", "requirements.txt", ".streamlit/config.toml"} <= set(sources)


def test_the_builder_is_sent_what_is_copied_and_nothing_else():
    """The context is an allow-list: a folder of images or a secret beside the code never reaches an image."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    sources = {part for word, rest in instructions() if word == "COPY" for part in shlex.split(rest)[:-1]}
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources


def test_what_is_written_lies_in_the_volume():
    environment = dict(
        part.split("=", 1) for word, rest in instructions() if word == "ENV" for part in rest.split()
    )
    for name in ("DASHBOARD_RUNS", "DASHBOARD_SAMPLE", "BREAKHIS_CACHE"):
        assert environment[name].startswith("/data/"), name


def test_the_image_runs_the_documented_command_as_no_root():
    words = instructions()
    (command,) = [rest for word, rest in words if word == "CMD"]
    assert '"streamlit", "run", "dashboard/Home.py"' in command
    assert [rest for word, rest in words if word == "USER"] == ["dashboard"]
    assert "streamlit run dashboard/Home.py" in README
    assert "HEALTHCHECK" in DOCKERFILE


def test_the_readme_runs_the_image_as_the_dockerfile_says():
    """Options that both name must agree: port, volume, role, init."""
    said = re.sub(r"\s+", " ", README)
    for option in (
        "--init",
        "-p 127.0.0.1:8501:8501",
        "-e DASHBOARD_ROLE=editor",
        "-v breakhis:/data",
        '-v "$PWD/BreaKHis_v1:/images:ro"',
        "--shm-size 1g",
    ):
        assert option in said, option
        assert option in DOCKERFILE, option
    (port,) = [rest for word, rest in instructions() if word == "EXPOSE"]
    assert port == "8501"
    (volume,) = [rest for word, rest in instructions() if word == "VOLUME"]
    assert volume == "/data"


def test_the_systemd_unit_lets_training_outlive_a_restart():
    (unit,) = re.findall(r"```ini\n(\[Unit\].*?)```", README, flags=re.S)
    for line in (
        "KillMode=process",
        "ExecStart=",
        "User=",
        "WantedBy=multi-user.target",
        "Restart=on-failure",
    ):
        assert line in unit, line
    assert "streamlit run dashboard/Home.py" in unit
    assert "--server.allowedHosts" in unit
