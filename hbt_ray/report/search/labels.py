"""How people read it: objectives, their figures, and the values of a choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hbt_ray.retrieval.compare import MISSING
from hbt_ray.retrieval.significance import CONFIDENCE, SeedInterval
from hbt_ray.tune.config import LOWER_IS_BETTER
from hbt_ray.tune.state import Trial

_LABELS = {"mono_AP": "monolingual AP", "cross_AP": "cross-lingual AP", "RankDistance": "rank distance",
           "pool_loss": "pool loss"}  # fmt: skip


def label(objective: str) -> str:
    return _LABELS.get(objective, objective)


def figure(objective: str, value: float | None) -> str:
    """`.612` for precisions, `23.4` or `1,310` for ranks, `1.234` for losses."""
    if value is None:
        return MISSING
    if objective == "RankDistance":
        digits = f"{abs(value):,.0f}" if abs(value) >= 1000 else f"{abs(value):.1f}"
    else:
        digits = f"{abs(value):.3f}"
        digits = digits if objective in LOWER_IS_BETTER else digits.removeprefix("0")
    return f"−{digits}" if value < 0 else digits


def interval(objective: str, estimate: SeedInterval) -> str:
    """`.601 to .623`; a dash where one seed has none."""
    return " to ".join(figure(objective, end) for end in estimate.interval) if estimate.interval else MISSING


def told(objective: str, estimate: SeedInterval) -> str:
    """`.612 (95 % interval .601 to .623)`."""
    aside = f" ({100 * CONFIDENCE:.0f}\u00a0% interval {interval(objective, estimate)})" if estimate.interval else ""
    return figure(objective, estimate.mean) + aside


def value(chosen: Any) -> str:
    """One value of a key, short: `0.5`, `5e-05`, `rows`, `{kind: mono}`."""
    if isinstance(chosen, float):
        return f"{chosen:.4g}"
    if isinstance(chosen, dict | list):
        return json.dumps(chosen, ensure_ascii=False).replace('"', "")
    return "none" if chosen is None else str(chosen)


def choice(values: Mapping[str, Any]) -> str:
    """`plan.alpha = 0.5, seed = 1`."""
    return ", ".join(f"{key} = {value(each)}" for key, each in values.items())


def short_choice(trial: Trial) -> str:
    """For legends: keys without what they belong to."""
    return ", ".join(f"{key.rpartition('.')[2]} {value(each)}" for key, each in trial.values.items())
