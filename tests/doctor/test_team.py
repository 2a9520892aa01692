"""Examiners go where hbt_ray may be missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ray import cloudpickle

from hbt_ray.doctor.examiner import Examiner
from hbt_ray.doctor.looking import look
from hbt_ray.doctor.team import sent_by_value

ELSEWHERE = """
import json, sys
sys.modules["hbt_ray"] = None  # Whoever imports it fails, as where it is not installed.
from ray import cloudpickle
examiner = cloudpickle.loads(open(sys.argv[1], "rb").read())()
folder = sys.argv[2]
made, _ = examiner.write_mark(folder, "token", 0)
seen = sorted(examiner.read_marks(folder, "token", [0]))
port = examiner.open_store("127.0.0.1", 5)
told = examiner.all_reduce("gloo", 0, 1, "127.0.0.1", port, "cpu", 5)
print(json.dumps([examiner.look(), seen, told["stage"], told["error"]]))
"""


def test_an_examiner_needs_no_hbt_ray_where_it_works(tmp_path: Path) -> None:
    with sent_by_value():
        (tmp_path / "examiner").write_bytes(cloudpickle.dumps(Examiner))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "examiner", tmp_path],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    there, seen, stage, error = json.loads(done.stdout)
    assert (seen, stage, error) == ([0], "done", "")
    assert (there["versions"]["hbt_ray"], there["code"]) == ("", ""), "it is not there"
    assert there["versions"]["ray"] == look()["versions"]["ray"]
