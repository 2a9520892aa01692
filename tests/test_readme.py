"""What the README shows is run as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hbt_ray.retrieval.tasks import Suite
from tests.commands import hbt

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = (line for block in blocks("console") for line in block.splitlines())
    return [line[2:].split("#")[0].strip() for line in lines if line.startswith("$ ")]


def test_the_first_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands()[:2] == ["make demo", "make test"]
    assert {"demo", "test", "install", "lint", "bench"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's files, and data of the shape that it tells of."""
    folder = tmp_path_factory.mktemp("readme")
    for block in blocks("yaml"):
        (folder / re.findall(r"^# (\S+\.yaml)$", block, re.MULTILINE)[0]).write_text(block, encoding="utf-8")
    rows = [
        {"id": str(number), "lang": language, "question": f"{ask} {number}?", "answer": f"{say} {number}."}
        for number in range(40)
        for language, ask, say in (
            ("de", "Wie geht Nummer", "So geht Nummer"),
            ("en", "How does it go", "It goes like"),
        )
    ]
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_its_suite_is_one(folder: Path) -> None:
    suite = Suite.load(folder / "suite.yaml")
    assert [spec.kind for spec in suite.tasks] == ["beir", "xquad-r", "tatoeba"]


@pytest.mark.integration
def test_its_commands_run_one_after_the_other(folder: Path) -> None:
    ours = [command for command in commands() if command.startswith("hbt ")]
    assert len(ours) == 10
    for command in ours:
        done = hbt(*shlex.split(command)[1:], cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "faq-mono" in page
    assert "untrained" in page
    card = (folder / "runs" / "faq-hybrid" / "model" / "README.md").read_text(encoding="utf-8")
    assert "worldfacts" in card
    assert "- trained on: de, en\n" in card  # It was evaluated in zh as well.
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr


def test_no_word_of_a_command_is_unknown() -> None:
    """Commands within sentences, which cannot be run here (they need a hub or a data set), name only what exists."""
    from hbt_ray.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"`hbt (\w+)", README)) <= known
