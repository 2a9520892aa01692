"""Imports point one way: cli → report → tune → train → retrieval → model → data → base, and no folders form a ring."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "hbt_ray"
LAYERS = [
    {"error_codes", "errors", "languages", "host", "markdown"},
    {"storage"},
    {"strict_yaml"},
    {"config", "run_dir", "console", "ray_compat", "ray_errors"},
    {"ray_session"},
    {"data"},
    {"model"},
    {"retrieval"},
    {"train"},
    {"tune", "doctor"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
WITHOUT_RAY = [
    "data/index",
    "data/plan",
    "data/store/store.py",
    "data/stream/loader.py",
    "model",
    "retrieval/bias.py",
    "retrieval/measures.py",
    "retrieval/result.py",
    "retrieval/significance.py",
    "retrieval/tasks",
    "retrieval/transforms",
    "train/checkpoint/directory.py",
    "train/checkpoint/format.py",
    "train/loss",
    "train/step",
    "train/validation/config.py",
    "train/validation/dev_set.py",
    "train/validation/record.py",
    "train/validation/runner.py",
]
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def part(name: str) -> str:
    """`hbt_ray.data.plan` → `data`."""
    return name.split(".")[1] if "." in name else ""


def layer(name: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if name in parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    here = parts[0]
    for name in imported(path):
        if name.startswith("hbt_ray.") and part(name) != here:
            assert layer(part(name)) < layer(here), f"{path.name} imports {name}, which is not below it"
        assert not name.startswith("tune_spaces"), f"{path.name}: the library never imports a search space"


def folder(name: str) -> str:
    """The folder of a module; a module that lies beside folders counts alone."""
    path = ROOT.parent.joinpath(*name.split("."))
    if (path / "__init__.py").exists():
        return name
    siblings = [item for item in path.parent.iterdir() if item.is_dir() and (item / "__init__.py").exists()]
    return name if siblings else name.rpartition(".")[0]


def test_folders_form_no_circle() -> None:
    """Of two folders at most one needs the other, also by way of a third.

    The configuration of a run does not count: it contains those of the folders, and the folders read it.
    """
    needs: dict[str, set[str]] = {}
    for path in MODULES:
        module = "hbt_ray." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        here = folder(module.removesuffix("__init__").rstrip("."))
        there = {folder(name) for name in imported(path) if name.startswith("hbt_ray.")}
        needs[here] = needs.get(here, set()) | (there - {here, "hbt_ray.train.config"})
    assert len(tuple(graphlib.TopologicalSorter(needs).static_order())) > 20


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


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_sentences_about_what_exists(path: Path) -> None:
    """A docstring names only modules that exist, and none begins with "Of", a fragment that leans on its name."""
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'^\s+"""Of ', text, re.MULTILINE)
    for name in re.findall(r"`(hbt_ray(?:\.\w+)+)", text):
        parts = name.split(".")
        modules = [ROOT.parent.joinpath(*parts[:length]) for length in (len(parts), len(parts) - 1)]
        assert any(module.is_dir() or module.with_suffix(".py").is_file() for module in modules), name


def test_imports_take_a_small_share_of_the_lines() -> None:
    """Many small modules make readers jump: each costs an import, a name and a file."""
    lines = imports = 0
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports += (node.end_lineno or 0) - node.lineno + 1
    assert imports / lines < 0.09
