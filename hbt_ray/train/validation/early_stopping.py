"""When to stop, as pure functions of steps: no clock and no order of arrival enters.

Validations run beside training, so a result is there some time after its checkpoint. At checkpoint k the ranks look
only at results up to k - lag, however many more have come in. So every rank decides alike, and a run that is repeated,
or killed and continued, stops at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class StoppingRule(NamedTuple):
    """What counts as better, and how long to wait for it."""

    lower_is_better: bool
    patience: int | None
    """Validations in a row without an improvement; None never stops."""
    min_delta: float = 0.0
    """The least that counts as an improvement over the last one."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """Where a run stands after some validations."""

    best: int | None = None
    """The step of the best value, the first of equal ones."""
    waited: int = 0
    """Validations since the last improvement."""
    stop: bool = False


@dataclass(frozen=True, slots=True)
class ValidationSchedule:
    """Which steps are validated, and which of them a decision may see."""

    every: int
    last: int
    """The run's last step, which is validated whether it is a multiple or not."""
    lag: int = 1

    def due(self, step: int) -> bool:
        return step > 0 and (step % self.every == 0 or step == self.last)

    def horizon(self, step: int) -> int:
        """The last step whose result counts at `step`; none does if it is 0 or less."""
        return (step // self.every - self.lag) * self.every

    def visible(self, values: Mapping[int, float], step: int) -> dict[int, float]:
        """The results that count at `step`.

        Checkpoints off the grid (the last step, one made at a preemption) do not: a run that has none must stop at the
        same step.
        """
        horizon = self.horizon(step)
        return {at: value for at, value in values.items() if at <= horizon and at % self.every == 0}


def early_stopping_state(values: Mapping[int, float], rule: StoppingRule) -> EarlyStoppingState:
    """The best step so far, and whether patience has run out; `values` are finite, by step."""
    sign = 1.0 if rule.lower_is_better else -1.0
    best: tuple[float, int] | None = None
    reference, waited = float("inf"), 0
    for step in sorted(values):
        cost = sign * values[step]
        if best is None or cost < best[0]:
            best = cost, step
        if cost < reference and reference - cost >= rule.min_delta:
            reference, waited = cost, 0
        else:
            waited += 1
    stop = rule.patience is not None and waited >= rule.patience
    return EarlyStoppingState(best[1] if best else None, waited, stop)
