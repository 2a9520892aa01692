"""The process of a command: hostile names and environments, broken outputs, signals, and errors in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray.exceptions

from hbt_ray.cli import entry_point as process
from hbt_ray.doctor.probe import listening_sockets
from hbt_ray.errors import ConfigError, Interrupted
from hbt_ray.ray_session import _FOLDER_PREFIX
from tests import commands
from tests.job.cluster import processes_of
from tests.small_data import small_run, small_store

HBT = (sys.executable, "-m", "hbt_ray")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    small_store(folder / "store")
    (folder / "train.yaml").write_text(small_run(folder).to_yaml())
    return folder


def hbt(*arguments: str | bytes, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*HBT, *arguments], capture_output=True, cwd=cwd, timeout=900, env={**os.environ, **environment}
    )


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = command.replace("hbt ", " ".join(HBT) + " ")
    return subprocess.run(["bash", "-c", command], capture_output=True, cwd=cwd, timeout=900)


@pytest.mark.parametrize(
    ("arguments", "kind", "shown"),
    [
        (("train", "\x1b]0;title\x07[red]x[/b].yaml"), "ConfigError", "\\x1b]0;title\\x07[red]x[/b].yaml"),
        (("train", b"\xff.yaml"), "InputError", "argument 2"),
        (("train", "store"), "ConfigError", "store"),
        (("train", ""), "ConfigError", ""),
        (("train", "train.yaml", 'store="a\\0b"'), "InputError|ConfigError|StoreError", ""),
        (("train", "train.yaml", "negatives=s3://KEY:SECRET@[/bad"), "[A-Za-z]+Error", ""),
        (("train", "\x1b[2J", "--\x1b[2J"), "InputError", "--\\x1b[2J"),
        (("\x1b[2J[/b]",), "InputError", "\\x1b[2J[/b]"),
        (("search", "index", "q", "--k", "9" * 30), "InputError", "--k"),
        (
            ("evaluate", "x/y", "--task", "worldfacts", f"encoder.workers={'9' * 5000}"),
            "ConfigError",
            "encoder.workers",
        ),
        (("doctor", "seconds=inf"), "ConfigError", "seconds"),
    ],
)
def test_hostile_arguments_end_with_two_and_one_line(
    workspace: Path, arguments: tuple[str | bytes, ...], kind: str, shown: str
) -> None:
    done = commands.hbt(*arguments, cwd=workspace)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert re.match(f"({kind}): ", line)
    assert shown in line
    assert line.isprintable()
    assert "SECRET" not in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("hbt store inspect store > /dev/full", 2, r"StorageError: standard output: .*\n"),
        ("hbt store inspect store --json 2> /dev/null > /dev/full", 2, ""),
        ("hbt store inspect nowhere --json 2> /dev/full", 2, ""),
        ("hbt store inspect store --sample 60 | head -1 > /dev/null; exit ${PIPESTATUS[0]}", 141, ""),
        ("hbt store inspect store --json 2>&1 | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("hbt store inspect store >&-", 0, ""),
        ("hbt store inspect store >&- 2>&- <&-", 0, ""),
        ("hbt store inspect nowhere 2>&-", 2, ""),
        ("PYTHONIOENCODING=ascii hbt store inspect nowhere-ü", 2, r"StoreError: nowhere-\\xfc: .*\n"),
    ],
)
def test_outputs_that_are_full_closed_or_not_unicode(workspace: Path, command: str, code: int, error: str) -> None:
    done = shell(command, workspace)
    assert (done.returncode, bool(re.fullmatch(error, done.stderr.decode()))) == (code, True), done.stderr


def test_tables_are_shown_in_ascii(workspace: Path) -> None:
    done = hbt("store", "inspect", "store", "--sample", "1", cwd=workspace, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert "\\u0645" in done.stdout.decode("ascii")


def test_with_json_an_error_leaves_standard_output_empty(workspace: Path) -> None:
    done = commands.hbt("prepare", "nowhere.yaml", "--json", cwd=workspace)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_library_of_the_working_directory_is_not_imported(workspace: Path, tmp_path: Path) -> None:
    for name in ("json", "datasets", "ray", "rich", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    done = hbt("store", "inspect", str(workspace / "store"), "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["datasets"][0]["items"]) == (0, 60), done.stderr


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


FULL = OSError(28, "No space left on device", "/data/x")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\x1b[2J\nb"), 2, r"ConfigError: a\\x1b\[2J b"),
        (chained(RuntimeError("wrapped"), ConfigError("why")), 2, "ConfigError: why"),
        (ray.exceptions.RayTaskError("f", "trace\nback", ConfigError("why")), 2, "ConfigError: why"),
        (FULL, 2, "StorageError: /data/x: .*No space left on device.*"),
        (ray.exceptions.RayTaskError("f", "trace\nback", FULL), 2, "StorageError: /data/x: .*"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "ResourceError: out of memory .*Unable to allocate 9 TiB.*"),
        (RuntimeError("CUDA out of memory. Tried to"), 2, "ResourceError: out of memory .*"),
        (FileNotFoundError(2, "No such file or directory", "a\x07"), 2, r"InputError: a\\x07: No such file.*"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), 2, "InputError: Temporary failure .*"),
        (ValueError("embedded null byte"), 2, "InputError: .*"),
        (OverflowError("Python int too large to convert to C long"), 2, "InputError: .*"),
        (KeyboardInterrupt(), 130, "Interrupted: stopped"),
        (Interrupted("stopped; go on"), 130, "Interrupted: stopped; go on"),
    ],
)
def test_known_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert process._report(error) == code
    assert re.fullmatch(f"{line}\n", capsys.readouterr().err)


def test_a_bug_is_called_one_with_a_short_traceback() -> None:
    script = (
        "import sys, hbt_ray.config as c\n"
        "def f(n): return f(n - 1) if n else {}['\\x1b[2J']\n"
        "c.Config.load = classmethod(lambda *_: f(50))\n"
        "from hbt_ray.cli import main; sys.argv = ['hbt', 'prepare', 'x']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("Traceback")
    assert len(lines) < 15
    assert "KeyError: '\\x1b[2J'" in done.stderr
    assert "\x1b" not in done.stderr
    assert "bug in hbt_ray" in lines[-1]


@pytest.mark.parametrize(
    "where", ["hbt_ray.cli.entry_point.run", "hbt_ray.cli.entry_point._invoke", "hbt_ray.cli.entry_point._report"]
)
def test_ctrl_c_anywhere_ends_without_a_traceback(where: str) -> None:
    """While modules are imported, in a command, and while the command says why it ends."""
    module, _, name = where.rpartition(".")
    script = (
        f"import sys, {module} as m\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        f"m.{name} = stop\n"
        "from hbt_ray.cli import main; sys.argv = ['hbt', 'prepare', 'x']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.integration
def test_sigterm_ends_a_run_like_ctrl_c_in_a_hostile_environment(workspace: Path, tmp_path: Path) -> None:
    """A folder with modules of libraries' names, no home, a long TMPDIR, and `ray` taken there; the cluster listens on
    the loopback interface alone, and leaves no folder."""
    for name in ("datasets", "tokenizers", "ray", "json", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    (temporary / "ray").write_text("taken")
    environment = {**os.environ, "HOME": "/dev/null", "TMPDIR": str(temporary)}
    command = [*HBT, "train", str(workspace / "train.yaml"), "name=ended", "optimiser.steps=100000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as running:
        assert running.stdout is not None
        lines, addresses = [], set()
        for line in running.stdout:
            lines.append(line)
            if "step 1 of" in line:
                addresses = listening(folder_of(running.pid))
                os.killpg(running.pid, signal.SIGTERM)  # As `timeout` does.
        assert running.wait(timeout=60) == 143, "".join(lines)
    assert lines[-1].startswith("Interrupted: stopped")
    assert addresses == {"127.0.0.1"}
    assert not list(temporary.glob(f"{_FOLDER_PREFIX}*"))


def folder_of(driver: int) -> Path:
    """The session folder that a command holds a lock on."""
    links = [os.readlink(link) for link in Path(f"/proc/{driver}/fd").iterdir()]
    return next(Path(link) for link in links if Path(link).name.startswith(_FOLDER_PREFIX))


def listening(folder: Path) -> set[str]:
    """The addresses that the processes of a session listen on."""
    sockets, found = listening_sockets(), set()
    for number in processes_of(folder):
        for link in Path(f"/proc/{number}/fd").iterdir():
            try:
                found.add(sockets[os.readlink(link)])
            except (KeyError, OSError):
                continue
    return found
