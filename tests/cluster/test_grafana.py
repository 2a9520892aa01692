"""The dashboard shows every metric that the code declares, and asks for no other."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import ray.autoscaler._private.prom_metrics as scaling
import ray.dashboard.modules.metrics.dashboards.default_dashboard_panels as rays

from hbt_ray.train.worker.metrics import _GAUGES
from tests.cluster.files import CLUSTER, ROOT

DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana" / "hbt_ray.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
PREFIX, SUFFIX = "ray_", {"Gauge": "", "Counter": "_total", "Histogram": "_bucket"}
"""What Ray puts around the names on its endpoint."""
PARTS = {"hbt_train_{name}": _GAUGES, "hbt_cache_{event}": ("hits", "misses")}
"""Names that are put together when the code runs, and what their parts may be."""


def declared() -> set[str]:
    """By every Gauge, Counter and Histogram of Ray in the code, as Prometheus sees them."""
    found = set()
    for path in (ROOT / "hbt_ray").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "ray.util.metrics" not in text and "from ray.util import metrics" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args:
                kind = ast.unparse(node.func).removeprefix("metrics.")
                if kind in SUFFIX:
                    found |= {f"{PREFIX}{name}{SUFFIX[kind]}" for name in names(node.args[0])}
    return found


def names(argument: ast.expr) -> list[str]:
    if isinstance(argument, ast.Constant):
        return [argument.value]
    assert isinstance(argument, ast.JoinedStr)
    pattern = ast.unparse(argument)[2:-1]
    return [re.sub(r"\{\w+\}", part, pattern) for part in PARTS[pattern]]


def queried() -> set[str]:
    return {name for query in QUERIES for name in re.findall(r"\b(?:ray|autoscaler)_\w+", query)}


def test_every_metric_of_ours_is_on_a_panel_and_no_other() -> None:
    ours = declared()
    assert len(ours) >= 10
    assert {name for name in queried() if name.startswith("ray_hbt_")} == ours


def test_the_others_are_rays() -> None:
    others = {name for name in queried() if not name.startswith("ray_hbt_")}
    known = "".join(Path(module.__file__ or "").read_text() for module in (rays, scaling))
    assert len(others) >= 5
    assert {name for name in others if name.removeprefix("autoscaler_") not in known} == set()


def test_panels_have_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_variables_are_declared() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) == variables
