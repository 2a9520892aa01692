"""The probe runs on nodes where hbt_ray may be missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ray import cloudpickle

from hbt_ray.doctor.probe import NodeProbe
from hbt_ray.doctor.run import pickled_by_value

ELSEWHERE = """
import json, sys
sys.modules["hbt_ray"] = None  # An import fails, as if it was not installed.
from ray import cloudpickle
probe = cloudpickle.loads(open(sys.argv[1], "rb").read())()
folder = sys.argv[2]
probe.hold_marker(folder, "token")
storage = probe.probe_storage(folder, "token")
probe.release_marker()
port = probe.open_store("127.0.0.1", 5)
message = probe.all_reduce("gloo", 0, 1, "127.0.0.1", port, "cpu", 5)
print(json.dumps([probe.facts(), storage, message["stage"], message.get("error", "")]))
"""


def test_the_probe_needs_no_hbt_ray_on_its_node(tmp_path: Path) -> None:
    with pickled_by_value():
        (tmp_path / "probe").write_bytes(cloudpickle.dumps(NodeProbe))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "probe", tmp_path],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    facts, storage, stage, error = json.loads(done.stdout)
    assert (storage["sees_driver"], stage, error) == (True, "done", "")
    assert (facts["versions"]["hbt_ray"], facts["code"]) == ("", ""), "hbt_ray is missing there"
    assert facts["versions"]["ray"] == NodeProbe().facts()["versions"]["ray"]
