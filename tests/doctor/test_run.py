"""`examine` on one node, on several, and with a node that hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.doctor.checks import DRIVER, Level, any_failure
from hbt_ray.doctor.run import examine

pytestmark = pytest.mark.integration

BUSY = 90.0
"""Seconds within which a probe's process starts on a machine that runs other tests."""


def by_check(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in findings}


def test_one_node(ray_session: None, tmp_path: Path) -> None:
    lines: list[str] = []
    seen = examine(tmp_path / "runs", seconds=BUSY, progress=lines.append)
    assert not any_failure(seen.findings)
    found = {finding.check: finding for finding in seen.findings}
    assert list(found) == [
        "nodes", "versions", "faiss", "GPUs", "memory", "clocks", "access", "storage", "network, gloo",
    ]  # fmt: skip
    assert set(seen.nodes[1].listening) == {"127.0.0.1"}
    assert seen.nodes[1].asks_token
    assert found["memory"].level is Level.WARNING, "the store of the test's session has 0.3 GB"
    assert found["network, gloo"].message.endswith("ms") or found["network, gloo"].level is Level.WARNING
    driver, node = seen.nodes
    assert driver.name == DRIVER
    assert (node.versions, node.code, node.faiss) == (driver.versions, driver.code, driver.faiss)
    assert 0 < node.object_store_bytes < 2**30
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    assert len(lines) == 3


def test_a_folder_that_cannot_be_written(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = [
        finding
        for finding in examine(tmp_path / "file" / "runs", network=False, seconds=BUSY).findings
        if finding.level is Level.FAILURE
    ]
    assert problem.check == "storage"
    assert "cannot be used: NotADirectoryError: " in problem.message
    assert f"({DRIVER}, " in problem.message or f", {DRIVER})" in problem.message, "one reason, reported once"


@pytest.mark.soak
def test_several_nodes_and_one_that_hangs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.doctor.node_hangs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    whole, hung = json.loads(done.stdout.splitlines()[-1])
    assert not [finding for finding in whole["findings"] if finding["level"] == "failure"]
    found = by_check(whole["findings"])
    assert found["nodes"]["message"].startswith("2 nodes: ")
    assert "2 ranks" in found["network, gloo"]["message"]
    found = by_check(hung["findings"])
    assert found["nodes"]["level"] == "failure"
    assert hung["hung"] in found["nodes"]["message"]
    assert "no answer within 20 s" in found["nodes"]["message"]
    assert found["network, gloo"]["level"] != "failure", "those that answer are examined"
    assert hung["seconds"] < 90


def doctor(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hbt_ray", "doctor", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=900, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_command_without_a_cluster_looks_at_this_machine(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    done = doctor("--json", "network=false", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    seen = json.loads(done.stdout)
    found = by_check(seen["findings"])
    assert not seen["ok"]
    assert found["storage"]["level"] == "failure"
    assert found["storage"]["remedy"]
    assert "network, gloo" not in found
    assert seen["nodes"][0]["name"] == DRIVER
    assert "failure" in done.stderr


def test_a_uri_is_no_storage(tmp_path: Path) -> None:
    done = doctor("storage_path=s3://bucket/runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "ConfigError: storage_path=s3:" in done.stderr


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    done = doctor(cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 2
    assert "ResourceError: RAY_ADDRESS=127.0.0.1:1 does not answer" in done.stderr
