"""What sits on a node and answers. Sent there by value: hbt_ray may be missing there, or another version."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hbt_ray.doctor.looking import look
from hbt_ray.doctor.marks import read_marks, remove_marks, write_mark
from hbt_ray.doctor.ranks import Rank


class Examiner:
    def __init__(self) -> None:
        self._rank = Rank()

    def look(self) -> dict[str, Any]:
        return look()

    def now(self) -> float:
        return time.time()

    def write_mark(self, folder: str, token: str, number: int) -> tuple[int, int]:
        return write_mark(folder, token, number)

    def read_marks(self, folder: str, token: str, numbers: Sequence[int]) -> set[int]:
        return read_marks(folder, token, numbers)

    def remove_marks(self, folder: str, token: str, number: int, made: int) -> None:
        remove_marks(folder, token, number, made)

    def open_store(self, address: str, seconds: float) -> int:
        return self._rank.open_store(address, seconds)

    def all_reduce(self, *arguments: Any) -> dict[str, Any]:
        return self._rank.all_reduce(*arguments)
