"""The event recorder continues the file of an earlier session, which may have been killed within a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.storage import with_checksum
from hbt_ray.tune.recorder import EventRecorder
from hbt_ray.tune.search_state import EVENTS, SearchState

ABOUT = {"trial": "a", "name": "a", "values": {}, "steps": 20, "gpus": 1.0}
STARTED = json.dumps(with_checksum({"event": "started", "time": 110.0, **ABOUT}))
ROW = json.dumps(with_checksum({"event": "row", "time": 130.0, "row": {"step": 10}, **ABOUT}))


@pytest.mark.parametrize("content", [f"{STARTED}\n{ROW}\n", f"{STARTED}\n{ROW}\n{ROW[:40]}", f"{STARTED}\n{ROW}"])
def test_a_session_is_told_apart_from_what_was_not_finished(tmp_path: Path, content: str) -> None:
    """Else the trial would run on, on the board, from before the driver died."""
    (tmp_path / EVENTS).write_text(content)
    EventRecorder(tmp_path, ("AP",), 1.0).start_session()
    state = SearchState.load(tmp_path)
    assert state.trials[0].seconds_until(state.last + 3600) == 20
    assert state.last > 1e9, "the session has the time of its clock"


def test_a_search_begins_with_its_first_session(tmp_path: Path) -> None:
    EventRecorder(tmp_path, ("AP",), 1.0).start_session()
    (line,) = (tmp_path / EVENTS).read_text().splitlines()
    assert json.loads(line)["event"] == "session"
