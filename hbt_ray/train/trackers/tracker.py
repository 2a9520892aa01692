"""The tracker: what all three have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class TrackerRow(NamedTuple):
    """Numbers of a step, or of the checkpoint after so many steps."""

    step: int
    values: dict[str, float]
    of_validation: bool = False


class Tracker(Protocol):
    """Takes numbers by step; lives in one thread."""

    def log(self, rows: Sequence[TrackerRow]) -> None:
        """At least one row. Those of training come in the order of steps, validations come later than their steps.

        They are out of this process when this returns: it may be killed at any time.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """The run ended, well or not; it may be continued."""
        ...


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `plan.alpha: 0.5`, the way they are written on the command line."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
