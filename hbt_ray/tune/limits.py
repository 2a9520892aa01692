"""Limits of a search: how many trials at a time, and its budget; in its folder, so that the command may change them.

Ray Tune keeps its stopper and its generator of trials as they were when the search began; both look here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.tune import Stopper
from ray.tune.search import BasicVariantGenerator

from hbt_ray.config import Config
from hbt_ray.storage import read_checked_json, with_checksum, write_json
from hbt_ray.tune.config import SearchBudget
from hbt_ray.tune.state import EVENTS, SearchState


class Limits(Config):
    """Of the session that runs now."""

    concurrent: int
    """Trials at a time."""
    budget: SearchBudget = SearchBudget()

    @classmethod
    def of(cls, folder: Path) -> Limits:
        """Of a search's folder."""
        return cls.model_validate(read_checked_json(folder / "limits.json"))

    def save(self, folder: Path) -> None:
        """Into a search's folder."""
        write_json(folder / "limits.json", with_checksum(self.model_dump(mode="json")))


class Variants(BasicVariantGenerator):  # type: ignore[misc]  # Ray has no types.
    """Trials of a grid, or drawn ones, as far as the limits of the folder let them begin.

    Args:
        together: all begin at once, whatever has room.
    """

    def __init__(self, folder: Path, *, together: bool, **options: Any) -> None:
        super().__init__(**options)
        self._folder, self._together, self._begun = folder, together, 0

    def next_trial(self) -> Any:
        """The next one to begin, None where there is none now."""
        self.max_concurrent = 0 if self._together else Limits.of(self._folder).concurrent
        trial = super().next_trial()
        self._begun += trial is not None
        return trial

    def is_finished(self) -> bool:
        most = Limits.of(self._folder).budget.trials
        return super().is_finished() or (most is not None and self._begun >= most)


class Spent(Stopper):  # type: ignore[misc]
    """Ends the search where its budget is spent. The number of trials is not its business: no more begin."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._size, self._board = folder, -1, SearchState([])

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        size = (self._folder / EVENTS).stat().st_size
        if size != self._size:  # It is asked at every turn of Tune's loop.
            self._size, self._board = size, SearchState.of(self._folder)
        return bool(spent(self._board, Limits.of(self._folder).budget, time.time()))


def spent(board: SearchState, budget: SearchBudget, now: float) -> str:
    """What is spent, for people; empty while something is left of everything."""
    hours = (board.seconds + max(0.0, now - board.last)) / 3600 if board.last else 0.0
    for used, allowed, what in (
        (board.steps, budget.steps, "steps"),
        (hours, budget.hours, "hours"),
        (board.gpu_hours(now), budget.gpu_hours, "GPU hours"),
    ):
        if allowed is not None and used >= allowed:
            return f"{used:,.4g} of {allowed:,.4g} {what} are spent"
    return ""
