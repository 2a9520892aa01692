"""The clocks of the nodes against the driver's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hbt_ray.doctor.finding import Finding, Level, by_value, or_well

FAILURE_SECONDS = 5.0
WARNING_SECONDS = 1.0
REMEDY = "run chrony or another NTP client on every node"


@dataclass(frozen=True, slots=True)
class Reading:
    """One question for the time: asked and answered at the driver's clock, told by the node's. Seconds."""

    asked: float
    told: float
    answered: float

    @property
    def offset(self) -> float:
        """Of the node, if the way there takes as long as the way back."""
        return self.told - (self.asked + self.answered) / 2

    @property
    def trip(self) -> float:
        return self.answered - self.asked

    @property
    def least(self) -> float:
        """What the clocks differ by at least, however long each way took."""
        return max(0.0, abs(self.offset) - self.trip / 2)


def check_clocks(readings: Mapping[str, Reading]) -> list[Finding]:
    """Above 5 s is a failure, above 1 s a warning: leases, tokens and file times stop making sense."""
    problems = []
    for level, low, high in (
        (Level.FAILURE, FAILURE_SECONDS, float("inf")),
        (Level.WARNING, WARNING_SECONDS, FAILURE_SECONDS),
    ):
        off = {name: f"{reading.offset:+.1f} s" for name, reading in readings.items() if low < reading.least <= high}
        if off:
            problems.append(Finding("clocks", level, f"not the driver's time: {by_value(off)}", REMEDY))
    most = max((reading.least for reading in readings.values()), default=0)
    return or_well(problems, "clocks", f"within {max(most, 0.001):.3f} s of the driver's")
