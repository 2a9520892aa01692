"""Each private API of Ray still does what `ray_compat` uses it for, and no other module uses one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hbt_ray import ray_compat

ROOT = Path(ray_compat.__file__).parent
PRIVATE = re.compile(
    r"ray\._private|import _raylet|ray\.\w+(\.\w+)*\._internal|from ray[\w.]* import .*\b_[a-z]\w+|\w\._server_ray"
)
EXCEPTIONS = {"ray_compat.py", "doctor/probe.py"}


def test_no_other_module_uses_a_private_api() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(PRIVATE.search(line) for line in path.read_text(encoding="utf-8").splitlines())
    }
    assert users <= EXCEPTIONS


def test_workers_do_not_import_from_the_working_directory(tmp_path: Path) -> None:
    config = ray_compat.job_config_without_working_directory([str(tmp_path)])
    assert config._runtime_env_has_working_dir()
    assert config._py_driver_sys_path == [str(tmp_path)]


def test_the_cluster_actors_start(ray_session: None) -> None:
    import ray

    ray_compat.start_cluster_actors()
    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert {name for name in names if "utoscaling" in name}
    assert {name for name in names if "tats" in name}


def test_errors_that_rays_processes_publish_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    message = {"lines": ["Task failed. There are 3 retries remaining"], "pid": "raylet", "is_err": False}
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    assert worker.print_to_stdstream.__name__ in worker.listen_error_messages.__code__.co_names
    worker.print_to_stdstream(message, ignore_prefix=False)
    assert "3 retries" in capsys.readouterr().out
    ray_compat.discard_error_messages()
    worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr().out == ""


def test_no_cluster_was_started_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert isinstance(ray_compat.last_started_cluster(), str)


def test_rays_processes_have_process_groups_of_their_own() -> None:
    """A signal to the group of a command reaches the command alone: its children live until it ends them."""
    script = (
        "import os, sys\n"
        "from ray._private import utils\n"
        "from hbt_ray import ray_compat\n"
        "with ray_compat.own_process_groups():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        utils.set_kill_on_parent_death_linux()\n"
        "        os._exit(int(os.getpgid(0) != os.getpid()))\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=300).returncode == 0
    assert signal.getsignal(signal.SIGTERM) is not None


def test_sizes_follow_the_excludes_of_ray(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_bytes(bytes(70))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.bin").write_bytes(bytes(900))
    assert ray_compat.package_sizes(tmp_path, ["/data/"]) == {"code": 70}
    assert ray_compat.max_package_bytes() > 2**20
