"""The study can be repeated: its files are read, its recipes are configurations, its page says what its runs were."""

from __future__ import annotations

import csv
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from hbt_ray.data.prepare import StoreConfig
from hbt_ray.evaluate.tasks import Suite
from hbt_ray.train.settings import TrainConfig

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "benchmarks" / "study"
RECIPES = re.findall(r'^  "(\S+) *(.*?)"$', (STUDY / "recipes.sh").read_text(), re.M)


@pytest.mark.parametrize(("name", "changes"), RECIPES, ids=[name for name, _ in RECIPES])
def test_a_recipe_is_a_configuration(name: str, changes: str) -> None:
    made = TrainConfig.load(STUDY / "train.yaml", [f"name={name}-seed0", *changes.split()])
    assert made.checkpoints.every == made.optimiser.steps, "one checkpoint, the last"
    base = TrainConfig.load(STUDY / "train.yaml")
    pairs = made.plan.batch_size * made.optimiser.steps
    assert pairs == base.plan.batch_size * base.optimiser.steps or "steps" in name, "equal compute"


def test_recipes_have_names_of_their_own() -> None:
    names = [name for name, _ in RECIPES]
    assert len(names) > 20
    assert len(set(names)) == len(names)


def test_the_script_is_one() -> None:
    assert subprocess.run(["bash", "-n", STUDY / "recipes.sh"], check=False).returncode == 0


def test_stores_and_suites_are_read() -> None:
    for name in ("store", "parallel"):
        StoreConfig.load(STUDY / f"{name}.yaml")
    for name in ("suite", "others"):
        assert Suite.load(STUDY / f"{name}.yaml").tasks


def test_the_page_says_what_the_runs_were() -> None:
    runs = defaultdict(list)
    with (ROOT / "docs" / "study.csv").open(encoding="utf-8") as file:
        for row in filter(lambda row: row["part"] == "policies", csv.DictReader(file)):
            runs[row["system"]].append(float(row["multi AP"]))
    for page in (ROOT / "docs" / "study.md", ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        table = re.search(r"<!-- policies -->\n(.*?)<!-- /policies -->", text, re.S)
        assert table, page
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:] if line]
        assert len(rows) >= 7
        for system, seeds, _, _, multi, _ in rows:
            assert int(seeds) == len(runs[system])
            assert float(multi.split()[0]) == pytest.approx(sum(runs[system]) / len(runs[system]), abs=6e-4)


def test_the_configuration_that_the_study_ends_with_is_one_of_its_recipes() -> None:
    made = TrainConfig.load(ROOT / "configs" / "hybrid-lakda.yaml")
    changes = [*dict(RECIPES)["hybrid+lakda-1"].split(), f"name={made.name}", f"storage_path={made.storage_path}"]
    assert made == TrainConfig.load(STUDY / "train.yaml", changes)
