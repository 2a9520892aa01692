"""The tracker: what all three have in common."""

from __future__ import annotations

from typing import Any, Protocol


class Tracker(Protocol):
    """Takes numbers by step; made for a run, or for one that goes on."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a step, by name; steps rise."""
        ...

    def close(self) -> None:
        """Everything is to be where it belongs when this returns."""
        ...


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `plan.alpha: 0.5`, the way they are written on the command line."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
