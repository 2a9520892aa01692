"""Errors keep their data over process borders, as Ray pickles them."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import hbt_ray
from hbt_ray import errors
from hbt_ray.error_codes import ERROR_CODES
from hbt_ray.errors import (
    DamagedFile,
    HbtError,
    InputError,
    LockedError,
    LostRank,
    NonFiniteLoss,
    PlanMismatch,
    StalledRank,
    StorageError,
    ValidationFailed,
)

NOT_THE_USERS = {"HbtError", "LostRank", "NonFiniteLoss", "StalledRank", "ValidationFailed"}


@pytest.mark.parametrize(
    "error",
    [
        PlanMismatch("plan.alpha", 0.5, 0.3),
        NonFiniteLoss(7, float("inf"), 1.0),
        StorageError("/x/step-00000007", "No space left", 5, "the checkpoint of step 7"),
        DamagedFile("/x/checkpoint.json", "its checksum does not match"),
        LockedError("/x/.run.lock", {"host": "a", "pid": 3, "purpose": "train", "since": 0.0}),
        InputError("x: y", code="INVALID_NAME"),
        LostRank(1, "The actor died.\n\tip: 10.0.0.7\nits node was terminated", 3),
        StalledRank(7, 60.0, {1: "faults.py:9 in stall"}),
        ValidationFailed(7, "full"),
        InputError("x: y"),
    ],
)
def test_errors_survive_pickling(error: HbtError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_input_errors_end_with_two_and_others_with_one() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HbtError)]
    assert {kind.__name__ for kind in kinds if kind.exit_code == 1} == NOT_THE_USERS
    assert errors.Interrupted.exit_code == 130
    assert {kind.exit_code for kind in kinds if issubclass(kind, InputError)} == {2}


def codes_in(module: ast.Module) -> Iterator[str]:
    """The literals of `code="…"`, of `code = "…"` in a class, and of functions whose first parameter is `code`."""
    raising = {
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args[:1]] == ["code"]
    }
    for node in ast.walk(module):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.keyword) and node.arg == "code":
            values = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in raising:
            values = [*node.args[:1]]
        elif isinstance(node, ast.ClassDef):
            values = [
                line.value
                for line in node.body
                if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["code"]
            ]
        for value in filter(None, values):
            yield from (
                part.value
                for part in ast.walk(value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isupper()
            )


def test_the_table_holds_each_code_and_no_other() -> None:
    paths = sorted(Path(hbt_ray.__file__).parent.rglob("*.py"))
    used = {code for path in paths for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert used == set(ERROR_CODES)
    assert list(ERROR_CODES) == sorted(ERROR_CODES)
    assert all(meaning.endswith(".") for meaning in ERROR_CODES.values())


def test_each_class_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HbtError)]
    assert all(vars(kind).get("code") for kind in kinds)
