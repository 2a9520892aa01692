"""`hbt` commands for tests: each in a process of its own, forked from one that has imported the libraries already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_context = multiprocessing.get_context("forkserver")


def hbt(
    *arguments: str | bytes | Path, cwd: Path | None = None, stdin: str = "", timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code and output."""
    words = ["hbt", *map(os.fsdecode, arguments)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin, encoding="utf-8")
        process = _context.Process(target=_run, args=(words, cwd or Path.cwd(), folder, dict(os.environ)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        stdout, stderr = ((folder / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
        return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def _run(words: list[str], cwd: Path, folder: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, stream in enumerate(("stdin", "stdout", "stderr")):
        file = os.open(folder / stream, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    for stream in ("stdin", "stdout", "stderr"):
        setattr(sys, stream, getattr(sys, f"__{stream}__"))
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing gives its children an empty one.
    os.chdir(cwd)
    sys.argv = words

    from hbt_ray.cli import main

    main()
