"""A cluster that begins as a head alone: nodes come for data and for training, and go when each is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
def test_nodes_come_with_work_and_go_after_it(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/autoscaling.py", "--json", "--figure", str(tmp_path / "nodes.svg")]
    # What the tests' own session has set says that there is one machine.
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "HBT_"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=ROOT, env=plain)
    assert done.returncode == 0, done.stderr[-3_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    counts = [count for _, count in told["nodes"]]
    assert counts[0] == 0
    assert max(counts) == 2
    assert counts[-1] == 0, "a node that has nothing to do goes"
    marks = told["marks"]
    came = [second for second, count in told["nodes"] if count]
    assert any(marks["preparing begins"] < second < marks["preparing ends"] for second in came)
    assert any(marks["training begins"] < second < marks["training ends"] for second in came)
    between = [count for second, count in told["nodes"] if marks["preparing ends"] < second < marks["training begins"]]
    assert between[-1] == 0
    ElementTree.parse(tmp_path / "nodes.svg")
