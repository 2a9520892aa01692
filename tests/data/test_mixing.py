"""Alpha over the steps: ramps and stages keep the bound, at every step and exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import Config
from hbt_ray.data.plan.config import Alpha, Ramp, Stage, Stages, alpha_split, alpha_values
from hbt_ray.errors import ConfigError

SHARES = st.floats(0, 1)
RAMPS = st.builds(Ramp, start=SHARES, end=SHARES, steps=st.integers(1, 300))
STAGES = st.lists(st.tuples(st.integers(1, 80), SHARES), max_size=4).map(
    lambda later: Stages(
        stages=(
            Stage(from_step=0, alpha=0.5),
            *(
                Stage(from_step=int(sum(length for length, _ in later[: n + 1])), alpha=a)
                for n, (_, a) in enumerate(later)
            ),
        )
    )
)


def alpha_at(alpha: Alpha, step: int) -> float:
    """The plain meaning."""
    if isinstance(alpha, Ramp):
        return alpha.start + (alpha.end - alpha.start) * min(step, alpha.steps) / alpha.steps
    if isinstance(alpha, Stages):
        return [stage.alpha for stage in alpha.stages if stage.from_step <= step][-1]
    return alpha


@given(alpha=st.one_of(SHARES, RAMPS, STAGES), key=st.integers(0, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_every_window_is_off_by_less_than_one(alpha: Alpha, key: int) -> None:
    split = alpha_split(alpha, key)
    counts = np.array([split.count(turns) for turns in range(401)])
    assert set(np.diff(counts)) <= {0, 1}
    errors = counts - np.concatenate([[0.0], np.cumsum([alpha_at(alpha, step) for step in range(400)])])
    assert errors.max() - errors.min() < 1 + 1e-9


class Holder(Config):
    alpha: Alpha = 0.5


@pytest.mark.parametrize(
    ("written", "values", "shown"),
    [
        ("alpha=0.3", (0.3,), "0.3"),
        ("alpha={start: 0.9, end: 0.3, steps: 100}", (0.9, 0.3), "0.9 to 0.3"),
        ("alpha={stages: [{from_step: 0, alpha: 1}, {from_step: 9, alpha: 0.5}]}", (1, 0.5), "1, then 0.5"),
    ],
)
def test_forms_of_the_configuration(written: str, values: tuple[float, ...], shown: str) -> None:
    alpha = Holder.make({}, "test", (written,)).alpha
    assert alpha_values(alpha) == values
    assert (f"{alpha:g}" if isinstance(alpha, float) else str(alpha)) == shown


@pytest.mark.parametrize("written", ["alpha=2", "alpha={start: 0.9}", "alpha={stages: [{from_step: 5, alpha: 1}]}"])
def test_other_forms_are_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        Holder.make({}, "test", (written,))
