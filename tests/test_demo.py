"""The demo, shortened: everything is there at the end, and training has helped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.retrieval.result import EvaluationResult
from tests.commands import hbt

pytestmark = pytest.mark.integration


def test_the_demo_trains_judges_and_reports(tmp_path: Path) -> None:
    small = ("model.layers=1", "model.width=64", "plan.batch_size=64", "optimiser.steps=60")
    done = hbt("demo", "--out", tmp_path, "--json", *small)
    assert done.returncode == 0, done.stderr
    untrained, trained = (EvaluationResult.model_validate(each) for each in json.loads(done.stdout)["results"])
    run = tmp_path / "runs" / "demo-hybrid"
    for setting in ("monolingual", "cross-lingual", "multilingual"):
        assert trained.settings[setting]["AP"] > 1.2 * untrained.settings[setting]["AP"]
    assert trained.settings["multilingual"]["RankDistance"] < untrained.settings["multilingual"]["RankDistance"]
    assert f"60 steps of {PlanConfig()} batches took an untrained encoder from AP" in " ".join(done.stderr.split())
    assert {path.name for path in run.iterdir()} >= {"base", "model", "results", "metrics.jsonl", "report.html"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 60
