"""The deadline: a rank that is stuck, in whatever, says where and ends, so that its run can go on without it.

A stuck rank holds up all others at the next collective, so every rank's time runs out at about the same moment; each
says what it was doing. The one that was doing something else than waiting for the others is to blame. Ray Train ends
all of them once one has ended, so none ends before the others had time to speak.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""By which the clocks of ranks differ: a step begins later on a machine under load."""


class Watchdog:
    """Runs in a thread beside the training of one rank, from the first `beat` on.

    Args:
        seconds: between a `beat` and the next, or a `rest`.
        tell: takes the step and the place in the program, in the thread; the process ends after it.
    """

    def __init__(
        self, seconds: float, tell: Callable[[int, str], None], end: Callable[[], None] = lambda: os._exit(1)
    ) -> None:
        self._seconds, self._tell, self._end = seconds, tell, end
        self._watched = threading.current_thread()
        self._due: float | None = None
        self._step = -1
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()

    def beat(self, step: int) -> None:
        """The step begins; its time runs."""
        with self._changed:
            self._step, self._due = step, time.monotonic() + self._seconds
            self._changed.notify()

    def rest(self) -> None:
        """Until the next beat no time runs: what comes now has a limit of its own."""
        with self._changed:
            self._due = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                if self._due is None:
                    self._changed.wait()
                elif (left := self._due - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    break
            step, self._due = self._step, None
        frame = sys._current_frames().get(self._watched.ident or 0)
        where = traceback.extract_stack(frame)[-1] if frame else None
        place = f"{where.filename}:{where.lineno} in {where.name}" if where else "an unknown place"
        try:
            self._tell(step, place)
            time.sleep(min(self._seconds / 3, GRACE_SECONDS))
        except Exception:  # Whatever it is: this process is to end.
            logger.exception("step %d was stuck at %s, and nobody could be told", step, place)
        self._end()
