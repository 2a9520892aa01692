"""Errors keep their data over process borders, as Ray pickles them."""

from __future__ import annotations

import pickle

import pytest

from hbt_ray import errors
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
