"""Threads beyond what a process may use wait for one another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hbt_ray.host import usable_cpus

COUNT = "from hbt_ray.host import usable_cpus; print(usable_cpus())"


def test_a_machine_without_limits_gives_all_its_cores() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    bound = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {COUNT}"
    assert subprocess.check_output([sys.executable, "-c", bound], text=True).strip() == "1"


def test_a_limit_can_be_set_by_hand() -> None:
    environment = os.environ | {"LOKY_MAX_CPU_COUNT": "1"}
    assert subprocess.check_output([sys.executable, "-c", COUNT], env=environment, text=True).strip() == "1"
