"""The demo, shortened: everything is there at the end, and training has helped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.retrieval.result import EvaluationResult

pytestmark = pytest.mark.integration


def test_the_demo_trains_judges_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hbt_ray", "demo", "--out", str(tmp_path), "--json", "optimiser.steps=60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    untrained, trained = (EvaluationResult.model_validate(each) for each in json.loads(done.stdout)["results"])
    run = tmp_path / "runs" / "demo-hybrid"
    for setting in ("monolingual", "cross-lingual", "multilingual"):
        assert trained.settings[setting]["AP"] > 1.2 * untrained.settings[setting]["AP"]
    assert trained.settings["multilingual"]["RankDistance"] < untrained.settings["multilingual"]["RankDistance"]
    assert f"60 steps of {PlanConfig()} batches took an untrained encoder from AP" in " ".join(done.stderr.split())
    assert {path.name for path in run.iterdir()} >= {"base", "model", "results", "metrics.jsonl", "report.html"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 60
