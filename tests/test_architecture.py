"""Imports point one way: cli → workflow → {train, evaluate} → data → the ground floor."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "hbt_ray"
FLOORS = [
    {"errors", "languages", "colour", "estimate", "heap", "cores", "markdown"},
    {"storage", "strict_yaml"},
    {"config", "run", "console", "session", "families", "job", "ray_errors"},
    {"data"},
    {"posthoc", "models"},
    {"train", "evaluate"},
    {"card", "tune", "doctor"},
    {"workflow"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
WITHOUT_RAY = ["data/plan", "data/store/store.py", "data/stream/local.py", "train/loss", "train/model", "train/engine",
               "models",                "train/checkpoints", "train/validation/measure.py", "train/validation/pool.py",
               "train/validation/record.py", "train/validation/stopping.py", "train/validation/task.py",
               "posthoc", "evaluate/tasks", "evaluate/measures", "evaluate/significance", "evaluate/verdict",
               "evaluate/judge/preference.py"]  # fmt: skip
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def room(name: str) -> str:
    """`hbt_ray.data.plan` → `data`."""
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    here = parts[0]
    for name in imported(path):
        if name.startswith("hbt_ray.") and room(name) != here:
            assert floor(room(name)) < floor(here), f"{path.name} imports {name}, which is not below it"
        assert not name.startswith("tune_spaces"), f"{path.name}: the library never imports a search space"


def test_the_rooms_of_evaluation_form_no_circle() -> None:
    """tasks, encode, search, … : each needs only rooms that do not need it."""
    needs: dict[str, set[str]] = {}
    for path in sorted((ROOT / "evaluate").glob("*/**/*.py")):
        here = path.relative_to(ROOT / "evaluate").parts[0]
        there = {name.split(".")[2] for name in imported(path) if name.startswith("hbt_ray.evaluate.")}
        needs[here] = needs.get(here, set()) | (there - {here})
    assert len(tuple(graphlib.TopologicalSorter(needs).static_order())) > 8


def test_modules_form_no_circle() -> None:
    names = {path: "hbt_ray." + ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    known = set(names.values())
    needs = {name: set(imported(path)) & known for path, name in names.items()}
    assert len(tuple(graphlib.TopologicalSorter(needs).static_order())) == len(MODULES)


@pytest.mark.parametrize("place", WITHOUT_RAY)
def test_the_core_runs_without_ray(place: str) -> None:
    paths = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert paths
    for path in paths:
        assert not [name for name in imported(path) if name.split(".")[0] == "ray"], path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{path.name}: {node.name}"


def test_no_module_is_called_utils() -> None:
    assert not {"utils", "util", "helpers", "common", "misc"} & {path.stem for path in MODULES}
