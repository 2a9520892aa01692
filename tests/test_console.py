"""The console: plain lines in a log, one JSON object for machines."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest
from rich.table import Table
from rich.text import Text

from hbt_ray import console
from hbt_ray.console import Screen, TrainingProgress, printable, printable_line
from hbt_ray.train.step.train_step import StepMetrics


def outcome(step: int, kind: str) -> StepMetrics:
    return StepMetrics(step, kind, "", 2.0, 1e-3, 1.0, 100.0, 0.0)


@pytest.fixture(autouse=True)
def _every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)


def test_with_json_standard_output_holds_the_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.log("for people [not markup]")
    screen.result({"ü": 1})
    told = capsys.readouterr()
    assert json.loads(told.out) == {"ü": 1}
    assert "for people [not markup]" in told.err


def test_without_json_there_is_no_object(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().result({"a": 1})
    assert capsys.readouterr().out == ""


def test_progress_in_a_log_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().progress("encoding", 10) as advance:
        advance(4)
        advance(6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("encoding: 4 of 10"), "how fast it goes is not known yet"
    assert "encoding: 10 of 10, 0 s left" in lines[1]
    assert not any("\x1b" in line for line in lines)


def test_training_shows_loss_speed_and_the_mixture_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(Screen(), 4, ["mono", "mono"], lambda: "dev AP 0.5") as progress:
        progress.watch(outcome(2, "cross"))
        progress.watch(outcome(3, "cross"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert "step 4 of 4: loss 2.000, 100 pairs/s, batches so far: mono 50%, cross 50%; dev AP 0.5" in last


def test_steps_that_are_done_again_are_told_and_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(Screen(), 4) as progress:
        for step in (0, 1, 2, 1, 2, 3):
            progress.watch(outcome(step, "mono" if step < 2 else "cross"))
    told = capsys.readouterr().out
    assert "the workers were started again: training continues from step 2 with the same batches, after 3 steps" in told
    assert "mono 50%, cross 50%" in told


def test_silence_is_told_with_what_may_be_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SECONDS_OF_SILENCE", 0.5)
    asked: SimpleQueue[None] = SimpleQueue()

    def trouble() -> str:
        asked.put(None)
        return "; a node is lost"

    with TrainingProgress(Screen(), 4, trouble=trouble) as progress:
        asked.get(timeout=60)
        progress.watch(outcome(0, "mono"))
        while not asked.empty():
            asked.get()
        asked.get(timeout=60)
    told = capsys.readouterr().out
    assert re.search(r"waiting for the workers to start for \d s; a node is lost", told)
    assert re.search(r"no step after step 1 for \d s; a node is lost", told)


def test_a_silent_screen_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(silent=True)
    screen.log("hello")
    with screen.progress("encoding", 3) as advance:
        advance(3)
    assert capsys.readouterr().out == ""


def test_a_warning_of_ours_is_told_once() -> None:
    script = (
        "import logging; from hbt_ray.console import Screen; Screen(); Screen()\n"
        "for name in ('hbt_ray.plan', 'other') * 2: logging.getLogger(name).warning('from %s', name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "WARNING hbt_ray.plan: from hbt_ray.plan",
        "WARNING other: from other",
        "WARNING other: from other",
    ]


HOSTILE = "a\x1b]0;title\x07b\x9b2Jc\rd\u202ee\ud800f[red]g[/b]h"
SHOWN = "a\\x1b]0;title\\x07b\\x9b2Jc\\x0dd\\u202ee\\ud800f[red]g[/b]h"


def shown(show: Callable[[Screen], None], *, terminal: bool) -> str:
    """What a screen writes, without the styles of a terminal."""
    screen, out = Screen(), io.StringIO()
    screen.rich.file, screen.rich._force_terminal, screen.rich.width = out, terminal, 200
    show(screen)
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())


def row(*cells: Text | str, title: str | None = None) -> Table:
    table = Table("column", title=title)
    table.add_row(*cells)
    return table


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "show",
    [
        lambda screen: screen.log(HOSTILE),
        lambda screen: screen.text(HOSTILE),
        lambda screen: screen.text(Text("x ").append(HOSTILE.replace("\r", "").replace("\x07", ""), style="bold")),
        lambda screen: screen.table(row(HOSTILE)),
        lambda screen: screen.table(row("wide " * 20, title=HOSTILE)),
        lambda screen: screen.table(Table(HOSTILE)),
    ],
    ids=["say", "text", "styled", "cell", "title", "header"],
)
def test_foreign_text_is_shown_and_never_obeyed(show: Callable[[Screen], None], terminal: bool) -> None:
    written = shown(show, terminal=terminal)
    assert "[red]g[/b]h" in written
    assert "\\x1b]0;title" in written
    assert "\\u202ee\\ud800f" in written
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202e\ud800]|\x1b[^\\[]", written)


def test_labels_of_progress_are_shown_and_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().progress(HOSTILE, 2) as advance:
        advance(1)
    assert f"{SHOWN}: 1 of 2" in capsys.readouterr().out


def test_texts_of_all_scripts_stay_as_they_are() -> None:
    text = "لون می‌شود \u200fעברית\u200e ไทย 👩‍👩‍👧 naïve\ttab\nline"
    assert printable(text) == text
    assert printable_line(text) == " ".join(text.split())


@pytest.mark.parametrize(
    ("uri", "without"),
    [
        ("s3://KEY:SE/C+RET@bucket/x", "s3://***@bucket/x"),
        ("at http://me:pass@word@host:5000/ it", "at http://***@host:5000/ it"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("s3://b/x?access_key=A&secret_key=B&region=eu", "s3://b/x?access_key=***&secret_key=***&region=eu"),
        ("https://h/x?X-Amz-Signature=1a&z=2", "https://h/x?X-Amz-Signature=***&z=2"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("s3:/KEY:SECRET@bucket/x", "s3:/***@bucket/x"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("me@host: a key=value", "me@host: a key=value"),
    ],
)
def test_secrets_in_uris_are_left_out(uri: str, without: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(uri) == without
    screen = Screen(as_json=True)
    screen.log(uri)
    screen.result({uri: [uri, Path("x")]})
    told = capsys.readouterr()
    assert json.loads(told.out) == {without: [without, "x"]}
    assert told.err.rstrip().endswith(without)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_json_holds_every_text_in_every_encoding(encoding: str) -> None:
    script = (
        f"import json; from hbt_ray.console import Screen\n"
        f"Screen(True).result({{'text': {HOSTILE!a} + 'ü\\x7f\\U000e0041', 'nan': float('nan'), 'n': 1, 'ok': True}})"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert json.loads(done.stdout) == {"text": HOSTILE + "ü\x7f\U000e0041", "nan": None, "n": 1, "ok": True}
    assert not re.search(b"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", done.stdout)


def test_warnings_show_foreign_text() -> None:
    script = (
        "import logging, warnings; from hbt_ray.console import Screen; Screen()\n"
        f"logging.getLogger('hbt_ray.x').warning('of %s', {HOSTILE!a}); warnings.warn('py ' + {HOSTILE!a})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert f"of {SHOWN}".encode() in done.stderr
    assert f"py {SHOWN}".encode() in done.stderr
    assert b"\x1b" not in done.stderr
