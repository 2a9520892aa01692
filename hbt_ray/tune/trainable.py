"""The process of a trial in Ray Tune, which is told what validation records.

Stopped trials need no cooperation: Tune ends this process, and what Ray Train started ends with it.
"""

from __future__ import annotations

from typing import Any

from hbt_ray.tune.pbt import train_in_segments
from hbt_ray.tune.trial import COMPLETE, FIXED, TrialSetting, measured_fixed, rows_of, told


def run_trial(values: dict[str, Any], *, setting: TrialSetting) -> None:
    """What Ray Tune calls."""
    from ray import tune

    from hbt_ray.ray_session import configure
    from hbt_ray.train.placement_group import give_back

    configure(local=False)
    trial_id = tune.get_context().get_trial_id()
    config = setting.config(values, trial_id)
    give_back(config.run)  # Of an attempt that was killed.
    if setting.segment is not None:
        train_in_segments(values, setting, trial_id)
        return
    row: dict[str, Any] = {"step": 0}
    for row in rows_of(config):
        tune.report(told(config, row))
    fixed = measured_fixed(config, setting.fixes) if setting.fixes else {}
    tune.report({**told(config, row), COMPLETE: True, FIXED: fixed})
