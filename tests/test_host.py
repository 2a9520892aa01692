"""`usable_cpus` follows the CPU affinity and LOKY_MAX_CPU_COUNT."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hbt_ray.host import usable_cpus

COUNT = "from hbt_ray.host import usable_cpus; print(usable_cpus())"


def test_at_most_all_cpus_of_the_machine_are_usable() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cpu_affinity_limits_the_usable_cpus() -> None:
    bound = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {COUNT}"
    assert subprocess.check_output([sys.executable, "-c", bound], text=True).strip() == "1"


def test_an_environment_variable_limits_the_usable_cpus() -> None:
    environment = os.environ | {"LOKY_MAX_CPU_COUNT": "1"}
    assert subprocess.check_output([sys.executable, "-c", COUNT], env=environment, text=True).strip() == "1"
