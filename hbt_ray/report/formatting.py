"""Text of durations, sizes, lists, and of the objectives and values of a search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hbt_ray.retrieval.compare import MISSING
from hbt_ray.retrieval.significance import CONFIDENCE, SeedInterval
from hbt_ray.tune.config import LOWER_IS_BETTER

NO_BREAK = "\u00a0"
_OBJECTIVES = {
    "mono_AP": "monolingual AP",
    "cross_AP": "cross-lingual AP",
    "RankDistance": "rank distance",
    "pool_loss": "pool loss",
}


def duration(seconds: float) -> str:
    """`0.4 s`, `3 min 12 s`, `2 h 4 min`."""
    if seconds < 9.95:  # above, one decimal would round to 10.0
        return f"{seconds:.1f}{NO_BREAK}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NO_BREAK}s"
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK}min {whole % 60}{NO_BREAK}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}{NO_BREAK}h {minutes % 60}{NO_BREAK}min"


def size(num_bytes: float) -> str:
    """`512 B`, `3.4 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1023.5:  # above, it would round to 1024
            return f"{num_bytes:.0f}{NO_BREAK}{unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f}{NO_BREAK}GiB"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def number_word(count: int) -> str:
    """`no`, `one`, … `ten`, then `11`, `1,200`."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else f"{count:,}"


def objective_name(objective: str) -> str:
    """`cross_AP` → `cross-lingual AP`."""
    return _OBJECTIVES.get(objective, objective)


def objective_value(objective: str, value: float | None) -> str:
    """`.612` for AP, `23.4` or `1,310` for ranks, `1.234` for losses."""
    if value is None:
        return MISSING
    if objective == "RankDistance":
        digits = f"{abs(value):,.0f}" if abs(value) >= 1000 else f"{abs(value):.1f}"
    else:
        digits = f"{abs(value):.3f}"
        # Measures of quality are at most 1 and lose their leading 0; losses keep it.
        digits = digits if objective in LOWER_IS_BETTER else digits.removeprefix("0")
    return f"−{digits}" if value < 0 else digits


def interval(objective: str, estimate: SeedInterval) -> str:
    """`.601 to .623`; a dash for a single seed."""
    return " to ".join(objective_value(objective, end) for end in estimate.interval) if estimate.interval else MISSING


def mean_with_interval(objective: str, estimate: SeedInterval) -> str:
    """`.612 (95 % interval .601 to .623)`."""
    level = f"{100 * CONFIDENCE:.0f}{NO_BREAK}%"
    bounds = f" ({level} interval {interval(objective, estimate)})" if estimate.interval else ""
    return objective_value(objective, estimate.mean) + bounds


def setting_value(value: Any) -> str:
    """One value of a search space: `0.5`, `5e-05`, `rows`, `{kind: mono}`."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False).replace('"', "")
    return "none" if value is None else str(value)


def settings_text(values: Mapping[str, Any]) -> str:
    """`plan.alpha = 0.5, seed = 1`."""
    return ", ".join(f"{key} = {setting_value(value)}" for key, value in values.items())
