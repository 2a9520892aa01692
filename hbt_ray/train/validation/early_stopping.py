"""Early stopping as pure functions of steps: neither a clock nor the order in which results arrive matters.

Validations run beside training, so a result comes some time after its checkpoint. At checkpoint k the ranks look only
at results up to k - lag, however many more have arrived. So all ranks decide alike, and a run that is repeated, or
killed and continued, stops at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class StoppingRule(NamedTuple):
    """When training stops."""

    lower_is_better: bool
    patience: int | None
    """Consecutive validations without an improvement after which training stops; None never stops."""
    min_delta: float = 0.0
    """Smallest difference to the last improvement that counts as one."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """What follows from the validations so far."""

    best: int | None = None
    """Step of the best value, the first of equal ones; None without a validation."""
    waited: int = 0
    """Validations since the last improvement."""
    stop: bool = False


@dataclass(frozen=True, slots=True)
class ValidationSchedule:
    """Which steps are validated, and which results a decision may use."""

    every: int
    last: int
    """Last step of the run. It is validated even if it is not a multiple of `every`."""
    lag: int = 1

    def due(self, step: int) -> bool:
        """Whether the checkpoint of this step is validated."""
        return step > 0 and (step % self.every == 0 or step == self.last)

    def horizon(self, step: int) -> int:
        """Last step whose result is used at `step`; 0 or less if none is."""
        return (step // self.every - self.lag) * self.every

    def visible(self, values: Mapping[int, float], step: int) -> dict[int, float]:
        """The results that are used at `step`.

        Checkpoints that are not on the grid (the last step, one made at a preemption) are not used: a run without them
        must stop at the same step.
        """
        horizon = self.horizon(step)
        return {at: value for at, value in values.items() if at <= horizon and at % self.every == 0}


def early_stopping_state(values: Mapping[int, float], rule: StoppingRule) -> EarlyStoppingState:
    """The best step, and whether patience is exhausted.

    Args:
        values: step → finite value.
    """
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
