"""The console: plain lines in a log, one JSON object for machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from hbt_ray import console
from hbt_ray.console import Screen, TrainingProgress
from hbt_ray.train.engine.loop import Outcome


def outcome(step: int, kind: str) -> Outcome:
    return Outcome(step, kind, "", 2.0, 1e-3, 1.0, 100.0, 0.0)


@pytest.fixture(autouse=True)
def _every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)


def test_with_json_standard_output_holds_the_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("for people [not markup]")
    screen.result({"ü": 1})
    told = capsys.readouterr()
    assert json.loads(told.out) == {"ü": 1}
    assert "for people [not markup]" in told.err


def test_without_json_there_is_no_object(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().result({"a": 1})
    assert capsys.readouterr().out == ""


def test_progress_in_a_log_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().counting("encoding", 10) as advance:
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
    assert "the workers were started again: on from step 2 with the same batches, after 3 steps that were done" in told
    assert "mono 50%, cross 50%" in told


def test_silence_is_told_with_what_may_be_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SECONDS_OF_SILENCE", 0.5)
    with TrainingProgress(Screen(), 4, trouble=lambda: "; a node is lost") as progress:
        time.sleep(2.5)
        progress.watch(outcome(0, "mono"))
        time.sleep(2.5)
    told = capsys.readouterr().out
    assert re.search(r"waiting for the workers to start for \d s; a node is lost", told)
    assert re.search(r"no step after step 1 for \d s; a node is lost", told)


def test_a_silent_screen_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(silent=True)
    screen.say("hello")
    with screen.counting("encoding", 3) as advance:
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
