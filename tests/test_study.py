"""The study can be repeated: its files are read, its recipes are configurations, its page says what its runs were."""

from __future__ import annotations

import csv
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from hbt_ray.data.prepare import StoreConfig
from hbt_ray.retrieval.tasks import Suite
from hbt_ray.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "benchmarks" / "study"
SCRIPT = (STUDY / "recipes.sh").read_text(encoding="utf-8")
RECIPES = re.findall(r'^  "(\S+) *(.*?)"$', SCRIPT, re.M)
SHELL = dict(re.findall(r'^(\w+)="(.*?)"', SCRIPT, re.M))
COLD = tuple(SHELL["COLD"].replace("$WHOLE", SHELL["WHOLE"]).split())
"""What the recipes of the whole encoder have in common."""


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


def runs_of(part: str) -> dict[str, dict[str, float]]:
    """System → seed → multi AP."""
    runs: dict[str, dict[str, float]] = defaultdict(dict)
    with (ROOT / "docs" / "study.csv").open(encoding="utf-8") as file:
        for row in filter(lambda row: row["part"] == part, csv.DictReader(file)):
            seed = re.search(r"-seed(\d+)", row["run"])
            runs[row["system"]][seed[1] if seed else ""] = float(row["multi AP"])
    return runs


def rows_of(page: Path, name: str) -> list[list[str]]:
    table = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.S)
    assert table, page
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:] if line]


@pytest.mark.parametrize("page", ["docs/study.md", "README.md"])
def test_the_table_of_policies_says_what_the_runs_were(page: str) -> None:
    runs, rows = runs_of("policies"), rows_of(ROOT / page, "policies")
    assert {system for system, *_ in rows} == runs.keys()
    for system, seeds, _, _, multi, _ in rows:
        assert int(seeds) == len(runs[system])
        assert float(multi.split()[0]) == pytest.approx(fmean(runs[system].values()), abs=6e-4)


@pytest.mark.parametrize("page", ["docs/study.md", "README.md"])
def test_the_table_of_the_whole_encoder_says_what_the_runs_were(page: str) -> None:
    runs, rows = runs_of("whole"), rows_of(ROOT / page, "whole")
    assert [policy for policy, *_ in rows] == ["untrained", "mono", "hybrid", "cross"]
    for policy, seeds, _, _, multi, _ in rows:
        own = runs[f"{policy}-12-layers" + "-cold" * (policy != "untrained")]
        assert int(seeds) == len(own)
        assert float(multi.split()[0]) == pytest.approx(fmean(own.values()), abs=6e-4)


@pytest.mark.parametrize(
    ("part", "table"),
    [("methods", "methods"), ("further", "further"), ("whole", "whole-methods"), ("settings", "settings")],
)
def test_a_table_says_what_its_systems_change_beside_the_first(part: str, table: str) -> None:
    runs, rows = runs_of(part), rows_of(ROOT / "docs" / "study.md", table)
    (base, _, _, _, multi, _), *others = rows
    assert float(multi.split()[0]) == pytest.approx(fmean(runs[base].values()), abs=6e-4)
    assert {base} | {system for system, *_ in others} == runs.keys()
    for system, seeds, _, _, multi, _ in others:
        own = runs[system]
        assert int(seeds) == len(own)
        same = [runs[base][seed] for seed in own if seed in runs[base]] or runs[base].values()
        change = float(multi.removesuffix(" *").replace("−", "-"))
        assert change == pytest.approx(fmean(own.values()) - fmean(same), abs=6e-4), system


def test_a_run_that_several_parts_have_gave_them_the_same_figures() -> None:
    """They were made on other machines of a kind, and with another number of workers."""
    found = defaultdict(list)
    with (ROOT / "docs" / "study.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            figures = [float(row[name]) for name in ("mono AP", "cross AP", "multi AP")]
            found[row["run"]].append(figures)
    repeated = [rows for rows in found.values() if len(rows) > 1]
    assert len(repeated) >= 8
    for first, *others in repeated:
        for other in others:
            assert other == pytest.approx(first, abs=2e-3)


@pytest.mark.parametrize(
    ("config", "recipe", "changes"),
    [
        ("mono-lakda", "mono+lakda-1", ()),
        ("hybrid", "hybrid-12-layers-cold", COLD),
    ],
)
def test_what_the_study_ends_with_is_one_of_its_recipes(config: str, recipe: str, changes: tuple[str, ...]) -> None:
    made = TrainConfig.load(ROOT / "configs" / f"{config}.yaml")
    same = [*dict(RECIPES)[recipe].split(), *changes, f"name={made.name}", f"storage_path={made.storage_path}"]
    assert made == TrainConfig.load(STUDY / "train.yaml", same)
