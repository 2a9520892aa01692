"""Sessions: what keeps a command from joining a cluster is told by its cause."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from hbt_ray import ray_session as sessions
from hbt_ray.errors import Interrupted, ResourceError
from hbt_ray.ray_session import session

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.12.1
This process on Ray was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""
NO_TOKEN = "RPC error: InvalidAuthToken: Authentication token is missing or incorrect"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError(MISMATCH), r"runs other versions than this machine \(Version mismatch: .*3\.12\.1.*same"),
        (
            ray.exceptions.AuthenticationError(NO_TOKEN),
            r"does not answer \(RPC error: .*set RAY_AUTH_MODE=token",
        ),
        (
            ConnectionError("Could not find any running Ray instance"),
            r"does not answer \(Could not find .*cluster runs",
        ),
    ],
)
def test_a_cluster_that_cannot_be_joined(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(sessions, "_check_reachable", lambda _: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ResourceError, match=f"RAY_ADDRESS=10.0.0.1:6379 {message}") as caught, session():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["foo", "foo://bar", "127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999999"])
def test_an_address_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ResourceError) as caught, session():
        pass
    assert "\n" not in str(caught.value)
    assert f"RAY_ADDRESS={address}" in str(caught.value)


def test_the_last_cluster_of_this_machine_may_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for found in (None, "127.0.0.1:1"):
        monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda _, found=found: found)
        with pytest.raises(ResourceError, match="RAY_ADDRESS=auto does not answer"), session():
            pass


@pytest.mark.parametrize("value", ["", "local"])
def test_no_address_is_this_machine(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert sessions.configure_command() == ""
    assert "RAY_ADDRESS" not in os.environ


def test_the_folder_is_where_temporary_files_go(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    folder, lock = sessions._make_folder()
    assert folder.parent == short
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.close(lock)


@pytest.mark.parametrize("kind", ["long", "a file", "missing"])
def test_the_folder_is_elsewhere_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch, short: Path, kind: str) -> None:
    """Too long for a socket, or nothing can be written there."""
    base = short / ("long" * 20 if kind == "long" else "x")
    if kind == "long":
        base.mkdir()
    elif kind == "a file":
        base.touch()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    folder, lock = sessions._make_folder()
    assert folder.parent == Path("/tmp")
    assert len(str(folder)) <= sessions._MAX_FOLDER_BYTES
    folder.joinpath(sessions._FOLDER_MARKER).unlink()
    folder.rmdir()
    os.close(lock)


def test_without_any_folder_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ResourceError) as caught:
        sessions._make_folder()
    assert caught.value.code == "TEMP_FOLDER"


def test_folders_of_killed_commands_are_removed_and_no_others(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    script = (
        "import os, signal; from hbt_ray import ray_session as session\n"
        "folder, _ = session._make_folder(); (folder / 'session').mkdir(); print(folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = Path(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip())
    users = short / f"{sessions._FOLDER_PREFIX}notes"
    (users / "sub").mkdir(parents=True)
    link = short / f"{sessions._FOLDER_PREFIX}link"
    (short / "target").mkdir()
    (short / "target" / sessions._FOLDER_MARKER).touch()
    link.symlink_to(short / "target")
    assert (killed / "session").is_dir()
    alive, lock = sessions._make_folder()
    after, second = sessions._make_folder()
    assert not killed.exists()
    assert alive.is_dir()
    assert after.is_dir()
    assert (users / "sub").is_dir()
    assert (short / "target" / sessions._FOLDER_MARKER).is_file()
    os.close(lock)
    os.close(second)


def test_the_working_directory_is_not_on_the_workers_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = sessions._job_config()["job_config"]
    assert config._runtime_env_has_working_dir()  # So Ray adds neither the script's directory nor the shell's.
    assert config._py_driver_sys_path == []


def test_a_checkout_that_is_run_in_place_is_on_the_workers_path(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path(sessions.__file__).parents[1])
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert sessions._job_config()["job_config"]._py_driver_sys_path == [home]


def test_a_submitted_job_keeps_its_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert sessions._job_config() == {}


def test_ignored_signals_stay_ignored() -> None:
    script = (
        "import signal; from hbt_ray.ray_session import catch_termination\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); catch_termination()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, callable(signal.getsignal(signal.SIGTERM)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets; pytest's own may not be."""
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_sigterm_while_ray_starts_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler, which it sets before ours is back, raises SystemExit with the signal's number."""

    @contextmanager
    def starting(_: int) -> Iterator[None]:
        sys.exit(signal.SIGTERM)
        yield

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(sessions, "_local_cluster", starting)
    monkeypatch.setattr(sessions, "_signal_received", None)
    with pytest.raises(Interrupted), session():
        pass
    assert sessions.received_signal() == signal.SIGTERM
